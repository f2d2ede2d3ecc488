"""Networks without batch norm, against the networks themselves in float64."""

import dataclasses

import pytest
import timm
import torch
import torch.nn as nn
from tiny_models import tiny_abn, tiny_attached, tiny_images

from timm_abn import Explanation, attach
from timm_abn.export.folding import fold_batch_norm


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def tensors_of(explanation):
    fields = {field.name: getattr(explanation, field.name) for field in dataclasses.fields(explanation)}
    return {
        name: value for name, value in fields.items() if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


@pytest.mark.parametrize(
    'model, kept',
    [
        (lambda: tiny_abn('test_resnet', mechanism='residual'), 1),  # the branch begins with a norm of the features
        (lambda: tiny_abn('resnet20_cifar', multi_task=True), 0),  # its perception branch runs for each task
        (lambda: tiny_attached('test_resnet'), 0),
        (lambda: attach(timm.create_model('test_efficientnet', num_classes=5)), 0),  # norm and activation in one
        (lambda: attach(timm.create_model('resnetv2_18', num_classes=5)), 9),  # a norm before the convolution
    ],
)
def test_it_explains_the_same(model, kept):
    model, images = model().double().eval(), tiny_images(dtype=torch.float64)
    for norm in norms_of(model):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    folded = fold_batch_norm(model, images[:1])
    assert len(norms_of(folded)) == kept < len(norms_of(model))
    with torch.no_grad():
        found, expected = tensors_of(folded.explain(images)), tensors_of(model.explain(images))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


class Explaining(nn.Module):
    """Convolution and norm as ``read`` has them."""

    def __init__(self, read):
        super().__init__()
        self.conv, self.other, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.read = read

    def explain(self, x):
        found = self.read(self, x)
        return Explanation(found.mean((2, 3)), found)


@pytest.mark.parametrize(
    'read, folds',
    [
        (lambda m, x: m.norm(m.conv(x)), True),
        (lambda m, x: m.norm(m.conv(x)) + m.norm(m.conv(x + 1)), True),
        (lambda m, x: torch.cat([m.norm(m.conv(x)), x]), True),
        (lambda m, x: m.norm(m.conv(x)) + m.conv(x), False),
        (lambda m, x: torch.cat([y := m.conv(x), m.norm(y)]), False),
        (lambda m, x: m.norm(y := m.conv(x)) * y.mean(), False),
        (lambda m, x: m.norm(m.conv(x)) + m.norm(m.other(x)), False),
        (lambda m, x: m.norm(m.conv(x)) + m.norm(x), False),
        (lambda m, x: m.norm(m.conv(x).relu()), False),
        (lambda m, x: m.norm(m.conv(x)) + m.conv.weight.sum(), False),
        (lambda m, x: m.norm(nn.functional.conv2d(x, 2 * m.conv.weight)), False),
        (lambda m, x: m.norm(m.conv(x)) + nn.functional.conv2d(x, weight=m.conv.weight), False),
        (lambda m, x: m.conv(m.norm(x)), False),
    ],
)
def test_only_what_nothing_else_reads(read, folds):
    torch.manual_seed(0)
    model = Explaining(read).eval()
    for tensor in (model.norm.weight, model.norm.bias, model.norm.running_mean):
        nn.init.normal_(tensor)
    images = tiny_images(size=(4, 4))
    folded = fold_batch_norm(model, images)
    assert (len(norms_of(folded)) == 0) == folds
    torch.testing.assert_close(folded.explain(images).attention_map, model.explain(images).attention_map)


def test_the_network_stays_as_it_is():
    model = tiny_attached('test_resnet')
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model, tiny_images(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert folded.backbone.fc.weight.data_ptr() == model.backbone.fc.weight.data_ptr()


def test_what_rounding_would_change_is_left():
    model = tiny_attached('test_resnet').to(torch.bfloat16)
    images = tiny_images(dtype=torch.bfloat16)
    unchanged = fold_batch_norm(model, images)
    assert len(norms_of(unchanged)) == len(norms_of(model))
    assert torch.equal(unchanged.explain(images).logits, model.explain(images).logits)
