"""Comparing the weights of a file with those of a model."""

import hashlib
from collections.abc import Mapping

import torch

from ..checkpoint_files import CheckpointError
from ..errors import shortened

__all__ = ['check_state_dict', 'fingerprint_of']


def check_state_dict(
    state_dict: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], model_name: str, origin: object = ''
) -> None:
    """Raise CheckpointError where names are missing or unknown, or shapes differ.

    ``expected`` is the state dict of the model; ``origin`` says where the weights come from.
    """
    found = {
        'missing': [name for name in expected if name not in state_dict],
        'unknown': [name for name in state_dict if name not in expected],
        'of another shape': [
            f'{name} has shape {tuple(state_dict[name].shape)} instead of {tuple(tensor.shape)}'
            for name, tensor in expected.items()
            if name in state_dict and state_dict[name].shape != tensor.shape
        ],
    }
    problems = [f'{len(names)} {problem} ({shortened(names, 3)})' for problem, names in found.items() if names]
    if problems:
        raise CheckpointError(
            f'{origin}{origin and ": "}the checkpoint is not one of {model_name}: keys {"; ".join(problems)}.',
            num_differences=sum(map(len, found.values())),
        )


def fingerprint_of(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the names and values of weights, in hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
