"""Multi-task networks: one attention map per task, against a literal loop over the paper's equations."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock
from tiny_models import TINY_BACKBONES, tiny_abn, tiny_images
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

from timm_abn import AttentionBranchNet, Features, MultiTaskAttentionBranchNet
from timm_abn.publish.folder import save_hub_folder

TASKS = 5
all_backbones = pytest.mark.parametrize('backbone', TINY_BACKBONES)
# each backbone with the paper's gate, and with its own
all_gates = pytest.mark.parametrize(
    ('backbone', 'gate'),
    [(backbone, gate) for backbone in TINY_BACKBONES for gate in ('features', None)] + [('test_resnet', 'centred')],
)


def multi_task(backbone='resnet20_cifar', **kwargs):
    return tiny_abn(backbone, **{'multi_task': True, 'num_classes': TASKS, 'task_chunk_size': 2, **kwargs})


def images_of(backbone):
    """Return images that are as small as the backbone takes them."""
    size = (64, 64) if backbone.startswith(('swin', 'test_vit')) else (32, 32)
    return tiny_images(size=size, dtype=torch.float64)


def by_the_equations(model, images):
    """Return the probabilities of both answers, shape (B, T, 2), the maps and the attention logits, task by task."""
    features = model.feature_extractor(images)
    maps = model.attention_branch.map_conv(model.attention_branch.stage(model.layout.to_maps(features, images)))
    answers = []
    prefix, gate = model.layout.num_prefix_tokens, model.config.gate
    is_residual = model.config.mechanism != 'product'
    places = {'NCHW': (2, 3), 'NHWC': (1, 2), 'NLC': 1}[model.layout.layout]
    for task in range(TASKS):
        task_map = maps[:, task : task + 1]
        if model.attention_branch.map_kind == 'sigmoid':
            task_map = 1 / (1 + torch.exp(-task_map))
        image_features = features[:, prefix:] if features.ndim == 3 else features
        by_place = {'NCHW': task_map, 'NHWC': task_map.permute(0, 2, 3, 1), 'NLC': task_map.flatten(2).transpose(1, 2)}[
            model.layout.layout
        ]
        mean = 0 if gate == 'features' else image_features.mean(dim=places, keepdim=True)
        gated = mean + (image_features - mean) * by_place + (image_features - mean if is_residual else 0)
        if features.ndim == 3:
            gated = torch.cat([features[:, :prefix], gated], dim=1)
        bias = []
        if gate == 'tokens':
            shares = torch.ones(len(images), 1, 1, features.shape[1], dtype=features.dtype)
            shares = torch.cat([shares[..., :prefix], task_map.clamp(min=0).flatten(2)[:, None] + 0.001], dim=3)
            bias = [shares.log()]
        outputs = model.perception_branch(Features(gated, bias) if bias else gated)
        answers.append(outputs[:, 2 * task : 2 * task + 2].softmax(dim=1))
    return torch.stack(answers, dim=1), maps, maps.mean(dim=(2, 3))


@pytest.mark.parametrize('mechanism', ['residual', 'product'])
@pytest.mark.parametrize('attention_map', ['sigmoid', 'raw'])
@all_gates
def test_equals_a_loop_over_the_equations(backbone, gate, attention_map, mechanism):
    model = multi_task(backbone, attention_map=attention_map, mechanism=mechanism, gate=gate).double()
    images = images_of(backbone)
    targets = torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 1, 1, 0]], dtype=torch.float64)

    explanation = model.explain(images)
    logits = model(images)
    loss = F.binary_cross_entropy_with_logits(logits, targets)
    actual = torch.autograd.grad(loss, model.parameters(), allow_unused=True)

    probabilities, maps, attention_logits = by_the_equations(model, images)
    torch.testing.assert_close(logits.sigmoid(), probabilities[:, :, 1], rtol=0, atol=1e-10)
    torch.testing.assert_close(explanation.logits, logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(explanation.attention_logits, attention_logits, rtol=0, atol=1e-10)
    torch.testing.assert_close(explanation.class_maps, maps, rtol=0, atol=1e-10)
    assert explanation.attention_map.shape == maps.shape

    loss = -(targets * probabilities[:, :, 1].log() + (1 - targets) * probabilities[:, :, 0].log()).mean()
    expected = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
    for (name, _), actual_grad, expected_grad in zip(model.named_parameters(), actual, expected, strict=True):
        torch.testing.assert_close(actual_grad, expected_grad, rtol=0, atol=1e-10, msg=name)


@all_gates
def test_chunks_and_gates_one_by_one_change_nothing_in_evaluation(backbone, gate):
    model = multi_task(backbone, gate=gate).double()
    images = images_of(backbone)
    with torch.no_grad():
        features, maps = model.extract(images), model.explain(images).attention_map
        together = model.attend(features, maps)
        for task in range(TASKS):  # the results of an image are in succession
            alone = model.gate(features, maps[:, task : task + 1])
            for ours, expected in zip([together.x, *together.side_inputs], [alone.x, *alone.side_inputs], strict=True):
                torch.testing.assert_close(ours.unflatten(0, (-1, TASKS))[:, task], expected, rtol=0, atol=1e-12)
        expected = model(images)
        for task_chunk_size in (1, 3, TASKS, 100):
            model.task_chunk_size = task_chunk_size
            torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model.forward_head(model.forward_features(images)), expected, rtol=1e-12, atol=1e-12)


def test_training_returns_both_and_reaches_every_parameter():
    model = multi_task().train()
    logits, attention_logits = model(tiny_images())
    assert type(logits) is torch.Tensor and logits.shape == attention_logits.shape == (2, TASKS)
    (logits.sum() + attention_logits.sum()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_batch_norm_sees_each_chunk_in_training():
    model = multi_task(task_chunk_size=2).train()
    model(tiny_images())
    updates = {int(n) for name, n in model.perception_branch.named_buffers() if name.endswith('num_batches_tracked')}
    assert updates == {3}  # chunks of 2, 2 and 1 tasks


def test_names_and_numbers_of_the_contract():
    model = multi_task()
    assert isinstance(model, AttentionBranchNet) and isinstance(model, MultiTaskAttentionBranchNet)
    assert model.num_classes == TASKS and model.get_classifier().out_features == 2 * TASKS
    assert model.forward_head(model.forward_features(tiny_images()), pre_logits=True).shape[:2] == (2, TASKS)
    model.reset_classifier(3)
    assert model.num_classes == 3 and model(tiny_images()).shape == (2, 3)
    assert model.explain(tiny_images()).attention_map.shape[1] == 3
    model.reset_classifier(0)
    assert model(tiny_images()).shape == (2, 3, model.num_features)
    model.reset_classifier(4)
    assert model(tiny_images()).shape == (2, 4)
    model = multi_task(num_classes=0, attention_classes=3)
    assert model(tiny_images()).shape == (2, 3, model.num_features)


def test_given_maps_replace_the_predicted():
    model = multi_task()
    images = tiny_images()
    with torch.no_grad():
        maps = model.explain(images).attention_map
        torch.testing.assert_close(model(images, attention=maps), model(images))
        changed = maps.clone()
        changed[:, 1] = 0
        difference = (model(images, attention=changed) - model(images)).abs().amax(dim=0)
    assert difference[1] > 0 and difference[[0, 2, 3, 4]].max() < 1e-6
    with pytest.raises(ValueError, match=r'attention must have shape \[2, 5, 32, 32\], got \[2, 1, 32, 32\]'):
        model(images, attention=maps[:, :1])


def test_intermediates_after_the_cut_have_one_row_a_task():
    model = multi_task()
    final, features = model.forward_intermediates(tiny_images())
    assert [len(feature) for feature in features] == [2, 2, 2 * TASKS]
    torch.testing.assert_close(model.forward_head(final), model(tiny_images()))


@pytest.mark.slow
def test_copies_compiles_and_traces():
    model = multi_task()
    images = tiny_images()
    with torch.no_grad():
        expected = model(images)
        for twin in (
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            model.to(memory_format=torch.channels_last),
        ):
            torch.testing.assert_close(twin(images), expected)
        compiled = torch.compile(model, backend='eager', fullgraph=True)
        torch.testing.assert_close(compiled(images), expected)
        torch.testing.assert_close(torch.jit.trace(model, images)(images), expected)
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images), expected)


def checkpoint_by_pytorch(model):
    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, BasicBlock))


@pytest.mark.parametrize(
    'backbone, checkpoint',
    [
        ('resnet20_cifar', lambda model: model.set_grad_checkpointing()),
        ('test_vit', lambda model: model.set_grad_checkpointing()),
        ('test_convnext', lambda model: model.set_grad_checkpointing()),
        ('test_resnet', lambda model: model.perception_branch.set_grad_checkpointing()),
        ('test_resnet', checkpoint_by_pytorch),
    ],
)
def test_checkpointing_gives_the_same_gradients(backbone, checkpoint):
    gradients = []
    for checkpointing in (False, True):
        model = multi_task(backbone).double().train()
        if checkpointing:
            checkpoint(model)
        sum(output.square().sum() for output in model(tiny_images(dtype=torch.float64))).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_low_precision():
    model = multi_task()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        logits = model(tiny_images())
    torch.testing.assert_close(logits.float(), model(tiny_images()), rtol=0.1, atol=0.1)


def test_saved_folder_restores_the_network(tmp_path):
    torch.manual_seed(0)
    arguments = dict(multi_task=True, attention_map='raw', mechanism='product', task_chunk_size=1)
    model = timm.create_model('abn_resnet20_cifar', num_classes=3, **arguments).eval()
    save_hub_folder(model, tmp_path / 'folder', card='# card')
    loaded = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True).eval()
    assert isinstance(loaded, MultiTaskAttentionBranchNet) and loaded.task_chunk_size == 1
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(tiny_images()), model(tiny_images()))
    other = timm.create_model(f'local-dir:{tmp_path / "folder"}', pretrained=True, num_classes=7)
    assert other(tiny_images())[0].shape == (2, 7)
    weights = [network.attention_branch.stage[0].conv1.weight for network in (other, model)]
    assert torch.equal(*weights)
