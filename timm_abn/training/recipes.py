"""The settings of the experiments: one file each, with what differs for some of its models.

They lie in ``train_wrappers/recipes`` of the repository, and inside the package where it is installed.
"""

import fnmatch
from pathlib import Path
from typing import Any

import yaml

from ..errors import one_line, suggest
from .errors import TrainingError

__all__ = ['find_recipe', 'read_settings', 'recipe_names', 'settings_for']

_FOLDERS = (Path(__file__).parent / 'recipes', Path(__file__).parents[2] / 'train_wrappers' / 'recipes')
_BY_MODEL = 'by_model'  # pattern of names of models -> settings that replace the others


def recipe_names() -> list[str]:
    """Return the names of the recipes."""
    return sorted(path.stem for folder in _FOLDERS for path in folder.glob('*.yaml'))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        TrainingError: There is no such recipe.
    """
    names = recipe_names()
    if name not in names:
        hint = suggest(name, names, otherwise=f'there are {", ".join(names)}.')
        raise TrainingError(f'--recipe {name} is not known: {hint}')
    return next(path for folder in _FOLDERS if (path := folder / f'{name}.yaml').is_file())


def read_settings(path: Path) -> dict[str, Any]:
    """Read a file of settings, as timm's ``--config`` takes it, or a recipe.

    Raises:
        TrainingError: It is not there, or holds something else.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise TrainingError(f'--config {path} cannot be read: {error.strerror}.') from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f'--config {path} is not YAML: {one_line(error)}.') from error
    if not isinstance(settings, dict):
        raise TrainingError(f'--config {path} must hold "flag: value" lines, got a {type(settings).__name__}.')
    by_model = settings.get(_BY_MODEL, {})
    if not isinstance(by_model, dict) or not all(isinstance(changes, dict) for changes in by_model.values()):
        raise TrainingError(f'{_BY_MODEL} in {path} must hold settings under patterns of model names.')
    return settings


def settings_for(settings: dict[str, Any], model: str | None) -> dict[str, Any]:
    """Return settings with what differs for a model, which of several patterns that fit the last one says.

    Patterns are of names without a tag. A tag that was asked for stays.
    """
    chosen = {key: value for key, value in settings.items() if key != _BY_MODEL}
    if model is not None:
        chosen['model'] = model
    architecture, _, tag = str(chosen.get('model')).partition('.')
    for pattern, changes in settings.get(_BY_MODEL, {}).items():
        if fnmatch.fnmatchcase(architecture, str(pattern)):
            chosen.update({key: value for key, value in changes.items() if key != 'model' or not tag})
    return chosen
