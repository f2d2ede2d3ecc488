"""Converting the authors' checkpoints (their repository: machine-perception-robotics-group/attention_branch_network)."""
import re
from typing import Any, Dict, List, Mapping, Tuple

import timm
import torch

__all__ = ['CheckpointError', 'check_state_dict', 'convert_official_checkpoint']

# the authors' names -> ours; everything else is a name of the backbone, and found in one of the halves
_RENAMES: Tuple[Tuple[str, str], ...] = (
    (r'^att_layer\d\.', 'attention_branch.stage.'),
    (r'^bn_att\.', 'attention_branch.norm.'),
    (r'^att_conv\.', 'attention_branch.class_conv.'),
    (r'^bn_att2\.', 'attention_branch.class_norm.'),
    (r'^att_conv2\.', 'attention_branch.classifier.'),
    (r'^att_conv3\.', 'attention_branch.map_conv.'),
    (r'^bn_att3\.', 'attention_branch.map_norm.'),
)


class CheckpointError(ValueError):
    """A checkpoint does not hold what was expected; the message names the keys."""


def convert_official_checkpoint(checkpoint: Mapping[str, Any], model_name: str) -> Dict[str, torch.Tensor]:
    """Convert a checkpoint of the authors' code to the names of a model of this package.

    Args:
        checkpoint: The authors' ``state_dict``, or the whole checkpoint around it. Names may begin with ``module.``;
            ``num_batches_tracked`` may be missing.
        model_name: Name of the model here, for example 'abn_resnet152'.

    Returns:
        A state dict that ``timm.create_model(model_name, num_classes=...)`` loads strictly.

    Raises:
        CheckpointError: The checkpoint is not one of this architecture.
    """
    state_dict = _state_dict_of(checkpoint)
    num_classes = state_dict['fc.weight'].shape[0] if 'fc.weight' in state_dict else 1000
    with torch.device('meta'):
        expected = timm.create_model(model_name, num_classes=num_classes, device=torch.device('meta')).state_dict()
    converted = {_rename(name, expected): tensor for name, tensor in state_dict.items()}
    for name, tensor in expected.items():
        if name.endswith('num_batches_tracked') and name not in converted:
            converted[name] = torch.zeros((), dtype=tensor.dtype)  # written by PyTorch since 0.4.1
    check_state_dict(converted, expected, model_name)
    return {name: converted[name] for name in expected}


def _state_dict_of(checkpoint: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    inner = checkpoint.get('state_dict', checkpoint)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"'state_dict' of the checkpoint must be a mapping, got a {type(inner).__name__}.")
    state_dict = {re.sub(r'^module\.', '', str(name)): tensor for name, tensor in inner.items()}
    strangers = [name for name, tensor in state_dict.items() if not isinstance(tensor, torch.Tensor)]
    if strangers or not state_dict:
        raise CheckpointError(
            f'expected a state dict of tensors, got {_some(strangers)} of other types.' if strangers
            else 'the checkpoint holds no tensors.')
    return state_dict


def _rename(name: str, expected: Mapping[str, torch.Tensor]) -> str:
    for pattern, replacement in _RENAMES:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    halves = [f'feature_extractor.{name}', f'perception_branch.{name}']
    return next((half for half in halves if half in expected), name)


def check_state_dict(
        state_dict: Mapping[str, torch.Tensor],
        expected: Mapping[str, torch.Tensor],
        model_name: str,
) -> None:
    """Check that weights fit a model, and say in one line which do not.

    Args:
        state_dict: The weights.
        expected: State dict of the model.
        model_name: Name of the model, for the message.

    Raises:
        CheckpointError: Names are missing or unknown, or shapes differ.
    """
    problems = []
    missing = [name for name in expected if name not in state_dict]
    unknown = [name for name in state_dict if name not in expected]
    shapes = [
        f'{name} has shape {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}'
        for name, tensor in expected.items() if name in state_dict and state_dict[name].shape != tensor.shape
    ]
    if missing:
        problems.append(f'{len(missing)} missing ({_some(missing)})')
    if unknown:
        problems.append(f'{len(unknown)} unknown ({_some(unknown)})')
    if shapes:
        problems.append(f'{len(shapes)} of another shape ({_some(shapes)})')
    if problems:
        raise CheckpointError(f'the checkpoint is not one of {model_name}: keys {"; ".join(problems)}.')


def _some(names: List[str], most: int = 3) -> str:
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
