"""The models compute what the authors' code computes, in evaluation and in training mode."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_fill import close, fill_input, fill_state_dict, load_golden, sha256
from tiers import fast_and_slow

import timm_abn  # noqa: F401  registers the models
from timm_abn.models.official_checkpoints import convert_official_checkpoint

MODELS = {
    'cifar100_resnet20': 'abn_resnet20_cifar',
    'cifar100_resnet32': 'abn_resnet32_cifar',
    'cifar100_resnet56': 'abn_resnet56_cifar',
    'cifar10_resnet110': 'abn_resnet110_cifar',
    'cifar100_resnet110': 'abn_resnet110_cifar',
    'cifar100_wrn28_4': 'abn_wrn28_4_cifar',
    'cifar100_densenet100_12': 'abn_densenet100_12_cifar',
    'imagenet_resnet18': 'abn_resnet18',
    'imagenet_se_resnet18': 'abn_seresnet18',
    'cifar100_resnext29_8x64d': 'abn_resnext29_8x64d_cifar',
    'imagenet_resnet50': 'abn_resnet50',
    'imagenet_resnet101': 'abn_resnet101',
    'imagenet_resnet152': 'abn_resnet152',
    'imagenet_se_resnet34': 'abn_seresnet34',
    'imagenet_se_resnet50': 'abn_seresnet50',
    'imagenet_se_resnet152': 'abn_seresnet152',
}
FAST = ('cifar100_resnet20', 'cifar100_wrn28_4')
# deeper than another of the same blocks
NIGHTLY = ('imagenet_resnet101', 'imagenet_resnet152', 'imagenet_se_resnet34', 'imagenet_se_resnet152')


def sums_close(actual, expected):
    close(actual.sum(), expected['sum'], rtol=0, atol=1e-10 * expected['abs_sum'])
    close(actual.abs().sum(), expected['abs_sum'], rtol=1e-10, atol=0)


@pytest.mark.parametrize('golden_name', fast_and_slow(MODELS, FAST, MODELS.keys() - {*FAST, *NIGHTLY}))
def test_equals_the_authors_code(golden_name):
    model_name = MODELS[golden_name]
    golden = load_golden(golden_name)
    official = fill_state_dict(golden['state_dict'])
    assert sha256(official.values()) == golden['fill_check']['sha256']
    images = fill_input(golden['input']['seed'], golden['input']['shape'])
    assert sha256([images]) == golden['input']['sha256_float32']

    _, model_args, converted = convert_official_checkpoint(official, model_name)
    model = timm.create_model(model_name, **model_args).double()
    model.load_state_dict(converted)
    unused = sum(official[name].numel() for name in golden['train_mode']['params_without_grad'])
    assert sum(parameter.numel() for parameter in model.parameters()) == golden['num_params'] - unused

    check_evaluation(model.eval(), images, golden)
    our_names = {id(tensor): name for name, tensor in converted.items()}
    check_training(
        model.train(),
        images,
        golden['train_mode'],
        {name: our_names.get(id(tensor)) for name, tensor in official.items()},
    )
    model.load_state_dict(converted)
    check_single_precision(model.float().eval(), images.float(), golden)


def check_evaluation(model, images, golden):
    explanation = model.explain(images)
    expected = golden['attention_map']
    actual = explanation.attention_map
    assert list(actual.shape) == expected['shape']
    close(actual[:, 0, :4, :4], expected['corner'], rtol=1e-9, atol=1e-9)
    close(actual.std(correction=0), expected['std'], rtol=1e-9, atol=1e-9)
    for statistic in ('mean', 'min', 'max'):
        close(getattr(actual, statistic)(), expected[statistic], rtol=1e-9, atol=1e-9)
    for actual, expected in (
        (explanation.attention_logits, golden['attention_logits']),
        (explanation.logits, golden['perception_logits']),
    ):
        assert list(actual.shape) == expected['shape']
        close(actual[:, :8], expected['first8'], rtol=1e-9, atol=1e-9)
        sums_close(actual, expected)
        assert actual.argmax(dim=1).tolist() == expected['argmax']
    with torch.no_grad():
        gated = model.gate(model.extract(images), explanation.attention_map).x
        sums_close(gated, golden['perception_input'])
        close(gated.flatten()[:4], golden['perception_input']['first4'], rtol=1e-9, atol=1e-9)
        assert torch.equal(model(images), explanation.logits)


def check_single_precision(model, images, golden):
    explanation = model.explain(images)
    for actual, expected in (
        (explanation.attention_logits, golden['attention_logits']),
        (explanation.logits, golden['perception_logits']),
    ):
        close(actual[:, :8], expected['first8'], rtol=0, atol=1e-5 * actual.abs().max().item())
    expected = golden['attention_map']
    close(explanation.attention_map[:, 0, :4, :4], expected['corner'], rtol=0, atol=1e-5 * expected['max'])


def check_training(model, images, expected, our_names):
    logits, attention_logits = model(images)
    targets = torch.tensor(expected['targets'])
    attention_loss, perception_loss = F.cross_entropy(attention_logits, targets), F.cross_entropy(logits, targets)
    (attention_loss + perception_loss).backward()
    close(attention_loss, expected['attention_loss'], rtol=1e-8, atol=0)
    close(perception_loss, expected['perception_loss'], rtol=1e-8, atol=0)
    close(attention_logits[:, :8], expected['attention_logits_first8'], rtol=1e-8, atol=1e-8)
    close(logits[:, :8], expected['perception_logits_first8'], rtol=1e-8, atol=1e-8)

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert None not in gradients.values()
    close(torch.stack([gradient.norm() for gradient in gradients.values()]).norm(), expected['grad_norm'], 1e-6, 0)
    for name, norm in expected['param_grad_norms'].items():
        if name not in expected['params_without_grad']:
            close(gradients[our_names[name]].norm(), norm, rtol=1e-6, atol=1e-12)

    state_dict = model.state_dict()
    for name, statistics in expected['bn_after_forward'].items():
        if f'{name}.weight' not in expected['params_without_grad']:
            close(state_dict[our_names[f'{name}.running_mean']].sum(), statistics['running_mean_sum'], 1e-8, 1e-8)
            close(state_dict[our_names[f'{name}.running_var']].sum(), statistics['running_var_sum'], 1e-8, 1e-8)
            assert state_dict[our_names[f'{name}.num_batches_tracked']] == statistics['num_batches_tracked']
