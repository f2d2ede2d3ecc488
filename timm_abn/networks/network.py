"""AttentionBranchNet: any timm backbone, cut in two, with an attention branch between the halves.

    images ─► feature_extractor ─► features ──────────────► mechanism ─► perception_branch ─► logits
                                       │                        ▲
                                       └─► attention_branch ─► attention map
                                                 └───────────► attention logits, class maps

Reference: Fukui, Hirakawa, Yamashita, Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism for Visual
Explanation", CVPR 2019.
"""

import logging
import math
import re
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, List, Optional, Set, Tuple, Type, Union

import torch
import torch.fx
import torch.nn as nn
from timm.models import get_model_args, get_model_input_config, get_model_traits

from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..split import Split, SplitError, cut_backbone, find_adapter
from ..split.halves import join_halves
from ..split.module_copy import copy_module, meta_tensors
from ..timm_private import feature_take_indices, update_model_args, update_model_input_size
from .attention_branch import AttentionBranch
from .attention_stage import build_attention_stage, residual_width
from .backbone import architecture_of, check_outputs, create_backbone
from .gated_features import can_be_lazy
from .mechanism import FeatureLayout, Mechanism

__all__ = ['AttentionBranchNet']

_logger = logging.getLogger(__name__)

HALVES = ('feature_extractor', 'perception_branch')


class AttentionBranchNet(nn.Module):
    """Attention Branch Network over a timm backbone.

    In training mode the model returns ``(logits, attention_logits)``, in evaluation mode ``logits``, like timm's DeiT
    with its two heads. The training loss is the sum of the losses of both (paper, Eq. 3).

    Attributes:
        feature_extractor: First half of the backbone, up to and including the module ``split``.
        attention_branch: Makes the attention map from the features.
        mechanism: Applies the attention map to the features.
        perception_branch: Second half of the backbone.
    """

    branch_class: ClassVar[Type[nn.Module]] = AttentionBranch
    __jit_unused_properties__ = ['global_pool', 'config', '_model_args']

    if TYPE_CHECKING:  # TorchScript would try to compile these types
        feature_extractor: Any
        attention_branch: Any
        perception_branch: Any

    def __init__(
        self,
        backbone: Union[str, nn.Module] = 'resnet50',
        split: Optional[Union[int, str]] = None,
        mechanism: str = 'residual',
        attention_map: str = 'sigmoid',
        num_classes: int = 1000,
        in_chans: int = 3,
        pretrained_backbone: Union[bool, str] = False,
        attention_classes: Optional[int] = None,
        device: Optional[torch.device] = None,
        dtype: Optional[torch.dtype] = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            backbone: Name of a timm model, or a timm model (which is used up: its parameters become the network's).
            split: Where to cut the backbone: index into its ``feature_info`` or path of a module. By default before
                the last stage.
            mechanism: 'residual' (paper, Eq. 2) or 'product' (Eq. 1).
            attention_map: 'sigmoid', or 'sum_log' (see ``AttentionBranch``).
            num_classes: Number of classes. With 0 the network returns pooled features, and keeps its attention map.
            in_chans: Channels of the images.
            pretrained_backbone: Start both halves, and the copied stage of the attention branch, from timm's
                pretrained weights of the backbone, or from the weights in the file of this name.
            attention_classes: Number of classes of the attention branch where ``num_classes`` is 0.
            device: Where to create parameters.
            dtype: Type of the parameters.
            **kwargs: ``attention_norm=False`` leaves out the batch norm after the stage of the attention branch. All
                else is passed to ``timm.create_model`` for the backbone (``img_size``, ``drop_path_rate``, ...).

        Raises:
            ValueError: An argument has no meaning; the message names it and says what would be right.
        """
        super().__init__()
        if num_classes < 0:
            raise TimmAbnError(f'num_classes must be 0 (no classifier) or more, got {num_classes}.')
        dd: dict = {'device': device, 'dtype': dtype}
        branch_class: Any = self.branch_class
        own_names = branch_class.argument_names
        branch_kwargs = {own_names[name]: kwargs.pop(name) for name in own_names if name in kwargs}
        self.outputs_per_class = branch_class.outputs_per_class
        architecture = None
        if isinstance(backbone, str):
            name = backbone
            kwargs.update(num_classes=num_classes * self.outputs_per_class, in_chans=in_chans, **dd)
            backbone = create_backbone(name, pretrained_backbone, **kwargs)
            architecture = architecture_of(name, **kwargs)
            if isinstance(backbone, AttentionBranchNet):
                raise TimmAbnError(f'Backbone {name!r} is an Attention Branch Network already; pass its own backbone.')
        check_outputs(backbone, num_classes, self.outputs_per_class)
        parts = cut_backbone(backbone, split, architecture)
        if parts.normalised:
            _logger.warning(
                f'The layer norm that follows the cut at {parts.path!r} undoes the attention map: predictions will not '
                f'depend on it. Choose a split inside a stage instead, such as a block of {parts.path!r}.'
            )
        layout, channels = _feature_layout(parts)
        stage = build_attention_stage(
            parts.perception_branch,
            parts.next_stage if layout.layout == 'NCHW' else [],
            in_channels=channels,
            num_features=residual_width(parts.next_channels or channels),
            keep_weights=bool(pretrained_backbone),
            **dd,
        )
        self.num_classes = num_classes
        self.in_chans = in_chans
        self._take_features_of(parts, layout)
        self.feature_extractor = parts.feature_extractor
        attention_classes = num_classes or attention_classes or 1000
        self.attention_branch = branch_class(stage, attention_classes, attention_map, **branch_kwargs, **dd)
        self.mechanism = Mechanism(mechanism, layout)
        self.task_chunk_size = 1
        # the perception branch comes last: timm's AGC clipping leaves out the last two parameters, its classifier
        self.perception_branch = parts.perception_branch
        if not num_classes:
            update_model_args(self, attention_classes=attention_classes)

    def _take_features_of(self, parts: Split, layout: FeatureLayout) -> None:
        """Remember what is known of the features of a cut."""
        self.split = parts.path
        self.num_features = parts.perception_branch.num_features
        self.head_hidden_size = parts.perception_branch.head_hidden_size
        self.num_extractor_stages = parts.num_extractor_stages
        self.feature_info = parts.feature_info
        self.layout = layout
        self._plan = parts.plan
        for name in ('output_fmt', 'feature_dim'):  # what some backbones say of their features
            if hasattr(parts.perception_branch, name):
                setattr(self, name, getattr(parts.perception_branch, name))

    def forward(
        self,
        x: torch.Tensor,
        attention: Optional[torch.Tensor] = None,
    ) -> Union[torch.Tensor, Tuple[torch.Tensor, torch.Tensor]]:
        """Return logits (B, K), in training mode ``(logits, attention_logits)``.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: Attention map to use instead of the predicted one, shape (B, 1, h, w).
        """
        features = self.feature_extractor(x)
        if self.attention_branch is None:
            return self.perception_branch(features)
        if not self.training or torch.jit.is_scripting():
            return self._perceive(features, self._attention_map(features, x, attention))
        class_features = self._class_features(features, x)
        attention_map = given_or_predicted(attention, self.attention_branch.attention_map(class_features))
        logits = self._perceive(features, attention_map)
        # both outputs are made last, which is where tools that trace graphs look for them
        return logits, self.attention_branch.attention_logits(class_features)

    def forward_features(self, x: torch.Tensor, attention: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return the unpooled features of the perception branch.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: See ``forward``.
        """
        return self.perception_branch.forward_features(self._attended_features(self.feature_extractor(x), x, attention))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Return logits of the perception branch (B, K), or pooled features.

        Args:
            x: Features as returned by ``forward_features``.
            pre_logits: Return pooled features.
        """
        outputs = self.perception_branch.forward_head(x, pre_logits=pre_logits)
        if self.attention_branch is None:
            return outputs
        classified = self.num_classes > 0 and not pre_logits
        return self.attention_branch.answers(outputs, 0, self.attention_branch.num_maps, classified)

    def _class_features(self, features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return self.attention_branch.forward_features(self.layout.to_maps(features, images))

    def _attention_map(
        self,
        features: torch.Tensor,
        images: torch.Tensor,
        attention: Optional[torch.Tensor],
    ) -> torch.Tensor:
        """Return the map that was given, else the predicted one, without what nobody reads of the branch."""
        if attention is None or (not torch.jit.is_scripting() and is_fx_proxy(attention)):
            predicted = self.attention_branch.attention_map(self._class_features(features, images))
            return given_or_predicted(attention, predicted)
        maps = self.layout.to_maps(features, images)
        check_attention(attention, [maps.shape[0], self.attention_branch.num_maps, maps.shape[2], maps.shape[3]])
        return attention

    def _attended_features(
        self,
        features: torch.Tensor,
        images: torch.Tensor,
        attention: Optional[torch.Tensor],
    ) -> torch.Tensor:
        if self.attention_branch is None:
            return features  # pruned: nothing after the cut is left to attend to
        return self.mechanism(
            features, self._attention_map(features, images, attention), self.attention_branch.num_maps
        )

    def _perceive(self, features: torch.Tensor, attention_map: torch.Tensor) -> torch.Tensor:
        """Attend, then perceive: return what the perception branch says of features under their attention maps.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, 1, h, w), or one map a task, (B, T, h, w), of which ``task_chunk_size`` pass the
                perception branch at once.
        """
        num_maps = self.attention_branch.num_maps
        convolved: Optional[Dict[str, torch.Tensor]] = None
        if not torch.jit.is_scripting() and self.task_chunk_size > 1 and self._may_be_lazy(features):
            convolved = {}
        answers: List[torch.Tensor] = []
        for first in range(0, num_maps, self.task_chunk_size):
            count = min(self.task_chunk_size, num_maps - first)
            chunk = attention_map[:, first : first + count] if count < num_maps else attention_map
            outputs = self.perception_branch(self.mechanism(features, chunk, count, convolved))
            answers.append(self.attention_branch.answers(outputs, first, count, self.num_classes > 0))
        return torch.cat(answers, dim=1) if len(answers) > 1 else answers[0]

    @torch.jit.unused
    def _may_be_lazy(self, features: torch.Tensor) -> bool:
        return self.layout.layout == 'NCHW' and can_be_lazy(features, self.perception_branch)

    @torch.jit.ignore
    @torch.no_grad()
    def explain(self, images: torch.Tensor, attention: Optional[torch.Tensor] = None) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).
            attention: Attention map to use instead of the predicted one, shape (B, 1, h, w).

        Returns:
            Logits (B, K), attention map (B, 1, h, w), attention logits (B, K) and class maps (B, K, h, w).

        Raises:
            ValueError: The model is in training mode, has lost its attention branch to ``prune_intermediate_layers``,
                or an argument has the wrong shape.
        """
        if self.training:
            raise TimmAbnError('explain() needs evaluation mode; call model.eval() first.')
        if images.ndim != 4 or images.shape[1] != self.in_chans:
            raise TimmAbnError(f'images must have shape (B, {self.in_chans}, H, W), got {tuple(images.shape)}.')
        if self.attention_branch is None:
            raise TimmAbnError('explain() needs the attention branch, which prune_intermediate_layers() has removed.')
        features = self.feature_extractor(images)
        class_features = self._class_features(features, images)
        attention_map = given_or_predicted(attention, self.attention_branch.attention_map(class_features))
        logits = self._perceive(features, attention_map)
        return self.attention_branch.explanation(logits, attention_map, class_features)

    @torch.jit.ignore
    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: Optional[Union[int, List[int]]] = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
        attention: Optional[torch.Tensor] = None,
    ) -> Union[List[torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]]]:
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
        attended = self._attended_features(features, x, attention)
        if not after:
            final = self.perception_branch.forward_features(attended)
            return intermediates if intermediates_only else (final, intermediates)
        later: Any = find_adapter(self.perception_branch).perception_intermediates(
            self.perception_branch, attended, after, norm, stop_early, intermediates_only
        )
        if not intermediates_only:
            final, later = later
        intermediates += [self.layout.to_maps(y, x) if y.ndim == 3 else y for y in later]
        return intermediates if intermediates_only else (final, intermediates)

    @torch.jit.ignore
    def prune_intermediate_layers(
        self,
        indices: Union[int, List[int]] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> List[int]:
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

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Return the classifier of the perception branch, whose logits are the model's prediction."""
        return self.perception_branch.get_classifier()

    @torch.jit.ignore
    def reset_classifier(self, num_classes: int, global_pool: Optional[str] = None) -> None:
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

    @torch.jit.ignore
    def set_input_size(self, img_size: Optional[Union[int, Tuple[int, int]]] = None, **kwargs: Any) -> None:
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
        family = type(self.perception_branch).__name__
        if not hasattr(self.perception_branch, 'set_input_size'):
            if get_model_input_config(self)['fixed_input_size'] or kwargs:
                raise TimmAbnError(f'{family} has no set_input_size: its images keep their size.')
            return  # any size passes it as it is
        size = (img_size, img_size) if isinstance(img_size, int) else img_size
        trial: Any = copy_module(self, meta_tensors(self))
        trial._set_input_size(size, **kwargs)  # what fails must not leave this network in pieces
        self._set_input_size(size, **kwargs)

    def _set_input_size(self, img_size: Optional[Tuple[int, int]], **kwargs: Any) -> None:
        backbone: Any = join_halves(self.feature_extractor, self.perception_branch, self._plan)
        before = dict(get_model_args(backbone))
        backbone.set_input_size(img_size=img_size, **kwargs)
        # what the backbone records of itself (Swin: the windows that follow from the size) holds for the network, too
        changed = {key: value for key, value in get_model_args(backbone).items() if before.get(key) != value}
        parts = cut_backbone(backbone, self.split)
        self.feature_extractor, self.perception_branch = parts.feature_extractor, parts.perception_branch
        self._take_features_of(parts, _feature_layout(parts)[0])
        self.mechanism.layout = self.layout
        update_model_input_size(self, changed.pop('img_size', get_model_traits(backbone).get('img_size')), **changed)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade computation for memory in all three components.

        Args:
            enable: Whether to.
        """
        self.feature_extractor.set_grad_checkpointing(enable)
        self.perception_branch.set_grad_checkpointing(enable)
        if self.attention_branch is not None:
            self.attention_branch.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Union[Dict[str, Any], Callable[[str], Any]]:
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

    @torch.jit.ignore
    def no_weight_decay(self) -> Set[str]:
        """Return the names of the parameters that the backbone wants to be free of weight decay."""
        names: Set[str] = set()
        for half in HALVES:
            module = getattr(self, half)
            if hasattr(module, 'no_weight_decay'):
                names.update(f'{half}.{name}' for name in module.no_weight_decay())
        return names

    @property
    def _model_args(self) -> Dict[str, Any]:
        """timm's record of how to build the network again, which it saves with the weights."""
        return self.__dict__.get('_recorded_args', {})

    @_model_args.setter
    def _model_args(self, args: Dict[str, Any]) -> None:
        # the saved weights replace those that the backbone started from, which may be a file of this machine
        self.__dict__['_recorded_args'] = {key: arg for key, arg in args.items() if key != 'pretrained_backbone'}

    @property
    def global_pool(self) -> Optional[str]:
        """Type of pooling of the perception branch."""
        return get_model_args(self.perception_branch).get('global_pool')

    @property
    def config(self) -> Dict[str, Any]:
        """What the network was built from: split, attention stage, attention map and mechanism."""
        return dict(
            backbone=type(self.perception_branch).__name__,
            split=self.split,
            attention_stage=self.attention_branch.stage.source,
            attention_map=self.attention_branch.attention_map_type,
            mechanism='residual' if self.mechanism.residual else 'product',
        )

    def extra_repr(self) -> str:
        """Return what the network was built from."""
        return ', '.join(f'{key}={value!r}' for key, value in self.config.items())


def check_attention(attention: torch.Tensor, expected: List[int]) -> None:
    """Raise ValueError unless ``attention`` has the shape ``expected``."""
    if list(attention.shape) != expected:
        raise ValueError(f'attention must have shape {expected}, got {list(attention.shape)}.')


@torch.jit.unused
def is_fx_proxy(attention: Optional[torch.Tensor]) -> bool:
    """Return whether fx is tracing, so that it is open whether an attention map will be given."""
    return isinstance(attention, torch.fx.Proxy)


@torch.fx.wrap
def given_or_predicted(given: Optional[torch.Tensor], predicted: torch.Tensor) -> torch.Tensor:
    """Return the attention map that was given, if there is one, else the predicted; a leaf of fx graphs."""
    if given is None:
        return predicted
    check_attention(given, list(predicted.shape))
    return given


def _feature_layout(parts: Split) -> Tuple[FeatureLayout, int]:
    """Return the layout of the features at the cut, and their channels."""
    shape = parts.feature_shape
    if len(shape) == 2:
        num_prefix_tokens = getattr(parts.perception_branch, 'num_prefix_tokens', 0)
        height, width = parts.image_size
        reduction = round(math.sqrt(height * width / (shape[0] - num_prefix_tokens)))
        pads = bool(getattr(getattr(parts.feature_extractor, 'patch_embed', None), 'dynamic_img_pad', False))
        return FeatureLayout('NLC', num_prefix_tokens, reduction, pads), shape[1]
    if len(shape) != 3:
        raise SplitError(f'the features at {parts.path!r} have shape {shape}; a cut needs maps or tokens.')
    height, width = parts.image_size
    nchw, nhwc = (height / shape[axis] == width / shape[axis + 1] for axis in (1, 0))
    if nchw == nhwc:  # what a backbone says of its last features need not hold at the cut, but breaks a tie
        nhwc = getattr(parts.perception_branch, 'output_fmt', 'NCHW') == 'NHWC'
    return (FeatureLayout('NHWC'), shape[2]) if nhwc else (FeatureLayout(), shape[0])


def _in_halves(pattern: str) -> str:
    # patterns are matched from the start of a name, so that an anchor at the start of an alternative says nothing more
    unanchored = re.sub(r'(?<!\[)\^', '', pattern)
    return rf'^(?:{"|".join(HALVES)})\.(?:{unanchored})'
