"""The parts of a network: a backbone cut in two, the layout of its features, and the stage of an attention branch."""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn as nn

from ..backbone import architecture_of, check_outputs, create_backbone, name_of
from ..errors import TimmAbnError
from ..split import Split, cut_backbone, find_adapter
from .attention_stage import AttentionStage, build_attention_stage, residual_width
from .config import AbnConfig
from .feature_layout import FeatureLayout, feature_layout
from .gate import Gate, choose_gate
from .padding import set_padding_mode

__all__ = ['Parts', 'build_parts']


class Parts(NamedTuple):
    """What a network is made of.

    Attributes:
        config: The network's, in which all that was left open is decided.
        cut: The backbone in two halves.
        layout: Layout of the features at the cut.
        stage: First part of an attention branch.
        gate: Acts on the features.
    """

    config: AbnConfig
    cut: Split
    layout: FeatureLayout
    stage: AttentionStage
    gate: Gate


def build_parts(
    backbone: str | nn.Module,
    arguments: Mapping[str, Any],
    pretrained_backbone: bool | str,
    device: torch.device | None,
    dtype: torch.dtype | None,
    **fixed: Any,
) -> Parts:
    """Create a backbone if it is given by name, cut it, and build what goes between its halves.

    Raises:
        TimmAbnError: An argument has no meaning, or the backbone cannot be cut there.
    """
    config, backbone_arguments = AbnConfig.take(arguments, **fixed)
    dd: dict[str, Any] = {'device': device, 'dtype': dtype}
    architecture, name = None, ''
    if isinstance(backbone, str):
        name = backbone
        outputs = config.num_classes * config.outputs_per_class
        backbone_arguments.update(num_classes=outputs, in_chans=config.in_chans, **dd)
        backbone = create_backbone(name, pretrained_backbone, **backbone_arguments)
        architecture = architecture_of(name, **backbone_arguments)
    elif backbone_arguments:
        given = ', '.join(f'{name}={value!r}' for name, value in backbone_arguments.items())
        raise TimmAbnError(f'{given} is not an argument of a network, and the backbone already exists.')
    if hasattr(backbone, 'attention_branch'):
        raise TimmAbnError(f'Backbone {name_of(backbone)!r} already has an attention branch; pass its backbone.')
    check_outputs(backbone, config.num_classes, config.outputs_per_class, name)
    cut = cut_backbone(backbone, config.split, architecture)
    layout, channels = feature_layout(cut)
    stage = build_attention_stage(
        cut.perception_branch,
        cut.next_stage if layout.layout == 'NCHW' else [],
        in_channels=channels,
        num_features=residual_width(cut.next_channels or channels),
        keep_weights=bool(pretrained_backbone),
        map_scale=config.map_scale,
        **dd,
    )
    if config.padding_mode != 'zeros':
        set_padding_mode(cut.feature_extractor, config.padding_mode)
    takes_bias = find_adapter(cut.perception_branch).takes_attention_bias(cut.perception_branch)
    gate_class = choose_gate(config.gate, cut, cut.perception_branch, takes_bias)
    config = dataclasses.replace(
        config,
        backbone=name_of(cut.perception_branch),
        split=cut.path,
        gate=gate_class.kind,
        attention_classes=None if config.num_classes else config.branch_classes,
        init=config.init or _init_for(config, is_trained=bool(pretrained_backbone) or not name),
    )
    return Parts(config, cut, layout, stage, gate_class(config, layout, device))


def _init_for(config: AbnConfig, is_trained: bool) -> str:
    """Return the init that fits a backbone; warns where none leaves one that may be trained unchanged."""
    if is_trained and not config.can_be_neutral:
        warnings.warn(
            "The network does not start with its backbone's predictions: hard attention, and maps of another kind "
            "than 'sigmoid', cannot have a neutral init.",
            stacklevel=4,
        )
    return 'neutral' if is_trained and config.can_be_neutral else 'random'
