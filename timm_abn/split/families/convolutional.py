"""Convolutional families that cut at another place than ``feature_info`` says, or work between their modules."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn as nn
from timm.layers import ClassifierHead
from timm.models import VGG, Xception, XceptionAligned
from timm.models.csatv2 import CSATv2
from timm.models.mobilenetv5 import MobileNetV5, MobileNetV5Encoder
from timm.models.selecsls import SelecSls

from ..adapter import Adapter, BackboneHalf
from ..features import Crossing, Features
from ..pass_through import is_passed

__all__ = ['ADAPTERS', 'CAM_WIDTH']

CAM_WIDTH = 1024  # of the convolution by which CAM (Zhou et al., CVPR 2016) replaces VGG's fully connected layers


class VGGAdapter(Adapter):
    """``VGG``: removing stages looks into the head, of which the extractor keeps an empty one.

    Only fully connected layers follow the cut, and the attention branch has a convolution in their place, as in CAM.
    """

    def prepare_extractor(self, feature_extractor: nn.Module) -> None:
        feature_extractor.head = ClassifierHead(feature_extractor.num_features, 0, pool_type='')  # type: ignore[arg-type]

    def attention_stage(
        self, perception_branch: nn.Module, in_channels: int, device: torch.device | None, dtype: torch.dtype | None
    ) -> tuple['OrderedDict[str, nn.Module]', int, str] | None:
        dd: dict = {'device': device, 'dtype': dtype}
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(in_channels, CAM_WIDTH, 3, padding=1, **dd))
        if perception_branch.use_norm:
            layers['norm'] = nn.BatchNorm2d(CAM_WIDTH, **dd)
        layers['act'] = nn.ReLU(inplace=True)
        return layers, CAM_WIDTH, f'3x3 convolution of width {CAM_WIDTH} instead of the fully connected layers'


class XceptionAlignedAdapter(Adapter):
    """``XceptionAligned``: features of stages are taken inside the block that follows."""

    def default_split(self, backbone: Any) -> str | None:
        inside = int(backbone.feature_info[-2]['module'].split('.')[1])
        return f'blocks.{inside - 1}'


class SelecSlsExtractor(BackboneHalf, SelecSls):
    """Blocks hand on the output of the last one and, for shortcuts, that of the first one of the stage."""

    def forward_features(self, x: torch.Tensor) -> Crossing:
        """Return features, shape (B, C, h, w), and those of the shortcut unless the cut is behind the blocks."""
        outputs = self.features([self.stem(x)])
        return Features(outputs[0], outputs[1:]) if is_passed(self.head) else self.head(self.from_seq(outputs))


class SelecSlsPerception(BackboneHalf, SelecSls):
    """See ``SelecSlsExtractor``."""

    def forward_features(self, x: Crossing) -> torch.Tensor:
        """Return the features before the classifier."""
        if isinstance(x, Features):
            x = self.from_seq(self.features([x.x, *x.side_inputs]))
        return self.head(x)


class _OneTensor:
    """The head wants features of several stages, of which those before the cut are none."""

    conv_stem: Any
    blocks: Any

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (B, C, h, w)."""
        return self.blocks(self.conv_stem(x))


class MobileNetV5Extractor(_OneTensor, BackboneHalf, MobileNetV5):
    """See ``_OneTensor``."""


class MobileNetV5EncoderExtractor(_OneTensor, BackboneHalf, MobileNetV5Encoder):
    """See ``_OneTensor``."""


class CSATv2Adapter(Adapter):
    """``CSATv2``: its stem indexes with a list, from which the meta device makes a tensor without values."""

    def prepare_proof(self, module: Any) -> None:
        stem = module.stem_dct
        if hasattr(stem, 'permutation'):
            stem.permutation = torch.tensor(stem.permutation, device='cpu')


ADAPTERS: dict[type[nn.Module], Adapter] = {
    CSATv2: CSATv2Adapter(),
    MobileNetV5: Adapter(MobileNetV5Extractor),
    MobileNetV5Encoder: Adapter(MobileNetV5EncoderExtractor),
    SelecSls: Adapter(SelecSlsExtractor, SelecSlsPerception),
    VGG: VGGAdapter(),
    Xception: Adapter(split='block11'),  # features of stages are taken inside the block that follows
    XceptionAligned: XceptionAlignedAdapter(),
}
