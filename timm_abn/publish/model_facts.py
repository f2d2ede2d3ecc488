"""Facts about a registered model, computed by building it, never typed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

from ..attached.network import AttachedNet
from ..backbone import name_of
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.split_network import SplitNetwork

__all__ = ['ModelFacts', 'facts_of', 'model_facts']


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """Facts about a model; those from ``split`` on only of an ABN."""

    input_size: tuple[int, int, int]  # channels, height and width of the images that it is made for
    num_classes: int  # or tasks
    num_params: int
    num_macs: int  # multiply-accumulates of the evaluation of one such image
    backbone: str = ''
    split: str = ''
    attention_stage: str = ''
    attention_map: str = ''
    mechanism: str = ''
    gate: str = ''
    is_multi_task: bool = False


def model_facts(name: str) -> ModelFacts:
    """Return the facts about a registered model."""
    # on the meta device there are shapes but no values: nothing is computed, and no memory taken
    return facts_of(timm.create_model(name, device=torch.device('meta')))


def facts_of(model: nn.Module, input_size: Sequence[int] | None = None) -> ModelFacts:
    """Return the facts about a network on the meta device.

    ``input_size`` (channels, height, width) is that of its images, where it is not that of its ``pretrained_cfg``.
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
    if isinstance(network, AttachedNet):
        return dataclasses.replace(facts, backbone=name_of(network.backbone))
    if not isinstance(network, SplitNetwork):
        return facts
    config = network.config
    return dataclasses.replace(
        facts,
        backbone=config.backbone,
        split=str(config.split),
        attention_stage=network.attention_branch.stage.source,
        attention_map=config.attention_map,
        mechanism=config.mechanism,
        gate=str(config.gate),
        is_multi_task=isinstance(network, MultiTaskAttentionBranchNet),
    )
