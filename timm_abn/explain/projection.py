"""What attention does to features: before and after the mechanism, as points, and how well they separate classes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn as nn

from ..data.samples import Sample, read_samples
from ..errors import TimmAbnError
from ..networks.network import AttentionBranchNet
from ..progress import Progress
from .plot_packages import check_plot_packages
from .statistics import Interval, bootstrap_mean

__all__ = ['AttendedFeatures', 'Separation', 'aligned', 'attended_features', 'check_attention', 'project', 'separation']

NEIGHBOURS = 5
LEAST_IMAGES = 4  # of fewer t-SNE makes nothing
PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True)
class AttendedFeatures:
    """Features of images before and after attention, averaged over all places.

    Attributes:
        names: What the images are called.
        labels: Their classes; None where they are not known.
        before: What the attention map is applied to, shape (N, C), float32, on the CPU.
        after: What the perception branch sees, shape (N, C).
        problems: Why images are missing, one sentence each.
    """

    names: list[str]
    labels: list[int | None]
    before: torch.Tensor
    after: torch.Tensor
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class Separation:
    """How well features separate the classes of images: means over images with their 95 % bootstrap intervals."""

    before: Interval
    after: Interval
    difference: Interval  # after less before, image by image


def attended_features(model: AttentionBranchNet, samples: Sequence[Sample], batch_size: int = 64) -> AttendedFeatures:
    """Return the features of images before and after the attention map is applied (paper, Fig. 6).

    An image that cannot be read is a problem of this image alone.

    Raises:
        TimmAbnError: See ``check_attention``; or there are too few images.
    """
    check_attention(model)
    names: list[str] = []
    labels: list[int | None] = []
    problems: list[str] = []
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for indices in Progress(torch.arange(len(samples)).split(batch_size), 'tsne', 'batch'):
        batch = read_samples(samples, indices.tolist(), problems)
        if batch:
            parts.append(_pooled(model, batch))
        names += [sample.name for sample in batch]
        labels += [sample.label for sample in batch]
    if len(names) < LEAST_IMAGES:
        reason = f' ({problems[0]})' if problems else ''
        raise TimmAbnError(f'a picture of features needs {LEAST_IMAGES} images or more, got {len(names)}{reason}.')
    before, after = (torch.cat(column) for column in zip(*parts))
    return AttendedFeatures(names, labels, before, after, problems)


def check_attention(model: nn.Module) -> None:
    """Raise TimmAbnError unless a model has features before and after one map that gates, in evaluation mode."""
    if not isinstance(model, AttentionBranchNet) or model.attention_branch is None:
        raise TimmAbnError(
            'only an Attention Branch Network has features before and after attention, the model is a '
            f'{type(model).__name__}.'
        )
    if model.attention_branch.num_maps > 1:
        raise TimmAbnError(
            f'the model has features after attention for each of its {model.attention_branch.num_maps} tasks; only '
            'networks with one attention map can be drawn.'
        )
    if model.training:
        raise TimmAbnError('features need a model in evaluation mode; call model.eval() first.')


@torch.no_grad()
def _pooled(model: AttentionBranchNet, batch: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.stack([sample.image for sample in batch]).to(next(model.parameters()))
    features = model.extract(images)
    attended = model.attended(features, images, None)
    maps, gated = (model.layout.to_maps(found.x, images) for found in (features, attended))
    before, after = (tensor.float().mean(dim=(2, 3)).cpu() for tensor in (maps, gated))
    return before, after


def project(features: torch.Tensor, seed: int = 0) -> np.ndarray:
    """Return features (N, C), N = 4 or more, as points in the plane, (N, 2), by t-SNE (van der Maaten & Hinton, 2008).

    Neither the distance between groups nor their size means anything; ``separation`` has numbers.

    Raises:
        TimmAbnError: scikit-learn is not installed, or features are not finite.
    """
    check_plot_packages('sklearn')
    from sklearn.manifold import TSNE

    if not bool(features.isfinite().all()):
        raise TimmAbnError('features contain NaN or infinity and cannot be drawn.')
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # not from scikit-learn's start, which is NaN where features are all alike
    random_state = np.random.RandomState(seed)
    start = _principal_components(features) + 1e-6 * random_state.standard_normal((len(features), 2))
    tsne = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=random_state)
    return tsne.fit_transform(features.numpy())


def aligned(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return points (N, 2) turned, and mirrored where that helps, so that they lie as those of a reference, (N, 2).

    The direction of a picture of t-SNE means nothing, and two pictures are easier to compare in the same one.
    """
    centred, other = points - points.mean(axis=0), reference - reference.mean(axis=0)
    u, _, v = np.linalg.svd(centred.T @ other)
    return centred @ u @ v


def _principal_components(features: torch.Tensor) -> np.ndarray:
    """Return the first two principal components, scaled as t-SNE wants its start, shape (N, 2)."""
    centred = (features - features.mean(dim=0)).double()
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    points = torch.zeros(len(features), 2, dtype=torch.float64)
    points[:, : min(2, s.numel())] = (u * s)[:, :2]
    deviation = points[:, 0].std()
    return (points / deviation * 1e-4 if deviation > 0 else points).numpy()


def separation(features: AttendedFeatures, seed: int = 0) -> dict[str, Separation]:
    """Return how well features separate the classes, before and after attention, in the full feature space.

    - 'silhouette' (Rousseeuw 1987): from -1, nearer to another class than to the own, to 1.
    - '5-NN accuracy': is the class the most frequent one among the 5 nearest other images? Ties go to the nearest.

    Both by Euclidean distance, over the images whose class is known; empty if these are of fewer than two classes, or
    each of its own.

    Raises:
        TimmAbnError: scikit-learn is not installed.
    """
    check_plot_packages('sklearn')
    from sklearn.metrics import silhouette_samples

    known = torch.tensor([label is not None for label in features.labels])
    labels = torch.tensor([label for label in features.labels if label is not None])
    if not 2 <= len(labels.unique()) < len(labels):
        return {}
    columns = features.before[known], features.after[known]
    found = {}
    for name, measure in (
        ('silhouette', lambda points: silhouette_samples(points.numpy(), labels.numpy())),
        (f'{NEIGHBOURS}-NN accuracy', lambda points: _neighbours_agree(points, labels).numpy()),
    ):
        before, after = (np.asarray(measure(points), dtype=np.float64) for points in columns)
        found[name] = Separation(*(bootstrap_mean(list(values), seed) for values in (before, after, after - before)))
    return found


def _neighbours_agree(points: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return for each image whether most of its nearest neighbours are of its class, shape (N,), float."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(points) - 1)
    # without points that are asked for, those of each point itself are left out
    nearest = torch.from_numpy(NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False))
    # of equal counts the class of the nearest wins, whose part is greater than that of all others together
    weights = (1 + 1e-3 * 0.5 ** torch.arange(count)).expand(len(points), -1)
    votes = torch.zeros(len(points), int(labels.max()) + 1).scatter_add_(1, labels[nearest], weights)
    return (votes.argmax(dim=1) == labels).float()
