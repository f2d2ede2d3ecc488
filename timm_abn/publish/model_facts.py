"""Facts about a registered model, computed by building it, never typed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.split_network import SplitNetwork

__all__ = ['ModelFacts', 'facts_of', 'model_facts']


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Facts about a model.

    Attributes:
        input_size: Channels, height and width of the images that it is made for.
        num_classes: Number of classes, or of tasks.
        num_params: Number of parameters.
        num_macs: Multiply-accumulates of the evaluation of one such image.
        backbone: Name of the backbone of an ABN.
        split: Module after which the backbone is cut.
        attention_stage: What the stage of the attention branch is.
        attention_map: How the attention map is made.
        mechanism: How it is applied.
        gate: What it does to the features.
        is_multi_task: Whether there is an attention map for each of several tasks.
    """

    input_size: tuple[int, int, int]
    num_classes: int
    num_params: int
    num_macs: int
    backbone: str = ''
    split: str = ''
    attention_stage: str = ''
    attention_map: str = ''
    mechanism: str = ''
    gate: str = ''
    is_multi_task: bool = False


def model_facts(name: str) -> ModelFacts:
    """Return the facts about a registered model.

    Args:
        name: Its name.
    """
    # on the meta device there are shapes but no values: nothing is computed, and no memory taken
    return facts_of(timm.create_model(name, device=torch.device('meta')))


def facts_of(model: nn.Module, input_size: Sequence[int] | None = None) -> ModelFacts:
    """Return the facts about a network.

    Args:
        model: The network, on the meta device.
        input_size: Channels, height and width of its images, where they are not those of its ``pretrained_cfg``.
    """
    network: Any = model.eval()
    channels, height, width = input_size or get_model_input_config(network)['input_size']
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty((1, channels, height, width), device='meta'))
    facts = ModelFacts(
        input_size=(channels, height, width),
        num_classes=network.num_classes,
        num_params=sum(parameter.numel() for parameter in network.parameters()),
        num_macs=counter.get_total_flops() // 2,
    )
    if not isinstance(network, SplitNetwork):
        return facts
    return dataclasses.replace(
        facts,
        backbone=network.config.backbone,
        split=network.split,
        attention_stage=network.attention_branch.stage.source,
        attention_map=network.config.attention_map,
        mechanism=network.config.mechanism,
        gate=network.config.gate,
        is_multi_task=isinstance(network, MultiTaskAttentionBranchNet),
    )
