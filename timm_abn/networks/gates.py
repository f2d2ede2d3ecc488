"""Which gate fits what follows a cut, so that the attention map reaches the prediction.

The paper multiplies features by a factor of the map. A norm that follows undoes that: a layer norm over channels a
factor of each place, a group norm a uniform one. Behind such norms, features are moved towards and away from their mean
over the places instead. And a class token, which is none of the places, is reached by how much of each it reads.
"""

import warnings

from ..errors import TimmAbnError
from ..split import Cut, Split, family_of
from .choices import GATES
from .mechanism import check_choice

__all__ = ['choose_gate', 'gates_without_effect', 'warn_of_gate']


def choose_gate(gate: str | None, cut: Split, takes_bias: bool) -> str:
    """Return the gate that is asked for, or else the one that fits.

    Args:
        gate: One of ``GATES``; None to choose by what follows the cut.
        cut: The cut.
        takes_bias: Whether blocks after it take a bias of attention scores.

    Raises:
        TimmAbnError: There is no such gate, or the backbone cannot have it.
    """
    if gate is None:
        return 'tokens' if takes_bias else 'centred' if cut.behind_norms else 'features'
    check_choice('gate', gate, GATES)
    if gate == 'tokens' and not takes_bias:
        family = family_of(cut.perception_branch).__name__
        raise TimmAbnError(
            f"gate='tokens' needs blocks after the cut that take a mask of attention, as those of timm's "
            f"VisionTransformer do, got {family} cut at {cut.path!r}; gate='centred' or 'features' fits."
        )
    return gate


def gates_without_effect(cut: Cut, takes_bias: bool) -> frozenset[str]:
    """Return the gates whose map nothing after a cut can depend on, whatever the weights.

    Args:
        cut: The cut.
        takes_bias: See ``choose_gate``.
    """
    without = {'features': cut.normalised, 'centred': cut.unread, 'tokens': cut.unread and not takes_bias}
    return frozenset(gate for gate, ignored in without.items() if ignored)


def warn_of_gate(gate: str, without_effect: frozenset[str], path: str) -> None:
    """Warn if the attention map of a network has no effect.

    Args:
        gate: The network's gate.
        without_effect: See ``gates_without_effect``.
        path: Where it is cut.
    """
    if gate not in without_effect:
        return
    if 'centred' in without_effect:
        reason, remedy = 'only the class token is read after it', 'choose an earlier split'
    else:
        reason, remedy = 'what follows undoes any factor of a place', "choose gate='centred', or another split"
    warnings.warn(
        f'The attention map has no effect on predictions with gate={gate!r} and the cut at {path!r}: {reason}; '
        f'{remedy}.',
        stacklevel=3,
    )
