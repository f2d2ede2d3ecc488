"""The interface of timm's models, for a network of two halves and an attention branch between them."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.fx
import torch.nn as nn
from timm.models import get_model_args, get_model_input_config, get_model_traits

from ..errors import TimmAbnError
from ..split import BackboneHalf, Features, as_features, cut_backbone, family_of, find_adapter
from ..split.halves import join_halves
from ..split.module_copy import copy_module, meta_tensors
from ..split.noting import maps_of, noting
from ..timm_private import feature_take_indices, update_model_input_size
from .config import AbnConfig
from .feature_layout import feature_layout
from .gate import Gate, check_records
from .given_maps import check_attention, check_values, given_or_predicted, is_fx_proxy
from .parts import Parts
from .scripting import ignored_by_torchscript

__all__ = ['SplitNetwork', 'groups_within']

torch.fx.wrap('given_or_predicted')  # a leaf of fx graphs, for which it is open whether a map will be given

HALVES = ('feature_extractor', 'perception_branch')


class SplitNetwork(nn.Module):
    """Base of the networks: two halves of a backbone, an attention branch between them, and what timm asks of a model.

    That is: features of stages, classifiers, pruning, sizes, and names of groups of parameters.
    """

    # what TorchScript decides by; it does not look for ``Final`` in a base class
    __constants__ = ['has_side_inputs', 'perception_takes_features', 'gate_scales_channels']
    __jit_unused_properties__ = ['global_pool', '_model_args']

    if TYPE_CHECKING:  # TorchScript would try to compile these types
        config: AbnConfig
        feature_extractor: Any
        attention_branch: Any
        gate: Gate
        perception_branch: Any

    @ignored_by_torchscript
    def take_parts(self, parts: Parts) -> None:
        """Store what is known of a cut, and of the features there."""
        cut, layout = parts.cut, parts.layout
        self.num_classes, self.in_chans = self.config.num_classes, self.config.in_chans
        self.num_features = cut.perception_branch.num_features
        self.head_hidden_size = cut.perception_branch.head_hidden_size
        self.num_extractor_stages = cut.num_extractor_stages
        self.feature_info = cut.feature_info
        self.layout = layout
        self.side_inputs_per_image = cut.side_inputs_per_image
        self.has_side_inputs = bool(cut.side_inputs_per_image)
        takes_bias = find_adapter(cut.perception_branch).takes_attention_bias(cut.perception_branch)
        self.perception_takes_features = self.has_side_inputs or takes_bias
        self.gate_scales_channels = parts.gate.kind == 'features' and layout.layout == 'NCHW'
        self._plan = cut.plan
        for name in ('output_fmt', 'feature_dim'):  # what some backbones say of their features
            if hasattr(cut.perception_branch, name):
                setattr(self, name, getattr(cut.perception_branch, name))

    def extract(self, images: torch.Tensor) -> Features:
        """Return what crosses the cut: the features that the attention is for, and side inputs."""
        if self.has_side_inputs:  # where it is False, TorchScript does not look further
            return self.feature_extractor(images)
        return Features(self.feature_extractor(images), [])

    def forward_perception(self, features: Features) -> torch.Tensor:
        """Return the outputs of the perception branch."""
        if self.perception_takes_features:
            return self.perception_branch(features)
        return self.perception_branch(features.x)

    def attend(self, features: Features, attention_map: torch.Tensor) -> Features:
        """Return gated features."""
        return self.gate(features, attention_map)

    def attention_map(
        self,
        features: Features,
        images: torch.Tensor,
        attention: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the map that was given, else the predicted one, without what nobody reads of the branch.

        Args:
            features: What crosses the cut.
            images: What it was made of, which tells the grid of tokens.
            attention: The map that was given, if there is one.

        Raises:
            ValueError: The given map has another shape than the predicted one.
        """
        maps = self.layout.to_maps(features.x, images)
        if attention is None or (not torch.jit.is_scripting() and is_fx_proxy(attention)):
            predicted = self.attention_branch.attention_map(self.attention_branch.forward_features(maps))
            return given_or_predicted(attention, predicted)
        scale = self.gate.map_scale
        check_attention(
            attention, [maps.shape[0], self.attention_branch.num_maps, maps.shape[2] * scale, maps.shape[3] * scale]
        )
        return attention.to(maps)

    def attended(self, features: Features, images: torch.Tensor, attention: torch.Tensor | None) -> Features:
        """Return the features that the second half is given, gated, shape (B, ...), of several tasks (B * T, ...)."""
        if self.attention_branch is None:
            return features  # pruned: nothing after the cut is left to attend to
        return self.attend(features, self.attention_map(features, images, attention))

    def forward_features(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Return the unpooled features of the perception branch.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: See ``forward``.
        """
        attended = self.attended(self.extract(x), x, attention)
        if self.perception_takes_features:
            return self.perception_branch.forward_features(attended)
        return self.perception_branch.forward_features(attended.x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits of the perception branch (B, K), or pooled features.

        Args:
            x: Features as returned by ``forward_features``.
            pre_logits: Return pooled features.
        """
        return self.perception_branch.forward_head(x, pre_logits=pre_logits)

    @ignored_by_torchscript
    def check_explainable(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> None:
        """Raise TimmAbnError unless ``explain`` can explain the prediction for these images, under a given map."""
        if self.training:
            raise TimmAbnError('explain() needs evaluation mode; call model.eval() first.')
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise TimmAbnError(f'images must have shape (B, {self.in_chans}, H, W), got {tuple(images.shape)}.')
        if self.attention_branch is None:
            raise TimmAbnError('explain() needs the attention branch, which prune_intermediate_layers() has removed.')
        if attention is not None:
            check_values(attention, self.config.attention_map)

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

        Args are timm's (``forward_intermediates`` of its ``VisionTransformer``), and ``attention`` of ``forward``.

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
        modules = [
            module for half in HALVES for module in getattr(self, half).modules() if isinstance(module, BackboneHalf)
        ]
        if any(find_adapter(module).notes_stages(module) for module in [self.perception_branch, *modules]):
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
        attended = self.attended(as_features(features), x, attention)
        if not after:
            crossing = attended if self.perception_takes_features else attended.x
            final = self.perception_branch.forward_features(crossing)
            return intermediates if intermediates_only else (final, intermediates)
        later: Any = find_adapter(self.perception_branch).perception_intermediates(
            self.perception_branch, attended, after, norm, stop_early, intermediates_only
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
            what = f'names a stage that is not a module: {missing[0].partition(".")[2]!r}' if missing else 'has streams'
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

        Returns:
            Indices of the stages.
        """
        take_indices, max_index = feature_take_indices(len(self.feature_info), indices)
        if max_index < self.num_extractor_stages:
            self.feature_extractor.prune_intermediate_layers(take_indices, prune_norm=prune_norm, prune_head=prune_head)
            self.attention_branch = None
        self.perception_branch.prune_intermediate_layers(take_indices, prune_norm=prune_norm, prune_head=prune_head)
        self._set_num_classes(self.perception_branch.num_classes // self.config.outputs_per_class)
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

        Raises:
            ValueError: ``num_classes`` is negative.
        """
        if num_classes < 0:
            raise TimmAbnError(f'num_classes must be 0 (no classifier) or more, got {num_classes}.')
        self.perception_branch.reset_classifier(num_classes * self.config.outputs_per_class, global_pool)
        if self.attention_branch is not None and num_classes:
            self.attention_branch.reset_classifier(num_classes)
        self._set_num_classes(num_classes)
        self.head_hidden_size = self.perception_branch.head_hidden_size

    def _set_num_classes(self, num_classes: int) -> None:
        self.num_classes = num_classes
        kept = None if num_classes or self.attention_branch is None else self.attention_branch.num_classes
        self.config = dataclasses.replace(self.config, num_classes=num_classes, attention_classes=kept)

    @ignored_by_torchscript
    def set_input_size(self, img_size: int | tuple[int, int] | None = None, **kwargs: Any) -> None:
        """Adapt the network to images of another size; it then equals one that was built for that size.

        The halves are joined, the backbone adapts itself, and is cut again at the same place.

        Raises:
            TimmAbnError: The backbone cannot be adapted, or images of that size cannot pass the cut.
        """
        if self.attention_branch is None:
            raise TimmAbnError('set_input_size() needs both halves, which prune_intermediate_layers() has changed.')
        family = family_of(self.perception_branch).__name__
        if not hasattr(self.perception_branch, 'set_input_size'):
            if get_model_input_config(self)['fixed_input_size'] or kwargs:
                raise TimmAbnError(f'{family} has no set_input_size: its image size is fixed.')
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
        cut = cut_backbone(backbone, self.config.split)
        self.feature_extractor, self.perception_branch = cut.feature_extractor, cut.perception_branch
        self.gate.layout = feature_layout(cut)[0]
        self.take_parts(Parts(self.config, cut, self.gate.layout, self.attention_branch.stage, self.gate))
        update_model_input_size(self, changed.pop('img_size', get_model_traits(backbone).get('img_size')), **changed)

    @ignored_by_torchscript
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory in all three components."""
        self.feature_extractor.set_grad_checkpointing(enable)
        self.perception_branch.set_grad_checkpointing(enable)
        if self.attention_branch is not None:
            self.attention_branch.grad_checkpointing = enable

    @ignored_by_torchscript
    def group_matcher(self, coarse: bool = False) -> dict[str, Any] | Callable[[str], Any]:
        """Return the backbone's parameter groups; the attention branch falls into the last, with the classifier."""
        if not hasattr(self.perception_branch, 'group_matcher'):
            return dict(stem=r'^feature_extractor\.')  # all that does not match is one group
        return groups_within(self.perception_branch.group_matcher(coarse=coarse), HALVES)

    @ignored_by_torchscript
    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the backbone wants to be free of weight decay."""
        names: set[str] = set()
        for half in HALVES:
            module = getattr(self, half)
            if hasattr(module, 'no_weight_decay'):
                names.update(f'{half}.{name}' for name in module.no_weight_decay())
        return names

    @ignored_by_torchscript
    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        if any(name.startswith(f'{prefix}attention_branch.') for name in state_dict):  # else of a half, say
            check_records(state_dict, f'{prefix}gate.', self.gate)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def _model_args(self) -> dict[str, Any]:
        """timm's record of how to build the network again, which it saves with the weights."""
        args = self.__dict__.get('_recorded_args', {})
        config = self.config
        decided = dict(gate=config.gate, init=config.init, attention_classes=config.attention_classes)
        decided = {name: value for name, value in decided.items() if value not in (None, 'random')}
        return dict(args, **decided) if args else args

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        # the saved weights replace those that the backbone started from, which may be a file of this machine
        self.__dict__['_recorded_args'] = {key: arg for key, arg in args.items() if key != 'pretrained_backbone'}

    def extra_repr(self) -> str:
        """Return what the network was built from."""
        said = dict(
            self.config.arguments(), split=self.config.split, attention_stage=self.attention_branch.stage.source
        )
        return ', '.join(f'{key}={value!r}' for key, value in said.items())

    @property
    def global_pool(self) -> str | None:
        """Type of pooling of the perception branch."""
        return get_model_args(self.perception_branch).get('global_pool')


def groups_within(matcher: Any, modules: tuple[str, ...]) -> dict[str, Any] | Callable[[str], Any]:
    """Return what ``group_matcher`` of a backbone says, for a network with it, or its halves, in these modules."""
    if callable(matcher):
        return lambda name: matcher(name.partition('.')[2]) if name.startswith(modules) else float('inf')

    def within(pattern: str) -> str:
        # patterns are matched from the start of a name, so that an anchor at the start of an alternative says no more
        unanchored = re.sub(r'(?<!\[)\^', '', pattern)
        return rf'^(?:{"|".join(modules)})\.(?:{unanchored})'

    return {
        group: [(within(pattern), suffix) for pattern, suffix in spec]
        if isinstance(spec, (list, tuple))
        else spec and within(spec)
        for group, spec in matcher.items()
    }
