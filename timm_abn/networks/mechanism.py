"""The attention mechanism (paper, section 3.2), in whatever layout a backbone has its features."""

from typing import Any, Dict, Mapping, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.jit import Final

from ..errors import TimmAbnError
from .choices import GATES, MECHANISMS
from .feature_layout import FeatureLayout
from .gated_features import GatedFeatures, gate_each

__all__ = ['GATES', 'MECHANISMS', 'Mechanism', 'check_choice', 'gate_of', 'with_gate_of']

GATE_VERSION = 1  # of what the gates mean, recorded with weights


class Mechanism(nn.Module):
    """Applies an attention map to features.

    The factor is that of the paper: ``residual`` (Eq. 2, the default) ``1 + attention_map``, ``product`` (Eq. 1)
    ``attention_map``. The gate says what it does:

    - ``features`` (the paper's): ``features * factor``. Only the small factor is computed twice; the features are read
      and written once.
    - ``centred``: ``mean + (features - mean) * factor`` with the mean over the places of each image and channel. A norm
      undoes a factor, but not this.
    - ``tokens``: the same, and every later block reads tokens of the image in proportion to the map, with
      ``log(0.001 + attention_map)`` added to their attention scores: what a class token sees.

    Class and register tokens are no places: they take no part in the mean, and nothing is done to them. Under hard
    attention, places where the map is 0 take no part in the mean either, and no token reads them.

    A map finer than the features acts on each of them by its mean over the place.

    A gate other than 'features' is recorded in the state dict, as ``<gate>_gate``, with the version of its meaning.
    Weights without such a record, as all were before there was a choice, are of 'features'.
    """

    residual: Final[bool]
    gate: Final[str]
    hides: Final[bool]
    map_scale: Final[int]
    hidden: Final[float] = 1e-3  # what is read of a token where the map is 0: more than nothing, to have a logarithm

    def __init__(
        self,
        mechanism: str = 'residual',
        layout: Optional[FeatureLayout] = None,
        gate: str = 'features',
        device: Optional[torch.device] = None,
        hides: bool = False,
        map_scale: int = 1,
    ) -> None:
        """
        Args:
            mechanism: 'residual' or 'product'.
            layout: Layout of the features; (B, C, h, w) if not given.
            gate: 'features', 'centred' or 'tokens'.
            device: Where to create the record of the gate.
            hides: Whether maps are of hard attention: where they are 0, nothing passes.
            map_scale: How many times as high and wide as the features maps are.

        Raises:
            ValueError: There is no such mechanism or gate.
        """
        super().__init__()
        check_choice('mechanism', mechanism, MECHANISMS)
        self.residual = mechanism == 'residual'
        self.hides = hides
        self.map_scale = map_scale
        self.layout = layout if layout is not None else FeatureLayout()
        self.gate = 'features'
        self.set_gate(gate, device)

    @torch.jit.ignore
    def set_gate(self, gate: str, device: Optional[torch.device] = None) -> None:
        """Use another gate from now on.

        Args:
            gate: 'features', 'centred' or 'tokens'.
            device: Where to create its record.

        Raises:
            ValueError: There is no such gate.
        """
        check_choice('gate', gate, GATES)
        for name in list(self._buffers):
            delattr(self, name)
        self.gate = gate  # type: ignore[misc]
        if gate != 'features':
            self.register_buffer(record_of(gate), torch.tensor(GATE_VERSION, device=device))

    def forward(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        num_maps: int = 1,
        convolved: Optional[Dict[str, torch.Tensor]] = None,
    ) -> torch.Tensor:
        """Return gated features, in the layout of ``features``; of several maps with a leading dimension B * T.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, 1, h, w), or (B, T, h, w): the T results of an image follow each other. As high and
                wide as the features, or ``map_scale`` times so.
            num_maps: Number of maps (T).
            convolved: Where gated features may be lazy: what keeps the results of their shared convolutions (see
                ``GatedFeatures``).
        """
        factor = self.factor(attention_map)
        if convolved is not None and not torch.jit.is_scripting():
            return GatedFeatures.create(features, factor, convolved)
        if num_maps > 1:
            if self.gate == 'features' and self.layout.layout == 'NCHW':
                return gate_each(features, factor)
            features, factor = features.repeat_interleave(num_maps, dim=0), factor.flatten(0, 1).unsqueeze(1)
        if self.gate == 'features':
            return self.layout.gate(features, factor)
        return self.layout.gate_around_mean(features, factor, self.hides)

    def factor(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return what features are multiplied by, shape (B, T, h, w), as high and wide as they are."""
        means = self.means(attention_map)
        return 1.0 + means if self.residual else means

    def means(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the mean of a map over each place of the features; one as fine as they are stays as it is."""
        return attention_map if self.map_scale == 1 else F.avg_pool2d(attention_map, self.map_scale)

    def attention_bias(self, features: torch.Tensor, attention_map: torch.Tensor) -> Optional[torch.Tensor]:
        """Return what is added to the attention scores of each token that is read, shape (B * T, 1, 1, N).

        Args:
            features: Features of the extractor.
            attention_map: See ``forward``; what is negative counts as 0.

        Returns:
            None where the gate has no bias.
        """
        if self.gate != 'tokens':
            return None
        means = self.means(attention_map)
        bias = torch.log(means.clamp(min=0.0) + self.hidden)
        if self.hides:  # the least number, not -inf: where a map is 0 everywhere, there still is a mean
            is_half = features.dtype == torch.float16 or bias.dtype == torch.float16
            lowest = -65504.0 if is_half else -3.38e38  # TorchScript has no torch.finfo
            bias = bias.masked_fill(means <= 0, lowest)
        bias = bias.flatten(0, 1).flatten(1)
        return F.pad(bias, (self.layout.num_prefix_tokens, 0)).to(features.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return f'{"residual" if self.residual else "product"}, gate={self.gate!r}'

    @torch.jit.ignore
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        record = state_dict.get(prefix + record_of(self.gate))
        if record is not None and not record.is_meta and int(record) != GATE_VERSION:
            raise TimmAbnError(
                f'the weights are of version {int(record)} of gate={self.gate!r}, of which this version of timm-abn '
                f'knows {GATE_VERSION}: update it.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def record_of(gate: str) -> str:
    """Return the name, in the state dict of a mechanism, that records a gate other than 'features'."""
    return f'{gate}_gate'


def gate_of(state_dict: Mapping[str, Any], prefix: str = 'mechanism.') -> str:
    """Return the gate that weights are of: 'features' if nothing is recorded.

    Args:
        state_dict: Weights of a network.
        prefix: Name of its mechanism.
    """
    return next((gate for gate in GATES if prefix + record_of(gate) in state_dict), 'features')


def with_gate_of(
    mechanism: Mechanism,
    state_dict: Mapping[str, torch.Tensor],
    prefix: str = 'mechanism.',
) -> Dict[str, torch.Tensor]:
    """Return weights as if they were of another gate.

    Args:
        mechanism: That of the network which has that gate.
        state_dict: Weights of a network.
        prefix: Name of its mechanism.
    """
    records = {prefix + record_of(gate) for gate in GATES}
    own = mechanism.state_dict(prefix=prefix)
    return {**own, **{name: tensor for name, tensor in state_dict.items() if name in own or name not in records}}


def check_choice(name: str, value: str, choices: Tuple[str, ...]) -> None:
    """Raise TimmAbnError unless the argument ``name`` has one of its values."""
    if value not in choices:
        raise TimmAbnError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}.')
