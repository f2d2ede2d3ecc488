"""Facts about a registered model, found out by building it: never typed."""

import dataclasses
from typing import Any, Tuple

import timm
import torch
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

from .network import AttentionBranchNet

__all__ = ['ModelFacts', 'model_facts']


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Facts about a model.

    Attributes:
        input_size: Channels, height and width of the images that it is made for.
        num_params: Number of parameters.
        num_macs: Multiply-accumulates of the evaluation of one such image.
        backbone: Name of the backbone of an ABN.
        split: Module after which the backbone is cut.
        attention_stage: What the stage of the attention branch is.
    """

    input_size: Tuple[int, int, int]
    num_params: int
    num_macs: int
    backbone: str = ''
    split: str = ''
    attention_stage: str = ''


def model_facts(name: str) -> ModelFacts:
    """Return the facts about a model.

    Args:
        name: Name of a registered model.
    """
    # on the meta device there are shapes but no values: nothing is computed, and no memory taken
    model: Any = timm.create_model(name, device=torch.device('meta')).eval()
    input_size = get_model_input_config(model)['input_size']
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, *input_size), device='meta'))
    facts = ModelFacts(
        input_size=tuple(input_size),
        num_params=sum(parameter.numel() for parameter in model.parameters()),
        num_macs=counter.get_total_flops() // 2,
    )
    if not isinstance(model, AttentionBranchNet):
        return facts
    backbone_cfg: Any = model.perception_branch.pretrained_cfg
    return dataclasses.replace(
        facts,
        backbone=backbone_cfg['architecture'],
        split=model.split,
        attention_stage=model.attention_branch.stage.source,
    )
