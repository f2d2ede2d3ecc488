"""Export of a network with its explanation: a graph with the outputs ``logits`` and ``attention_map``.

Attached networks have a third, ``class_maps``, and their attention map is that of the predicted class.

The formats are ONNX and the archive of ``torch.export.save``. A graph is compared with the network itself, at several
sizes if it supports them, before it is returned. Batch norm is folded into convolutions (``folding``).
"""

import contextlib
import dataclasses
import io
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ..attached.network import AttachedNet
from ..data.images import Preprocessing
from ..explain.methods.evaluation_copy import evaluation_copy
from ..networks.config import check_choice
from ..records import num_answers, record_of
from .errors import ExportError
from .folding import fold_batch_norm, relative_difference

__all__ = [
    'DYNAMIC_FORMS',
    'ExportedNetwork',
    'export_metadata',
    'export_network',
    'largest_difference',
    'onnx_runner',
    'outputs_of',
]

TOLERANCE = 1e-4  # relative_difference of each output

_BATCH, _SIZE = {0: 'batch'}, {2: 'height', 3: 'width'}
# what is asked for -> the axes of images that may have any length, and what is traced where that cannot be
DYNAMIC_FORMS: dict[str, tuple[dict[int, str], ...]] = {
    '': ({},),
    'batch': (_BATCH,),
    'size': (_SIZE, {}),
    'all': ({**_BATCH, **_SIZE}, _BATCH),
}

Runner = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class ExportedNetwork:
    """A network as a graph that was compared with the network itself.

    Attributes:
        program: Maps images of shape (B, in_chans, H, W) to a dict of ``logits`` (B, K) and ``attention_map``
            (B, 1, h, w), or (B, T, h, w) for multi-task networks; for attached ones also ``class_maps`` (B, K, h, w).
        outputs: Names of the outputs.
        dynamic_axes: Names of the axes of the images that may have any length.
        trials: Images on which it was compared; the first was used for tracing.
        multiple: Height and width of images must be multiples of this, such as the side of a token.
    """

    program: torch.export.ExportedProgram
    dynamic_axes: Mapping[int, str]
    trials: list[torch.Tensor]
    outputs: tuple[str, ...]
    multiple: int = 1

    def save(self, file: str | Path, metadata: Mapping[str, Any]) -> None:
        """Write a file for ``torch.export.load``, with the metadata as ``metadata.json`` in the archive."""
        archive = io.BytesIO()  # where a disk is full, PyTorch's own writer of files aborts the process
        torch.export.save(self.program, archive, extra_files={'metadata.json': json.dumps(metadata)})
        Path(file).write_bytes(archive.getbuffer())

    def save_onnx(self, file: str | Path, metadata: Mapping[str, Any]) -> None:
        """Write an ONNX graph with the input ``images``, and the metadata in its metadata_props, each value as JSON.

        Raises:
            ExportError: Part of the network cannot be expressed in ONNX.
        """
        with _one_line_errors('cannot be converted to ONNX'):
            onnx_program: Any = torch.onnx.export(
                self.program,
                (self.trials[0],),
                input_names=['images'],
                output_names=self.outputs,
                dynamic_shapes=(dict(self.dynamic_axes),),
                dynamo=True,
                verbose=False,
            )
            _forget_origin(onnx_program.model)
            onnx_program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
            onnx_program.save(str(file), external_data=False)


def _forget_origin(onnx_model: Any) -> None:
    """Remove what PyTorch records of each node: stack traces, with paths of this machine, and internal names."""
    from onnxscript import ir

    graph = onnx_model.graph
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
    for item in (onnx_model, graph, *nodes, *values):
        if item is not None:
            item.doc_string = None
            item.metadata_props.clear()


def outputs_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the outputs of a network's graph."""
    return ('logits', 'attention_map', *(('class_maps',) if isinstance(model, AttachedNet) else ()))


class _Explaining(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.outputs = model, outputs_of(model)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        explanation: Any = self.model.explain(images)  # type: ignore[operator]
        return {name: getattr(explanation, name) for name in self.outputs}


def export_network(model: nn.Module, dynamic: str = '') -> ExportedNetwork:
    """Return a network as a graph, for batches of one image of the network's own size.

    Args:
        model: A network that explains itself (``timm_abn.load_model``), in evaluation mode.
        dynamic: 'batch': batches of any length; 'size': images of any size; 'all': both. Other sizes are possible only
            if the backbone takes them, see ``dynamic_axes`` of the result.

    Raises:
        ExportError: PyTorch cannot trace the network.
    """
    check_choice('dynamic', dynamic, tuple(DYNAMIC_FORMS))
    *tried, last = DYNAMIC_FORMS[dynamic]
    for dynamic_axes in [] if _pads_by_size(model) else tried:
        with contextlib.suppress(ExportError):  # a backbone of one image size
            return _export(model, dynamic_axes)
    return _export(model, last)


def _pads_by_size(model: nn.Module) -> bool:
    """Return whether layers pad as in TensorFlow, which nests a rounding in each: of open sizes tracing five hangs."""
    return any(type(module).__name__.endswith('Same') for module in model.modules())


def _export(model: nn.Module, dynamic_axes: Mapping[int, str]) -> ExportedNetwork:
    trials = _trial_images(model, dynamic_axes)
    shapes = ({axis: torch.export.Dim.DYNAMIC for axis in dynamic_axes},)
    with _one_line_errors('cannot be traced'), torch.no_grad():
        folded = fold_batch_norm(model, trials[0])
        program = torch.export.export(_Explaining(folded), (trials[0],), dynamic_shapes=shapes)
        if _needs_plain_attention(program):
            plain = _Explaining(_with_plain_attention(folded))
            program = torch.export.export(plain, (trials[0],), dynamic_shapes=shapes)
        largest_difference(model, program.module(), trials)
    for node in program.graph.nodes:
        node.meta.pop('stack_trace', None)  # with paths of this machine, in files that go elsewhere
    # a CAM baseline has none: it takes what its convolutions take
    layout: Any = getattr(model, 'places', getattr(model, 'layout', None))
    multiple = layout.reduction if layout is not None and layout.layout == 'NLC' else 1
    return ExportedNetwork(program, dynamic_axes, trials, outputs_of(model), multiple)


def _needs_plain_attention(program: torch.export.ExportedProgram) -> bool:
    """Return whether fused attention cannot be written as ONNX: with a mask or bias, or tensors not of 4 axes."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.scaled_dot_product_attention.default:
            has_mask = len(node.args) > 3 and node.args[3] is not None or node.kwargs.get('attn_mask') is not None
            if has_mask or node.args[0].meta['val'].ndim != 4:
                return True
    return False


def _with_plain_attention(model: nn.Module) -> nn.Module:
    """Return a network whose attention is made of products."""
    duplicate = evaluation_copy(model)
    for module in duplicate.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = False  # type: ignore[assignment]
    return duplicate


def _trial_images(model: nn.Module, dynamic_axes: Mapping[int, str]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    channels, height, width = get_model_input_config(model)['input_size']
    shapes = [(2 if 0 in dynamic_axes else 1, channels, height, width)]  # what is traced with length 1 is fixed to it
    if 0 in dynamic_axes:
        shapes += [(length, channels, height, width) for length in (1, 3)]
    if 2 in dynamic_axes:
        feature_info: Any = model.feature_info
        step = max(info['reduction'] for info in feature_info)
        shapes.append((1, channels, height + step, width + 2 * step))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@torch.no_grad()
def largest_difference(model: nn.Module, run: Runner, trials: list[torch.Tensor]) -> float:
    """Return the largest difference of exported outputs from the network's, as a share of the greatest where above 1.

    Raises:
        ExportError: The difference is greater than ``TOLERANCE``.
    """
    differences = []
    for images in trials:
        expected, found = _Explaining(model)(images), run(images)
        for name in expected:
            if found[name].shape != expected[name].shape:
                raise ExportError(f'{name} has shape {tuple(found[name].shape)}, not {tuple(expected[name].shape)}')
            differences.append(relative_difference(found[name], expected[name]))
    largest = torch.stack(differences).max().item()
    if not largest <= TOLERANCE:  # NaN neither
        raise ExportError(f'the exported graph differs from the network by {largest:.2g}')
    return largest


def onnx_runner(file: str | Path, outputs: Sequence[str]) -> Runner:
    """Return a function that runs an exported ONNX graph with onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])

    def run(images: torch.Tensor) -> dict[str, torch.Tensor]:
        found = session.run(list(outputs), {'images': images.numpy()})
        return {name: torch.from_numpy(output) for name, output in zip(outputs, found)}

    return run


def export_metadata(model: nn.Module, name: str) -> dict[str, Any]:
    """Return the metadata that users of the graph need: how images are prepared, and the names of the classes."""
    metadata: dict[str, Any] = dict(model=name)
    with contextlib.suppress(ValueError):  # neither 1 nor 3 channels, for which nothing is known
        metadata.update(Preprocessing(model).config)
    metadata.update(record_of(model).entries())
    cfg: Any = model.pretrained_cfg
    label_names = cfg.get('label_names')
    if label_names and len(label_names) in (model.num_classes, num_answers(model)):
        metadata['label_names'] = label_names
    return metadata


@contextlib.contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # as many kinds as there are things that cannot be traced
        reason = textwrap.shorten(f'{type(error).__name__}: {error}', 200)
        raise ExportError(f'{what}: {reason}') from error
