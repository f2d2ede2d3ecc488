"""Evidence of a classifier that reads the class token alone: what the last attention carries to it from each place.

The tokens of places are not read, so that the head says nothing of them: their evidence, place by place, is worse than
noise. But what the class token takes from them in the last block is a sum over the tokens, of the values weighted by
the attention. Each term, through the norm with the statistics of the class token and through the classifier, is a share
of the logits. What the token knew before, and what the MLP makes of it, belongs to no place and is left out.
"""

import inspect
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat

from ..errors import TimmAbnError, one_line
from .evidence import Places

__all__ = ['carried_to_class_token', 'prove_carried', 'reads_class_token']


def reads_class_token(model: nn.Module, places: Places) -> bool:
    """Return whether a classifier reads the first token alone."""
    return places.num_prefix_tokens > 0 and getattr(model, 'global_pool', None) == 'token'


def carried_to_class_token(
    model: nn.Module, before: torch.Tensor, after: torch.Tensor, grid: torch.Size
) -> torch.Tensor:
    """Return what the classifier is given of each place, shape (B, C, h, w), times the number of places.

    Args:
        model: A vision transformer.
        before: Tokens that its last block is given, shape (B, N, C).
        after: Class token that it returns, shape (B, C).
        grid: Rows and columns of places, (h, w).
    """
    transformer: Any = model
    carried = _added(transformer.blocks[-1], before, **_positions(transformer, grid))[:, -grid.numel() :]
    for norm in _norms(transformer):
        offset = after.mean(dim=-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else torch.zeros_like(after[:, :1])
        deviation = ((after - offset).square().mean(dim=-1, keepdim=True) + norm.eps).sqrt()
        if isinstance(norm, nn.LayerNorm):
            carried = carried - carried.mean(dim=-1, keepdim=True)
        carried = carried / deviation[:, None] * (1.0 if norm.weight is None else norm.weight)
        after = norm(after)
    return grid.numel() * carried.transpose(1, 2).unflatten(2, grid)


@torch.no_grad()
def prove_carried(model: nn.Module, places: Places, grid: torch.Size) -> None:
    """Check on random tokens that what is carried to the class token adds up to what the last block returns.

    Raises:
        TimmAbnError: It does not, or the last block is built in another way.
    """
    transformer: Any = model
    try:
        block, classifier = transformer.blocks[-1], transformer.get_classifier()
        _norms(transformer)
        if not isinstance(classifier, nn.Linear):
            raise NotImplementedError(f'its classifier is a {type(classifier).__name__}')
        if 'return_prefix_tokens' not in inspect.signature(transformer.forward_intermediates).parameters:
            raise NotImplementedError('it does not return the tokens before its last block')
        reference, bias = block.attn.proj.weight, block.attn.proj.bias
        if reference.is_meta:
            return
        number = places.num_prefix_tokens + grid.numel()
        tokens = torch.randn(1, number, places.num_channels, generator=torch.Generator().manual_seed(0)).to(reference)
        positions = _positions(transformer, grid)
        returned = block(tokens, **positions)[:, 0]
        found = tokens[:, 0] + _added(block, tokens, **positions).sum(dim=1)
        found = found if bias is None else found + _scaled(block, 1, bias)
        found = found + _scaled(block, 2, block.mlp(block.norm2(found)))
        tolerance = 1e-4 if reference.dtype.itemsize >= 4 else 0.05
        is_proven = torch.allclose(found, returned, rtol=tolerance, atol=tolerance * float(returned.abs().max()))
        reason = 'its last block is of another kind'
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        is_proven, reason = False, one_line(error)
    if not is_proven:
        raise TimmAbnError(
            f'{type(model).__name__} cannot be explained place by place: its classifier reads the class token alone, '
            f'and what that is given of each place is not known ({reason}).'
        )


def _norms(transformer: Any) -> list[Any]:
    """Return the norms between the last block and the classifier."""
    norms = [getattr(transformer, name, nn.Identity()) for name in ('norm', 'fc_norm')]
    norms = [norm for norm in norms if not isinstance(norm, nn.Identity)]
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm) and 'rms' not in type(norm).__name__.lower():
            raise NotImplementedError(f'its last norm is a {type(norm).__name__}')
    return norms


def _positions(transformer: Any, grid: torch.Size) -> dict[str, torch.Tensor]:
    """Return what tells the last attention where tokens lie, if it is told."""
    if (rope := getattr(transformer, 'rope', None)) is None:
        return {}
    embedding = rope.get_embed(shape=tuple(grid))
    return dict(rope=embedding[-1] if getattr(transformer, 'rope_mixed', False) else embedding)


def _scaled(block: Any, number: int, x: torch.Tensor) -> torch.Tensor:
    """Return what the first or second half of a block adds, times the scale of its channels."""
    scale = getattr(block, f'gamma_{number}', None)
    return getattr(block, f'ls{number}', nn.Identity())(x if scale is None else scale * x)


def _added(block: Any, tokens: torch.Tensor, **positions: torch.Tensor) -> torch.Tensor:
    """Return what the attention of a block adds to the first token from each token, shape (B, N, C)."""
    return _scaled(block, 1, _carried(block.attn, block.norm1(tokens), **positions))


def _carried(attention: Any, x: torch.Tensor, rope: torch.Tensor | None = None) -> torch.Tensor:
    """Return the terms of what an attention returns for the first token, shape (B, N, C), of normed tokens."""
    queries, keys, values = _projections(attention, x)
    if rope is not None:  # the class token has no place, and is not turned
        prefix, half = attention.num_prefix_tokens, getattr(attention, 'rotate_half', False)
        turned = apply_rot_embed_cat(keys[:, :, prefix:], rope, half=half).type_as(values)
        keys = torch.cat([keys[:, :, :prefix], turned], dim=2)
    weights = attention.scale * queries[:, :, :1] @ keys.transpose(2, 3)
    terms = weights.softmax(dim=3).transpose(2, 3) * values
    return F.linear(terms.transpose(1, 2).flatten(2), attention.proj.weight)


def _projections(attention: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values, shape (B, heads, N, C / heads)."""
    if getattr(attention, 'qkv', None) is not None:
        bias = attention.qkv.bias
        if getattr(attention, 'q_bias', None) is not None:
            bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
        projected = F.linear(x, attention.qkv.weight, bias).chunk(3, dim=2)
    else:
        projected = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    queries, keys, values = (part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
    norms = (getattr(attention, name, nn.Identity()) for name in ('q_norm', 'k_norm'))
    queries, keys = (norm(part) for norm, part in zip(norms, (queries, keys)))
    return queries, keys, values
