"""Write MODEL_CARDS.md: facts from the models themselves, results from timm_abn/results.py.

Example:
    python scripts/make_model_cards.py
"""

from pathlib import Path
from typing import Dict, Tuple

import timm
from timm.models import get_pretrained_cfg

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.model_card import CITATION, LIMITS, fact_rows, result_table, table, usage
from timm_abn.publish.model_facts import model_facts
from timm_abn.publish.results import COMPARISONS, Comparison

TARGET = Path(__file__).resolve().parents[1] / 'MODEL_CARDS.md'

# heading -> modules whose models stand under it
GROUPS: Dict[str, Tuple[str, ...]] = {
    'Attention Branch Networks': ('abn_models',),
    'CAM baselines': ('cam_models',),
    'Backbones for 32x32 images': ('cifar_backbones', 'cifar_densenet', 'cifar_wide_resnet'),
}

EXAMPLE = 'abn_resnet20_cifar.fashion_mnist'

HEAD = """\
# Model cards

*Written by `python scripts/make_model_cards.py`; change that script, `timm_abn/model_card.py` or
`timm_abn/results.py`, instead of this file.*

Every model of this package, with what is known about it. Parameters and GMACs (multiply-accumulates of the evaluation
of one image of the given input) are computed from the models. Results are of two kinds, never mixed:

- **reported**: by the paper (Fukui et al., CVPR 2019) or in the authors' repository
  (https://github.com/machine-perception-robotics-group/attention_branch_network). They are not results of this code.
- **measured**: with this code and the weights named, by the command given.

**Limits**, of each of them:

{limits}

**Use**, with weights from the package, from the Hub or from a folder:

```python
{usage}```

**Licence**: the code is Apache-2.0; that of weights stands behind their name. The authors' repository names no licence
for the weights that it links, which `timm-abn convert` reads.

**Citation**:

```bibtex
{citation}
```
"""


def make_model_cards() -> str:
    """Return the text of MODEL_CARDS.md."""
    sections = [HEAD.format(limits=LIMITS, usage=usage(EXAMPLE, in_chans=1), citation=CITATION)]
    sections += ['## Comparisons measured with this code\n', *map(make_comparison, COMPARISONS)]
    for heading, modules in GROUPS.items():
        names = timm.list_models(module=list(modules))
        sections += [f'## {heading}\n', *(make_section(name) for name in names)]
    return '\n'.join(sections)


def make_comparison(comparison: Comparison) -> str:
    """Return the section of models that were trained side by side."""
    rows = table(comparison.header, comparison.rows)
    command = f'Measured by `{comparison.command}`.'
    return '\n\n'.join([f'### {comparison.title}', comparison.setup, rows, command]) + '\n'


def make_section(name: str) -> str:
    """Return the section of a model.

    Args:
        name: Name of a registered model.
    """
    facts = model_facts(name)
    cfg = get_pretrained_cfg(name) or get_pretrained_cfg('abn_resnet50')  # `abn` itself has none
    weights = [(tagged, get_pretrained_cfg(tagged).license) for tagged in timm.list_pretrained(f'{name}.*')]
    rows = [
        (key, f'{value}, or any other' if name == 'abn' and key == 'Backbone' else value)
        for key, value in fact_rows(facts)
    ]
    rows.append(('Weights', ', '.join(f'`{tagged}` ({license})' for tagged, license in weights) or 'none'))
    if cfg.paper_ids:
        rows.append(('Paper', f'{cfg.paper_name}, {cfg.paper_ids}'))
    summary = timm.model_entrypoint(name).__doc__.strip().splitlines()[0]
    results = result_table(name)
    return '\n\n'.join([f'### {name}', summary, table(('', ''), rows), *([results] if results else [])]) + '\n'


if __name__ == '__main__':
    TARGET.write_text(make_model_cards(), encoding='utf-8')
