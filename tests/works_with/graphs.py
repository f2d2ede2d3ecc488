"""Checks of what makes a graph of a model: each must compute what the model does."""

import copy
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn as nn
from timm.models import create_feature_extractor, get_graph_node_names, get_model_input_config

from timm_abn.export.graph import export_network

from .subjects import Subject, gradients_of


def compile_fullgraph(subject: Subject) -> None:
    """No graph break in evaluation or training, and the same gradients as in eager mode (backend `aot_eager`)."""
    torch._dynamo.reset()
    model, images = subject.make(), subject.images()
    compiled: Any = torch.compile(model, fullgraph=True, backend='aot_eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
    expected = gradients_of(copy.deepcopy(model).train(), images)
    compiled.train()
    compiled(images)
    actual = gradients_of(compiled, images)
    for name, gradient in actual.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix('_orig_mod.')], rtol=1e-3, atol=1e-4)


def export(subject: Subject) -> None:
    """A program that takes any batch size."""
    model = subject.make()
    batch = {0: torch.export.Dim('batch')}
    program = torch.export.export(model, (subject.images(),), dynamic_shapes=(batch,) if subject.is_bare else [batch])
    images = subject.images(3)
    torch.testing.assert_close(program.module()(images), model(images))


def onnx(subject: Subject, folder: Path) -> None:
    """A file that onnxruntime runs, as `timm-abn export` writes it."""
    for package in ('onnxscript', 'onnxruntime'):
        pytest.importorskip(package, reason='needs the extra onnx')
    runtime: Any = importlib.import_module('onnxruntime')
    model, file = subject.make(), folder / 'model.onnx'
    images = subject.images(1, get_model_input_config(model)['input_size'][1:])
    if subject.is_bare:
        torch.onnx.export(model, (images,), file, dynamo=True, verbose=False)
    else:
        export_network(model).save_onnx(file, {})
    session = runtime.InferenceSession(file, providers=['CPUExecutionProvider'])
    logits, *_ = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(images), rtol=1e-3, atol=1e-4)


def fx(subject: Subject) -> None:
    """timm's feature extraction by graph nodes, in evaluation."""
    model, images = subject.make(), subject.images()
    node = get_graph_node_names(model)[1][-1]
    extractor = create_feature_extractor(model, [node])
    torch.testing.assert_close(extractor(images)[node], model(images))


def torchscript(subject: Subject) -> None:
    """A scripted model."""
    model, images = subject.make(), subject.images()
    torch.testing.assert_close(torch.jit.script(model)(images), model(images))


class _Explaining(nn.Module):
    """Returns logits, and the attention map where there is one."""

    def __init__(self, model: Any, is_bare: bool) -> None:
        super().__init__()
        self.model, self.is_bare = model, is_bare

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.is_bare:
            return (self.model(images),)
        explanation = self.model.explain(images)
        return explanation.logits, explanation.attention_map


def int8(subject: Subject) -> None:
    """8-bit weights and activations by torchao; logits and attention map correlate with those of float32."""
    pytest.importorskip('torchao', reason='needs torchao')
    pt2e: Any = importlib.import_module('torchao.quantization.pt2e.quantize_pt2e')
    x86: Any = importlib.import_module('torchao.quantization.pt2e.quantizer.x86_inductor_quantizer')
    model, images = _Explaining(subject.make(), subject.is_bare), subject.images(8)
    config = x86.get_default_x86_inductor_quantization_config()
    with torch.no_grad():
        _fit_batch_norms(model, images)
        prepared = pt2e.prepare_pt2e(
            torch.export.export(model, (images,)).module(), x86.X86InductorQuantizer().set_global(config)
        )
        prepared(images)
        quantized = pt2e.convert_pt2e(prepared)
        layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules())
        rounded = [node for node in quantized.graph.nodes if 'dequantize_per_channel' in str(node.target)]
        assert len(rounded) > 0.7 * layers  # DINOv3 puts the weights of some together first
        for actual, exact in zip(quantized(images), model(images), strict=True):
            assert torch.corrcoef(torch.stack([actual.flatten(), exact.flatten()]))[0, 1] >= 0.95


def _fit_batch_norms(model: _Explaining, images: torch.Tensor) -> None:
    """Set the statistics of batch norm to those of images: 8 bits are for values of the sizes that training leaves."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the statistics of one batch as they are
            module.reset_running_stats()
    model.model.train()(images)
    model.eval()
