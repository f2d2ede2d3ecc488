"""AttentionBranchNet: any timm backbone, cut in two, with an attention branch between the halves.

    images ─► feature_extractor ─► features ──────────────► mechanism ─► perception_branch ─► logits
                                       │                        ▲
                                       └─► attention_branch ─► attention map
                                                 └───────────► attention logits, class maps

Reference: Fukui, Hirakawa, Yamashita, Fujiyoshi, "Attention Branch Network: Learning of Attention Mechanism for Visual
Explanation", CVPR 2019.
"""

import dataclasses
from typing import Any, ClassVar

import torch
import torch.fx
import torch.nn as nn
from torch.jit import Final

from ..errors import TimmAbnError
from ..maps.explanation import Explanation
from ..split import cut_backbone, find_adapter
from ..split.packing import beside_of_tasks, pack, unpack
from ..timm_private import update_model_args
from .attention_branch import AttentionBranch
from .attention_stage import build_attention_stage, check_map_scale, residual_width
from .backbone import architecture_of, check_outputs, create_backbone
from .choices import PADDING_MODES
from .feature_layout import feature_layout
from .gated_features import can_be_lazy
from .gates import choose_gate, gates_without_effect, warn_of_gate
from .given_maps import check_attention, given_or_predicted, is_fx_proxy, of_tasks
from .insertion import choose_insertion, follow_weights, freeze_halves
from .map_training import (
    MapTraining,
    TrainingOutput,
    check_map_training,
    complement_of,
    drawn_share,
    keep_running_statistics,
    mask_images,
)
from .mechanism import Mechanism, check_choice
from .padding import set_padding_mode
from .scripting import ignored_by_torchscript
from .timm_contract import TimmContract

__all__ = ['AttentionBranchNet']

torch.fx.wrap('given_or_predicted')  # a leaf of fx graphs, for which it is open whether a map will be given


class AttentionBranchNet(TimmContract):
    """Attention Branch Network over a timm backbone.

    In training mode the model returns ``(logits, attention_logits)``, in evaluation mode ``logits``, like timm's DeiT
    with its two heads. The training loss is the sum of the losses of both (paper, Eq. 3).

    Attributes:
        feature_extractor: First half of the backbone, up to and including the module ``split``.
        attention_branch: Makes the attention map from the features.
        mechanism: Applies the attention map to the features.
        perception_branch: Second half of the backbone.
    """

    branch_class: ClassVar[type[nn.Module]] = AttentionBranch
    takes_attention_bias: Final[bool]
    has_beside: Final[bool]
    __jit_unused_properties__ = ['global_pool', 'config', '_model_args']

    def __init__(
        self,
        backbone: str | nn.Module = 'resnet50',
        split: int | str | None = None,
        mechanism: str = 'residual',
        attention_map: str = 'sigmoid',
        num_classes: int = 1000,
        in_chans: int = 3,
        pretrained_backbone: bool | str = False,
        attention_classes: int | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        gate: str | None = None,
        map_scale: int = 1,
        padding_mode: str = 'zeros',
        insertion: str | None = None,
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
                pretrained weights of the backbone, or from the weights in the file of this name. Of a backbone that is
                given itself: whether it is trained, so that the copied stage keeps its weights.
            attention_classes: Number of classes of the attention branch where ``num_classes`` is 0.
            device: Where to create parameters.
            dtype: Type of the parameters.
            gate: What the map does to the features: 'features', 'centred' or 'tokens' (see ``Mechanism``). By default
                what reaches the prediction of this backbone; weights that are loaded bring their own gate along.
            map_scale: How many times as high and wide as the features the attention map and the class maps are. Above 1
                the attention branch sees features that are upsampled bilinearly, and its map gates each feature by its
                mean over the place.
            padding_mode: What the convolutions that maps come from, those of the feature extractor and the attention
                branch, see beyond the border: 'zeros', or 'replicate', which does not tell them where the border is, so
                that maps of constant images are constant, unless position embeddings or pools that are no modules
                tell it. It belongs to the weights: train with what you evaluate with.
            insertion: How the map stands to the backbone: 'gating' (the paper's), 'neutral', where the network predicts
                at first what the backbone does, or 'explaining', where it always does: both halves are frozen, in
                evaluation mode, and the map is trained to say what they stand on (see ``Mechanism``). By default
                'neutral' around a backbone that is pretrained, or given itself, and else 'gating'; weights that are
                loaded bring their own along. Maps of hard attention, and those that are not in [0, 1], cannot be
                neutral.
            **kwargs: ``attention_norm=False`` leaves out the batch norm after the stage of the attention branch.
                ``hard_attention=0.3`` keeps the greatest 30 % of the map's places; the others are exactly 0. All else
                is passed to ``timm.create_model`` for the backbone (``img_size``, ``drop_path_rate``, ...).

        Raises:
            ValueError: An argument has no meaning; the message names it and says what would be right.
        """
        super().__init__()
        if num_classes < 0:
            raise TimmAbnError(f'num_classes must be 0 (no classifier) or more, got {num_classes}.')
        check_map_scale(map_scale)
        check_choice('padding_mode', padding_mode, PADDING_MODES)
        dd: dict = {'device': device, 'dtype': dtype}
        branch_class: Any = self.branch_class
        own_names = branch_class.argument_names
        branch_kwargs = {own_names[name]: kwargs.pop(name) for name in own_names if name in kwargs}
        self.outputs_per_class = branch_class.outputs_per_class
        architecture, name = None, ''
        if isinstance(backbone, str):
            name = backbone
            kwargs.update(num_classes=num_classes * self.outputs_per_class, in_chans=in_chans, **dd)
            backbone = create_backbone(name, pretrained_backbone, **kwargs)
            architecture = architecture_of(name, **kwargs)
            if isinstance(backbone, AttentionBranchNet):
                raise TimmAbnError(f'Backbone {name!r} is an Attention Branch Network already; pass its own backbone.')
        check_outputs(backbone, num_classes, self.outputs_per_class, name)
        parts = cut_backbone(backbone, split, architecture)
        layout, channels = feature_layout(parts)
        stage = build_attention_stage(
            parts.perception_branch,
            parts.next_stage if layout.layout == 'NCHW' else [],
            in_channels=channels,
            num_features=residual_width(parts.next_channels or channels),
            keep_weights=bool(pretrained_backbone),
            map_scale=map_scale,
            **dd,
        )
        self.num_classes = num_classes
        self.in_chans = in_chans
        self._take_features_of(parts, layout)
        self.has_beside = bool(parts.beside_per_image)
        self.feature_extractor = parts.feature_extractor
        if padding_mode != 'zeros':
            set_padding_mode(self.feature_extractor, padding_mode)
        attention_classes = num_classes or attention_classes or 1000
        self._insertion_is_given = insertion is not None
        can_be_neutral = attention_map == 'sigmoid' and branch_kwargs.get('hard_attention', 1) == 1
        is_trained = bool(pretrained_backbone) or not name
        insertion = choose_insertion(insertion, is_trained, can_be_neutral, self.outputs_per_class > 1)
        branch_kwargs.update(padding_mode=padding_mode, starts_flat=insertion == 'neutral')
        self.attention_branch = branch_class(stage, attention_classes, attention_map, **branch_kwargs, **dd)
        self.takes_attention_bias = find_adapter(parts.perception_branch).takes_attention_bias(parts.perception_branch)
        self._gate_is_given = gate is not None
        self._without_effect = gates_without_effect(parts, self.takes_attention_bias)
        gate = choose_gate(gate, parts, self.takes_attention_bias)
        warn_of_gate(gate, self._without_effect, parts.path)
        hides = self.attention_branch.kept_share < 1
        if hides and mechanism == 'residual':
            raise TimmAbnError("hard_attention needs mechanism='product', got 'residual': Eq. 2 hides nothing.")
        self.mechanism = Mechanism(mechanism, layout, gate, device, hides, map_scale, insertion)
        self.task_chunk_size = 1
        self.map_training: MapTraining | None = None
        # the perception branch comes last: timm's AGC clipping leaves out the last two parameters, its classifier
        self.perception_branch = parts.perception_branch
        if insertion == 'explaining':
            freeze_halves(self, True)
        if not num_classes:
            update_model_args(self, attention_classes=attention_classes)

    def forward(
        self,
        x: torch.Tensor,
        attention: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return logits (B, K), in training mode ``(logits, attention_logits)``.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: Attention map to use instead of the predicted one, shape (B, 1, h, w). With the insertion
                'explaining' it gates, too, relative to the predicted one, which does not (see ``Mechanism``).
        """
        features, beside = self.extract(x)
        if self.attention_branch is None:
            return self.perceive(features, None, beside)
        if not self.training or torch.jit.is_scripting():
            if self.mechanism.insertion == 'explaining':
                return self._perceive_unchanged(features, x, attention, beside)
            return self._perceive(features, self._attention_map(features, x, attention), beside)
        class_features = self._class_features(features, x)
        predicted = self.attention_branch.attention_map(class_features)
        attention_map = given_or_predicted(attention, predicted)
        logits = self._perceive(features, attention_map, beside, self._reference(attention, predicted))
        # both outputs are made last, which is where tools that trace graphs look for them
        outputs = logits, self.attention_branch.attention_logits(class_features)
        return outputs if self.map_training is None else self._look_again(x, features, beside, attention_map, outputs)

    @torch.jit.unused
    def _look_again(
        self,
        images: torch.Tensor,
        features: torch.Tensor,
        beside: list[torch.Tensor],
        maps: torch.Tensor,
        outputs: tuple[torch.Tensor, torch.Tensor],
    ) -> Any:
        """Return the outputs of training with those that a loss of the maps needs: a ``TrainingOutput``."""
        wanted: Any = self.map_training
        masked_logits = complement_logits = tasks = flipped_map = None
        answers, explains = self.num_classes > 0, self.mechanism.insertion == 'explaining'
        if maps.shape[1] > 1 and answers and (wanted.background is not None or wanted.complement):
            tasks = torch.randint(maps.shape[1], (len(maps),), device=maps.device)
        kept = maps if tasks is None else of_tasks(maps, tasks)
        kept = drawn_share(kept) if explains else kept
        with keep_running_statistics(self):
            if answers and wanted.background is not None:
                masked_logits = self._look_through(mask_images(images, kept, wanted.background), tasks)
            if answers and wanted.complement:
                left = complement_of(kept, self.mechanism.hides)
                if explains:  # its map gates nothing, so that images are masked again
                    complement_logits = self._look_through(mask_images(images, left, wanted.background), tasks)
                else:
                    complement_logits = self._answer_under(features, left, tasks, beside)
            if wanted.flips:
                flipped = images.flip(-1)
                class_features = self._class_features(self.extract(flipped)[0], flipped)
                flipped_map = self.attention_branch.attention_map(class_features).flip(-1)
        return TrainingOutput(*outputs, maps, masked_logits, tasks, flipped_map, complement_logits)

    @torch.jit.unused
    def _look_through(self, masked: torch.Tensor, tasks: torch.Tensor | None) -> torch.Tensor:
        """Return logits of images seen through their maps; of several tasks that of the one whose map it was."""
        features, beside = self.extract(masked)
        if self.mechanism.insertion == 'explaining' and tasks is None:  # nobody reads the map of the masked image
            return self._perceive_unchanged(features, masked, None, beside)
        maps = self.attention_branch.attention_map(self._class_features(features, masked))
        return self._answer_under(features, maps if tasks is None else of_tasks(maps, tasks), tasks, beside)

    @torch.jit.unused
    def _answer_under(
        self,
        features: torch.Tensor,
        maps: torch.Tensor,
        tasks: torch.Tensor | None,
        beside: list[torch.Tensor],
    ) -> torch.Tensor:
        """Return logits of features under one map per image, shape (B, 1, h, w); of several tasks that of its own."""
        if tasks is None:
            return self._perceive(features, maps, beside)
        attention_bias = self.mechanism.attention_bias(features, maps)
        outputs = self.perceive(self.mechanism(features, maps), attention_bias, beside)
        return self.attention_branch.answers_of(outputs, tasks)

    @ignored_by_torchscript
    def train_maps(self, background: str | None = 'mixed', flips: bool = False, complement: bool = False) -> None:
        """Let training return what losses of the maps need, a ``TrainingOutput``, from one forward of this module.

        The network sees each image twice in a step: as it is, and through its map (T-TAME, arXiv 2403.04523). The
        running statistics of batch norm are of the first. Evaluation does not change; ``FaithfulMapLoss`` is the loss.
        A map that explains and does not gate keeps as many of its greatest places as are drawn each time, so that it
        learns their order; ``ExplainingMapLoss`` is its loss.

        Args:
            background: What the map does not keep becomes 'blur', 'mean', or 'mixed' (see ``MapTraining``); None to
                leave this out.
            flips: Whether to make the map of the flipped image, too.
            complement: Whether to predict from the features where the map is not, too; from the image if it explains.

        Raises:
            TimmAbnError: There is no such background, maps are not in [0, 1], or the mechanism hides nothing.
        """
        check_map_training(self.attention_branch.attention_map_type, self.mechanism, background, complement)
        self.map_training = MapTraining(background, flips, complement)

    def forward_features(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Return the unpooled features of the perception branch.

        Args:
            x: Images, shape (B, in_chans, H, W).
            attention: See ``forward``.
        """
        features, beside = self.extract(x)
        gated, attention_bias, beside = self._attended_features(features, x, attention, beside)
        if attention_bias is None:
            if self.has_beside:
                return self.perception_branch.forward_features(pack(gated, beside))
            return self.perception_branch.forward_features(gated)
        return self._biased_features(gated, attention_bias)

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
        attention: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the map that was given, else the predicted one, without what nobody reads of the branch."""
        if attention is None or (not torch.jit.is_scripting() and is_fx_proxy(attention)):
            predicted = self.attention_branch.attention_map(self._class_features(features, images))
            return given_or_predicted(attention, predicted)
        maps = self.layout.to_maps(features, images)
        height, width = maps.shape[2] * self.mechanism.map_scale, maps.shape[3] * self.mechanism.map_scale
        check_attention(attention, [maps.shape[0], self.attention_branch.num_maps, height, width])
        return attention

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the features that the attention is for, and what passes beside them (nothing, in most families).

        Args:
            images: Shape (B, in_chans, H, W).
        """
        beside: list[torch.Tensor] = []
        if self.has_beside:  # where it is False, TorchScript does not look further
            features, beside = unpack(self.feature_extractor(images))
        else:
            features = self.feature_extractor(images)
        return features, beside

    def _attended_features(
        self,
        features: torch.Tensor,
        images: torch.Tensor,
        attention: torch.Tensor | None,
        beside: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
        """Return gated features, what is added to attention scores, and what passes beside each of them."""
        if self.attention_branch is None:
            return features, None, beside  # pruned: nothing after the cut is left to attend to
        predicted: torch.Tensor | None = None
        if self.mechanism.insertion == 'explaining':
            if attention is None:
                return features, None, beside
            predicted = self._attention_map(features, images, None)
        attention_map = self._attention_map(features, images, attention)
        num_maps = self.attention_branch.num_maps
        gated = self.mechanism(features, attention_map, num_maps, predicted=predicted)
        if self.has_beside:
            beside = beside_of_tasks(beside, self.beside_per_image, num_maps)
        return gated, self.mechanism.attention_bias(features, attention_map, predicted), beside

    def perceive(
        self,
        gated: torch.Tensor,
        attention_bias: torch.Tensor | None = None,
        beside: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the outputs of the perception branch.

        Args:
            gated: What ``mechanism`` made of the features.
            attention_bias: What ``mechanism.attention_bias`` made of the same attention map.
            beside: What passes beside the features.
        """
        if self.has_beside:
            return self.perception_branch(pack(gated, beside or []))
        if self.takes_attention_bias:  # where it is False, TorchScript does not look further
            if attention_bias is not None:
                return self.perception_branch.forward_head(self._biased_features(gated, attention_bias))
        return self.perception_branch(gated)

    def _biased_features(self, gated: torch.Tensor, attention_bias: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting() and getattr(self.perception_branch, 'grad_checkpointing', False):
            return self._checkpointed_features(gated, attention_bias)
        return self.perception_branch.forward_features(gated, attn_mask=attention_bias)

    @torch.jit.unused
    def _checkpointed_features(self, gated: torch.Tensor, attention_bias: torch.Tensor) -> torch.Tensor:
        adapter = find_adapter(self.perception_branch)
        return adapter.checkpointed_features(self.perception_branch, gated, attention_bias)

    def _reference(self, attention: torch.Tensor | None, predicted: torch.Tensor) -> torch.Tensor | None:
        """Return the map that a given one gates relative to, if there is one."""
        return predicted if attention is not None and self.mechanism.insertion == 'explaining' else None

    def _perceive_unchanged(
        self,
        features: torch.Tensor,
        images: torch.Tensor,
        attention: torch.Tensor | None,
        beside: list[torch.Tensor],
    ) -> torch.Tensor:
        """Return logits of a network whose map only explains, without making the map where nobody reads it."""
        if attention is None:
            return self.perceive(features, None, beside)
        predicted = self.attention_branch.attention_map(self._class_features(features, images))
        return self._perceive(features, given_or_predicted(attention, predicted), beside, predicted)

    def _perceive(
        self,
        features: torch.Tensor,
        attention_map: torch.Tensor,
        beside: list[torch.Tensor] | None = None,
        predicted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend, then perceive: return what the perception branch says of features under their attention maps.

        Args:
            features: Features of the extractor.
            attention_map: Shape (B, 1, h, w), or one map per task, (B, T, h, w), of which ``task_chunk_size`` pass the
                perception branch at once.
            beside: What passes beside the features.
            predicted: What a given map gates relative to (see ``Mechanism``).
        """
        num_maps = self.attention_branch.num_maps
        convolved: dict[str, torch.Tensor] | None = None
        if not torch.jit.is_scripting() and num_maps > 1 and self._may_be_lazy(features):
            convolved = {}
        answers: list[torch.Tensor] = []
        for first in range(0, num_maps, self.task_chunk_size):
            count = min(self.task_chunk_size, num_maps - first)
            chunk = attention_map[:, first : first + count] if count < num_maps else attention_map
            gated = self.mechanism(features, chunk, count, convolved, predicted)
            of_chunk = beside
            if self.has_beside:
                of_chunk = beside_of_tasks(beside or [], self.beside_per_image, count)
            outputs = self.perceive(gated, self.mechanism.attention_bias(features, chunk, predicted), of_chunk)
            answers.append(self.attention_branch.answers(outputs, first, count, self.num_classes > 0))
        return torch.cat(answers, dim=1) if len(answers) > 1 else answers[0]

    @torch.jit.unused
    def _may_be_lazy(self, features: torch.Tensor) -> bool:
        is_factor = self.mechanism.gate == 'features' and self.layout.layout == 'NCHW' and not self.has_beside
        return is_factor and can_be_lazy(features, self.perception_branch)

    @ignored_by_torchscript
    @torch.no_grad()
    def explain(self, images: torch.Tensor, attention: torch.Tensor | None = None) -> Explanation:
        """Predict, and say where the prediction looks: one forward pass, no gradients.

        Args:
            images: Normalised images, shape (B, in_chans, H, W).
            attention: See ``forward``.

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
        features, beside = self.extract(images)
        class_features = self._class_features(features, images)
        predicted = self.attention_branch.attention_map(class_features)
        attention_map = given_or_predicted(attention, predicted)
        logits = self._perceive(features, attention_map, beside, self._reference(attention, predicted))
        explanation = self.attention_branch.explanation(logits, attention_map, class_features)
        only_explains = attention is None and self.mechanism.insertion == 'explaining'
        return dataclasses.replace(explanation, map_gates=False) if only_explains else explanation

    @ignored_by_torchscript
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        if any(name.startswith(f'{prefix}attention_branch.') for name in state_dict):  # else of a half, say
            follow_weights(self, state_dict, f'{prefix}mechanism.')
        super()._load_from_state_dict(state_dict, prefix, *args)

    @ignored_by_torchscript
    def train(self, mode: bool = True) -> 'AttentionBranchNet':
        """Set the mode; both halves stay in evaluation mode where the map only explains them."""
        super().train(mode)
        if self.mechanism.insertion == 'explaining':
            freeze_halves(self, True)
        return self
