"""The models: ``abn`` over any backbone, and Attention Branch Networks by name."""

import dataclasses
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.layers import SEModule
from timm.models import PretrainedCfg, generate_default_cfgs, get_pretrained_cfg, register_model

from ..attached.network import AttachedNet
from ..backbone import create_backbone
from ..errors import TimmAbnError
from ..hub.building import build_model
from ..hub.published import ARGUMENTS_OF_WEIGHTS, with_hub_ids
from ..networks.config import AbnConfig
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.network import AttentionBranchNet
from ..networks.split_network import SplitNetwork
from ..timm_private import update_model_args
from . import cifar_backbones, cifar_densenet, cifar_wide_resnet  # noqa: F401  registers the 32x32 backbones
from .training_checkpoints import note_record, recorded_of_backbone

WEIGHTS = Path(__file__).parents[1] / 'weights'


def checkpoint_filter_fn(state_dict: dict[str, torch.Tensor], model: AttentionBranchNet) -> dict[str, torch.Tensor]:
    """Leave out the layers of the attention branch that depend on the number of classes, where it differs.

    timm itself leaves out the classifier of the perception branch.
    """
    prefix = 'attention_branch.'
    branch: Any = getattr(model, 'attention_branch', None)
    if branch is None:
        return state_dict
    names = branch.head_names()
    weight = state_dict.get(f'{prefix}{names[0]}.weight')  # has one row per class
    if weight is None or len(weight) == branch.num_classes:
        return state_dict
    heads = tuple(f'{prefix}{name}.' for name in names)
    return {name: tensor for name, tensor in state_dict.items() if not name.startswith(heads)}


def create_network(
    variant: str,
    pretrained: bool = False,
    network_class: type[SplitNetwork] | type[AttachedNet] | None = None,
    **kwargs: Any,
) -> Any:
    """Create a network by timm's builder, with the arguments that its weights, or those of its backbone, go with.

    Args:
        variant: Registered name; without ``backbone`` among the arguments it says which: 'abn_' and its name.
        pretrained: Whether to load its weights.
        network_class: Its class; by default an ABN for classes, or for tasks if ``multi_task`` says so.
        **kwargs: Arguments of the class.
    """
    kwargs.setdefault('backbone', variant.removeprefix('abn_'))
    if pretrained:
        kwargs.pop('pretrained_backbone', None)  # the weights of the whole network replace them anyway
    chosen: dict[str, Any] = {}
    data_config: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    if isinstance(kwargs.get('pretrained_backbone'), str):
        path = Path(kwargs['pretrained_backbone'])
        recorded, data_config, settings = recorded_of_backbone(kwargs['backbone'], path)
        chosen = {name: value for name, value in recorded.items() if name not in kwargs}
        kwargs.update(chosen)

    def choose(kwargs: dict[str, Any]) -> Any:
        chosen.update(_arguments_of_weights(variant, pretrained, kwargs))
        kwargs['feature_cfg'] = dict(feature_cls='getter')
        if kwargs.get('features_only'):
            kwargs['feature_cfg'].update(out_indices=_default_out_indices(kwargs['backbone']))
        # without a classifier of its own (num_classes=0) the network keeps the attention branch of its weights
        if network_class:
            return network_class
        kwargs.setdefault('attention_classes', kwargs['pretrained_cfg'].get('num_classes') or None)
        return _class_for(kwargs)

    model: Any = build_model(choose, variant, pretrained, pretrained_filter_fn=checkpoint_filter_fn, **kwargs)
    if isinstance(model, (SplitNetwork, AttachedNet)):  # and no extractor of features
        network: Any = model
        update_model_args(network, **chosen)
        network.pretrained_cfg = dict(network.pretrained_cfg, **data_config)
        _take_names(network, (kwargs.get('pretrained_cfg_overlay') or {}).get('label_names'))
        if settings and not (isinstance(model, SplitNetwork) and network.config.multi_task):
            note_record(network, dict(settings, explained_by=None), path)  # which the backbone's own map was
    return model


def _take_names(network: Any, names: Any) -> None:
    """Keep names of an overlay, which timm drops, when it saves, beside another number of classes."""
    if names and network.num_classes and len(names) != network.num_classes:
        raise TimmAbnError(f'pretrained_cfg_overlay has {len(names)} label_names for {network.num_classes} classes.')
    if names and network.num_classes:
        network.pretrained_cfg = dict(network.pretrained_cfg, num_classes=network.num_classes)


def _arguments_of_weights(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Complete the arguments of a network by those that its weights were trained with; returns what was added."""
    trained_with = ARGUMENTS_OF_WEIGHTS.get(f'{variant}.{kwargs["pretrained_cfg"].get("tag")}', {})
    others = {name: kwargs[name] for name, value in trained_with.items() if kwargs.get(name, value) != value}
    if others and pretrained:
        said, right = (', '.join(f'{name}={values[name]!r}' for name in others) for values in (others, trained_with))
        warnings.warn(f'The weights of {variant} were trained with {right}, and are loaded with {said}.', stacklevel=2)
    added = {name: value for name, value in trained_with.items() if name not in kwargs}
    kwargs.update(added)
    return added


def _class_for(kwargs: dict[str, Any]) -> type[AttentionBranchNet]:
    """Return the class of a network, whose arguments then say no more whether it has tasks."""
    multi_task = AbnConfig.take(kwargs)[0].multi_task
    kwargs.pop('multi_task', None)
    return MultiTaskAttentionBranchNet if multi_task else AttentionBranchNet


def _default_out_indices(backbone: str) -> int | tuple[int, ...]:
    """Return the stages that the backbone itself would return with ``features_only=True``, or how many of the last."""
    features: Any = create_backbone(backbone, pretrained=False, features_only=True, device=torch.device('meta'))
    indices, num_stages = tuple(features.feature_info.out_indices), len(features.feature_info.info)
    are_last = indices == tuple(range(num_stages - len(indices), num_stages))
    # of a ViT timm takes the last blocks, however many arguments make it have
    return len(indices) if are_last and len(indices) < num_stages else indices


def backbone_cfg(
    backbone: str, parts: tuple[str, str] = ('feature_extractor', 'perception_branch'), **kwargs: Any
) -> dict[str, Any]:
    """Return the pretrained_cfg of a network over ``backbone``, without weights.

    ``parts`` are the modules of the network that its first convolution and its classifier lie in.
    """
    cfg = get_pretrained_cfg(backbone) or PretrainedCfg()

    def prefixed(half: str, names: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if names is None or isinstance(names, str):
            return names and f'{half}.{names}'
        return tuple(f'{half}.{name}' for name in names)

    return dict(
        {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg) if field.name in _INPUT_FIELDS},
        first_conv=prefixed(parts[0], cfg.first_conv),
        classifier=prefixed(parts[1], cfg.classifier),
        license='apache-2.0',
        origin_url='https://github.com/machine-perception-robotics-group/attention_branch_network',
        paper_name='Attention Branch Network: Learning of Attention Mechanism for Visual Explanation',
        paper_ids='arXiv:1812.10025',
        **kwargs,
    )


_INPUT_FIELDS = (
    'num_classes input_size test_input_size min_input_size fixed_input_size interpolation crop_pct test_crop_pct '
    'crop_mode mean std pool_size test_pool_size label_names label_descriptions'
).split()

# a reduction of exactly 16, as in the papers of SENet and ABN; timm rounds the 4 channels of the first stage up to 8
_SQUEEZE_EXCITATION = partial(SEModule, rd_divisor=1)

_FASHION_MNIST_CLASSES = (
    *'t-shirt/top trouser pullover dress coat sandal shirt sneaker bag'.split(),
    'ankle boot',
)


def _fashion_mnist_cfg(tag: str) -> dict[str, Any]:
    """Return the pretrained_cfg of weights for Fashion-MNIST, which lie in the package."""
    return dict(
        backbone_cfg('resnet20_cifar'),
        file=str(WEIGHTS / f'abn_resnet20_cifar.{tag}.safetensors'),
        num_classes=10,
        input_size=(1, 28, 28),
        pool_size=(7, 7),
        mean=(0.2860,),
        std=(0.3530,),
        label_names=_FASHION_MNIST_CLASSES,
        license='mit',
    )


_BACKBONES = (
    'resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d '
    'seresnet18 seresnet34 seresnet50 seresnet101 seresnet152 vgg16 vgg16_bn densenet121 '
    'efficientnet_b0 convnext_tiny swin_tiny_patch4_window7_224 vit_small_patch16_224 '
    'resnet32_cifar resnet44_cifar resnet56_cifar resnet110_cifar wrn28_4_cifar wrn28_10_cifar '
    'densenet100_12_cifar resnext29_8x64d_cifar'
).split()

default_cfgs = generate_default_cfgs(
    with_hub_ids(
        {
            **{f'abn_{backbone}': backbone_cfg(backbone) for backbone in _BACKBONES},
            'abn_resnet20_cifar.fashion_mnist_faithful': _fashion_mnist_cfg('fashion_mnist_faithful'),
            'abn_resnet20_cifar.fashion_mnist': _fashion_mnist_cfg('fashion_mnist'),
            'abn_resnet20_cifar.untrained*': backbone_cfg('resnet20_cifar'),
        }
    )
)


@register_model
def abn(pretrained: bool = False, backbone: str = 'resnet50', **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over any timm backbone.

    Args:
        pretrained: Load the weights that ``pretrained_cfg`` names.
        backbone: Name of the timm model.
        **kwargs: Arguments of ``AttentionBranchNet``, and of ``timm.create_model`` for the backbone.
    """
    if not kwargs.get('pretrained_cfg'):
        kwargs['pretrained_cfg'] = backbone_cfg(backbone, architecture='abn')
    return create_network('abn', pretrained, backbone=backbone, **kwargs)


@register_model
def abn_resnet18(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-18."""
    return create_network('abn_resnet18', pretrained, **kwargs)


@register_model
def abn_resnet34(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-34."""
    return create_network('abn_resnet34', pretrained, **kwargs)


@register_model
def abn_resnet50(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-50."""
    return create_network('abn_resnet50', pretrained, **kwargs)


@register_model
def abn_resnet101(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-101."""
    return create_network('abn_resnet101', pretrained, **kwargs)


@register_model
def abn_resnet152(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-152."""
    return create_network('abn_resnet152', pretrained, **kwargs)


@register_model
def abn_resnext50_32x4d(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNeXt-50 32x4d."""
    return create_network('abn_resnext50_32x4d', pretrained, **kwargs)


@register_model
def abn_seresnet18(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over SE-ResNet-18."""
    model_args = dict(block_args=dict(attn_layer=_SQUEEZE_EXCITATION))
    return create_network('abn_seresnet18', pretrained, **dict(model_args, **kwargs))


@register_model
def abn_seresnet34(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over SE-ResNet-34."""
    model_args = dict(block_args=dict(attn_layer=_SQUEEZE_EXCITATION))
    return create_network('abn_seresnet34', pretrained, **dict(model_args, **kwargs))


@register_model
def abn_seresnet50(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over SE-ResNet-50."""
    return create_network('abn_seresnet50', pretrained, **kwargs)


@register_model
def abn_seresnet101(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over SE-ResNet-101."""
    return create_network('abn_seresnet101', pretrained, **kwargs)


@register_model
def abn_seresnet152(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over SE-ResNet-152."""
    return create_network('abn_seresnet152', pretrained, **kwargs)


@register_model
def abn_vgg16(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over VGG-16."""
    return create_network('abn_vgg16', pretrained, **kwargs)


@register_model
def abn_vgg16_bn(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over VGG-16 with batch norm."""
    return create_network('abn_vgg16_bn', pretrained, **kwargs)


@register_model
def abn_densenet121(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over DenseNet-121."""
    return create_network('abn_densenet121', pretrained, **kwargs)


@register_model
def abn_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over EfficientNet-B0."""
    return create_network('abn_efficientnet_b0', pretrained, **kwargs)


@register_model
def abn_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ConvNeXt-Tiny."""
    # inside the third stage: the norm between stages would undo an attention map applied there
    model_args = dict(split='stages.2.blocks.5')
    return create_network('abn_convnext_tiny', pretrained, **dict(model_args, **kwargs))


@register_model
def abn_swin_tiny_patch4_window7_224(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over Swin-Tiny."""
    return create_network('abn_swin_tiny_patch4_window7_224', pretrained, **kwargs)


@register_model
def abn_vit_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ViT-Small."""
    return create_network('abn_vit_small_patch16_224', pretrained, **kwargs)


@register_model
def abn_resnet20_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-20 for 32x32 images."""
    return create_network('abn_resnet20_cifar', pretrained, **kwargs)


@register_model
def abn_resnet32_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-32 for 32x32 images."""
    return create_network('abn_resnet32_cifar', pretrained, **kwargs)


@register_model
def abn_resnet44_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-44 for 32x32 images."""
    return create_network('abn_resnet44_cifar', pretrained, **kwargs)


@register_model
def abn_resnet56_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-56 for 32x32 images."""
    return create_network('abn_resnet56_cifar', pretrained, **kwargs)


@register_model
def abn_resnet110_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNet-110 for 32x32 images."""
    return create_network('abn_resnet110_cifar', pretrained, **kwargs)


@register_model
def abn_wrn28_4_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over Wide ResNet-28-4 for 32x32 images."""
    return create_network('abn_wrn28_4_cifar', pretrained, **kwargs)


@register_model
def abn_wrn28_10_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over Wide ResNet-28-10 for 32x32 images."""
    return create_network('abn_wrn28_10_cifar', pretrained, **kwargs)


@register_model
def abn_densenet100_12_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over DenseNet-BC-100 for 32x32 images, cut after the second transition."""
    model_args = dict(split='features.transition2')
    return create_network('abn_densenet100_12_cifar', pretrained, **dict(model_args, **kwargs))


@register_model
def abn_resnext29_8x64d_cifar(pretrained: bool = False, **kwargs: Any) -> AttentionBranchNet:
    """Attention Branch Network over ResNeXt-29 8x64d for 32x32 images; like the authors' it lacks the branch's norm."""
    model_args = dict(attention_norm=False)
    return create_network('abn_resnext29_8x64d_cifar', pretrained, **dict(model_args, **kwargs))
