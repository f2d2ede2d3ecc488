"""Families of tokens whose class token joins late, behind or between the blocks: CaiT, XCiT, VOLO, ConViT."""

import torch
import torch.nn as nn
from timm.models import Cait, ConVit, Xcit, checkpoint, checkpoint_seq
from timm.models.volo import VOLO

from ..adapter import Adapter, BackboneHalf
from ..pass_through import is_passed

__all__ = ['ADAPTERS']


class CaitExtractor(BackboneHalf, Cait):
    """Patch blocks are followed by blocks of class attention, whose token is of the other half."""

    def forward_cls(self, x: torch.Tensor) -> torch.Tensor:
        """Return the tokens of the image alone."""
        return x


class CaitPerception(BackboneHalf, Cait):
    """Position embeddings are added in line, before the patch blocks."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens behind the class token, shape (B, 1 + N, C), from those of the image."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            x = checkpoint_seq(self.blocks, x)
        else:
            x = self.blocks(x)
        return self.norm(self.forward_cls(x))


class XcitHalf(BackboneHalf, Xcit):
    """Blocks are called with the size of the grid, which the features tell; the class token joins late."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (B, h, w, C); or tokens behind the class token, shape (B, 1 + N, C)."""
        is_first = not is_passed(self.patch_embed)
        if is_first:
            x, (height, width) = self.patch_embed(x)
            if self.pos_embed is not None:
                positions = self.pos_embed(x.shape[0], height, width)
                x = x + positions.reshape(x.shape[0], -1, x.shape[1]).permute(0, 2, 1)
            x = self.pos_drop(x)
        else:
            (height, width), x = x.shape[1:3], x.flatten(1, 2)
        for block in self.blocks:
            x = checkpoint(block, x, height, width) if self.grad_checkpointing else block(x, height, width)
        return x.reshape(x.shape[0], height, width, -1) if is_first else self.norm(self.forward_cls(x))


class VoloExtractor(BackboneHalf, VOLO):
    """Features are NHWC up to the last stage, and tokens with a class token behind it."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return features, shape (B, h, w, C)."""
        x = self.patch_embed(x).permute(0, 2, 3, 1)
        for index, stage in enumerate(self.network):
            if index == 2 and self.pos_embed is not None:  # of the other half, if the cut is before it
                x = self.pos_drop(x + self.pos_embed)
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpoint(stage, x)
            else:
                x = stage(x)
        return x


class VoloPerception(BackboneHalf, VOLO):
    """Images turn to NHWC in line; position embeddings are left out where they came before the cut."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens behind the class token, shape (B, 1 + N, C), from features (B, h, w, C)."""
        x = self.forward_tokens(x)
        if self.post_network is not None:
            x = self.forward_cls(x)
        return self.norm(x)


class ConVitPerception(BackboneHalf, ConVit):
    """Position embeddings are added in line; the class token joins between two blocks, in the half it belongs to."""

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens behind the class token, shape (B, 1 + N, C)."""
        for index, block in enumerate(self.blocks):
            if index == self.local_up_to_layer and self.cls_token is not None:
                x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
            x = block(x)
        return self.norm(x)


ADAPTERS: dict[type[nn.Module], Adapter] = {
    Cait: Adapter(CaitExtractor, CaitPerception),
    ConVit: Adapter(None, ConVitPerception),
    VOLO: Adapter(VoloExtractor, VoloPerception),
    Xcit: Adapter(XcitHalf, XcitHalf),
}
