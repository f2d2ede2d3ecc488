"""Converting checkpoints: the other models of the families, other numbers of classes, and what is refused."""

import pytest
import timm
import torch
from golden_fill import fill_state_dict, load_golden
from tiers import fast_and_slow

from timm_abn.checkpoint_files import CheckpointError
from timm_abn.hub.state_dicts import check_state_dict
from timm_abn.models.official_checkpoints import convert_official_checkpoint


def official(name, num_classes=None):
    """Return the authors' state dict of a golden file, without values, or one for another number of classes."""
    golden = load_golden(name)
    shapes = {
        key: [num_classes if num_classes and size == golden['num_classes'] else size for size in shape]
        for key, shape in golden['state_dict']
    }
    return {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ('golden_name', 'model_name', 'attention_map'),
    [
        pytest.param('cifar100_resnet32', 'abn_resnet32_cifar', 'sigmoid', marks=pytest.mark.slow),
        ('cifar100_wrn28_4', 'abn_wrn28_4_cifar', 'sigmoid'),
        pytest.param('cifar100_densenet100_12', 'abn_densenet100_12_cifar', 'sigmoid', marks=pytest.mark.slow),
        ('cifar100_resnext29_8x64d', 'abn_resnext29_8x64d_cifar', 'sigmoid'),
        ('imagenet_resnet18', 'abn_resnet18', 'sigmoid'),
        pytest.param('imagenet_se_resnet34', 'abn_seresnet34', 'sum_log', marks=pytest.mark.slow),
    ],
)
def test_finds_the_model_and_its_arguments(golden_name, model_name, attention_map):
    state_dict = official(golden_name, num_classes=7)
    converted = convert_official_checkpoint(state_dict)
    assert converted.model_name == model_name
    model_args = converted.model_args
    assert model_args.get('attention_map', 'sigmoid') == attention_map
    model = timm.create_model(model_name, device=torch.device('meta'), **model_args)
    model.load_state_dict(converted.state_dict, assign=True)
    assert model.num_classes == 7
    assert model.config.attention_map == attention_map


def official_names(state_dict):
    """Return the authors' names of the weights of an ABN over a ResNet: the rule of their code, written anew."""
    for name in state_dict:
        half, _, rest = name.partition('.')
        if half != 'attention_branch':
            yield name, rest.replace('.se.', '.')
        else:
            layer, _, parameter = rest.partition('.')
            heads = dict(stage='att_layer4', norm='bn_att', class_conv='att_conv', class_norm='bn_att2')
            heads.update(classifier='att_conv2', map_conv='att_conv3', map_norm='bn_att3')
            yield name, f'{heads[layer]}.{parameter.replace("se.", "")}'


@pytest.mark.parametrize(
    'model_name', fast_and_slow(['abn_resnet34', 'abn_resnext50_32x4d', 'abn_seresnet101'], ['abn_resnet34'])
)
def test_models_without_golden_file(model_name):
    expected = timm.create_model(model_name, num_classes=3, device=torch.device('meta')).state_dict()
    theirs = {theirs: torch.empty_like(expected[ours]) for ours, theirs in official_names(expected)}
    converted = convert_official_checkpoint(theirs, model_name).state_dict
    assert list(converted) == list(expected)
    assert all(converted[name] is theirs[their_name] for name, their_name in official_names(expected))
    assert convert_official_checkpoint(theirs).model_name == model_name


def test_takes_the_whole_file_of_older_versions():
    state_dict = fill_state_dict(load_golden('cifar100_resnet20')['state_dict'])
    older = {f'module.{name}': tensor for name, tensor in state_dict.items() if 'num_batches' not in name}
    checkpoint = dict(epoch=3, state_dict=older, acc=torch.tensor(1.0), best_acc=torch.tensor(2.0), optimizer={})
    converted = convert_official_checkpoint(checkpoint, 'abn_resnet20_cifar').state_dict
    expected = convert_official_checkpoint(state_dict, 'abn_resnet20_cifar').state_dict
    assert list(converted) == list(expected)
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


def test_norm_that_the_authors_resnext_never_uses_is_left_out():
    state_dict = official('cifar100_resnext29_8x64d', num_classes=3)
    without = {name: tensor for name, tensor in state_dict.items() if not name.startswith('bn_att.')}
    assert len(without) == len(state_dict) - 5
    converted = convert_official_checkpoint(without).state_dict
    assert list(converted) == list(convert_official_checkpoint(state_dict).state_dict)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: d.pop('att_conv.weight'), r'attention_branch\.class_conv\.weight'),
        (lambda d: d.update({'layer9.weight': torch.zeros(1)}), r'1 unknown \(layer9\.weight\)'),
        (
            lambda d: d.update({'fc.weight': torch.zeros(100, 65)}),
            r'perception_branch\.fc\.weight has shape \(100, 65\) instead of \(100, 64\)',
        ),
        (lambda d: d.update({'epoch': 3}), r'of tensors, got other types for epoch'),
        (lambda d: d.clear(), r'holds no tensors'),
    ],
)
def test_refuses_by_name(change, message):
    state_dict = official('cifar100_resnet20')
    change(state_dict)
    with pytest.raises(CheckpointError, match=message):
        convert_official_checkpoint(state_dict, 'abn_resnet20_cifar')


def test_another_architecture_is_refused():
    with pytest.raises(CheckpointError, match=r'not one of abn_resnet32_cifar: keys \d+ missing \(feature_extractor'):
        convert_official_checkpoint(official('cifar100_resnet20'), 'abn_resnet32_cifar')
    with pytest.raises(CheckpointError, match='none of the names .* but conv1.weight, fc.weight'):
        convert_official_checkpoint({'conv1.weight': torch.zeros(1), 'fc.weight': torch.zeros(1)})
    shallow = {name: tensor for name, tensor in official('cifar100_resnet20').items() if '.2.' not in name}
    with pytest.raises(CheckpointError, match='not one of abn_resnet20_cifar'):  # the nearest of five
        convert_official_checkpoint(shallow)


@pytest.mark.parametrize(
    ('model_name', 'message'),
    [
        ('abn_resnet2O_cifar', "unknown model 'abn_resnet2O_cifar': did you mean .*abn_resnet20_cifar"),
        ('resnet18', "'resnet18' is not an Attention Branch Network"),
    ],
)
def test_wrong_model_names(model_name, message):
    with pytest.raises(ValueError, match=message):
        convert_official_checkpoint({'conv1.weight': torch.zeros(1)}, model_name)


def test_check_state_dict_counts_differences():
    with pytest.raises(CheckpointError) as caught:
        check_state_dict(dict(a=torch.zeros(1), b=torch.zeros(2)), dict(b=torch.zeros(3), c=torch.zeros(1)), 'model')
    assert caught.value.num_differences == 3
