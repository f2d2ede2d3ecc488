"""Cascading randomisation: does a map change when the network forgets what it has learned?

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3 (cascading randomisation). The weights of one
module after the other are drawn anew, from the output to the input; the maps of the classes that the trained network
predicted are compared with those of the trained network. A map that stays similar shows the image, not the network.
"""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn as nn

from .checks import check_evaluation_mode, check_images, check_positive
from .predictions import Explainer, Targets, predict, resolve_targets
from .similarity import rank_correlation

__all__ = ['cascading_randomisation', 'randomised_models']


def cascading_randomisation(
    model: nn.Module,
    images: torch.Tensor,
    explainer_factory: Callable[[nn.Module], Explainer],
    targets: Targets | None = None,
    similarity: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = rank_correlation,
    seed: int = 0,
    batch_size: int = 64,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the name of each module that was drawn anew, and how similar the maps still are, shape (B,).

    Args:
        model: A classifier, in evaluation mode; it is left as it is.
        images: Normalised images, shape (B, C, H, W).
        explainer_factory: Makes an explainer of a model.
        targets: Class or task of each image; by default those that the model predicts.
        similarity: Of the trained network's maps and those of the other, each (B, 1, h, w), to (B,).
        seed: Of the weights.
        batch_size: How many images pass the model, or are given to an explainer, at once.
    """
    check_evaluation_mode(model)
    check_images(images)
    check_positive('batch_size', batch_size)
    targets, _ = resolve_targets(predict(model, images, batch_size), targets)
    batches = list(zip(images.split(batch_size), targets.split(batch_size), strict=True))

    def explain(explained: nn.Module) -> torch.Tensor:
        explainer = explainer_factory(explained)
        return torch.cat([explainer(*batch).detach() for batch in batches])

    maps = explain(model)
    for name, randomised in randomised_models(model, seed):
        yield name, similarity(maps, explain(randomised))


def randomised_models(model: nn.Module, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Yield the name of each module with weights, from the last to the first, and the model that has lost them.

    It is one copy, of which more and more is drawn anew by the modules' own ``reset_parameters``; statistics of batch
    norm are reset with them. The state of PyTorch's random numbers is the same afterwards.

    Args:
        model: Is left as it is.
        seed: The weights of each module follow from this and its place. (Quantus 0.6 seeds all of them alike, so that
            modules of the same shape get the same weights.)
    """
    randomised = copy.deepcopy(model)
    modules = [(name, module) for name, module in randomised.named_modules() if hasattr(module, 'reset_parameters')]
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    for place, (name, module) in enumerate(reversed(modules)):
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(seed + place)
            module.reset_parameters()
        yield name, randomised
