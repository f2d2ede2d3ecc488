"""Multi-task networks compute what the authors' CelebA code computes, in evaluation and in training mode."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_fill import close, fill_input, fill_state_dict, load_golden, sha256
from tiers import fast_and_slow

import timm_abn  # noqa: F401  registers the models
from timm_abn.models.official_checkpoints import convert_official_checkpoint

# each version of their code; the other mechanism, other blocks and forty tasks
SLOW = ['mtabn_v1tag10_resnet18_T5_218x178', 'mtabn_v1_resnet18_T5_218x178', 'mtabn_v1tag10_resnet50_residual']
NIGHTLY = [
    'mtabn_v1_resnet18',
    'mtabn_v1tag10_resnet18',
    'mtabn_v1tag10_resnet18_residual',
    'mtabn_v1tag10_resnet101',
]


def difference(outputs):
    """Return the logits (B, T) of perception outputs (B, 2, T), or those that are logits already."""
    outputs = torch.tensor(outputs, dtype=torch.float64)
    return (outputs[:, 1] - outputs[:, 0] if outputs.ndim == 3 else outputs).tolist()


@pytest.mark.parametrize('name', fast_and_slow([*SLOW, *NIGHTLY], [], SLOW))
def test_equals_the_authors_code(name):
    golden = load_golden(f'multi_task/{name}')
    official = fill_state_dict(golden['state_dict'])
    assert sha256(official.values()) == golden['fill_check']['sha256']
    images = fill_input(golden['input']['seed'], golden['input']['shape'])
    assert sha256([images]) == golden['input']['sha256_float32']

    model_name = f'abn_{name.split("_")[2]}'
    found, model_args, converted = convert_official_checkpoint(official)
    assert found == model_name
    if golden['residual_attention']:
        model_args['mechanism'] = 'residual'
    assert model_args['num_classes'] == golden['num_tasks']
    model = timm.create_model(model_name, **model_args).double()
    model.load_state_dict(converted)

    # that chunks change nothing is what tests/networks/test_multi_task_network.py proves for each change
    for task_chunk_size in (1, 3, golden['num_tasks']) if name in NIGHTLY else (3,):
        model.task_chunk_size = task_chunk_size
        check_evaluation(model.eval(), images, golden)
    model.task_chunk_size = 1
    check_training(model.train(), images, torch.tensor(golden['targets'], dtype=torch.float64), golden)


def check_evaluation(model, images, golden):
    explanation = model.explain(images)
    expected, maps = golden['attention_maps'], explanation.attention_map
    assert list(maps.shape) == expected['shape']
    close(maps[:, 0, :4, :4], expected['corner_task0'])
    close(maps[:, -1, :4, :4], expected['corner_last_task'])
    close(maps.mean(dim=(0, 2, 3)), expected['per_task_mean'])
    close(maps.std(correction=0), expected['std'])
    close(explanation.attention_logits, golden['attention_logits']['values'])
    close(explanation.logits, difference(golden['perception_logits']['values']))
    with torch.no_grad():
        features = model.extract(images)
        for task, key in ((0, 'task0'), (-1, 'last_task')):
            gated = model.gate(features, maps[:, task].unsqueeze(1)).x
            close(gated.sum(), golden['perception_input'][key]['sum'], 0, 1e-10 * gated.abs().sum().item())
            close(gated.flatten()[:4], golden['perception_input'][key]['first4'])


def check_training(model, images, targets, golden):
    expected = golden['train_mode']
    logits, attention_logits = model(images)
    close(attention_logits, expected['attention_logits'], 1e-8, 1e-8)
    close(logits, difference(expected['perception_logits']), 1e-8, 1e-8)
    # their cross entropy of the two outputs is the binary cross entropy of our logit
    perception_loss = F.binary_cross_entropy_with_logits(logits, targets)
    attention_loss = F.binary_cross_entropy_with_logits(attention_logits, targets)
    (perception_loss + attention_loss).backward()
    close(perception_loss, expected['perception_loss'], 1e-8, 0)
    close(attention_loss, expected['attention_loss'], 1e-8, 0)

    one_output = golden['model'].startswith('mtabn_v1_')
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    if one_output:  # theirs has no first output, which is constant here
        for kind in ('weight', 'bias'):
            gradients[f'perception_branch.fc.{kind}'] = gradients[f'perception_branch.fc.{kind}'][1::2]
    close(torch.stack([gradient.norm() for gradient in gradients.values()]).norm(), expected['grad_norm'], 1e-6, 0)
    for official_name, norm in expected['param_grad_norms'].items():
        close(gradient_of(official_name, gradients, 1 if one_output else 2).norm(), norm, 1e-6, 1e-12)

    state_dict = model.state_dict()
    for name, statistics in expected.get('bn_after_forward', {}).items():
        ours = our_name(f'{name}.running_mean', state_dict).removesuffix('.running_mean')
        close(state_dict[f'{ours}.running_mean'].sum(), statistics['running_mean_sum'], 1e-8, 1e-8)
        close(state_dict[f'{ours}.running_var'].sum(), statistics['running_var_sum'], 1e-8, 1e-8)
        assert state_dict[f'{ours}.num_batches_tracked'] == statistics['num_batches_tracked']


def gradient_of(official_name, gradients, num_outputs):
    """Return the gradient of a parameter that has ``official_name`` in the authors' code."""
    if official_name.startswith('output_per.'):
        _, task, kind = official_name.split('.')
        rows = gradients[f'perception_branch.fc.{kind}']
        return rows[num_outputs * int(task) : num_outputs * (int(task) + 1)]
    return gradients[our_name(official_name, gradients)]


def our_name(official_name, tensors):
    name = official_name.replace('conv_att.', 'attention_branch.map_conv.')
    name = name.replace('layer4_att.', 'attention_branch.stage.')
    return next(place for place in (name, f'feature_extractor.{name}', f'perception_branch.{name}') if place in tensors)
