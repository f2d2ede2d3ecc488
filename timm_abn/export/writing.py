"""From the name of a model to a file: load, trace, convert, compare, announcing each phase."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ..data.class_names import name_classes
from ..errors import shortened
from ..models.loading import load_model
from ..models.training_checkpoints import recorded_model
from .graph import DYNAMIC_FORMS, ExportedNetwork, export_metadata, export_network, largest_difference, onnx_runner

__all__ = ['write_graph']


def write_graph(
    model: str | None,
    checkpoint: str | None,
    model_kwargs: Mapping[str, Any],
    file_format: str,
    dynamic: str,
    label_names: str | None,
    file: Path,
    say: Callable[[str], None],
) -> dict[str, str]:
    """Load a model (``load_model``), write its graph (``export_network``), and return facts about it, by name.

    ``file_format`` is 'onnx' or 'torch-export'; ``label_names`` names the classes, one per line, where the model's own
    names are not meant. ``say`` is called at the beginning of each phase.

    Raises:
        TimmAbnError: The model cannot be loaded or exported; the message is one line.
    """
    say(f'loading {model or checkpoint}')
    network: Any = load_model(model, checkpoint, **model_kwargs)
    names = name_classes(network, Path(label_names) if label_names else None)
    name = model or recorded_model(checkpoint)
    metadata = export_metadata(network, name)
    say(f'tracing images of {" or ".join(_shape(network, axes) for axes in DYNAMIC_FORMS[dynamic])}')
    exported = export_network(network, dynamic)
    say(f'converting, to {file_format}')
    if file_format == 'onnx':
        exported.save_onnx(file, metadata)
    else:
        exported.save(file, metadata)
    say('comparing with the model')
    runner = onnx_runner(file, exported.outputs) if file_format == 'onnx' else torch.export.load(file).module()
    difference = largest_difference(network, runner, exported.trials)
    return {
        'Model': name,
        'Images': _describe_images(network, exported, dynamic),
        'Outputs': ', '.join(exported.outputs),
        'Classes': f'{len(names)}: {shortened(names)}',
        'Largest difference from the model': f'{difference:.1e}',
    }


def _describe_images(network: nn.Module, exported: ExportedNetwork, dynamic: str) -> str:
    shape = _shape(network, exported.dynamic_axes)
    if dynamic in ('all', 'size') and 2 not in exported.dynamic_axes:
        return f'{shape} (other image sizes cannot be traced)'
    are_multiples = 2 in exported.dynamic_axes and exported.multiple > 1
    return f'{shape} (multiples of {exported.multiple})' if are_multiples else shape


def _shape(network: nn.Module, dynamic_axes: Mapping[int, str]) -> str:
    lengths = (1, *get_model_input_config(network)['input_size'])
    return ' x '.join(dynamic_axes.get(axis, str(length)) for axis, length in enumerate(lengths))
