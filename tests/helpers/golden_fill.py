"""The rule by which the golden files' parameters and inputs were filled (see golden/README.md)."""

import hashlib
import json
import math
import zlib
from pathlib import Path

import torch

GOLDEN = Path(__file__).parents[1] / 'golden'


def load_golden(name):
    return json.loads((GOLDEN / f'{name}.json').read_text())


def fill_state_dict(entries):
    """Return a state dict for (key, shape) pairs, in float64."""
    return {key: _fill(key, shape) for key, shape in entries}


def _fill(key, shape):
    if key.endswith('num_batches_tracked'):
        return torch.zeros(shape, dtype=torch.int64)
    random = torch.rand(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    uniform = (random * 2 - 1) * math.sqrt(3.0)
    if key.endswith('running_var'):
        tensor = random + 0.5
    elif key.endswith(('running_mean', 'bias')):
        tensor = uniform * 0.1
    elif len(shape) == 1:
        tensor = (random + 0.5) * 0.59375
    else:
        tensor = uniform * math.sqrt(2.0 / math.prod(shape[1:]))
    return tensor.double()


def fill_input(seed, shape):
    random = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return ((random * 2 - 1) * math.sqrt(3.0)).double()


def sha256(tensors):
    """Return the hash of the tensors' bytes, floating point as float32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update((tensor.float() if tensor.is_floating_point() else tensor).numpy().tobytes())
    return digest.hexdigest()


def close(actual, expected, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol
    )
