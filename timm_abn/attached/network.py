"""AttachedNet: a classifier as it is, which also says where in an image the evidence for a class lies.

images ─► backbone.forward_features ─► last features ─► backbone.forward_head ─► logits, those of the backbone
                    │                        └─► forward_head at each place ─► class maps: evidence for each class
                    │                            (of a ViT traced back through the last attention)
                    └─► features before the last stage ─► refinement (if trained) ─► attention map of one class
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn as nn
from timm.models import get_model_input_config

from ..backbone import create_backbone, name_of
from ..errors import TimmAbnError, one_line
from ..maps.explanation import Explanation, check_classes
from ..networks.scripting import ignored_by_torchscript
from ..networks.split_network import groups_within
from ..records import answers, are_exclusive, explained_by, known_of, num_answers, set_record
from ..split.cut import default_stage
from ..split.module_copy import copy_module, meta_tensors
from .evidence import find_places, is_linear
from .last_attention import can_be_traced, trace_back
from .refinement import Refinement, standardize_maps

__all__ = ['AttachedNet', 'Seen']


class Seen(NamedTuple):
    """What a forward pass sees: last features as the backbone lays them out, as maps, and features at the cut.

    Where evidence is traced back, the maps are what the classifier is given from each position (``trace_back``).
    """

    features: torch.Tensor
    last: torch.Tensor
    cut: torch.Tensor | None


class AttachedNet(nn.Module):
    """A trained classifier that stays as it is, with maps of what its own head says of each place.

    Its logits are those of the backbone, bit for bit. Nothing is trained and no gradients are needed; a ``refinement``
    can be trained on photos (``timm-abn attach``), and makes the map of one class finer and more faithful. No map
    gates. The backbone stays in evaluation mode.

    Attributes:
        backbone: The classifier.
        places: How its last features are laid out.
        is_traced: Whether the evidence is traced back through the last attention.
        refinement: None where nothing was trained.
    """

    __jit_unused_properties__: ClassVar[list[str]] = ['_model_args', 'cut_stage', 'global_pool']

    def __init__(
        self,
        backbone: str | nn.Module = 'resnet50',
        pretrained_backbone: bool | str = False,
        refined: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            backbone: Name of a timm model, or a model, which then is part of this one and in evaluation mode.
            pretrained_backbone: Load timm's weights of the backbone, or those of this file.
            refined: Whether there is a refinement.
            device: Where to create parameters.
            dtype: Type of the parameters.
            **kwargs: Arguments of ``timm.create_model`` for the backbone.

        Raises:
            TimmAbnError: There is no such backbone, it explains itself already, or no place of it can be explained.
        """
        super().__init__()
        dd: dict[str, Any] = dict(device=device, dtype=dtype)
        if isinstance(backbone, str):
            backbone = create_backbone(backbone, pretrained_backbone, **kwargs, **dd)
        elif kwargs:
            given = ', '.join(f'{name}={value!r}' for name, value in kwargs.items())
            raise TimmAbnError(f'{given}: no argument of a network whose backbone exists already.')
        if hasattr(backbone, 'explain'):
            raise TimmAbnError(f'{name_of(backbone)} explains itself already; pass a plain classifier.')
        self.backbone: Any = backbone.eval()
        self.find_evidence()
        self.in_chans = getattr(backbone, 'in_chans', 3)
        self.take_sizes()
        self.refinement: Refinement | None = self.new_refinement(**dd) if refined else None
        set_record(self, dataclasses.replace(known_of(backbone), explained_by=None))

    @ignored_by_torchscript
    def find_evidence(self) -> None:
        """Find how the evidence at each place is made.

        Raises:
            TimmAbnError: There is none.
        """
        self.places = find_places(self.backbone)
        self.is_linear = is_linear(self.backbone, self.places)
        grid = self.places.grid_of(get_model_input_config(self.backbone)['input_size'])
        self.is_traced = can_be_traced(self.backbone, self.places, grid)

    @ignored_by_torchscript
    def take_sizes(self) -> None:
        """Note what timm asks of a model: the backbone's numbers of classes and features, and its stages."""
        backbone = self.backbone
        for name in ('num_classes', 'num_features', 'head_hidden_size', 'output_fmt', 'feature_dim'):
            if hasattr(backbone, name):
                setattr(self, name, getattr(backbone, name))
        infos = getattr(backbone, 'feature_info', [])
        infos = infos if isinstance(infos, (list, tuple)) else infos.get_dicts()
        self.feature_info = [
            dict(info, module=f'backbone.{info["module"]}') if info.get('module') else dict(info) for info in infos
        ]

    @property
    def cut_stage(self) -> int:
        """Index in ``feature_info`` of the stage whose features a refinement reads."""
        return default_stage(self.feature_info)

    @ignored_by_torchscript
    def new_refinement(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Refinement:
        """Return a refinement that fits, and leaves the evidence as it is until it is trained.

        Raises:
            TimmAbnError: The backbone does not give the features that it reads.
        """
        probe: Any = copy_module(self, dict(meta_tensors(self))).eval()
        reference = next(self.backbone.parameters())
        size = get_model_input_config(self.backbone)['input_size']
        images = torch.empty((1, *size), device='meta', dtype=reference.dtype)
        try:
            with torch.no_grad():
                seen = probe.look(images, with_cut=True)
        except Exception as error:  # of a dozen types
            name = name_of(self.backbone)
            raise TimmAbnError(
                f'{name} has no features before its last stage to refine with: {one_line(error)}.'
            ) from error
        return Refinement(seen.cut.shape[1], seen.last.shape[1], device=device, dtype=dtype)

    @ignored_by_torchscript
    def train(self, mode: bool = True) -> 'AttachedNet':
        """Set the mode of the refinement; the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K), those of the backbone, of images (B, in_chans, H, W)."""
        return self.backbone(x)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last features of the backbone, as it lays them out."""
        return self.backbone.forward_features(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits (B, K) of last features, or what the classifier is given."""
        return self.backbone.forward_head(x, pre_logits=pre_logits)

    @ignored_by_torchscript
    def look(self, images: torch.Tensor, with_cut: bool) -> Seen:
        """Return what the backbone makes of images, with the features at the cut if the refinement needs them."""
        if self.is_traced:
            return self._look_at_tokens(images)
        if not with_cut:
            features = self.backbone.forward_features(images)
            return Seen(features, self.places.to_maps(features, images), None)
        features, (cut,) = self.backbone.forward_intermediates(images, indices=[self.cut_stage])
        return Seen(features, self.places.to_maps(features, images), cut)

    def _look_at_tokens(self, images: torch.Tensor) -> Seen:
        last, has_prefix = len(self.backbone.blocks) - 1, self.places.num_prefix_tokens > 0
        options: dict[str, Any] = dict(return_prefix_tokens=True) if has_prefix else {}
        indices = sorted({self.cut_stage, last - 1, last})
        features, found = self.backbone.forward_intermediates(images, indices=indices, output_fmt='NLC', **options)
        tokens = dict(zip(indices, (torch.cat(each[::-1], dim=1) if has_prefix else each for each in found)))
        cut = self.places.to_maps(tokens[self.cut_stage], images)
        traced = trace_back(self.backbone, tokens[last - 1], tokens[last], cut.shape[2:])
        return Seen(features, traced, cut)

    @ignored_by_torchscript
    def class_maps(self, last: torch.Tensor) -> torch.Tensor:
        """Return the evidence for each class at each place, a logit, shape (B, K, h, w), from ``Seen.last``."""
        if self.is_traced:
            logits = self.backbone.get_classifier()(self._pre_logits(last))
        else:
            logits = self.backbone.forward_head(self.places.each_alone(last))
        return logits.unflatten(0, (-1, *last.shape[2:])).permute(0, 3, 1, 2)

    def _pre_logits(self, last: torch.Tensor) -> torch.Tensor:
        """Return what the classifier is given of each place, shape (B * h * w, C)."""
        if self.is_traced:
            return last.permute(0, 2, 3, 1).flatten(0, 2)
        return self.backbone.forward_head(self.places.each_alone(last), pre_logits=True)

    @ignored_by_torchscript
    def class_map(self, last: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return the evidence for one answer for each image, shape (B, 1, h, w); ``classes`` has shape (B,)."""
        if not self.is_linear or self.num_classes == 1:
            return self._of_classes(self.class_maps(last), classes)
        rows = self._pre_logits(last).unflatten(0, (-1, last.shape[2] * last.shape[3]))
        classifier = self.backbone.get_classifier()
        evidence = torch.bmm(rows, classifier.weight[classes].unsqueeze(2))
        if classifier.bias is not None:
            evidence = evidence + classifier.bias[classes][:, None, None]
        return evidence.transpose(1, 2).unflatten(2, last.shape[2:])

    def _of_classes(self, class_maps: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        class_maps = answers(class_maps, are_exclusive(self))
        # indexing with arange would fix the batch size of an exported graph
        return class_maps.gather(1, classes[:, None, None, None].expand(-1, 1, *class_maps.shape[2:]))

    @ignored_by_torchscript
    def map_of(self, seen: Seen, evidence: torch.Tensor) -> torch.Tensor:
        """Return the map (B, 1, h, w) of one answer for each image, of mean 0 over the places, from its evidence."""
        if self.refinement is None:
            return standardize_maps(evidence)
        assert seen.cut is not None
        z = self.refinement(seen.cut, seen.last, evidence)
        return z - z.mean(dim=(2, 3), keepdim=True)

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(
        self, images: torch.Tensor, classes: torch.Tensor | None = None, class_maps: bool = True
    ) -> Explanation:
        """Predict, and say where the evidence lies: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).
            classes: Which class (label, answer) to explain, shape (B,); by default the most probable one of each image.
            class_maps: Whether to return the evidence for all classes, too.

        Returns:
            ``logits`` (B, K) of the backbone; ``attention_map`` (B, 1, h, w) of the class, of mean 0 over the places:
            above 0 is evidence for it; ``class_maps`` (B, K, h, w), a logit for each class at each place, or None.

        Raises:
            TimmAbnError: Images or classes have another shape, or there is no such class.
        """
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise TimmAbnError(f'images must have shape (B, {self.in_chans}, H, W), got {tuple(images.shape)}.')
        seen = self.look(images, self.refinement is not None)
        logits = self.backbone.forward_head(seen.features)
        exclusive = are_exclusive(self)
        if classes is None:
            classes = answers(logits, exclusive).argmax(dim=1)
        else:
            check_classes(classes, len(images), num_answers(self))
            classes = classes.to(logits.device, torch.long)
        of_all = self.class_maps(seen.last) if class_maps else None
        evidence = self.class_map(seen.last, classes) if of_all is None else self._of_classes(of_all, classes)
        return Explanation(
            logits=logits,
            attention_map=self.map_of(seen, evidence),
            class_maps=of_all,
            map_gates=False,
            exclusive=exclusive,
            explained_by=explained_by(self),
            classes=classes,
        )

    @property
    def _model_args(self) -> dict[str, Any]:
        """timm's record of how to build the network again, which it saves with the weights."""
        return self.__dict__.get('_recorded_args', {})

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        # the saved weights replace those that the backbone started from, which may be a file of this machine
        self.__dict__['_recorded_args'] = {key: arg for key, arg in args.items() if key != 'pretrained_backbone'}

    @property
    def global_pool(self) -> str | None:
        """Type of pooling of the backbone."""
        return getattr(self.backbone, 'global_pool', None)

    def extra_repr(self) -> str:
        """Return what the network explains."""
        refined = 'refined' if self.refinement is not None else 'not refined'
        form = 'traced back through the last attention' if self.is_traced else f'at each place ({self.places.layout})'
        return f'{name_of(self.backbone)}, evidence of its head {form}, {refined}'

    @ignored_by_torchscript
    def forward_intermediates(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return features of stages of the backbone (timm's ``forward_intermediates``)."""
        return self.backbone.forward_intermediates(x, *args, **kwargs)

    @ignored_by_torchscript
    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> Any:
        """Remove what features of given stages of the backbone do not need; nothing can be explained then."""
        return self.backbone.prune_intermediate_layers(*args, **kwargs)

    @ignored_by_torchscript
    def get_classifier(self) -> Any:
        """Return the classifier of the backbone."""
        return self.backbone.get_classifier()

    @ignored_by_torchscript
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier of the backbone."""
        self.backbone.reset_classifier(num_classes, *(() if global_pool is None else (global_pool,)))
        if num_classes > 0:
            self.find_evidence()
        self.take_sizes()

    @ignored_by_torchscript
    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Adapt the backbone to images of another size."""
        if hasattr(self.backbone, 'set_input_size'):
            self.backbone.set_input_size(*args, **kwargs)
            self.find_evidence()

    @ignored_by_torchscript
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory in the backbone."""
        self.backbone.set_grad_checkpointing(enable)

    @ignored_by_torchscript
    def group_matcher(self, coarse: bool = False) -> Mapping[str, Any] | Callable[[str], Any]:
        """Return the backbone's groups of parameters; the refinement falls into the last."""
        if not hasattr(self.backbone, 'group_matcher'):
            return dict(stem=r'^backbone\.')
        return groups_within(self.backbone.group_matcher(coarse=coarse), ('backbone',))

    @ignored_by_torchscript
    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that want no weight decay."""
        own: Sequence[str] = self.backbone.no_weight_decay() if hasattr(self.backbone, 'no_weight_decay') else ()
        names = {f'backbone.{name}' for name in own}
        return names if self.refinement is None else {*names, 'refinement.scale'}
