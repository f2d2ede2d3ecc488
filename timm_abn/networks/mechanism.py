"""The attention mechanism (paper, section 3.2), in whatever layout a backbone has its features."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.jit import Final

from ..errors import TimmAbnError
from .choices import GATES, INSERTIONS, MECHANISMS
from .feature_layout import FeatureLayout
from .gated_features import GatedFeatures, gate_each
from .scripting import ignored_by_torchscript

__all__ = ['GATES', 'INSERTIONS', 'MECHANISMS', 'Mechanism', 'check_choice', 'gate_of', 'insertion_of', 'with_gate_of']

GATE_VERSION = 1  # of what the gates mean, recorded with weights
INSERTION_VERSION = 1  # of what the insertions mean, likewise


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

    The insertion says how the map stands to a backbone that was there before it:

    - ``gating`` (the paper's): the factor is as above. Any map changes what a trained backbone predicts.
    - ``neutral``: the factor is relative to that of a map of 0.5 everywhere, ``(1 + map) / 1.5`` or ``map / 0.5``, and
      what is read of tokens likewise. The attention branch begins with such a map (see ``AttentionBranch``), so that
      the network predicts at first what its backbone does, to the last bit where the gate is 'features'.
    - ``explaining``: nothing is done to the features; the map explains, and does not gate. A map that is given in
      place of the predicted one gates all the same, relative to that: ``(1 + given) / (1 + predicted)``, so that an
      edited map changes the prediction where, and as far as, it was edited.

    A gate other than 'features' is recorded in the state dict, as ``<gate>_gate``, with the version of its meaning, and
    an insertion other than 'gating' as ``<insertion>_insertion``. Weights without such a record, as all were before
    there was a choice, are of 'features' and 'gating'.
    """

    residual: Final[bool]
    gate: Final[str]
    insertion: Final[str]
    hides: Final[bool]
    map_scale: Final[int]
    hidden: Final[float] = 1e-3  # what is read of a token where the map is 0: more than nothing, to have a logarithm
    flat: Final[float] = 0.5  # the map that a neutral insertion begins with: the sigmoid of 0, without rounding

    def __init__(
        self,
        mechanism: str = 'residual',
        layout: FeatureLayout | None = None,
        gate: str = 'features',
        device: torch.device | None = None,
        hides: bool = False,
        map_scale: int = 1,
        insertion: str = 'gating',
    ) -> None:
        """
        Args:
            mechanism: 'residual' or 'product'.
            layout: Layout of the features; (B, C, h, w) if not given.
            gate: 'features', 'centred' or 'tokens'.
            device: Where to create the record of the gate.
            hides: Whether maps are of hard attention: where they are 0, nothing passes.
            map_scale: How many times as high and wide as the features maps are.
            insertion: 'gating', 'neutral' or 'explaining'.

        Raises:
            ValueError: There is no such mechanism, gate or insertion, or they do not go together.
        """
        super().__init__()
        check_choice('mechanism', mechanism, MECHANISMS)
        self.residual = mechanism == 'residual'
        self.hides = hides
        self.map_scale = map_scale
        self.layout = layout if layout is not None else FeatureLayout()
        self.gate = 'features'
        self.insertion = 'gating'
        self.set_gate(gate, device)
        self.set_insertion(insertion, device)

    @ignored_by_torchscript
    def set_gate(self, gate: str, device: torch.device | None = None) -> None:
        """Use another gate from now on.

        Args:
            gate: 'features', 'centred' or 'tokens'.
            device: Where to create its record.

        Raises:
            ValueError: There is no such gate.
        """
        check_choice('gate', gate, GATES)
        self._buffers.pop(record_of(self.gate), None)
        self.gate = gate  # type: ignore[misc]
        if gate != 'features':
            self.register_buffer(record_of(gate), torch.tensor(GATE_VERSION, device=device))

    @ignored_by_torchscript
    def set_insertion(self, insertion: str, device: torch.device | None = None) -> None:
        """Use another insertion from now on.

        Args:
            insertion: 'gating', 'neutral' or 'explaining'.
            device: Where to create its record.

        Raises:
            ValueError: There is no such insertion, or it does not go with the mechanism.
        """
        check_choice('insertion', insertion, INSERTIONS)
        if insertion != 'gating' and self.hides:
            raise TimmAbnError(
                f'insertion={insertion!r} does not go with hard_attention, which hides most of the features: no map of '
                "it leaves a backbone's prediction as it is. Leave hard_attention out, or pass insertion='gating'."
            )
        if insertion == 'explaining' and not self.residual:
            raise TimmAbnError("insertion='explaining' needs mechanism='residual': maps that are given are of Eq. 2.")
        self._buffers.pop(insertion_record_of(self.insertion), None)
        self.insertion = insertion  # type: ignore[misc]
        if insertion != 'gating':
            self.register_buffer(insertion_record_of(insertion), torch.tensor(INSERTION_VERSION, device=device))

    def forward(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        num_maps: int = 1,
        convolved: dict[str, torch.Tensor] | None = None,
        predicted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return gated features, in the layout of ``features``; of several maps with a leading dimension B * T.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, 1, h, w), or (B, T, h, w): the T results of an image follow each other. As high and
                wide as the features, or ``map_scale`` times so.
            num_maps: Number of maps (T).
            convolved: Where gated features may be lazy: what keeps the results of their shared convolutions (see
                ``GatedFeatures``).
            predicted: With the insertion 'explaining', the predicted map where ``attention_map`` is another; without
                it, features are returned as they are.
        """
        if self.insertion == 'explaining' and predicted is None:
            return features
        factor = self.factor(attention_map, predicted)
        if convolved is not None and not torch.jit.is_scripting():
            return GatedFeatures.create(features, factor, convolved)
        if num_maps > 1:
            if self.gate == 'features' and self.layout.layout == 'NCHW':
                return gate_each(features, factor)
            features, factor = features.repeat_interleave(num_maps, dim=0), factor.flatten(0, 1).unsqueeze(1)
        if self.gate == 'features':
            return self.layout.gate(features, factor)
        return self.layout.gate_around_mean(features, factor, self.hides)

    def factor(self, attention_map: torch.Tensor, predicted: torch.Tensor | None = None) -> torch.Tensor:
        """Return what features are multiplied by, shape (B, T, h, w), as high and wide as they are."""
        means = self.means(attention_map)
        factor = 1.0 + means if self.residual else means
        if self.insertion == 'neutral':
            return factor / (1.0 + self.flat if self.residual else self.flat)
        return factor if predicted is None else factor / (1.0 + self.means(predicted))

    def means(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the mean of a map over each place of the features; one as fine as they are stays as it is."""
        return attention_map if self.map_scale == 1 else F.avg_pool2d(attention_map, self.map_scale)

    def attention_bias(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        predicted: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Return what is added to the attention scores of each token that is read, shape (B * T, 1, 1, N).

        Args:
            features: Features of the extractor.
            attention_map: See ``forward``; what is negative counts as 0.
            predicted: See ``forward``.

        Returns:
            None where the gate has no bias.
        """
        if self.gate != 'tokens' or (self.insertion == 'explaining' and predicted is None):
            return None
        means = self.means(attention_map)
        read = means.clamp(min=0.0) + self.hidden
        if self.insertion == 'neutral':
            read = read / (self.flat + self.hidden)
        elif predicted is not None:
            read = read / (self.means(predicted) + self.hidden)
        bias = torch.log(read)
        if self.hides:  # the least number, not -inf: where a map is 0 everywhere, there still is a mean
            is_half = features.dtype == torch.float16 or bias.dtype == torch.float16
            lowest = -65504.0 if is_half else -3.38e38  # TorchScript has no torch.finfo
            bias = bias.masked_fill(means <= 0, lowest)
        bias = bias.flatten(0, 1).flatten(1)
        return F.pad(bias, (self.layout.num_prefix_tokens, 0)).to(features.dtype)[:, None, None]

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        said = f'{"residual" if self.residual else "product"}, gate={self.gate!r}'
        if self.insertion != 'gating':
            said += f', insertion={self.insertion!r}'
        return f'{said} (the map explains, and does not gate)' if self.insertion == 'explaining' else said

    @ignored_by_torchscript
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for what, name, known in (
            (f'gate={self.gate!r}', record_of(self.gate), GATE_VERSION),
            (f'insertion={self.insertion!r}', insertion_record_of(self.insertion), INSERTION_VERSION),
        ):
            record = state_dict.get(prefix + name)
            if record is not None and not record.is_meta and int(record) != known:
                raise TimmAbnError(
                    f'the weights are of version {int(record)} of {what}, of which this version of timm-abn knows '
                    f'{known}: update it.'
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


def insertion_record_of(insertion: str) -> str:
    """Return the name, in the state dict of a mechanism, that records an insertion other than 'gating'."""
    return f'{insertion}_insertion'


def insertion_of(state_dict: Mapping[str, Any], prefix: str = 'mechanism.') -> str:
    """Return the insertion that weights are of: 'gating' if nothing is recorded.

    Args:
        state_dict: Weights of a network.
        prefix: Name of its mechanism.
    """
    return next((name for name in INSERTIONS if prefix + insertion_record_of(name) in state_dict), 'gating')


def with_gate_of(
    mechanism: Mechanism,
    state_dict: Mapping[str, torch.Tensor],
    prefix: str = 'mechanism.',
) -> dict[str, torch.Tensor]:
    """Return weights as if they were of another gate, or insertion.

    Args:
        mechanism: That of the network which has them.
        state_dict: Weights of a network.
        prefix: Name of its mechanism.
    """
    records = {prefix + name for name in (*map(record_of, GATES), *map(insertion_record_of, INSERTIONS))}
    own = mechanism.state_dict(prefix=prefix)
    return {**own, **{name: tensor for name, tensor in state_dict.items() if name in own or name not in records}}


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise TimmAbnError unless the argument ``name`` has one of its values."""
    if value not in choices:
        raise TimmAbnError(f'{name} must be one of {", ".join(map(repr, choices))}, got {value!r}.')
