"""Folders that the Hugging Face Hub takes and ``timm.create_model`` loads: weights, configuration, model card."""

from pathlib import Path
from typing import Any, Mapping, Optional, Tuple, Union

from timm.models import save_for_hf

from .network import AttentionBranchNet
from .staging import staged_folder

__all__ = ['CITATION', 'model_card', 'save_hub_folder']

CITATION = """\
@inproceedings{fukui2019attention,
  title={Attention Branch Network: Learning of Attention Mechanism for Visual Explanation},
  author={Fukui, Hiroshi and Hirakawa, Tsubasa and Yamashita, Takayoshi and Fujiyoshi, Hironobu},
  booktitle={Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages={10705--10714},
  year={2019}
}"""

_CARD = """\
---
library_name: timm
pipeline_tag: image-classification
license: {license}
tags:
- image-classification
- timm
- timm-abn
- attention-branch-network
- visual-explanation
---
# {name}

{summary}

| | |
|---|---|
{facts}

```python
import timm
import timm_abn  # registers the model

model = timm.create_model('{address}', pretrained=True).eval()
logits = model(images)                # as every timm model
explanation = model.explain(images)   # .logits, .attention_map, .attention_logits, .class_maps
```

## Citation

```bibtex
{citation}
```
"""


def model_card(
    model: AttentionBranchNet,
    summary: str,
    license: str,
    address: str,
    facts: Tuple[Tuple[str, str], ...] = (),
) -> str:
    """Return the text of a model card, with the front matter of the Hub.

    Args:
        model: The model, as ``timm.create_model`` made it.
        summary: What the weights are, and where they come from.
        license: Licence of the weights, as the Hub spells it.
        address: What to pass to ``timm.create_model``.
        facts: Names and values to list besides those that the model itself tells.
    """
    cfg: Any = model.pretrained_cfg
    backbone_cfg: Any = model.perception_branch.pretrained_cfg
    rows = (
        ('Backbone', backbone_cfg['architecture']),
        ('Split', f'after `{model.split}`'),
        ('Attention stage', model.attention_branch.stage.source),
        ('Attention map, mechanism', f'{model.config["attention_map"]}, {model.config["mechanism"]}'),
        ('Classes', str(model.num_classes)),
        ('Parameters (M)', f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}'),
        ('Input', ' x '.join(map(str, cfg['input_size']))),
        *facts,
    )
    return _CARD.format(
        license=license,
        name=cfg['architecture'],
        summary=summary,
        facts='\n'.join(f'| {name} | {value} |' for name, value in rows),
        address=address,
        citation=CITATION,
    )


def save_hub_folder(
    model: AttentionBranchNet,
    folder: Union[str, Path],
    card: str,
    data_config: Optional[Mapping[str, Any]] = None,
    pretrained_cfg: Optional[Mapping[str, Any]] = None,
) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``README.md``; all of them, or nothing at all.

    ``timm.create_model('local-dir:<folder>', pretrained=True)`` loads the folder, and the Hub takes it as it is.

    Args:
        model: The model, as ``timm.create_model`` made it; arguments that it was made with are stored.
        folder: A new folder.
        card: The model card.
        data_config: Preprocessing of the weights (``input_size``, ``crop_pct``, ``interpolation``, ``mean``, ``std``),
            where it is not that of the model's ``pretrained_cfg``.
        pretrained_cfg: Entries of the ``pretrained_cfg`` to store in the place of the model's.

    Raises:
        FileExistsError: ``folder`` exists and is not an empty folder.
    """
    with staged_folder(folder) as staging:
        save_for_hf(
            model,
            str(staging),
            model_config=dict(pretrained_cfg=dict(pretrained_cfg or {})),
            data_config=dict(data_config) if data_config else None,
            safe_serialization=True,
        )
        # safetensors writes a file that nobody else may read
        (staging / 'model.safetensors').chmod((staging / 'config.json').stat().st_mode)
        (staging / 'README.md').write_text(card, encoding='utf-8')
