"""What PyTorch's and timm's tools ask of a network beyond what tests/works_with asks of every backbone."""

import copy

import pytest
import timm
import torch
import torch.nn as nn
from tiers import fast_and_slow
from tiny_models import TINY_BACKBONES, attention_for, tiny_abn, tiny_images

all_backbones = pytest.mark.parametrize('backbone', TINY_BACKBONES)


@pytest.mark.slow
@all_backbones
def test_compiles_without_a_graph_break(backbone):
    torch._dynamo.reset()
    model = tiny_abn(backbone, **({'depth': 2} if backbone == 'test_vit' else {}))
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    images = tiny_images()
    attention = attention_for(model, images)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
        torch.testing.assert_close(compiled(images, attention), model(images, attention))
        model.train()
        expected = copy.deepcopy(model)(images)
        torch.testing.assert_close(compiled(images), expected)


@pytest.mark.parametrize('backbone', fast_and_slow(TINY_BACKBONES, ['test_resnet', 'test_vit']))
def test_scripts(backbone):
    model = tiny_abn(backbone)
    scripted = torch.jit.script(model)
    images = tiny_images()
    attention = attention_for(model, images)
    torch.testing.assert_close(scripted(images), model(images))
    torch.testing.assert_close(scripted(images, attention), model(images, attention))
    with pytest.raises(Exception, match='attention must have shape'):
        scripted(images, attention[:1])


def test_fx_graph_takes_an_attention_map():
    model = tiny_abn('test_resnet')
    images = tiny_images()
    attention = attention_for(model, images)
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(images), model(images))
    torch.testing.assert_close(traced(images, attention), model(images, attention))
    with pytest.raises(ValueError, match='attention must have shape'):
        traced(images, attention[:1])
    model.train()
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    torch.testing.assert_close(traced(images, attention), model(images, attention))


def test_channels_last_is_kept_by_every_convolution():
    model = tiny_abn('test_resnet').to(memory_format=torch.channels_last)
    images = tiny_images()
    strides = {}

    def note(name):
        def hook(module, args, output):
            strides[name] = args[0].is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    with torch.no_grad():
        logits = model.train()(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, tiny_abn('test_resnet').train()(images))
    assert [name for name, kept in strides.items() if not kept] == []
    assert 'attention_branch.map_conv' in strides


def test_checkpointing_recomputes_in_all_three_components():
    model = tiny_abn('test_resnet').train()
    model.set_grad_checkpointing()
    calls = []
    for name in ('feature_extractor.layer2.0', 'attention_branch.stage.0', 'perception_branch.layer4.0'):
        model.get_submodule(name).register_forward_pre_hook(lambda *args, name=name: calls.append(name))
    logits, attention_logits = model(tiny_images())
    assert len(calls) == 3
    (logits.sum() + attention_logits.sum()).backward()
    assert len(calls) == 6


@pytest.mark.parametrize(
    'backbone, arguments, num_classes',
    [
        ('test_resnet', dict(in_chans=1), None),
        ('test_convnext', dict(split='stages.1', mechanism='product'), None),
        ('test_convnext', dict(split=1, attention_map='sum_log'), 3),
        ('test_vit', dict(split='blocks.2'), 0),
        ('resnet20_cifar', dict(num_classes=0), None),
    ],
)
def test_saved_model_is_reloaded_bit_by_bit(tmp_path, backbone, arguments, num_classes):
    model = tiny_abn(backbone, **arguments)
    if num_classes is not None:
        model.reset_classifier(num_classes)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    reloaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert reloaded.config == model.config
    images = tiny_images(channels=model.in_chans)
    found = reloaded.explain(images)
    for name, expected in vars(model.explain(images)).items():
        if isinstance(expected, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), expected, rtol=0, atol=0)
        else:
            assert getattr(found, name) == expected
    assert reloaded.state_dict().keys() == model.state_dict().keys()
