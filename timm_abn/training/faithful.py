"""FaithfulTraining: in training, a network also predicts through its own maps, so that a loss can make them faithful.

The paper's loss (Eq. 3) does not require an attention map to be faithful, and it is not: a constant does as well. Here
a second pass predicts from the image masked by the map, and a loss can require the same prediction. T-TAME (Ntrougkas
et al., arXiv 2403.04523) does this with a separate branch, trained after the network. A third pass can predict from the
features where the map is not, which a loss can require to reveal nothing; GAIN (Li et al., CVPR 2018, arXiv 1802.10171)
requires this of images.

    model = FaithfulTraining(network)  # around this DistributedDataParallel, torch.compile, ...
    criterion = FaithfulMapLoss(nn.CrossEntropyLoss())
    loss = criterion(model(images), targets)
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..networks.config import check_choice
from ..networks.multi_task import MultiTaskAttentionBranchNet
from ..networks.network import AttentionBranchNet
from ..networks.split_network import SplitNetwork
from .errors import TrainingError

__all__ = [
    'BACKGROUNDS',
    'FaithfulTraining',
    'TrainingOutput',
    'complement_of',
    'mask_images',
]

BACKGROUNDS = ('blur', 'mean', 'mixed')


class TrainingOutput(NamedTuple):
    """Output of the wrapper in training; the first two are the outputs of every network.

    Attributes:
        logits: Shape (B, K).
        attention_logits: Shape (B, K).
        attention_map: Shape (B, 1, h, w), or (B, T, h, w).
        masked_logits: Logits of the masked image, shape (B, K); for several tasks (B, 1), that of the task whose map
            was used. None if not requested.
        tasks: The task whose map was used, drawn for each image, shape (B,); None for a network with one map.
        flipped_map: The map of the image flipped left to right, flipped back; None if not requested.
        complement_logits: Logits of the features where the map is not, shaped like ``masked_logits``; None if not
            requested.
    """

    logits: torch.Tensor
    attention_logits: torch.Tensor
    attention_map: torch.Tensor
    masked_logits: torch.Tensor | None = None
    tasks: torch.Tensor | None = None
    flipped_map: torch.Tensor | None = None
    complement_logits: torch.Tensor | None = None


class FaithfulTraining(nn.Module):
    """Wraps a network so that training returns what losses of the maps need, a ``TrainingOutput``.

    The network sees each image twice per step: unmasked, and masked by its map. Running statistics of batch norm come
    from the unmasked images. In evaluation mode the wrapper changes nothing. Like ``DistributedDataParallel``, it holds
    the network as ``module``.
    """

    def __init__(
        self, network: SplitNetwork, background: str | None = 'mixed', flips: bool = False, complement: bool = False
    ) -> None:
        """
        Args:
            network: The network, whose maps are in [0, 1].
            background: What replaces the part that the map does not keep: 'blur', the image under a Gaussian blur;
                'mean', the mean colour; 'mixed', one of these or another image of the batch, drawn for each image, so
                that the network cannot memorise a baseline. None skips the masked image.
            flips: Whether to compute the map of the flipped image.
            complement: Whether to compute the prediction from where the map is not.

        Raises:
            TimmAbnError: There is no such background, maps are not in [0, 1], or the mechanism hides nothing.
        """
        super().__init__()
        if background is not None:
            check_choice('background', background, BACKGROUNDS)
        kind = network.config.attention_map
        if (background is not None or complement) and kind != 'sigmoid':
            use = 'have a complement' if background is None else 'show an image'
            raise TrainingError(f"only maps in [0, 1] {use}: attention_map='sigmoid', not {kind!r}.")
        if complement and network.config.mechanism == 'residual':
            raise TrainingError("complement needs mechanism='product', got 'residual': Eq. 2 hides nothing.")
        self.module = network
        self.background, self.flips, self.complement = background, flips, complement

    def forward(self, images: torch.Tensor) -> Any:
        """Return a ``TrainingOutput`` of images (B, in_chans, H, W); in evaluation mode logits."""
        network: Any = self.module
        if not self.training:
            return network(images)
        seen = network.forward_pass(images)
        masked_logits = complement_logits = flipped_map = None
        has_answers = network.num_classes > 0
        tasks = self._draw_tasks(seen.attention_map) if has_answers else None
        kept = _of_tasks(seen.attention_map, tasks)
        with keep_running_statistics(network):
            if has_answers and self.background is not None:
                masked_logits = self.answer_through(mask_images(images, kept, self.background), tasks)
            if has_answers and self.complement:
                rest = complement_of(kept, network.config.is_hard)
                complement_logits = self._answer(seen.features, rest, tasks)
            if self.flips:
                flipped = images.flip(-1)
                flipped_map = network.attention_map(network.extract(flipped), flipped, None).flip(-1)
        attention_logits = network.attention_branch.attention_logits(seen.class_features)
        return TrainingOutput(
            seen.logits, attention_logits, seen.attention_map, masked_logits, tasks, flipped_map, complement_logits
        )

    def _draw_tasks(self, maps: torch.Tensor) -> torch.Tensor | None:
        """Return the task whose map counts, drawn for each image; None with one map, or where none counts."""
        if maps.shape[1] == 1 or not (self.background is not None or self.complement):
            return None
        return torch.randint(maps.shape[1], (len(maps),), device=maps.device)

    def answer_through(self, masked: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
        """Return logits of images seen through their maps; of several tasks that of the one whose map it was."""
        network: Any = self.module
        features = network.extract(masked)
        maps = network.attention_map(features, masked, None)
        return self._answer(features, _of_tasks(maps, tasks), tasks)

    def _answer(self, features: Any, maps: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
        """Return logits of features under one map per image, shape (B, 1, h, w); of several tasks that of its own."""
        if tasks is not None and isinstance(self.module, MultiTaskAttentionBranchNet):
            return self.module.predict_task(features, maps, tasks)
        assert isinstance(self.module, AttentionBranchNet)
        return self.module.predict(features, maps)


def _of_tasks(maps: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
    """Return the map of one task per image, shape (B, 1, h, w), of maps (B, T, h, w); all of them without tasks."""
    return maps if tasks is None else maps[torch.arange(len(maps), device=maps.device), tasks].unsqueeze(1)


def mask_images(images: torch.Tensor, maps: torch.Tensor, background: str) -> torch.Tensor:
    """Return what maps keep of images, ``M * images + (1 - M) * background``, with gradients for the maps.

    Args:
        images: Normalised images, shape (B, C, H, W).
        maps: Shape (B, 1, h, w), in [0, 1]; upsampled bilinearly.
        background: One of ``BACKGROUNDS``.
    """
    kept = F.interpolate(maps, images.shape[2:], mode='bilinear', align_corners=False).to(images.dtype)
    return torch.lerp(_background(images, background), images, kept)


def complement_of(maps: torch.Tensor, hard: bool) -> torch.Tensor:
    """Return maps of where maps in [0, 1] are not; of ``hard`` ones, 0 in most places, these places and no others."""
    return (maps == 0).to(maps.dtype) if hard else 1 - maps


@contextlib.contextmanager
def keep_running_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norm of a network in training mode use the statistics of each batch, and not remember them.

    In evaluation images are unmasked; statistics that masked ones take part in cost accuracy (0.4 to 1.3
    points of ABN-ResNet-20 on Fashion-MNIST). Gradient checkpointing is off meanwhile: it would compute anew once the
    statistics are remembered again.
    """
    switches = [
        (module, name)
        for module in network.modules()
        for name in ('track_running_stats', 'grad_checkpointing')
        if getattr(module, name, False)
    ]
    for module, name in switches:
        setattr(module, name, False)
    try:
        yield
    finally:
        for module, name in switches:
            setattr(module, name, True)


def _background(images: torch.Tensor, background: str) -> torch.Tensor:
    if background == 'mean':
        return torch.zeros_like(images)
    if background == 'blur':
        return _blur(images)
    choices = torch.stack([torch.zeros_like(images), _blur(images), images.roll(1, dims=0)])
    drawn = torch.randint(3 if len(images) > 1 else 2, (len(images),), device=images.device)  # one has no other
    return choices[drawn, torch.arange(len(images), device=images.device)]


def _blur(images: torch.Tensor) -> torch.Tensor:
    """Return images without detail: averaged over an eighth of their sides, and brought back smoothly."""
    size = [max(length // 8, 1) for length in images.shape[2:]]
    coarse = F.interpolate(images, size, mode='area')
    return F.interpolate(coarse, images.shape[2:], mode='bilinear', align_corners=False)
