"""Write MODEL_CARDS.md: facts from the models themselves, results from timm_abn/results.py.

Example:
    python scripts/make_model_cards.py
"""

from pathlib import Path
from typing import Dict, List, Tuple

import timm
from timm.models import get_pretrained_cfg

import timm_abn  # noqa: F401  registers the models
from timm_abn.hub import CITATION
from timm_abn.model_facts import model_facts
from timm_abn.results import MEASURED_RESULTS, REPORTED_RESULTS

TARGET = Path(__file__).resolve().parents[1] / 'MODEL_CARDS.md'

# heading -> modules whose models stand under it
GROUPS: Dict[str, Tuple[str, ...]] = {
    'Attention Branch Networks': ('abn_models',),
    'CAM baselines': ('cam_models',),
    'Backbones for 32x32 images': ('cifar_backbones', 'cifar_densenet', 'cifar_wide_resnet'),
}

HEAD = """\
# Model cards

*Written by `python scripts/make_model_cards.py`; change that script, or `timm_abn/results.py`, instead of this file.*

Every model of this package, with what is known about it. Parameters and GMACs (multiply-accumulates of the evaluation
of one image of the given input) are computed from the models. Results are of two kinds, never mixed:

- **reported**: by the paper (Fukui et al., CVPR 2019) or in the authors' repository
  (https://github.com/machine-perception-robotics-group/attention_branch_network). They are not results of this code.
- **measured**: with this code and the weights named, by the command given.

All models classify images. An ABN explains its prediction by an attention map, which shows where it looked; that is not
a proof of why it decided so, and no model here was examined for bias or for use in decisions about people.

**Licence**: the code is Apache-2.0; that of weights stands behind their name. The authors' repository names no licence
for the weights that it links, which `timm-abn convert` reads.

**Citation**:

```bibtex
{citation}
```
"""


def make_model_cards() -> str:
    """Return the text of MODEL_CARDS.md."""
    sections = [HEAD.format(citation=CITATION)]
    for heading, modules in GROUPS.items():
        names = timm.list_models(module=list(modules))
        sections += [f'## {heading}\n', *(make_section(name) for name in names)]
    return '\n'.join(sections)


def make_section(name: str) -> str:
    """Return the section of a model.

    Args:
        name: Name of a registered model.
    """
    facts = model_facts(name)
    cfg = get_pretrained_cfg(name) or get_pretrained_cfg('abn_resnet50')  # `abn` itself has none
    weights = [(tagged, get_pretrained_cfg(tagged).license) for tagged in timm.list_pretrained(f'{name}.*')]
    rows = [
        ('Input', ' x '.join(map(str, facts.input_size))),
        ('Parameters (M)', f'{facts.num_params / 1e6:.2f}'),
        ('GMACs', f'{facts.num_macs / 1e9:.2f}'),
        ('Weights', ', '.join(f'`{tagged}` ({license})' for tagged, license in weights) or 'none'),
    ]
    if facts.backbone:
        rows[1:1] = [
            ('Backbone', f'`{facts.backbone}`' + (', or any other' if name == 'abn' else '')),
            ('Split', f'after `{facts.split}`'),
            ('Attention stage', facts.attention_stage),
        ]
    if cfg.paper_ids:
        rows.append(('Paper', f'{cfg.paper_name}, {cfg.paper_ids}'))
    summary = timm.model_entrypoint(name).__doc__.strip().splitlines()[0]
    lines = [f'### {name}', '', summary, '', '| | |', '|---|---|']
    return '\n'.join([*lines, *(f'| {key} | {value} |' for key, value in rows), '', *results(name)])


def results(name: str) -> List[str]:
    """Return a table of the results of a model, as lines; none if there are no results.

    Args:
        name: Name of a registered model.
    """
    rows = [
        (
            f'{result.dataset}{", " if result.variant else ""}{result.variant}',
            result.metric,
            result.percent,
            f'reported, {result.source}',
        )
        for result in REPORTED_RESULTS.get(name, ())
    ] + [
        (f'{result.dataset} (`{tagged}`)', result.metric, result.percent, f'measured, `{result.command}`')
        for tagged, measured in MEASURED_RESULTS.items()
        if tagged.split('.')[0] == name
        for result in measured
    ]
    if not rows:
        return []
    lines = [f'| {dataset} | {metric} | {percent:g} | {origin} |' for dataset, metric, percent, origin in rows]
    return ['| data set | metric | % | |', '|---|---|---|---|', *lines, '']


if __name__ == '__main__':
    TARGET.write_text(make_model_cards(), encoding='utf-8')
