"""Accuracy where classes are uneven: the mean over classes, and how well probabilities put images of a class first."""

from collections.abc import Sequence

import torch

__all__ = ['are_uneven', 'area_under_roc', 'balanced_accuracy', 'uneven_scores']

UNEVEN = 1.5


def are_uneven(labels: Sequence[int]) -> bool:
    """Return whether one class has more than 1.5 times the images of another; those without images do not count."""
    counts = torch.as_tensor(labels).unique(return_counts=True)[1]
    return len(counts) > 1 and bool(counts.max() > UNEVEN * counts.min())


def uneven_scores(labels: Sequence[int], probabilities: torch.Tensor) -> dict[str, float]:
    """Return ``balanced_accuracy`` and ``area_under_roc`` where classes are uneven (``are_uneven``), else nothing."""
    if not are_uneven(labels):
        return {}
    return dict(
        balanced_accuracy=balanced_accuracy(labels, probabilities.argmax(dim=1)),
        area_under_roc=area_under_roc(labels, probabilities),
    )


def balanced_accuracy(labels: Sequence[int], predicted: torch.Tensor) -> float:
    """Return the mean over the classes that have images of the share of these that is predicted rightly.

    Labels and predicted classes are of N images. Source: Brodersen et al., "The Balanced Accuracy and Its Posterior
    Distribution", ICPR 2010.
    """
    true = torch.as_tensor(labels)
    right = (predicted.cpu() == true).double()
    return torch.stack([right[true == index].mean() for index in true.unique()]).mean().item()


def area_under_roc(labels: Sequence[int], probabilities: torch.Tensor) -> float:
    """Return the area under the ROC curve, the mean over the classes that have images.

    It is the chance that an image of a class has a greater probability of it than an image of another class, where
    equal ones count half (Hanley & McNeil, Radiology 143, 1982). Labels are of two classes or more, probabilities of
    shape (N, K).
    """
    true, areas = torch.as_tensor(labels), []
    for index in true.unique():
        own = probabilities[:, index].double().cpu()
        inside, outside = own[true == index], own[true != index].sort().values
        below, up_to = (torch.searchsorted(outside, inside, right=right) for right in (False, True))
        areas.append((below + up_to).double().mean() / (2 * len(outside)))
    return torch.stack(areas).mean().item()
