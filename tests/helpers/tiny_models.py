"""Seeded networks that are quick to build and run: one for each layout of features, and one of the paper."""

import copy

import timm
import torch

import timm_abn  # noqa: F401  registers the models

# backbone -> arguments that make it tiny; NCHW with batch norm, NCHW with layer norm, tokens, NHWC
TINY_BACKBONES = {
    'resnet20_cifar': {},
    'test_resnet': {},
    'test_convnext': {},
    'test_vit': dict(img_size=64),
    'swin_tiny_patch4_window7_224': dict(
        img_size=64, window_size=2, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 1, 1), drop_path_rate=0.0
    ),
}
# by default ConvNeXt is cut before a layer norm, which undoes the attention map
TINY_SPLITS = {'test_convnext': 'stages.2.blocks.0'}
NUM_CLASSES = 5


def tiny_backbone(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **{'num_classes': NUM_CLASSES, **TINY_BACKBONES[name], **kwargs})


def tiny_abn(backbone, name='abn', **kwargs):
    torch.manual_seed(0)
    arguments = {'num_classes': NUM_CLASSES, 'split': TINY_SPLITS.get(backbone), **TINY_BACKBONES[backbone], **kwargs}
    model = timm.create_model(name, backbone=backbone, **arguments)
    with torch.no_grad():
        model.eval()
        for name, buffer in model.named_buffers():  # statistics that differ from those of a new model
            if name.endswith('running_mean'):
                buffer.normal_(std=0.1)
            elif name.endswith('running_var'):
                buffer.uniform_(0.5, 1.5)
    return model


def tiny_attached(backbone, **kwargs):
    return tiny_abn(backbone, 'attached', split=None, **kwargs)


def tiny_around(network, name, **kwargs):
    """Return a trained backbone, whatever it was trained for, and a network of this class around a copy of it."""
    backbone = tiny_backbone(name).eval()
    torch.manual_seed(3)
    arguments = dict(split=TINY_SPLITS.get(name), num_classes=NUM_CLASSES, pretrained_backbone=True)
    return backbone, network(copy.deepcopy(backbone), **{**arguments, **kwargs}).eval()


def tiny_images(batch_size=2, channels=3, size=(64, 64), dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, channels, *size, generator=generator, dtype=dtype)


def attention_for(model, images):
    """Return a random attention map of the right shape for ``images``."""
    with torch.no_grad():
        maps = model.layout.to_maps(model.feature_extractor(images), images)
    generator = torch.Generator().manual_seed(2)
    return torch.rand(maps.shape[0], 1, *maps.shape[2:], generator=generator, dtype=images.dtype)


def without_half(name):
    """Return the backbone's own name of a parameter."""
    return name.split('.', 1)[1]


class Calls:
    """Counts the forward calls of a module."""

    def __init__(self, module):
        self.count = 0
        module.register_forward_hook(self)

    def __call__(self, *args):
        self.count += 1
