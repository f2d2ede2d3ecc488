"""What held-out photos say of a refinement: whether it is kept, and, others of them, what its map is worth."""

from collections.abc import Sequence
from typing import Any

import torch

from ..attached.network import AttachedNet
from ..explain.evaluation.controls import MeanMaps
from ..explain.methods import create_explainer
from ..explain.metrics import STEPS as ALL_STEPS
from ..explain.metrics import predict, replacement_curves
from ..explain.processes import of_all_processes, rank_and_size
from ..explain.statistics import bootstrap_mean
from ..explain.verdict import Evidence, verdict

__all__ = ['VERDICT', 'gains', 'judge', 'split_held_out']

MOST = 50  # photos that decide, and that judge
STEPS = 8  # of the gain that decides, a tenth of the time of training
RIVAL = 'Grad-CAM at the last stage'
JUDGED = ('srg', 'above_mean_map', 'above_grad_cam', 'above_evidence')
VERDICT = ('judged', *(f'{name}{end}' for name in JUDGED for end in ('', '_low', '_high')), 'verdict')


def gains(network: AttachedNet, images: torch.Tensor, batch_size: int) -> list[float]:
    """Return the symmetric relevance gain of the map of the predicted class of each image.

    Args:
        network: In evaluation mode.
        images: Normalised images, shape (N, in_chans, H, W).
        batch_size: How many pass the network at once.

    Raises:
        TimmAbnError: The network predicts NaN.
    """
    return _gain(network, images, _maps_of(network, images, batch_size), batch_size, steps=STEPS)


def judge(network: AttachedNet, images: torch.Tensor, batch_size: int) -> dict[str, Any]:
    """Return a verdict on the maps of a network, and the gains that it stands on, by the names of ``VERDICT``.

    They are compared with their mean map over the other images of the class (of fewer than five: over all others),
    with Grad-CAM, and with the evidence that the refinement began from.
    """
    predicted = predict(network, images, batch_size).argmax(dim=1)
    own = _maps_of(network, images, batch_size)
    grad_cam, of_head = create_explainer('grad_cam', network), create_explainer('class_map', network)
    means = MeanMaps()
    means.add(own, predicted.tolist())
    mean_maps, of_all = means.of_others(own, predicted.tolist())
    batches = list(zip(images.split(batch_size), predicted.split(batch_size)))
    rivals = [mean_maps.float(), *(torch.cat([method(*batch) for batch in batches]) for method in (grad_cam, of_head))]
    gain, *others = (torch.tensor(_gain(network, images, maps, batch_size, predicted)) for maps in (own, *rivals))
    known = [bootstrap_mean(values.tolist()) for values in (gain, *(gain - other for other in others))]
    mean_map = 'the mean map of other images' if 2 * sum(of_all) > len(of_all) else Evidence.mean_map
    words = verdict(Evidence(known[0], known[1], mean_map, above_rival=known[2], rival=RIVAL))
    numbers = [round(value, 5) for interval in known for value in interval[:3]]
    return dict(zip(VERDICT, (len(images), *numbers, words)))


def split_held_out(number: int) -> tuple[Sequence[int], Sequence[int]]:
    """Return which of held-out photos decide, and which judge: others, where there is more than one."""
    chosen = range(0, number, max(number // (2 * MOST), 1))[: 2 * MOST]
    return chosen[::2], chosen[1::2] or chosen


def _gain(
    network: AttachedNet,
    images: torch.Tensor,
    maps: torch.Tensor,
    batch_size: int,
    targets: torch.Tensor | None = None,
    steps: int = ALL_STEPS,
) -> list[float]:
    """Return the gain of each map; each process computes a share of them, which all then have."""
    rank, size = rank_and_size()
    share = slice(rank, None, size)
    classes = None if targets is None else targets[share]
    own = images[share], maps[share], classes, steps
    found = replacement_curves(network, *own, batch_size=batch_size).gain.tolist() if len(own[0]) else []
    of_all = of_all_processes([found])
    return [of_all[index % size][index // size] for index in range(len(images))]


def _maps_of(network: AttachedNet, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    batches = images.split(batch_size)
    return torch.cat([network.explain(batch, class_maps=False).attention_map.float() for batch in batches])
