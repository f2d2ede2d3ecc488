"""AbnConfig: what a network says of itself, and what it refuses to be."""

import dataclasses

import pytest
import timm
from tiny_models import NUM_CLASSES, tiny_abn, tiny_backbone

from timm_abn import AbnConfig, AttentionBranchNet, TimmAbnError


def test_config_says_what_was_built():
    model = tiny_abn('test_convnext', split='stages.1', mechanism='product', attention_map='sum_log')
    assert model.config == AbnConfig(
        'test_convnext', 'stages.1', 'product', 'centred', 'random', 'sum_log', num_classes=NUM_CLASSES
    )
    said = model.config.arguments()
    assert AbnConfig(**said) == model.config
    assert AbnConfig.take(dict(said, img_size=64)) == (model.config, dict(img_size=64))
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.config.gate = 'features'
    assert f'attention_stage={model.attention_branch.stage.source!r}' in repr(model)
    assert "split='stages.1'" in repr(model) and "gate='centred'" in repr(model)


@pytest.mark.parametrize(
    ('build', 'name'),
    [
        (lambda: timm.create_model('test_resnet', num_classes=5), 'test_resnet'),
        (lambda: timm.models.ResNet(timm.models.resnet.BasicBlock, (1, 1, 1, 1), num_classes=5), 'ResNet'),
    ],
)
def test_a_backbone_is_called_as_timm_calls_it(build, name):
    assert AttentionBranchNet(build(), num_classes=5).config.backbone == name


NEUTRAL = (
    "init='neutral' needs maps in [0, 1] that may have the same value everywhere: attention_map='sigmoid' without "
    'hard_attention, got'
)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(num_classes=-1), 'num_classes must be a whole number from 0 to 1048576, got -1.'),
        (dict(num_classes=True), 'num_classes must be a whole number from 0 to 1048576, got True.'),
        (dict(mechanism='sum'), "mechanism must be one of 'residual', 'product', got 'sum'."),
        (dict(attention_map='softmax'), "attention_map must be one of 'sigmoid', 'sum_log', got 'softmax'."),
        (dict(attention_map='raw'), "attention_map must be one of 'sigmoid', 'sum_log', got 'raw'."),
        (dict(padding_mode='reflect'), "padding_mode must be one of 'zeros', 'replicate', got 'reflect'."),
        (dict(gate='norm'), "gate must be one of 'features', 'centred', 'tokens', got 'norm'."),
        (
            dict(gate='tokens'),
            "gate='tokens' needs blocks after the cut that take an attention mask, like those of timm's "
            "VisionTransformer, got ResNet cut at 'layer3'; gate='centred' or 'features' fits.",
        ),
        (dict(init='open'), "init must be one of 'random', 'neutral', got 'open'."),
        (dict(init='neutral', attention_map='sum_log'), f"{NEUTRAL} 'sum_log' and hard_attention=1.0."),
        (dict(init='neutral', hard_attention=0.3, mechanism='product'), f"{NEUTRAL} 'sigmoid' and hard_attention=0.3."),
        *(
            (dict(map_scale=value), f'map_scale must be a whole number from 1 to 16, got {value!r}.')
            for value in (0, -1, True, 1.5, '2', 17)
        ),
        *(
            (
                dict(hard_attention=value),
                f'hard_attention must be the share of the map to keep, in (0, 1], got {value!r}.',
            )
            for value in (0, 1.5, True, 'x', float('nan'))
        ),
        (
            dict(hard_attention=0.3, mechanism='residual'),
            "hard_attention needs mechanism='product', got 'residual': Eq. 2 hides nothing.",
        ),
        (
            dict(hard_attention=0.5, attention_map='sum_log'),
            "hard_attention needs attention_map='sigmoid', got 'sum_log'.",
        ),
        (
            dict(hard_attention=0.5, attention_map='raw', multi_task=True),
            "hard_attention needs attention_map='sigmoid', got 'raw'.",
        ),
        *(
            (
                dict(task_chunk_size=value, multi_task=True),
                f'task_chunk_size must be a whole number from 1 to 1048576, got {value!r}.',
            )
            for value in (0, 2.5)
        ),
        (
            dict(attention_map='sum_log', multi_task=True),
            "attention_map must be one of 'sigmoid', 'raw', got 'sum_log'.",
        ),
        (dict(attention_norm=False, multi_task=True), 'attention_norm=False needs multi_task=False.'),
        (dict(attention_norm='yes'), "attention_norm must be True or False, got 'yes'."),
        (dict(task_chunk_size=2), 'task_chunk_size=2 needs multi_task=True.'),
        (dict(multi_task='yes'), "multi_task must be True or False, got 'yes'."),
        (
            dict(backbone='resnet20_cifra'),
            "Unknown backbone 'resnet20_cifra': did you mean resnet20_cifar, resnet32_cifar, resnet110_cifar?",
        ),
        (
            dict(backbone='abn_resnet20_cifar'),
            "Backbone 'abn_resnet20_cifar' already has an attention branch; pass its backbone.",
        ),
    ],
)
def test_arguments_without_meaning(arguments, message):
    with pytest.raises(TimmAbnError) as error:
        timm.create_model('abn', **{'backbone': 'test_resnet', 'device': 'meta', **arguments})
    assert str(error.value) == message


def test_arguments_that_a_given_backbone_cannot_take_any_more():
    with pytest.raises(TimmAbnError) as error:
        AttentionBranchNet(tiny_backbone('resnet20_cifar'), num_classes=NUM_CLASSES, img_size=64)
    assert str(error.value) == ('img_size=64 is not an argument of a network, and the backbone already exists.')
