"""The network under PyTorch's and timm's tools: compilers, tracers, copies, parallel and mixed-precision training."""

import copy
import pickle

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from tiers import fast_and_slow
from timm.utils import ModelEmaV3
from tiny_models import NUM_CLASSES, TINY_BACKBONES, attention_for, tiny_abn, tiny_images

all_backbones = pytest.mark.parametrize('backbone', TINY_BACKBONES)


@pytest.mark.parametrize('backbone', fast_and_slow(TINY_BACKBONES, ['test_resnet', 'test_vit']))
def test_compiles_without_a_graph_break(backbone):
    torch._dynamo.reset()
    model = tiny_abn(backbone)
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
def test_exports_with_any_batch_size(backbone):
    model = tiny_abn(backbone)
    program = torch.export.export(model, (tiny_images(),), dynamic_shapes={'x': {0: torch.export.Dim('batch')}})
    images = tiny_images(batch_size=3)
    torch.testing.assert_close(program.module()(images), model(images))


@all_backbones
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


@all_backbones
@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal_and_independent(backbone, duplicate):
    model = tiny_abn(backbone)
    images = tiny_images()
    with torch.no_grad():
        expected = model(images)
        twin = duplicate(model)
        assert torch.equal(twin(images), expected)
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
        assert torch.equal(twin(images), expected)
    assert twin.config == model.config


def test_moving_average_of_weights():
    model = tiny_abn('test_resnet')
    average = ModelEmaV3(model, decay=0.75)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    average.update(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.25)
    assert average(tiny_images()).shape == (2, NUM_CLASSES)


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


@all_backbones
def test_trains_in_mixed_precision(backbone):
    model = tiny_abn(backbone).train()
    images = tiny_images(4)
    expected = copy.deepcopy(model)(images)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model(images)
    loss = sum(F.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 3])) for logits in outputs)
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    for actual, exact in zip(outputs, expected, strict=True):
        assert (actual.float() - exact).norm() < 0.1 * exact.norm()


@all_backbones
def test_checkpointing_gives_the_same_gradients(backbone):
    gradients = []
    for enable in (False, True):
        model = tiny_abn(backbone).train()
        model.set_grad_checkpointing(enable)
        logits, attention_logits = model(tiny_images())
        (logits.logsumexp(1).sum() + attention_logits.logsumexp(1).sum()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert None not in gradients[0].values()
    torch.testing.assert_close(gradients[1], gradients[0])


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


def _train_on_one_rank(rank, world_size, address, results):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=address, rank=rank, world_size=world_size)
    model = tiny_abn('resnet20_cifar').train()
    images, targets = tiny_images(4, size=(32, 32)).chunk(2)[rank], torch.tensor([rank, rank])

    def backward(network):
        network.zero_grad()
        sum(F.cross_entropy(logits, targets) for logits in network(images)).backward()

    backward(model)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    for gradient in expected:
        dist.all_reduce(gradient)
        gradient /= world_size
    parallel = nn.parallel.DistributedDataParallel(model)
    for _ in range(2):  # a parameter without a gradient would fail the second step
        backward(parallel)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    results[rank] = True
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason='PyTorch is built without gloo')
def test_trains_on_two_processes(tmp_path):
    context = torch.multiprocessing.get_context('spawn')
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(
            _train_on_one_rank, args=(2, f'file://{tmp_path}/rendezvous', results), nprocs=2, start_method='spawn'
        )
        assert dict(results) == {0: True, 1: True}


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
    for name, expected in vars(model.explain(images)).items():
        assert torch.equal(getattr(reloaded.explain(images), name), expected), name
    assert reloaded.state_dict().keys() == model.state_dict().keys()


def test_saved_model_takes_other_classes(tmp_path):
    model = tiny_abn('test_resnet')
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    reloaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, num_classes=7, in_chans=1).eval()
    images = tiny_images(channels=1)
    assert reloaded(images).shape == (2, 7)
    kept = [name for name, tensor in model.state_dict().items() if tensor.shape == reloaded.state_dict()[name].shape]
    assert len(kept) > 0.8 * len(model.state_dict())
    assert all(
        torch.equal(model.state_dict()[n], reloaded.state_dict()[n])
        for n in kept
        if not n.startswith(('attention_branch.map_', 'attention_branch.class_'))
    )
