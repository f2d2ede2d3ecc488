"""The gate: how an attention map acts on features (paper, section 3.2), in whatever layout a backbone has them.

The paper multiplies features by a factor of the map. A norm that follows undoes that: a layer norm over channels undoes
a factor at each position, a group norm a uniform one. Before such norms, features are instead moved towards and away
from their spatial mean (``CentredGate``). A class token has no position; it is reached through how much later blocks
read of each token (``TokenGate``).
"""

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import TimmAbnError
from ..split import Cut, Features, family_of
from .config import AbnConfig
from .feature_layout import FeatureLayout
from .scripting import ignored_by_torchscript

__all__ = ['CentredGate', 'Gate', 'TokenGate', 'check_records', 'choose_gate', 'recorded_gate']

VERSION = 1  # of what gates and inits mean, recorded with weights
NEUTRAL = 'neutral_init'


class Gate(nn.Module):
    """Multiplies features by a factor of the map: ``1 + map`` (Eq. 2, 'residual') or ``map`` (Eq. 1, 'product').

    With ``init='neutral'`` the factor is relative to that of a map of 0.5 everywhere, with which the attention branch
    starts: ``(1 + map) / 1.5`` or ``map / 0.5``. A map finer than the features acts by its mean over each position of
    theirs. Prefix tokens have no position and are unchanged, and so are side inputs.

    A gate other than 'features', or an init other than 'random', is recorded in the state dict with a version; weights
    for another gate are refused.
    """

    kind: ClassVar[str] = 'features'
    __constants__ = ['residual', 'neutral', 'is_hard', 'map_scale', 'flat', 'hidden']
    hidden = 1e-3  # what is read of a token where the map is 0: more than nothing, to have a logarithm
    flat = 0.5  # the map that a neutral init begins with: the sigmoid of 0, without rounding

    def __init__(self, config: AbnConfig, layout: FeatureLayout, device: torch.device | None = None) -> None:
        """
        Args:
            config: That of the network.
            layout: Layout of the features.
            device: Where to create the records.
        """
        super().__init__()
        self.residual = config.mechanism == 'residual'
        self.neutral = config.init == 'neutral'
        self.is_hard = config.is_hard
        self.map_scale = config.map_scale
        self.layout = layout
        if self.kind != 'features':
            self.record(f'{self.kind}_gate', device)
        if self.neutral:
            self.record(NEUTRAL, device)

    @ignored_by_torchscript
    def record(self, name: str, device: torch.device | None) -> None:
        """Say with the weights what network they are of."""
        self.register_buffer(name, torch.tensor(VERSION, device=device))

    def forward(self, features: Features, attention_map: torch.Tensor) -> Features:
        """Return gated features.

        Args:
            features: What the first half hands on.
            attention_map: Shape (B, 1, h, w), as high and wide as the features, or ``map_scale`` times so.
        """
        gated = self.layout.gate(features.x, self.factor(attention_map))
        return Features(gated, features.side_inputs)

    def factor(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return what features are multiplied by, of the shape of the map, as high and wide as the features are."""
        means = self.means(attention_map)
        factor = 1.0 + means if self.residual else means
        if self.neutral:
            return factor / (1.0 + self.flat if self.residual else self.flat)
        return factor

    def means(self, attention_map: torch.Tensor) -> torch.Tensor:
        """Return the mean of a map over each place of the features; one as fine as they are stays as it is."""
        return attention_map if self.map_scale == 1 else F.avg_pool2d(attention_map, self.map_scale)

    def extra_repr(self) -> str:
        """Return what ``repr`` says in parentheses."""
        return f'{"residual" if self.residual else "product"}{", neutral" if self.neutral else ""}'


class CentredGate(Gate):
    """Gates how far features are from their mean: ``mean + (features - mean) * factor``, which no norm undoes.

    The mean is spatial, per image and channel; with hard attention over the positions where the map is not 0.
    """

    kind = 'centred'

    def forward(self, features: Features, attention_map: torch.Tensor) -> Features:
        """See ``Gate``."""
        gated = self.layout.gate_around_mean(features.x, self.factor(attention_map), self.is_hard)
        return Features(gated, features.side_inputs)


class TokenGate(CentredGate):
    """A ``CentredGate`` with which every later block also reads tokens of the image in proportion to the map.

    ``log(0.001 + map)`` is added to the attention scores of each token, as a side input of the second half. With hard
    attention, no block reads tokens where the map is 0. Negative values count as 0.
    """

    kind = 'tokens'

    def forward(self, features: Features, attention_map: torch.Tensor) -> Features:
        """See ``Gate``; the bias of attention scores, shape (B, 1, 1, P + N), is the side input."""
        gated = self.layout.gate_around_mean(features.x, self.factor(attention_map), self.is_hard)
        means = self.means(attention_map)
        read = means.clamp(min=0.0) + self.hidden
        if self.neutral:
            read = read / (self.flat + self.hidden)
        bias = torch.log(read)
        if self.is_hard:  # the least number, not -inf: where a map is 0 everywhere, there still is a mean
            is_half = features.x.dtype == torch.float16 or bias.dtype == torch.float16
            lowest = -65504.0 if is_half else -3.38e38  # TorchScript has no torch.finfo
            bias = bias.masked_fill(means <= 0, lowest)
        bias = F.pad(bias.flatten(0, 1).flatten(1), (self.layout.num_prefix_tokens, 0)).to(features.x.dtype)
        return Features(gated, features.side_inputs + [bias[:, None, None]])


_GATES: dict[str, type[Gate]] = {gate.kind: gate for gate in (Gate, CentredGate, TokenGate)}
_RECORDS = (*(f'{kind}_gate' for kind in _GATES), NEUTRAL)


def recorded_gate(state_dict: Mapping[str, Any], prefix: str = 'gate.') -> tuple[str, str]:
    """Return the gate and the init that weights are of: 'features' and 'random' if nothing is recorded."""
    gate = next((kind for kind in _GATES if f'{prefix}{kind}_gate' in state_dict), 'features')
    return gate, 'neutral' if prefix + NEUTRAL in state_dict else 'random'


def check_records(state_dict: Mapping[str, Any], prefix: str, gate: Gate) -> None:
    """Raise TimmAbnError unless weights are of a network with this gate, in the meaning that it has here.

    Args:
        state_dict: Weights of a network.
        prefix: Name of its gate.
        gate: That of the network which is to load them.
    """
    recorded = [name for name in _RECORDS if prefix + name in state_dict]
    own = [name for name in _RECORDS if hasattr(gate, name)]
    if recorded != own:
        raise TimmAbnError(f'the weights are for {_network(recorded)}, not for {_network(own)}: build that network.')
    for name in recorded:
        version = state_dict[prefix + name]
        if not version.is_meta and int(version) != VERSION:
            raise TimmAbnError(
                f'the weights are of version {int(version)} of {name!r}, but this version of timm-abn '
                f'knows {VERSION}: update it.'
            )


def _network(records: list[str]) -> str:
    gate, init = recorded_gate(dict.fromkeys(records), '')
    return f'a network with gate={gate!r} and init={init!r}'


def choose_gate(gate: str | None, cut: Cut, perception_branch: nn.Module, takes_bias: bool) -> type[Gate]:
    """Return the gate that is asked for, or else the one that fits; warns of one without effect.

    Raises:
        TimmAbnError: The backbone cannot have that gate.
    """
    if gate is None:
        gate = 'tokens' if takes_bias else 'centred' if cut.behind_norms else 'features'
    if gate == 'tokens' and not takes_bias:
        raise TimmAbnError(
            "gate='tokens' needs blocks after the cut that take an attention mask, like those of timm's "
            f'VisionTransformer, got {family_of(perception_branch).__name__} cut at {cut.path!r}; '
            "gate='centred' or 'features' fits."
        )
    if {'features': cut.normalised, 'centred': cut.unread, 'tokens': False}[gate]:
        reason, remedy = 'what follows undoes any factor at a position', "choose gate='centred', or another split"
        if cut.unread:
            reason, remedy = 'only the class token is read after it', 'choose an earlier split'
        warnings.warn(
            f'The attention map has no effect on predictions with gate={gate!r} and the cut at {cut.path!r}: {reason}; '
            f'{remedy}.',
            stacklevel=4,
        )
    return _GATES[gate]
