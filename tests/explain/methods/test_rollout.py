"""Attention rollout, against the equations and the attention weights of each block, computed here."""

import pytest
import torch
from tiny_models import tiny_abn, tiny_backbone, tiny_images

import timm_abn
from timm_abn.explain.methods import create_explainer


def attention_weights(block, tokens, bias):
    """Return the attention of a block, averaged over heads, shape (B, N, N)."""
    attention, (batch, count, _) = block.attn, tokens.shape
    qkv = attention.qkv(block.norm1(tokens)).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    return (queries * attention.scale @ keys.transpose(2, 3) + bias).softmax(dim=-1).mean(dim=1)


def rollout(blocks, inputs, biases=None):
    product = torch.eye(inputs[0].shape[1], dtype=inputs[0].dtype)
    for block, tokens, bias in zip(blocks, inputs, biases or [0] * len(blocks), strict=True):
        product = (
            (attention_weights(block, tokens, bias) + torch.eye(len(product[-1]), dtype=tokens.dtype)) / 2 @ product
        )
    return product


def inputs_of(blocks, run):
    inputs = []
    handles = [block.register_forward_pre_hook(lambda module, args: inputs.append(args[0])) for block in blocks]
    run()
    for handle in handles:
        handle.remove()
    return inputs


def sharpened(model):
    """Make attention of new models, which is the same everywhere, differ from token to token."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if '.attn.' in name:
                parameter *= 20
    return model.double()


@torch.no_grad()
@pytest.mark.parametrize(
    'prefix, kwargs',
    [
        (1, dict(global_pool='token')),
        (1, dict(global_pool='avg')),
        (2, dict(global_pool='avg', class_token=False, reg_tokens=2)),
        (0, dict(global_pool='avg', class_token=False)),
    ],
)
def test_equals_the_equations(prefix, kwargs):
    model = sharpened(tiny_backbone('test_vit', **kwargs).eval())
    images = tiny_images(dtype=torch.float64)
    product = rollout(model.blocks, inputs_of(model.blocks, lambda: model(images)))
    row = product[:, 0] if kwargs['global_pool'] == 'token' else product[:, prefix:].mean(dim=1)
    maps = create_explainer('rollout', model)(images)
    expected = row[:, prefix:].reshape(2, 1, 4, 4).float()
    assert expected.std() > 1e-3
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_of_a_network_with_an_attention_branch():
    model, images = sharpened(tiny_abn('test_vit')), tiny_images(dtype=torch.float64)
    blocks = [*model.feature_extractor.blocks[:4], *model.perception_branch.blocks[4:]]
    attention = model.explain(images).attention_map
    bias = torch.cat([torch.ones(2, 1, dtype=attention.dtype), attention.flatten(1) + 0.001], dim=1).log()
    biases = [0] * 4 + [bias[:, None, None]] * (len(blocks) - 4)
    product = rollout(blocks, inputs_of(blocks, lambda: model(images)), biases)
    maps = create_explainer('rollout', model)(images)
    torch.testing.assert_close(maps, product[:, 0, 1:].reshape(2, 1, 4, 4).float(), rtol=1e-5, atol=1e-7)


def test_of_several_tasks_follows_the_target():
    model, images = sharpened(tiny_abn('test_vit', multi_task=True)), tiny_images(dtype=torch.float64)
    explainer = create_explainer('rollout', model)
    first, second = (explainer(images, torch.tensor([task, task])) for task in (0, 3))
    assert (first - second).abs().max() > 1e-6


@pytest.mark.parametrize(
    'backbone, family', [('test_resnet', 'ResNet'), ('swin_tiny_patch4_window7_224', 'SwinTransformer')]
)
def test_other_models_are_refused(backbone, family):
    with pytest.raises(timm_abn.TimmAbnError) as error:
        create_explainer('rollout', tiny_backbone(backbone))
    assert str(error.value) == (f"'rollout' needs tokens that attend to all others in each block, {family} has none.")
