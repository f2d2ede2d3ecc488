"""Folders that run as a Space of the Hugging Face Hub: a model, and the page that explains photos by it."""

from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from ..version import __version__
from .folder import CARD_NAME, SPACE_NAMES
from .model_card import template

__all__ = ['make_space']

GRADIO = '6.31.0'  # with which the page was tested; the Hub installs it


def make_space(folder: Path, title: str) -> None:
    """Make the folder of a model that of a Space: add ``app.py`` and ``requirements.txt``, and replace the card."""
    license = ModelCard((folder / CARD_NAME).read_text(encoding='utf-8')).data.to_dict()['license']
    front_matter = yaml.safe_dump(dict(license=license)).rstrip()
    text = template('space.md').format(title=title, sdk_version=GRADIO, front_matter=front_matter)
    (folder / CARD_NAME).write_text(text, encoding='utf-8')
    app_name, requirements_name = SPACE_NAMES
    (folder / app_name).write_text(template('space.txt'), encoding='utf-8')
    (folder / requirements_name).write_text(f'timm-abn[app]=={__version__}\n', encoding='utf-8')
