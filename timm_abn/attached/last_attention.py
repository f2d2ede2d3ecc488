"""Evidence of a vision transformer, traced back through its last attention to the positions that it came from.

What a token says after the last block, it may have from other positions; the class token has all of it from there. What
the classifier reads (the class token, or the mean of the patch tokens) is a sum: what the tokens that are read were
before the block, and the values of all tokens, weighted by the attention. Each term, through the norms with the
statistics of what they normalise, and through the classifier, is a share of the logits. What the MLP of the last block
adds belongs to no position, and is left out.
"""

import copy
import inspect
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat

from ..errors import TimmAbnError, one_line
from .evidence import Places

__all__ = ['can_be_traced', 'trace_back']


def trace_back(model: nn.Module, before: torch.Tensor, after: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    """Return what the classifier is given from each position, shape (B, C, h, w), times the number of positions.

    Args:
        model: A vision transformer that ``can_be_traced``.
        before: Tokens that its last block is given, shape (B, N, C).
        after: Tokens that it returns, shape (B, N, C).
        grid: Rows and columns of positions, (h, w).
    """
    transformer: Any = model
    block, number = transformer.blocks[-1], grid.numel()
    read = _read(transformer, number)
    pooled = after[:, read]
    weights = torch.ones_like(pooled[..., 0]) / pooled.shape[1]
    before_mean, after_mean = _norms(transformer)
    if before_mean is not None:
        weights = weights / _deviation(before_mean, pooled)
        pooled = before_mean(pooled)
    given = _scaled(block, 1, _terms(block.attn, block.norm1(before), read, weights, **_rope(transformer, grid)))
    given = given[:, -number:]
    if transformer.global_pool == 'avg':
        given = given + weights[:, :, None] * before[:, read]
    if after_mean is not None:
        given = given / _deviation(after_mean, pooled.mean(dim=1))[:, None, None]
    for norm in filter(None, (before_mean, after_mean)):
        if isinstance(norm, nn.LayerNorm):
            given = given - given.mean(dim=-1, keepdim=True)
        given = given * (1.0 if norm.weight is None else norm.weight)
    return number * given.transpose(1, 2).unflatten(2, grid)


@torch.no_grad()
def can_be_traced(model: nn.Module, places: Places, grid: torch.Size) -> bool:
    """Return whether the evidence of a classifier can be traced back through its last attention.

    It is proven with random weights and tokens: the last block is the sum that it is taken for.

    Raises:
        TimmAbnError: It cannot, and the classifier reads the class token alone, so that there is no other evidence.
    """
    transformer: Any = model
    pooling = getattr(transformer, 'global_pool', None)
    if (
        places.layout != 'NLC'
        or pooling not in ('token', 'avg')
        or (pooling == 'token' and not places.num_prefix_tokens)
    ):
        return False
    try:
        # also where a network is built on the meta device, or under autocast
        with torch.device('cpu'), torch.autocast('cpu', enabled=False):
            _prove(transformer, places, grid)
    except (AttributeError, TypeError, RuntimeError, NotImplementedError) as error:
        if pooling == 'token':
            raise TimmAbnError(
                f'{type(model).__name__} cannot be explained place by place: its classifier reads the class token '
                f'alone, and what that is given from each position is not known ({one_line(error)}).'
            ) from error
        return False
    return True


def _prove(transformer: Any, places: Places, grid: torch.Size) -> None:
    classifier = transformer.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise NotImplementedError(f'its classifier is a {type(classifier).__name__}')
    if 'return_prefix_tokens' not in inspect.signature(transformer.forward_intermediates).parameters:
        raise NotImplementedError('it does not return the tokens before its last block')
    if getattr(transformer, 'pool_include_prefix', False):
        raise NotImplementedError('its mean is of all tokens')
    _norms(transformer)
    block, generator = transformer.blocks[-1], torch.Generator().manual_seed(0)
    if others := set(inspect.signature(block.forward).parameters) - {'x', 'rope', 'attn_mask', 'is_causal'}:
        raise NotImplementedError(f'its last block reads {", ".join(sorted(others))}, too')
    rope = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in _rope(transformer, grid).items()}
    read, number = _read(transformer, grid.numel()), places.num_prefix_tokens + grid.numel()
    tokens = torch.randn((1, number, places.num_channels), generator=generator)
    block = _with_random_weights(block, generator)
    normed = block.norm1(tokens)
    attended = block.attn(normed, **rope)
    half = _scaled(block, 1, attended)
    added = half + _scaled(block, 2, block.mlp(block.norm2(tokens + half)))
    returned = attended[:, read].mean(dim=1)
    weights = torch.ones_like(tokens[:, read, 0]) / tokens[:, read].shape[1]
    terms = _terms(block.attn, normed, read, weights, **rope).sum(dim=1)
    terms = terms if block.attn.proj.bias is None else terms + block.attn.proj.bias
    if not _are_close(block(tokens, **rope) - tokens, added) or not _are_close(terms, returned):
        raise NotImplementedError('its last block is of another kind')


def _with_random_weights(block: nn.Module, generator: torch.Generator) -> Any:
    """Return a copy of a block of which no part is 0 or 1, as those of new models are, so that none goes unseen."""
    if not all(buffer.is_floating_point() for buffer in block.buffers()):
        raise NotImplementedError('its last attention depends on relative positions')
    duplicate: Any = copy.deepcopy(block)
    if next(block.parameters()).is_meta:
        duplicate.to_empty(device='cpu')
    duplicate = duplicate.cpu().float()
    for tensor in (*duplicate.parameters(), *duplicate.buffers()):
        tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
    return duplicate.eval()


def _are_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def _read(transformer: Any, number: int) -> slice:
    """Return which tokens the classifier reads: the class token, or those of so many positions."""
    return slice(0, 1) if transformer.global_pool == 'token' else slice(-number, None)


def _norms(transformer: Any) -> tuple[Any, Any]:
    """Return the norms before and after tokens are pooled, None where there is none."""
    found = [getattr(transformer, name, nn.Identity()) for name in ('norm', 'fc_norm')]
    for norm in found:
        if not isinstance(norm, (nn.Identity, nn.LayerNorm)) and 'rms' not in type(norm).__name__.lower():
            raise NotImplementedError(f'its last norm is a {type(norm).__name__}')
    before, after = (None if isinstance(norm, nn.Identity) else norm for norm in found)
    return before, after


def _deviation(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what a norm divides by, of shape (...) of x (..., C); squares are beyond half precision."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(norm, nn.LayerNorm):
        wide = wide - wide.mean(dim=-1, keepdim=True)
    return (wide.square().mean(dim=-1) + norm.eps).sqrt().to(x.dtype)


def _rope(transformer: Any, grid: torch.Size) -> dict[str, torch.Tensor]:
    """Return the rotary embedding of the last block, as its argument, if it has one."""
    if (rope := getattr(transformer, 'rope', None)) is None:
        return {}
    embedding = rope.get_embed(shape=tuple(grid))
    return dict(rope=embedding[-1] if getattr(transformer, 'rope_mixed', False) else embedding)


def _scaled(block: Any, number: int, x: torch.Tensor) -> torch.Tensor:
    """Return what the first or second half of a block adds, times the scale of its channels."""
    scale = getattr(block, f'gamma_{number}', None)
    return getattr(block, f'ls{number}', nn.Identity())(x if scale is None else scale * x)


def _terms(
    attention: Any, x: torch.Tensor, read: slice, weights: torch.Tensor, rope: torch.Tensor | None = None
) -> torch.Tensor:
    """Return what an attention returns from each token, shape (B, N, C): the weighted sum over the tokens ``read``.

    ``x`` are normed tokens, shape (B, N, C), ``weights`` have shape (B, R).
    """
    queries, keys, values = _projections(attention, x)
    if rope is not None:  # prefix tokens have no position, and are not turned
        prefix, half = attention.num_prefix_tokens, getattr(attention, 'rotate_half', False)
        queries, keys = (
            torch.cat(
                [part[:, :, :prefix], apply_rot_embed_cat(part[:, :, prefix:], rope, half=half).type_as(values)], dim=2
            )
            for part in (queries, keys)
        )
    shares = (attention.scale * queries[:, :, read] @ keys.transpose(2, 3)).softmax(dim=3)
    shares = weights[:, None, None, :] @ shares  # (B, heads, 1, N)
    return F.linear((shares.transpose(2, 3) * values).transpose(1, 2).flatten(2), attention.proj.weight)


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
