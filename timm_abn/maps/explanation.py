"""Explanation: what a model says about its own prediction, and how to show it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import torch

from ..errors import TimmAbnError
from ..records import EXPLAINED_BY, answers, probabilities_of
from ..staging import staged_files
from .operations import less_mean, normalize_maps, overlay_maps, upsample_maps

__all__ = ['Explanation', 'MultiTaskExplanation']


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Predictions and their maps, for a batch of images.

    ``explanation[i]`` is the explanation of one image and keeps the batch dimension; a slice, a list of indices, or a
    mask of shape (B,) selects several. All methods work on the whole batch, on the device of the tensors.

    For a model with one logit, methods take and return the answers no and yes as classes 0 and 1: their probabilities
    are 1 - p and p, and their class maps are minus and plus half of the model's single map.

    Attributes:
        logits: Shape (B, K), the model's prediction.
        attention_map: Shape (B, 1, h, w), at the resolution of the features, or ``map_scale`` times as fine; in [0, 1]
            for sigmoid maps.
        attention_logits: Shape (B, K), the attention branch's own prediction; None for a model without such a branch.
        class_maps: Shape (B, K, h, w), a logit for each class at each position; None if the model has none. Their
            spatial means are the attention logits, or the logits if there is no attention branch (CAM). Adding one map
            to those of all classes changes no probability, so only differences between classes carry meaning:
            ``contrast_map`` computes them.
        map_gates: Whether the attention map took part in the prediction. False for an attached network, whose
            prediction does not change: its map is the evidence for a class, with mean 0, drawn where it is above 0.
        exclusive: Whether classes exclude each other; labels, each with its own yes or no, do not.
        explained_by: Which map explains the model best, see ``timm_abn.records.Record``; ``explaining_map`` returns it.
        classes: The class of each attention map, shape (B,); None for maps that are the same for all classes.
    """

    logits: torch.Tensor
    attention_map: torch.Tensor
    attention_logits: torch.Tensor | None = None
    class_maps: torch.Tensor | None = None
    map_gates: bool = True
    exclusive: bool = True
    explained_by: str = EXPLAINED_BY[0]
    classes: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | torch.Tensor) -> 'Explanation':
        rows = self._rows(index)
        tensors: dict[str, Any] = {name: tensor[rows] for name, tensor in self._tensors().items()}
        return dataclasses.replace(self, **tensors)

    def _rows(self, index: Any) -> slice | torch.Tensor:
        """Return what takes the images of an index from a tensor, and keeps the batch dimension."""
        if isinstance(index, slice):
            return torch.tensor(range(len(self))[index]) if (index.step or 1) < 0 else index
        if getattr(index, 'ndim', 0) == 0 and hasattr(index, '__index__'):  # of NumPy and PyTorch, too
            start = range(len(self))[index]  # raises IndexError, which ends an iteration
            return slice(start, start + 1)
        try:
            rows = torch.as_tensor(index if len(index) else torch.empty(0, dtype=torch.long))
        except (TypeError, ValueError, RuntimeError):
            rows = torch.empty(())
        is_mask = rows.dtype == torch.bool and rows.shape == (len(self),)
        if not is_mask and (rows.ndim != 1 or rows.dtype == torch.bool or rows.is_floating_point()):
            raise TimmAbnError(
                f'an explanation takes an index, a slice, a list of indices or a mask of {len(self)}, got {index!r}.'
            )
        return rows.to(self.logits.device, torch.bool if is_mask else torch.long)  # bytes would count as a mask

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return those of the fields that the model filled, by name."""
        tensors = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}

    def top_k(self, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities and indices of the most probable classes or tasks, shape (B, k), in descending order.

        Args:
            k: How many; all if there are fewer.

        Raises:
            TimmAbnError: ``k`` is less than 1.
        """
        if k < 1:
            raise TimmAbnError(f'k must be 1 or more, got {k}.')
        probabilities = self.probabilities
        top = probabilities.topk(min(k, probabilities.shape[1]), dim=1)
        return top.values, top.indices

    @property
    def probabilities(self) -> torch.Tensor:
        """Probabilities of the classes (softmax), or of yes for each label or task, shape (B, K), in float32."""
        return probabilities_of(self.logits.float(), self.exclusive)

    def class_map(self, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Return the class map of one class for each image, shape (B, 1, h, w); see ``class_maps`` for what it means.

        Args:
            classes: Index of a class for each image, shape (B,); by default the most probable one.

        Raises:
            TimmAbnError: The model has no class maps, or ``classes`` are not one valid index per image.
        """
        class_maps, (num_classes, height, width) = self._class_maps(), self._class_maps().shape[1:]
        logits = answers(self.logits, self.exclusive)
        classes = logits.argmax(dim=1) if classes is None else classes
        check_classes(classes, len(self), num_classes)
        index = classes.to(class_maps.device, torch.long)[:, None, None, None]
        return class_maps.gather(1, index.expand(-1, 1, height, width))

    def contrast_map(self, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Return what speaks for one class and against the others, shape (B, 1, h, w), in float32 or float64.

        This is its class map minus the mean of the other classes' maps: above 0 where the class is ahead of them, below
        0 where it is behind. Like the probabilities of the softmax, and unlike the class map, it does not change if the
        same map is added to those of all classes.

        Args:
            classes: Index of a class for each image, shape (B,); by default the most probable one.

        Raises:
            TimmAbnError: The model has no class maps, or its classes do not exclude each other; or ``classes`` are
                not one valid index per image.
        """
        if not self.exclusive:
            raise TimmAbnError(
                'the labels or tasks of this network do not exclude each other, so there is no contrast between '
                'them; the class map of each is itself yes against no.'
            )
        class_maps, class_map = self._class_maps(), self.class_map(classes)
        others = class_maps.shape[1] - 1
        if class_maps.dtype != torch.float64:
            class_maps, class_map = class_maps.float(), class_map.float()
        # differences first: of classes whose maps are equal they are 0, without rounding
        return (class_map - class_maps).sum(dim=1, keepdim=True) / others

    def explaining_map(self, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Return the map that the model's record names as its best explanation, shape (B, 1, h, w).

        'attention' is the attention map (for several tasks, that of one); 'class_map' is the class map minus its
        spatial mean, above 0 where it speaks for the class; 'contrast' is ``contrast_map``; 'product' is the attention
        map times the class map stretched to [0, 1].

        Args:
            classes: Index of a class, or task, for each image, shape (B,); by default the most probable one.

        Raises:
            TimmAbnError: See ``class_map`` and ``contrast_map``; or the attention map is for another class, or is
                evidence for a class, which has no product.
        """
        self._check_classes(classes)
        if self.explained_by == 'contrast':
            return self.contrast_map(classes)
        if self.explained_by == 'class_map':
            return less_mean(self.class_map(classes))
        attention_map = self.attention_map
        if attention_map.shape[1] > 1:
            tasks = self.logits.argmax(dim=1) if classes is None else classes.to(attention_map.device)
            attention_map = attention_map.gather(1, tasks[:, None, None, None].expand(-1, 1, *attention_map.shape[2:]))
        if self.explained_by == 'attention':
            return attention_map
        class_map = normalize_maps(self.class_map(classes))
        return attention_map * upsample_maps(class_map, attention_map.shape[2:])

    def _check_classes(self, classes: torch.Tensor | None) -> None:
        """Raise TimmAbnError where the attention map is asked for as that of a class which it is not of."""
        if self.classes is not None and self.explained_by == 'product':
            raise TimmAbnError('there is no product: the attention map of this model is evidence, and gates nothing.')
        own = self.classes if self.explained_by == 'attention' else None
        if own is not None and classes is not None and not torch.equal(classes.to(own.device), own):
            raise TimmAbnError(
                f'the attention maps are of classes {own.tolist()}, not {classes.tolist()}: explain(images, classes) '
                'makes those for others.'
            )

    def heatmap(self, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``explaining_map`` as it is drawn, shape (B, 1, h, w), each map stretched to [0, 1].

        From a map with both signs it keeps what speaks for the class; ``timm_abn.data.images.draw_overlay`` draws it.

        Args:
            classes: See ``explaining_map``.

        Raises:
            TimmAbnError: See ``explaining_map``.
        """
        return normalize_maps(self._drawn_map(classes))

    def _drawn_map(self, classes: torch.Tensor | None = None) -> torch.Tensor:
        """Return the part of ``explaining_map`` that is drawn: of a map with both signs what speaks for the class."""
        maps = self.explaining_map(classes)
        has_both_signs = self.explained_by in ('class_map', 'contrast') or not self.map_gates
        return maps.clamp(min=0) if has_both_signs else maps

    def _class_maps(self) -> torch.Tensor:
        if self.class_maps is None:
            raise TimmAbnError('the model has no class maps, only an attention map.')
        return answers(self.class_maps, self.exclusive)

    def upsample(self, size: tuple[int, int], interpolation: str = 'bilinear') -> torch.Tensor:
        """Return the attention map at another size, shape (B, 1, H, W), in the range of the original.

        Args:
            size: Height and width.
            interpolation: 'bilinear' or 'bicubic'.

        Raises:
            TimmAbnError: There is no such interpolation, or ``size`` is not positive.
        """
        return upsample_maps(self.attention_map, size, interpolation)

    def overlay(
        self,
        images: torch.Tensor,
        maps: torch.Tensor | None = None,
        alpha: float = 0.5,
        colormap: str = 'viridis',
        interpolation: str = 'bilinear',
        normalize: bool = True,
    ) -> torch.Tensor:
        """Return images with a map laid over them in colour, shape (B, 3, H, W), in the type of ``images``.

        Args:
            images: Images to draw on, shape (B, 3, H, W) or (B, 1, H, W): floats in [0, 1], without normalisation (see
                ``timm_abn.data.images.denormalize``), or uint8.
            maps: Maps to show, shape (B, 1, h, w), such as ``contrast_map()``; by default ``explaining_map()``, with
                both signs only where it is above 0.
            alpha: Opacity of the colours, in [0, 1].
            colormap: 'viridis', 'inferno' or 'magma'; for values with both signs 'coolwarm', neutral in the middle.
            interpolation: 'bilinear' or 'bicubic'.
            normalize: Stretch each map to [0, 1], which shows where the map is greater than elsewhere in the image; a
                flat map becomes 0. With 'coolwarm', 0 becomes 0.5 and the greatest magnitude 0 or 1. Without it,
                colours are comparable between images, and values outside [0, 1] are clamped.

        Raises:
            TimmAbnError: An argument has no meaning, or the wrong shape.
        """
        if maps is None and self.attention_map.shape[1] != 1:
            raise TimmAbnError(
                f'there are {self.attention_map.shape[1]} attention maps, one per task; choose one, for '
                f'example maps=explanation.attention_map[:, [0]].'
            )
        maps = self._drawn_map() if maps is None else maps
        if images.ndim != 4 or maps.ndim != 4 or maps.shape[1] != 1 or len(maps) != len(images):
            raise TimmAbnError(
                f'images must have shape (B, 3, H, W) and maps (B, 1, h, w) with the same B, got {tuple(images.shape)} '
                f'and {tuple(maps.shape)}.'
            )
        return overlay_maps(images, maps, alpha, colormap, interpolation, normalize)

    def save(
        self,
        folder: str | Path,
        images: torch.Tensor,
        names: Sequence[str] | None = None,
        **overlay_kwargs: object,
    ) -> list[Path]:
        """Write ``explanation.safetensors`` and one overlay per image (and task), and return the paths of overlays.

        Either all files are written or none; files of the same name are replaced.

        Args:
            folder: Folder to write to; created if it does not exist.
            images: See ``overlay``.
            names: Names of the images, without '.png'; '0', '1', ... by default. With several tasks, the index of the
                task follows, as in '0.39.png'.
            **overlay_kwargs: Other arguments of ``overlay``.

        Raises:
            TimmAbnError: Names are not one per image, not different, or not names of files, or see ``overlay``.
        """
        from safetensors.torch import save_file
        from torchvision.transforms.functional import to_pil_image

        names = [*map(str, range(len(self)))] if names is None else list(names)
        if len(names) != len(self) or len(set(names)) != len(names):
            raise TimmAbnError(f'names must be {len(self)} different ones, one per image, got {names}.')
        if any(Path(name).name != name for name in names):
            raise TimmAbnError(f'names must be file names without a folder, got {names}.')
        pictures = self._pictures(images, names, **overlay_kwargs)
        # copies, because raw maps are class maps and attention maps in one, and safetensors shares no memory
        contiguous = torch.contiguous_format
        tensors = {name: tensor.clone(memory_format=contiguous) for name, tensor in self._tensors().items()}
        with staged_files(folder) as staging:
            save_file(tensors, staging / 'explanation.safetensors', metadata=dict(explained_by=self.explained_by))
            for name, picture in pictures.items():
                to_pil_image(picture.float() if picture.is_floating_point() else picture).save(staging / f'{name}.png')
        return [Path(folder) / f'{name}.png' for name in pictures]

    def _pictures(self, images: torch.Tensor, names: Sequence[str], **overlay_kwargs: Any) -> dict[str, torch.Tensor]:
        return dict(zip(names, self.overlay(images, **overlay_kwargs).cpu(), strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class MultiTaskExplanation(Explanation):
    """Answers to several binary tasks and the map of each, for a batch of images (paper, section 3.4).

    Attributes:
        logits: Shape (B, T), the model's predictions; their sigmoids are the probabilities of yes.
        attention_map: Shape (B, T, h, w), one map per task; in [0, 1] for sigmoid maps, of any value for raw ones.
        attention_logits: Shape (B, T), the attention branch's own predictions.
        class_maps: Shape (B, T, h, w), a logit of yes for each task at each position; their spatial means are the
            attention logits. Each has a meaning on its own, since it already compares yes with no.
    """

    exclusive: bool = False

    def _pictures(self, images: torch.Tensor, names: Sequence[str], **overlay_kwargs: Any) -> dict[str, torch.Tensor]:
        """Return an overlay for each image and task, under '<name of the image>.<index of the task>'."""
        if overlay_kwargs.get('maps') is not None:
            return super()._pictures(images, names, **overlay_kwargs)
        pictures = {}
        for task in range(self.attention_map.shape[1]):
            tasks = self.logits.new_full((len(self),), task, dtype=torch.long)
            overlays = self.overlay(images, self._drawn_map(tasks), **overlay_kwargs)
            pictures.update({f'{name}.{task}': overlay for name, overlay in zip(names, overlays.cpu(), strict=True)})
        return pictures


def check_classes(classes: torch.Tensor, images: int, num_classes: int) -> None:
    """Raise TimmAbnError unless ``classes`` are one valid index for each of so many images."""
    is_index = isinstance(classes, torch.Tensor) and classes.dtype in (torch.int64, torch.int32)
    if not is_index or classes.shape != (images,) or bool(((classes < 0) | (classes >= num_classes)).any()):
        found = classes.tolist() if isinstance(classes, torch.Tensor) else classes
        raise TimmAbnError(
            f'classes must be one index from 0 to {num_classes - 1} for each of {images} images, got {found}.'
        )
