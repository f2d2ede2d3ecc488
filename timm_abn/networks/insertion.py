"""How an attention branch is inserted into a backbone that may be trained already.

An untrained map spans 0 to 1 in every image, with a mean that the seed decides: gating by it changes what a trained
backbone predicts at random. So around such a backbone the map starts flat, and gates relative to a flat map.
"""

import warnings
from typing import Any

import torch

from ..errors import TimmAbnError
from .choices import INSERTIONS
from .gates import warn_of_gate
from .mechanism import check_choice, gate_of, insertion_of, with_gate_of

__all__ = ['choose_insertion', 'follow_weights', 'freeze_halves']


def choose_insertion(insertion: str | None, is_trained: bool, can_be_neutral: bool, has_tasks: bool) -> str:
    """Return the insertion that is asked for, or else the one that fits; warns where none leaves a backbone unchanged.

    Args:
        insertion: One of ``INSERTIONS``; None to choose.
        is_trained: Whether the backbone may be trained already.
        can_be_neutral: Whether the map is one of [0, 1] that may have the same value everywhere.
        has_tasks: Whether the network answers several tasks, with a map each.

    Raises:
        TimmAbnError: There is no such insertion, or the network cannot have it.
    """
    if insertion is not None:
        check_choice('insertion', insertion, INSERTIONS)
        if insertion == 'explaining' and has_tasks:
            raise TimmAbnError("insertion='explaining' is for networks with one map, not for several tasks.")
        return insertion
    if is_trained and not can_be_neutral:
        warnings.warn(
            'The network does not predict at first what its backbone does: maps of hard attention, or of another kind '
            "than 'sigmoid', cannot be inserted neutrally.",
            stacklevel=3,
        )
    return 'neutral' if is_trained and can_be_neutral else 'gating'


def follow_weights(network: Any, state_dict: dict[str, torch.Tensor], prefix: str) -> None:
    """Let a network use the gate and insertion that weights were trained with, unless others were asked for.

    Args:
        network: An ``AttentionBranchNet``.
        state_dict: The weights; where something else was asked for, they become weights of that.
        prefix: Name of its mechanism in them.
    """
    mechanism = network.mechanism
    gate, insertion = gate_of(state_dict, prefix), insertion_of(state_dict, prefix)
    device = next(network.parameters()).device
    if not network._insertion_is_given and insertion != mechanism.insertion:
        if 'explaining' in (insertion, mechanism.insertion):
            freeze_halves(network, insertion == 'explaining')
        mechanism.set_insertion(insertion, device)
        network.attention_branch.starts_flat = insertion == 'neutral'
    if network._gate_is_given or insertion != mechanism.insertion:
        recorded = with_gate_of(mechanism, state_dict, prefix)
        state_dict.clear()
        state_dict.update(recorded)
    elif gate != mechanism.gate and (gate != 'tokens' or network.takes_attention_bias):
        mechanism.set_gate(gate, device)
        warn_of_gate(gate, network._without_effect, network.split)


def freeze_halves(network: Any, freeze: bool) -> None:
    """Freeze both halves of a network, in evaluation mode, or let them train again.

    Args:
        network: An ``AttentionBranchNet``.
        freeze: Whether to freeze them.
    """
    for half in (network.feature_extractor, network.perception_branch):
        half.requires_grad_(not freeze)
        half.train(network.training and not freeze)
