"""Write timm_abn/publish/model_facts.json: what `timm-abn list` says, which has no time to build the models.

Example:
    python scripts/make_model_facts.py
"""

import json
from pathlib import Path
from typing import Any

import timm
from huggingface_hub.utils import tqdm

import timm_abn  # noqa: F401  registers the models
from timm_abn.publish.model_facts import model_facts
from timm_abn.publish.results import REPORTED_RESULTS
from timm_abn.staging import staged_files

TARGET = Path(__file__).resolve().parents[1] / 'timm_abn' / 'publish' / 'model_facts.json'


def main() -> None:
    """Write the file, one line per model."""
    names = timm.list_models(module='abn_models')
    lines = [f'"{name}": {json.dumps(listed_facts(name))}' for name in tqdm(names, unit='model')]
    with staged_files(TARGET.parent) as staging:
        (staging / TARGET.name).write_text('{\n' + ',\n'.join(lines) + '\n}\n', encoding='utf-8')


def listed_facts(name: str) -> dict[str, Any]:
    """Return what is listed of a model, as JSON knows it.

    Args:
        name: Name of a registered ABN.
    """
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


if __name__ == '__main__':
    main()
