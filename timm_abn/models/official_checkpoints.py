"""Converting the authors' official checkpoints.

Their repository: https://github.com/machine-perception-robotics-group/attention_branch_network. Multi-task networks
(CelebA) come from a separate repository, in two forms: with two outputs per task, as in the paper, or with one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm
import torch
import torch.nn as nn
from timm.models import ResNet

from ..checkpoint_files import CheckpointError
from ..errors import TimmAbnError, shortened, suggest
from ..hub.state_dicts import check_state_dict
from ..networks.network import AttentionBranchNet
from .cifar_backbones import CifarResNet
from .cifar_densenet import CifarDenseNet
from .cifar_wide_resnet import CifarWideResNet

__all__ = ['ConvertedCheckpoint', 'convert_official_checkpoint']

Renames = tuple[tuple[str, str | Callable[[re.Match], str]], ...]


def _dense_layer(prefix: str) -> Callable[[re.Match], str]:
    # timm counts the layers of a block from 1, the authors from 0
    return lambda match: f'{match.expand(prefix)}denselayer{int(match["layer"]) + 1}.'


# the authors' names -> ours, applied one after the other
_BRANCH_RENAMES: Renames = (
    (r'^bn_att\.', 'attention_branch.norm.'),
    (r'^att_conv\.', 'attention_branch.class_conv.'),
    (r'^bn_att2\.', 'attention_branch.class_norm.'),
    (r'^att_conv2\.', 'attention_branch.classifier.'),
    (r'^att_conv3\.', 'attention_branch.map_conv.'),
    (r'^bn_att3\.', 'attention_branch.map_norm.'),
)
_RESNET_RENAMES: Renames = (
    (r'^(att_layer\d|layer4_att)\.', 'attention_branch.stage.'),
    (r'^conv_att\.', 'attention_branch.map_conv.'),
    (r'\.(fc[12])\.', r'.se.\1.'),
)
_RESNEXT_RENAMES: Renames = (
    (r'^conv_1_3x3\.', 'conv1.'),
    (r'^bn_1\.', 'bn1.'),
    (r'^stage_att\.stage_att_bottleneck_(\d+)\.', r'attention_branch.stage.\1.'),
    (r'^stage_(\d)\.stage_\d_bottleneck_(\d+)\.', r'layer\1.\2.'),
    (r'\.conv_reduce\.', '.conv1.'),
    (r'\.bn_reduce\.', '.bn1.'),
    (r'\.conv_conv\.', '.conv2.'),
    (r'\.bn\.', '.bn2.'),
    (r'\.conv_expand\.', '.conv3.'),
    (r'\.bn_expand\.', '.bn3.'),
    (r'\.shortcut\.shortcut_conv\.', '.downsample.0.'),
    (r'\.shortcut\.shortcut_bn\.', '.downsample.1.'),
    (r'^classifier\.', 'fc.'),
)
_WIDE_RESNET_RENAMES: Renames = (
    (r'^bn1\.', 'norm.'),
    (r'\.bn([12])\.', r'.norm\1.'),
    (r'\.convShortcut\.', '.downsample.'),
    (r'^att_block\d\.layer\.', 'attention_branch.stage.'),
    (r'^block(\d)\.layer\.', r'layer\1.'),
)
_DENSENET_RENAMES: Renames = (
    (r'^conv1\.', 'features.conv0.'),
    (r'^bn\.', 'features.norm5.'),
    (r'^fc\.', 'classifier.'),
    (r'^trans(\d)\.bn1\.', r'features.transition\1.norm.'),
    (r'^trans(\d)\.conv1\.', r'features.transition\1.conv.'),
    (r'^(att_)?(dense\d\.\d+)\.bn([12])\.', r'\1\2.norm\3.'),
    (r'^att_dense\d\.(?P<layer>\d+)\.', _dense_layer('attention_branch.stage.0.')),
    (r'^dense(\d)\.(?P<layer>\d+)\.', _dense_layer(r'features.denseblock\1.')),
)
_RENAMES: dict[type[nn.Module], Renames] = {
    ResNet: _RESNET_RENAMES,
    CifarResNet: _RESNET_RENAMES + _RESNEXT_RENAMES,
    CifarWideResNet: _WIDE_RESNET_RENAMES,
    CifarDenseNet: _DENSENET_RENAMES,
}

# a name that only checkpoints of these models have -> the models, the likeliest first
_CANDIDATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r'^stage_att\.', ('abn_resnext29_8x64d_cifar',)),
    (r'^att_block3\.', ('abn_wrn28_4_cifar', 'abn_wrn28_10_cifar')),
    (r'^att_dense3\.', ('abn_densenet100_12_cifar',)),
    (r'^att_layer3\.', tuple(f'abn_resnet{depth}_cifar' for depth in (110, 20, 32, 44, 56))),
    (r'^layer4_att\.', tuple(f'abn_resnet{depth}' for depth in (101, 152, 50, 34, 18))),
    (r'^att_layer4\.0\.fc1\.', tuple(f'abn_seresnet{depth}' for depth in (152, 101, 50, 34, 18))),
    (r'^att_layer4\.', (*(f'abn_resnet{depth}' for depth in (152, 101, 50, 34, 18)), 'abn_resnext50_32x4d')),
)


class ConvertedCheckpoint(NamedTuple):
    """Name, arguments and weights for ``timm.create_model(model_name, **model_args)``, which loads them strictly.

    The arguments are the number of classes, and the kind of attention map unless it is the sigmoid. Multi-task networks
    get the default mechanism of the authors' code, 'product', since the checkpoint does not record it.
    """

    model_name: str
    model_args: dict[str, Any]
    state_dict: dict[str, torch.Tensor]


def convert_official_checkpoint(checkpoint: Mapping[str, Any], model_name: str | None = None) -> ConvertedCheckpoint:
    """Convert a checkpoint of the authors' code.

    Args:
        checkpoint: The authors' ``state_dict``, or the whole checkpoint around it. Names may start with ``module.``;
            ``num_batches_tracked`` may be missing.
        model_name: Name of the model in this package, such as 'abn_resnet152'; None to identify it.

    Raises:
        CheckpointError: The checkpoint has another architecture, or an unknown one; the message names the likeliest,
            and the first keys that differ.
        ValueError: There is no such model, or it is not an Attention Branch Network.
    """
    state_dict = _state_dict_of(checkpoint)
    if model_name is not None:
        return _convert(state_dict, model_name)
    candidates = next((models for key, models in _CANDIDATES if any(re.match(key, name) for name in state_dict)), ())
    errors = []
    for name in candidates:
        try:
            return _convert(state_dict, name)
        except CheckpointError as error:
            errors.append(error)
    if not errors:
        raise CheckpointError(
            "the checkpoint is not from the authors' code: it has none of the names att_layer3, att_layer4, "
            f'att_block3, att_dense3, stage_att, layer4_att, but {shortened(list(state_dict), 3)}.'
        )
    raise min(errors, key=lambda error: error.num_differences)


def _convert(state_dict: dict[str, torch.Tensor], model_name: str) -> ConvertedCheckpoint:
    if not timm.is_model(model_name):
        hint = suggest(model_name, timm.list_models('abn_*'), otherwise="see timm.list_models('abn_*').")
        raise TimmAbnError(f'unknown model {model_name!r}: {hint}')
    if not model_name.startswith('abn'):
        raise TimmAbnError(f'{model_name!r} is not an Attention Branch Network; their names start with abn_.')
    model_args = _model_args_of(state_dict)
    with torch.device('meta'):
        model = timm.create_model(model_name, device=torch.device('meta'), **model_args)
    assert isinstance(model, AttentionBranchNet)
    state_dict, expected = _with_one_classifier(state_dict), model.state_dict()
    if 'attention_branch.norm.weight' not in expected:
        # the authors' ResNeXt makes this norm but never uses it
        state_dict = {name: tensor for name, tensor in state_dict.items() if not name.startswith('bn_att.')}
    renames = _BRANCH_RENAMES + _RENAMES.get(type(model.perception_branch), ())
    converted = {_rename(name, renames, expected): tensor for name, tensor in state_dict.items()}
    for name, tensor in expected.items():
        if name.endswith('num_batches_tracked') and name not in converted:
            converted[name] = torch.zeros((), dtype=tensor.dtype)  # written by PyTorch since 0.4.1
        if name in converted and tuple(tensor.shape) == (*converted[name].shape, 1, 1):
            converted[name] = converted[name].reshape(tensor.shape)  # a linear layer there, a 1x1 convolution here
    check_state_dict(converted, expected, model_name)
    return ConvertedCheckpoint(model_name, model_args, {name: converted[name] for name in expected})


def _model_args_of(state_dict: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    if 'conv_att.weight' in state_dict:
        num_tasks = len(state_dict['conv_att.weight'])
        return dict(num_classes=num_tasks, multi_task=True, attention_map='raw', mechanism='product')
    model_args: dict[str, Any] = {}
    if 'att_conv.weight' in state_dict:
        model_args['num_classes'] = len(state_dict['att_conv.weight'])
    if 'att_layer4.0.fc1.weight' in state_dict and 'att_conv3.weight' not in state_dict:
        model_args['attention_map'] = 'sum_log'
    return model_args


def _state_dict_of(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    inner = checkpoint.get('state_dict', checkpoint.get('model_state_dict', checkpoint))
    if not isinstance(inner, Mapping):
        raise CheckpointError(f'the weights of the checkpoint must be a mapping, got a {type(inner).__name__}.')
    state_dict = {re.sub(r'^module\.', '', str(name)): tensor for name, tensor in inner.items()}
    strangers = [name for name, tensor in state_dict.items() if not isinstance(tensor, torch.Tensor)]
    if strangers:
        raise CheckpointError(f'expected a state dict of tensors, got other types for {shortened(strangers, 3)}.')
    if not state_dict:
        raise CheckpointError('the checkpoint holds no tensors.')
    return state_dict


_TASK_CLASSIFIER = re.compile(r'output_per\.(?P<task>\d+)\.(?P<kind>weight|bias)')


def _with_one_classifier(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a multi-task network with its classifiers, one per task, stacked: no before yes.

    The form with one output per task is that with two outputs whose first is always zero.
    """
    matches = {name: match for name in state_dict if (match := _TASK_CLASSIFIER.fullmatch(name))}
    others = {name: tensor for name, tensor in state_dict.items() if name not in matches}
    for kind in ('weight', 'bias'):
        rows = {int(match['task']): state_dict[name] for name, match in matches.items() if match['kind'] == kind}
        if not rows:
            continue
        shapes = {tuple(tensor.shape) for tensor in rows.values()}
        num_outputs = {shape[:1] for shape in shapes}
        if sorted(rows) != list(range(len(rows))) or len(shapes) > 1 or num_outputs not in ({(1,)}, {(2,)}):
            found = f'tasks {shortened([str(task) for task in sorted(rows)], 3)} of shapes {sorted(shapes)}'
            raise CheckpointError(
                f'the checkpoint must hold output_per.0.{kind}, output_per.1.{kind} ..., all of one or all of two '
                f'outputs, got those of {found}.'
            )
        stacked = torch.stack([rows[task] for task in range(len(rows))])
        if num_outputs == {(1,)}:
            stacked = torch.cat([torch.zeros_like(stacked), stacked], dim=1)
        others[f'fc.{kind}'] = stacked.flatten(0, 1)
    return others


def _rename(name: str, renames: Renames, expected: Mapping[str, torch.Tensor]) -> str:
    """Return our name of a tensor, or its own if it has none."""
    renamed = name
    for pattern, replacement in renames:
        renamed = re.sub(pattern, replacement, renamed)
    places = (renamed, f'feature_extractor.{renamed}', f'perception_branch.{renamed}')
    return next((place for place in places if place in expected), name)
