"""What a refinement learns: the places where its map is greatest must be enough for the prediction, the rest must not.

How many of them are kept is drawn for each image, so that the map learns the order of the places, which is all that
deletion and insertion ask of it (RISE, arXiv 1806.07421). Keeping what a trained classifier needs is the idea of T-TAME
(Ntrougkas et al., arXiv 2403.04523).
"""

import torch
import torch.nn.functional as F

from ..attached.network import AttachedNet
from ..records import answers, are_exclusive
from .faithful import mask_images

__all__ = ['REST', 'keep_drawn_share', 'margins', 'refinement_terms']

REST = 0.3  # weight of the loss of what is not kept
LEAST_SHARE = 0.05  # of the places that are kept, or left out
SLOPE = 0.1  # of a map in [0, 1]: how far from the limit a place is surely kept, or not


def refinement_terms(network: AttachedNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the losses of the map of the predicted class, of which gradients reach the refinement alone.

    Args:
        network: With a refinement; the parameters of its backbone want no gradients.
        images: Normalised images, shape (B, in_chans, H, W).

    Returns:
        ``kept``, the mean of -log p of what the map keeps of an image, and ``rest``, that of -log(1 - p) of what it
        does not: p is the probability of the class, or label, that is most probable of the whole image.
    """
    assert network.refinement is not None
    exclusive = are_exclusive(network)
    with torch.no_grad():
        seen = network.look(images, with_cut=True)
        classes = answers(network.forward_head(seen.features), exclusive).argmax(dim=1)
        evidence = network.class_map(seen.last, classes)
    kept = keep_drawn_share(network.refinement(seen.cut, seen.last, evidence).sigmoid())
    both = torch.cat([mask_images(images, share, 'mixed') for share in (kept, 1 - kept)])
    of_kept, of_rest = margins(network(both), classes.repeat(2), exclusive).chunk(2)
    return dict(kept=F.softplus(-of_kept).mean(), rest=F.softplus(of_rest).mean())


def keep_drawn_share(maps: torch.Tensor) -> torch.Tensor:
    """Return maps that keep the greatest places of others, how many drawn for each, near 1, the rest near 0.

    Between them is a slope, so that places near the limit learn on which side they belong.

    Args:
        maps: Shape (B, 1, h, w), in [0, 1].
    """
    places = maps.detach().flatten(1).float()
    share = LEAST_SHARE + (1 - 2 * LEAST_SHARE) * torch.rand(len(maps), 1, device=maps.device)
    limit = places.sort(dim=1, descending=True).values.gather(1, (share * places.shape[1]).long())
    return ((maps.float() - limit[:, :, None, None]) / SLOPE).sigmoid()


def margins(logits: torch.Tensor, classes: torch.Tensor, exclusive: bool) -> torch.Tensor:
    """Return log(p / (1 - p)), shape (B,), of a class, or label, of each image; p itself may round to 0 or 1."""
    logits, index = answers(logits.float(), exclusive), classes[:, None]
    own = logits.gather(1, index)[:, 0]
    return own - logits.scatter(1, index, -torch.inf).logsumexp(dim=1) if exclusive else own
