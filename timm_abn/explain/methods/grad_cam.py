"""Grad-CAM (Selvaraju et al., ICCV 2017, arXiv 1610.02391), through the second half of the model alone."""

import torch
import torch.nn as nn

from ...split import Features
from .explainer import Explainer, full_precision, target_classes
from .halves import halves_of

__all__ = ['GradCamExplainer']


class GradCamExplainer(Explainer):
    """Channels of the features, weighted by the mean gradient of the target's logit, summed, and without the negative.

    ``maps = ReLU(sum_c mean_hw(d logit / d A_c) A_c)``. The features ``A`` are those of the last stage, as in the paper
    (section 3); in an Attention Branch Network the map gates what leads there, of several tasks that of the target.
    Where a classifier reads the class token alone, other tokens have no gradients behind the last block: there it is
    the block before. Tokens are laid out as maps, prefix tokens left out. Up to the layer nothing is kept for
    gradients, and none are computed for weights.
    """

    name = 'grad_cam'

    def __init__(self, model: nn.Module, layer: str | None = None) -> None:
        """
        Args:
            model: A timm model, with or without an attention branch.
            layer: Path, in the backbone, of another module at which it can be cut exactly, such as 'layer3'; or 'cut',
                the default split, before the last stage, or where an Attention Branch Network applies its map.

        Raises:
            SplitError: There is no such module, or no exact cut there.
            TimmAbnError: The model has no classes, or the layer comes before the attention map.
        """
        super().__init__(model)
        self._halves = halves_of(model, layer)
        self.layer = self._halves.path

    def _maps(self, images: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        targets = self._halves.targets(images, targets)
        features = self._halves.extract(images, targets)
        gradients = self._gradients(features, targets)
        weights = full_precision(self._halves.to_maps(gradients, images)).mean(dim=(2, 3))
        maps = torch.einsum('bc,bchw->bhw', weights, full_precision(self._halves.to_maps(features.x, images)))
        return maps.relu().unsqueeze(1)

    @torch.enable_grad()
    def _gradients(self, features: Features, targets: torch.Tensor | None) -> torch.Tensor:
        leaf = features.x.detach().requires_grad_()
        # a copy, because some perception branches begin with an activation in place
        logits = self._halves.forward_perception(features._replace(x=leaf.clone()))
        score = logits.gather(1, target_classes(logits, targets).unsqueeze(1)).sum()
        return torch.autograd.grad(score, leaf)[0]
