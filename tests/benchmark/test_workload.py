"""What a run takes: multiply-accumulates and memory, against those counted by hand."""

import pytest
import timm
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_images

from timm_abn.benchmark.machine import matrix_product, peak_memory
from timm_abn.benchmark.modes import BenchmarkError, Mode, parse_mode
from timm_abn.benchmark.workload import count_macs, in_mode, num_bytes, prepare, with_image_size

CPU = torch.device('cpu')


class Tiny(nn.Module):
    """A strided convolution and a linear layer, whose work and memory can be written down."""

    num_classes, in_chans = 5, 3
    pretrained_cfg = dict(input_size=(3, 8, 8), fixed_input_size=False)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


CONV, FC = 4 * 4 * 4 * 3 * 3 * 3, 4 * 5  # places x out x in x kernel; in x out


def test_macs_are_those_counted_by_hand():
    images = torch.randn(2, 3, 8, 8)
    assert count_macs(Tiny(), images, training=False) == 2 * (CONV + FC)
    # backward: the products with the weights of each layer, and with its input where that has a gradient
    assert count_macs(Tiny(), images, training=True) == 2 * (2 * CONV + 3 * FC)


def test_attention_is_counted():
    model = timm.create_model('test_vit', img_size=32, num_classes=0, depth=1).eval()
    config, tokens = model.blocks[0], 2 * 2 + 1
    width, heads = model.embed_dim, config.attn.num_heads
    projections = tokens * (3 * width + width) * width + 2 * tokens * width * config.mlp.fc1.out_features
    attention = 2 * heads * tokens * tokens * (width // heads)
    patches = 2 * 2 * 3 * 16 * 16 * width
    assert count_macs(model, torch.randn(1, 3, 32, 32), training=False) == patches + projections + attention


def test_bytes_are_those_of_the_tensors():
    assert num_bytes(Tiny()) == 4 * (4 * 3 * 9 + 4 + 4 * 5 + 5)
    assert num_bytes(in_mode(Tiny(), parse_mode('bf16'), CPU, training=False)) * 2 == num_bytes(Tiny())
    assert num_bytes(in_mode(Tiny(), parse_mode('bf16'), CPU, training=True)) == num_bytes(Tiny())


def test_peak_is_what_is_there_at_once(capfd):
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(3000, dtype=torch.uint8)
        del first, second
        torch.empty(2000, dtype=torch.uint8)

    assert 4000 <= peak_memory(run, CPU) < 4500
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('mode', ['eager', 'channels_last', 'bf16'])
def test_modes_agree_and_leave_the_model_alone(mode):
    model, images = tiny_abn('test_resnet'), tiny_images(2)
    expected = model.explain(images)
    placed = in_mode(model, parse_mode(mode), CPU, training=False)
    outputs = prepare(placed, parse_mode(mode), images, training=False)()
    assert list(outputs) == ['logits', 'attention_map']
    tolerance = 0.03 if mode == 'bf16' else 1e-5
    torch.testing.assert_close(outputs['logits'].float(), expected.logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(outputs['attention_map'].float(), expected.attention_map, rtol=0, atol=tolerance)
    assert outputs['logits'].dtype == (torch.bfloat16 if mode == 'bf16' else torch.float32)
    weight = next(parameter for parameter in placed.parameters() if parameter.ndim == 4 and parameter.shape[2] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) == (mode == 'channels_last')
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize('multi_task', [False, True])
def test_training_step_trains_every_parameter(multi_task):
    model = tiny_abn('test_resnet', multi_task=multi_task, num_classes=3)
    placed = in_mode(model, Mode(), CPU, training=True)
    assert placed.training and not model.training
    assert prepare(placed, Mode(), tiny_images(2), training=True)() == {}
    assert all(parameter.grad is not None for parameter in placed.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(model.parameters(), placed.parameters()))


def test_images_of_another_size():
    convolutional = tiny_abn('test_resnet')
    assert with_image_size(convolutional, None, 'x') is convolutional
    vit = tiny_abn('test_vit')
    adapted = with_image_size(vit, 96, 'x')
    assert adapted.explain(tiny_images(1, size=(96, 96))).attention_map.shape == (1, 1, 6, 6)
    assert vit.explain(tiny_images(1)).attention_map.shape == (1, 1, 4, 4)
    with pytest.raises(BenchmarkError, match='^tiny takes no images of 1 x 1: [^\n]+$'):
        with_image_size(tiny_abn('swin_tiny_patch4_window7_224'), 1, 'tiny')


@pytest.mark.parametrize('precision, dtype', [('float32', torch.float32), ('bfloat16', torch.bfloat16)])
def test_matrix_product_is_of_the_precision(monkeypatch, precision, dtype):
    monkeypatch.setattr('timm_abn.benchmark.machine._SIZE', 16)
    product, num_macs = matrix_product(precision, CPU)
    assert product().dtype == dtype and num_macs == 16**3
