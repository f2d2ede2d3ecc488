"""Texts about a model, for the Hub and MODEL_CARDS.md: facts, results, use, limits, citation."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import ModelCard

from ..errors import one_line
from .markdown import markdown_table
from .model_facts import ModelFacts
from .results import MEASURED_RESULTS, REPORTED_RESULTS

__all__ = ['CITATION', 'LIMITS', 'fact_rows', 'model_card', 'readdress', 'result_table', 'template', 'usage']

Row = tuple[str, str]

_TEMPLATES = Path(__file__).parent / 'templates'


def template(name: str) -> str:
    """Return a text with places for what differs between models."""
    return (_TEMPLATES / name).read_text(encoding='utf-8')


CITATION = template('citation.bib').rstrip()
LIMITS = template('limits.md').rstrip()


def usage(address: str, in_chans: int = 3) -> str:
    """Return Python code that explains the image ``photo.jpg`` by the model at an address of ``timm.create_model``."""
    return template('usage.txt').format(address=address, mode='L' if in_chans == 1 else 'RGB')


def fact_rows(facts: ModelFacts) -> list[Row]:
    """Return the facts about a model as rows of a table: names and values."""
    rows = [('Input', ' x '.join(map(str, facts.input_size)))]
    if facts.backbone:
        rows += [('Backbone', f'`{facts.backbone}`')]
    if facts.split:
        rows += [
            ('Split', f'after `{facts.split}`'),
            ('Attention stage', facts.attention_stage),
            ('Attention map, mechanism', f'{facts.attention_map}, {facts.mechanism}'),
            ('Gate', facts.gate),
        ]
    return [
        *rows,
        ('Tasks' if facts.is_multi_task else 'Classes', str(facts.num_classes)),
        ('Parameters (M)', f'{facts.num_params / 1e6:.2f}'),
        ('GMACs', f'{facts.num_macs / 1e9:.2f}'),
    ]


def result_table(name: str, reported: bool = True) -> str:
    """Return a table of the results of a model, and of those that others report; empty if there are none.

    Where ``name`` has a tag, only results of those weights are listed.
    """
    found = {'': REPORTED_RESULTS.get(name, ()) if reported else ()}
    found.update(
        (f' (`{tagged}`)', results)
        for tagged, results in MEASURED_RESULTS.items()
        if name in (tagged, tagged.split('.')[0])
    )
    rows = [
        (
            ', '.join(filter(None, (result.dataset, result.variant))) + weights,
            result.metric,
            f'{result.percent:g}',
            result.origin,
        )
        for weights, results in found.items()
        for result in results
    ]
    return markdown_table(('data set', 'metric', '%', ''), rows) if rows else ''


def model_card(
    facts: ModelFacts,
    title: str,
    summary: str,
    license: str,
    address: str,
    more_facts: Sequence[Row] = (),
    datasets: Sequence[str] = (),
    results: str = '',
) -> str:
    """Return the text of a model card, with the front matter of the Hub.

    ``title`` is the name of the weights, ``address`` what ``timm.create_model`` takes. The Hub has spellings of its own
    for ``license`` and ``datasets``.
    """
    front_matter = dict(license=license, **(dict(datasets=list(datasets)) if datasets else {}))
    return template('card.md').format(
        front_matter=yaml.safe_dump(front_matter).rstrip(),
        title=title,
        summary=summary,
        facts=markdown_table(('', ''), [*fact_rows(facts), *more_facts]),
        usage=usage(address, facts.input_size[0]),
        results=results or 'None are recorded.',
        limits=LIMITS,
        citation=CITATION,
    )


def readdress(card: str, address: str) -> str:
    """Return a card that ``model_card`` wrote, with code that loads the weights from another place.

    Raises:
        ValueError: It is not such a card, or has no front matter of the Hub; the message is one line.
    """
    try:
        data = ModelCard(card, ignore_metadata_errors=False).data.to_dict()
    except Exception as error:  # of the YAML parser, or of what reads its result
        raise ValueError(f'its front matter cannot be read: {one_line(error)}') from None
    if data.get('library_name') != 'timm' or not data.get('license'):
        raise ValueError('its front matter must say library_name: timm, and the license.')
    start, found, rest = card.partition("timm.create_model('")
    if not found:
        raise ValueError('its code does not load the model with timm.create_model.')
    return f"{start}{found}{address}'{rest.partition(chr(39))[2]}"
