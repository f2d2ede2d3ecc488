"""The interface of timm's models, for a network of two halves and an attention branch between them."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from timm.models import get_model_args, get_model_input_config, get_model_traits

from ..errors import TimmAbnError
from ..split import Half, Split, cut_backbone, family_of, find_adapter
from ..split.halves import Plan, join_halves
from ..split.module_copy import copy_module, meta_tensors
from ..split.noting import maps_of, noting
from ..split.packing import pack, unpack
from ..timm_private import feature_take_indices, update_model_args, update_model_input_size
from .backbone import name_of
from .feature_layout import FeatureLayout, feature_layout
from .scripting import ignored_by_torchscript

__all__ = ['TimmContract']

HALVES = ('feature_extractor', 'perception_branch')


class TimmContract(nn.Module):
    """Base of the networks: features of stages, classifiers, pruning, sizes, and names of groups of parameters."""

    if TYPE_CHECKING:  # TorchScript would try to compile these types
        feature_extractor: Any
        attention_branch: Any
        perception_branch: Any
        mechanism: Any
        beside_per_image: tuple[bool, ...]
        forward_features: Callable[..., torch.Tensor]
        feature_info: list[dict[str, Any]]
        layout: FeatureLayout
        num_classes: int
        num_extractor_stages: int
        outputs_per_class: int
        split: str
        extract: Callable[[torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]
        _attended_features: Callable[..., tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]]
        _plan: Plan

    @ignored_by_torchscript
    def _take_features_of(self, parts: Split, layout: FeatureLayout) -> None:
        """Store the layout of the features of a cut."""
        self.split = parts.path
        self.num_features = parts.perception_branch.num_features
        self.head_hidden_size = parts.perception_branch.head_hidden_size
        self.num_extractor_stages = parts.num_extractor_stages
        self.feature_info = parts.feature_info
        self.layout = layout
        self.beside_per_image = parts.beside_per_image
        self._plan = parts.plan
        for name in ('output_fmt', 'feature_dim'):  # what some backbones say of their features
            if hasattr(parts.perception_branch, name):
                setattr(self, name, getattr(parts.perception_branch, name))

    @ignored_by_torchscript
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        attention: torch.Tensor | None = None,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Return features of the stages of ``feature_info``; those after the cut have seen the attention map.

        Args:
            x: Images, shape (B, in_chans, H, W).
            indices: The last n stages if int, all if None, else the stages with these indices.
            norm: Apply the backbone's final norm to the features of stages after the cut.
            stop_early: Do not run what comes after the last of the stages asked for.
            output_fmt: Only 'NCHW'.
            intermediates_only: Leave out the final features.
            attention: See ``forward``.

        Returns:
            Final features and a list of features of shape (B, C, h, w), or only the list.

        Raises:
            ValueError: ``output_fmt`` is not 'NCHW', or ``norm`` is asked for a stage before the cut.
        """
        if output_fmt != 'NCHW':
            raise TimmAbnError(f"output_fmt must be 'NCHW', got {output_fmt!r}.")
        take_indices, _ = feature_take_indices(len(self.feature_info), indices)
        before = [index for index in take_indices if index < self.num_extractor_stages]
        after = [index for index in take_indices if index >= self.num_extractor_stages]
        modules = (module for half in HALVES for module in getattr(self, half).modules())
        if find_adapter(self.perception_branch).notes_stages or any(isinstance(module, Half) for module in modules):
            return self._noted_intermediates(x, take_indices, norm, intermediates_only, attention)
        if norm and before and self.layout.layout == 'NLC':
            raise TimmAbnError(f'norm=True is only possible for stages after the cut, not for {before}.')
        if stop_early and not after:
            return self.feature_extractor.forward_intermediates(
                x, indices=before, stop_early=True, output_fmt='NCHW', intermediates_only=intermediates_only
            )
        # an empty list means all to timm, so that the cut itself is asked for in its place
        features, intermediates = self.feature_extractor.forward_intermediates(
            x, indices=before or [max(self.num_extractor_stages - 1, 0)], output_fmt='NCHW'
        )
        intermediates = list(intermediates) if before else []
        features, beside = unpack(features)
        attended, attention_bias, beside = self._attended_features(features, x, attention, beside)
        packed: Any = pack(attended, beside)
        block_arguments = {} if attention_bias is None else dict(attn_mask=attention_bias)
        if not after:
            final = self.perception_branch.forward_features(packed, **block_arguments)
            return intermediates if intermediates_only else (final, intermediates)
        later: Any = find_adapter(self.perception_branch).perception_intermediates(
            self.perception_branch, packed, after, norm, stop_early, intermediates_only, **block_arguments
        )
        if not intermediates_only:
            final, later = later
        intermediates += [self.layout.to_maps(y, x) if y.ndim == 3 else y for y in later]
        return intermediates if intermediates_only else (final, intermediates)

    @ignored_by_torchscript
    def _noted_intermediates(
        self,
        x: torch.Tensor,
        take_indices: list[int],
        norm: bool,
        intermediates_only: bool,
        attention: torch.Tensor | None,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Do what ``forward_intermediates`` does, for halves that compute otherwise than timm's methods."""
        family = family_of(self.perception_branch).__name__
        if norm:
            raise TimmAbnError(f'norm=True is not possible for stages of {family}.')
        infos = {index: self.feature_info[index] for index in take_indices}
        named = dict(self.named_modules())
        paths = [info['module'].partition('.')[2] for info in self.feature_info]
        missing = [info['module'] for info in infos.values() if info['module'] not in named]
        if missing or len(set(paths)) < len(paths):  # streams that one module makes at once cannot be told apart
            what = f'names a stage that is no module: {missing[0].partition(".")[2]!r}' if missing else 'has streams'
            raise TimmAbnError(f'{family} {what}. Its features cannot be returned by stage.')
        with noting({index: named[info['module']] for index, info in infos.items()}) as noted:
            final = self.forward_features(x, attention)
        intermediates = []
        for index, info in infos.items():
            half, _, path = info['module'].partition('.')
            output = find_adapter(self.perception_branch).arranged(getattr(self, half), path, noted[index])
            intermediates.append(maps_of(output, info['num_chs'], info['reduction'], x))
        return intermediates if intermediates_only else (final, intermediates)

    @ignored_by_torchscript
    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what features of the given stages do not need: later stages, and the attention branch before the cut.

        Args:
            indices: The last n stages if int, all if None, else the stages with these indices.
            prune_norm: Remove the backbone's final norm too.
            prune_head: Remove the classifiers too.

        Returns:
            Indices of the stages.
        """
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        if max_index < self.num_extractor_stages:
            self.feature_extractor.prune_intermediate_layers(take_indices, prune_norm=prune_norm, prune_head=prune_head)
            self.attention_branch = None
        self.perception_branch.prune_intermediate_layers(take_indices, prune_norm=prune_norm, prune_head=prune_head)
        self.num_classes = self.perception_branch.num_classes // self.outputs_per_class
        self.num_features = self.perception_branch.num_features
        self.head_hidden_size = self.perception_branch.head_hidden_size
        if self.attention_branch is not None and not self.num_classes:
            self.attention_branch.classifier = nn.Identity()  # nobody asks for attention logits
        return take_indices

    @ignored_by_torchscript
    def get_classifier(self) -> nn.Module:
        """Return the classifier of the perception branch, whose logits are the model's prediction."""
        return self.perception_branch.get_classifier()

    @ignored_by_torchscript
    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifiers of both branches; with ``num_classes`` 0 the attention branch stays as it is.

        Args:
            num_classes: Number of classes, 0 to return pooled features.
            global_pool: Type of pooling, the current one if None.

        Raises:
            ValueError: ``num_classes`` is negative.
        """
        if num_classes < 0:
            raise TimmAbnError(f'num_classes must be 0 (no classifier) or more, got {num_classes}.')
        self.perception_branch.reset_classifier(num_classes * self.outputs_per_class, global_pool)
        if self.attention_branch is not None and num_classes:
            self.attention_branch.reset_classifier(num_classes)
        elif self.attention_branch is not None:
            update_model_args(self, attention_classes=self.attention_branch.num_classes)
        self.num_classes = num_classes
        self.head_hidden_size = self.perception_branch.head_hidden_size

    @ignored_by_torchscript
    def set_input_size(self, img_size: int | tuple[int, int] | None = None, **kwargs: Any) -> None:
        """Adapt the network to images of another size; it then equals one that was built for that size.

        The halves are joined, the backbone adapts itself, and is cut again at the same place.

        Args:
            img_size: Height and width, or one number for both; the current size if None.
            **kwargs: Other arguments of the backbone's own ``set_input_size``, such as ``window_size``.

        Raises:
            TimmAbnError: The backbone cannot be adapted, or images of that size cannot pass the cut.
        """
        if self.attention_branch is None:
            raise TimmAbnError('set_input_size() needs both halves, which prune_intermediate_layers() has changed.')
        family = family_of(self.perception_branch).__name__
        if not hasattr(self.perception_branch, 'set_input_size'):
            if get_model_input_config(self)['fixed_input_size'] or kwargs:
                raise TimmAbnError(f'{family} has no set_input_size: its images keep their size.')
            return  # any size passes it as it is
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        trial: Any = copy_module(self, meta_tensors(self))
        trial._set_input_size(size, **kwargs)  # what fails must not leave this network in pieces
        self._set_input_size(size, **kwargs)

    def _set_input_size(self, img_size: tuple[int, int] | None, **kwargs: Any) -> None:
        backbone: Any = join_halves(self.feature_extractor, self.perception_branch, self._plan)
        before = dict(get_model_args(backbone))
        with self.attention_branch.stage.adapting_with(backbone):
            backbone.set_input_size(img_size=img_size, **kwargs)
        # what the backbone records of itself (Swin: the windows that follow from the size) holds for the network, too
        changed = {key: value for key, value in get_model_args(backbone).items() if before.get(key) != value}
        parts = cut_backbone(backbone, self.split)
        self.feature_extractor, self.perception_branch = parts.feature_extractor, parts.perception_branch
        self._take_features_of(parts, feature_layout(parts)[0])
        self.mechanism.layout = self.layout
        update_model_input_size(self, changed.pop('img_size', get_model_traits(backbone).get('img_size')), **changed)

    @ignored_by_torchscript
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory in all three components.

        Args:
            enable: Whether to recompute activations in the backward pass instead of storing them.
        """
        self.feature_extractor.set_grad_checkpointing(enable)
        self.perception_branch.set_grad_checkpointing(enable)
        if self.attention_branch is not None:
            self.attention_branch.grad_checkpointing = enable

    @ignored_by_torchscript
    def group_matcher(self, coarse: bool = False) -> dict[str, Any] | Callable[[str], Any]:
        """Return the backbone's parameter groups; the attention branch falls into the last, with the classifier.

        Args:
            coarse: Group by stage instead of by block.
        """
        if not hasattr(self.perception_branch, 'group_matcher'):
            return dict(stem=r'^feature_extractor\.')  # all that does not match is one group
        matcher = self.perception_branch.group_matcher(coarse=coarse)
        if callable(matcher):
            return lambda name: matcher(name.partition('.')[2]) if name.startswith(HALVES) else float('inf')
        return {
            group: [(_in_halves(pattern), suffix) for pattern, suffix in spec]
            if isinstance(spec, (list, tuple))
            else spec and _in_halves(spec)
            for group, spec in matcher.items()
        }

    @ignored_by_torchscript
    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the backbone wants to be free of weight decay."""
        names: set[str] = set()
        for half in HALVES:
            module = getattr(self, half)
            if hasattr(module, 'no_weight_decay'):
                names.update(f'{half}.{name}' for name in module.no_weight_decay())
        return names

    @property
    def _model_args(self) -> dict[str, Any]:
        """timm's record of how to build the network again, which it saves with the weights."""
        args = self.__dict__.get('_recorded_args', {})
        if not args:
            return args
        insertion = self.mechanism.insertion
        # arguments without one are of 'gating', as all were before there was a choice
        args = {key: arg for key, arg in args.items() if key != 'insertion'}
        return dict(args, gate=self.mechanism.gate, **(dict(insertion=insertion) if insertion != 'gating' else {}))

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        # the saved weights replace those that the backbone started from, which may be a file of this machine
        self.__dict__['_recorded_args'] = {key: arg for key, arg in args.items() if key != 'pretrained_backbone'}

    @property
    def config(self) -> dict[str, Any]:
        """What the network was built from: split, attention stage and map, mechanism, gate, insertion, and so on."""
        return dict(
            backbone=name_of(self.perception_branch),
            split=self.split,
            attention_stage=self.attention_branch.stage.source,
            attention_map=self.attention_branch.attention_map_type,
            mechanism='residual' if self.mechanism.residual else 'product',
            gate=self.mechanism.gate,
            insertion=self.mechanism.insertion,
            map_scale=self.mechanism.map_scale,
            padding_mode=self.attention_branch.padding_mode,
            hard_attention=self.attention_branch.kept_share,
        )

    def extra_repr(self) -> str:
        """Return what the network was built from."""
        return ', '.join(f'{key}={value!r}' for key, value in self.config.items())

    @property
    def global_pool(self) -> str | None:
        """Type of pooling of the perception branch."""
        return get_model_args(self.perception_branch).get('global_pool')


def _in_halves(pattern: str) -> str:
    # patterns are matched from the start of a name, so that an anchor at the start of an alternative says nothing more
    unanchored = re.sub(r'(?<!\[)\^', '', pattern)
    return rf'^(?:{"|".join(HALVES)})\.(?:{unanchored})'
