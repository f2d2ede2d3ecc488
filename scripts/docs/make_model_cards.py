"""Write MODEL_CARDS.md and docs/trust.md with its chart, of the models and docs/results, and model_facts.json.

Experiments write the files in docs/results; accuracies of packaged weights, and what others report, lie in
timm_abn/publish/results.yaml. `timm-abn list` shows model_facts.json, since building the models would take too long.

Example:
    python scripts/docs/make_model_cards.py
"""

import json
from pathlib import Path
from typing import Any

import timm
from huggingface_hub.utils import tqdm
from result_pages import chart, read_results, section, trust_page
from timm.models import get_pretrained_cfg

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.markdown import markdown_table
from timm_abn.publish.model_card import CITATION, LIMITS, usage
from timm_abn.publish.model_facts import model_facts
from timm_abn.publish.results import MEASURED_RESULTS, REPORTED_RESULTS, Result
from timm_abn.staging import staged_file

ROOT = Path(__file__).resolve().parents[2]
CARDS, FACTS = ROOT / 'MODEL_CARDS.md', ROOT / 'timm_abn' / 'publish' / 'model_facts.json'

TRUST, CHART = ROOT / 'docs' / 'trust.md', ROOT / 'docs' / 'trust.svg'

EXAMPLE = 'abn_resnet20_cifar.fashion_mnist'

HEAD = """\
# Model cards

*Written by `python scripts/docs/make_model_cards.py` from `docs/results` and `timm_abn/publish/results.yaml`.*

There are two kinds of results, which are never mixed: those **measured** with this code, with weights and command
given, and those **reported** by the paper (Fukui et al., CVPR 2019) or in the
[authors' repository](https://github.com/machine-perception-robotics-group/attention_branch_network), not by this code.

## Available weights

{weights}

```python
{usage}```

No other names have published weights: train them (`timm-abn-train --recipe ...`), or convert a checkpoint of the
authors (`timm-abn convert`). The code is Apache-2.0; the authors' repository names no licence for its weights.

{limits}

## Measured results

{measured}

Maps are scored by symmetric relevance gain (SRG; noise has 0), deletion and insertion, with pixels replaced by the
mean colour. A mean map is the mean over other images of the same predicted class: only what a map gains over it is
about this image. The chart in `docs/trust.md` shows these and other controls. Values are means with 95 % bootstrap
intervals over images, each with all its seeds.
"""

MODELS = """\
## All models

Parameters and GMACs (multiply-accumulates to evaluate one image of the given size) are computed from the models;
`timm-abn list` shows more. ABNs make a sigmoid map and apply it by the residual mechanism (paper, Eq. 2) unless their
arguments say otherwise. The gate says how the map acts: it multiplies the features as in the paper (`features`); if
norms would undo that, it multiplies their distances to their mean (`centred`); if a class token is read, it also
weights what the token reads (`tokens`).
"""

REPORTED = """\
## Reported results

Error rates in percent, for CompCars accuracies; reported by the paper, or in the authors' repository (*). (product) is
Eq. 1.
"""

TAIL = """\
## Citation

```bibtex
{citation}
```
"""

COLUMNS = ('model', 'backbone', 'split after', 'gate', 'input', 'parameters (M)', 'GMACs')


def make_model_cards() -> str:
    """Return the text of MODEL_CARDS.md."""
    text = [
        HEAD.format(
            weights=weights_table(), usage=usage(EXAMPLE, in_chans=1), limits=LIMITS, measured=measured_table()
        ),
        *map(section, read_results().values()),
        MODELS,
        markdown_table(COLUMNS, [make_row(name) for name in timm.list_models() if is_ours(name)]),
        '',
        REPORTED,
        reported_table(),
        '',
    ]
    return '\n'.join([*text, TAIL.format(citation=CITATION)])


def weights_table() -> str:
    """Return the table of the weights that exist."""
    names = [tagged for tagged in timm.list_pretrained() if is_ours(tagged)]
    rows = [
        (f'`{tagged}`', ' x '.join(map(str, cfg.input_size)), str(cfg.num_classes), str(cfg.license))
        for tagged, cfg in ((tagged, get_pretrained_cfg(tagged)) for tagged in names)
    ]
    return markdown_table(('weights', 'input', 'classes', 'licence'), rows)


def is_ours(name: str) -> bool:
    """Return whether this package registered a model."""
    return timm.model_entrypoint(name.split('.')[0]).__module__.startswith('timm_abn.')


def measured_table() -> str:
    """Return the table of the results that were measured, one per line."""
    rows = [
        (f'`{name}`', result.dataset, result.metric, f'{result.percent:g}', result.origin)
        for name, results in MEASURED_RESULTS.items()
        for result in results
    ]
    return markdown_table(('weights', 'data set', 'metric', '%', 'command'), rows)


def reported_table() -> str:
    """Return the table of the results that others report, models by data sets."""
    datasets = list(dict.fromkeys(result.dataset for results in REPORTED_RESULTS.values() for result in results))
    rows = []
    for name, results in REPORTED_RESULTS.items():
        cells = [[cell(result) for result in results if result.dataset == dataset] for dataset in datasets]
        rows.append((f'`{name}`', *map(', '.join, cells)))
    return markdown_table(('model', *datasets), rows)


def cell(result: Result) -> str:
    """Return a reported number with its source."""
    variant = ' (product)' if result.variant else ''
    return f'{result.percent:g}{"" if result.source.startswith("paper") else "*"}{variant}'


def make_row(name: str) -> tuple[str, ...]:
    """Return the cells of a model's row."""
    facts = model_facts(name)
    if facts.attention_map and (facts.attention_map, facts.mechanism) != ('sigmoid', 'residual'):
        raise ValueError(f'{name} has another map or mechanism than the text says of all.')
    return (
        f'`{name}`',
        f'`{facts.backbone}`' + (', or any other' if name in ('abn', 'attached') else '') if facts.backbone else '',
        f'`{facts.split}`' if facts.split else '',
        facts.gate,
        ' x '.join(map(str, facts.input_size)),
        f'{facts.num_params / 1e6:.2f}',
        f'{facts.num_macs / 1e9:.2f}',
    )


def make_model_facts() -> str:
    """Return the text of model_facts.json, one line per model."""
    names = timm.list_models(module='abn_models')
    lines = [f'"{name}": {json.dumps(listed_facts(name))}' for name in tqdm(names, unit='model')]
    return '{\n' + ',\n'.join(lines) + '\n}\n'


def listed_facts(name: str) -> dict[str, Any]:
    """Return what is listed of a model, as JSON knows it."""
    facts = model_facts(name)
    return dict(
        backbone=facts.backbone,
        split=facts.split,
        attention_stage=facts.attention_stage,
        gate=facts.gate,
        input_size=list(facts.input_size),
        num_params=facts.num_params,
        num_macs=facts.num_macs,
        weights=[pretrained.partition('.')[2] for pretrained in timm.list_pretrained(f'{name}.*')],
        # of the paper itself, of the model as it is by default
        reported_errors=[
            [result.dataset, result.percent]
            for result in REPORTED_RESULTS.get(name, ())
            if result.source.startswith('paper') and result.metric == 'top-1 error' and not result.variant
        ],
    )


def documents() -> dict[Path, str]:
    """Return the text of each document that comes from models and results."""
    results = read_results()
    return {CARDS: make_model_cards(), TRUST: trust_page(results), CHART: chart(results)}


if __name__ == '__main__':
    for file, content in {**documents(), FACTS: make_model_facts()}.items():
        with staged_file(file) as staged:
            staged.write_text(content, encoding='utf-8')
