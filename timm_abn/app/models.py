"""The models that a page offers: loaded when they are first chosen, each with the methods that apply to it."""

import functools
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from ..attached.network import AttachedNet
from ..data.class_names import name_classes
from ..data.images import Preprocessing
from ..errors import TimmAbnError
from ..examples import example_photos
from ..explain.editing import check_editable
from ..explain.methods import Explainer, applicable_explainers, method_title
from ..models.loading import load_model, model_names
from ..networks.multi_task import MultiTaskAttentionBranchNet

__all__ = ['METHODS', 'OfferedModels', 'ServedModel', 'models_with_weights']

METHODS = ('grad_cam', 'recipro_cam', 'class_map', 'rollout')  # of those that apply, the first is shown at first


class ServedModel:
    """A network in evaluation mode, an ABN whose map can be painted on or an attached one, and what a page needs of it.

    Attributes:
        is_painted: Whether the prediction follows a map that is painted; that of an attached network stays as it is.
        name: What the model is called.
        source: Where its weights come from; '' if that is not known.
    """

    def __init__(self, model: Any, label_names: Path | None = None, name: str = '', source: str = '') -> None:
        """
        Raises:
            TimmAbnError: The prediction of ``model`` follows no map, or maps that are not in [0, 1].
        """
        self.has_tasks = isinstance(model, MultiTaskAttentionBranchNet)
        self.is_painted = not isinstance(model, AttachedNet)
        if self.is_painted:
            check_editable(model)
        self.model: Any = model
        self.class_names = name_classes(model, label_names)
        self.preprocessing = Preprocessing(model)
        self.name, self.source = name, source

    @property
    def examples(self) -> list[Path]:
        """The images to offer: of Fashion-MNIST its own, of other models of colour photos the example photos."""
        samples = sorted((Path(__file__).parents[1] / 'samples').glob('*.png'))
        if {path.stem.split('_')[1] for path in samples} == {re.sub('[ /]', '-', name) for name in self.class_names}:
            return samples
        return [*example_photos().values()] if self.preprocessing.channels == 3 else []

    @functools.cached_property
    def explainers(self) -> dict[str, Explainer]:
        """The methods that apply to the model; finding out takes a forward and a backward pass of each."""
        return applicable_explainers(METHODS, self.model)

    def title(self, method: str) -> str:
        """Return what one of the ``explainers`` is called, with its layer."""
        return method_title(method, self.explainers[method].layer)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.model.parameters()).device


class OfferedModels:
    """Models by name, loaded when they are first asked for."""

    def __init__(
        self,
        names: Sequence[str],
        checkpoint: Path | None = None,
        device: torch.device | None = None,
        label_names: Path | None = None,
        **model_kwargs: Any,
    ) -> None:
        """For ``checkpoint`` and ``model_kwargs``, which are of the one model that is named, see ``load_model``.

        ``label_names`` is a file of names of its classes, one per line.

        Raises:
            TimmAbnError: No model, or weights for several are given.
        """
        if not names:
            raise TimmAbnError('there are no models to offer.')
        if len(names) > 1 and (checkpoint is not None or model_kwargs):
            raise TimmAbnError(f'a checkpoint, and arguments, are of one model; {len(names)} are named.')
        self.names = list(dict.fromkeys(names))
        self._checkpoint, self._device, self._label_names = checkpoint, device, label_names
        self._model_kwargs = model_kwargs
        self._loaded: dict[str, ServedModel] = {}
        self._lock = threading.Lock()

    def load(self, name: str) -> ServedModel:
        """Return a model that is offered.

        Raises:
            TimmAbnError: It is not offered, cannot be loaded, or is an ABN whose map cannot be painted on.
        """
        if name not in self.names:  # whoever asks may be anybody: nothing else is loaded
            raise TimmAbnError(f'{name} is not offered here; there are {", ".join(self.names)}.')
        with self._lock:
            if name not in self._loaded:
                model = load_model(name, self._checkpoint, **self._model_kwargs).to(self._device)
                called = _name_and_source(name, self._checkpoint, model)
                self._loaded[name] = ServedModel(model, self._label_names, *called)
            return self._loaded[name]


def _name_and_source(name: str, checkpoint: Path | None, model: Any) -> tuple[str, str]:
    """Return a model's name, and where its weights come from: visitors need not know folders of this machine."""
    cfg, (kind, _, place) = model.pretrained_cfg, name.partition(':')
    if checkpoint is not None:
        return name, checkpoint.name
    if place:
        return cfg['architecture'], f'the folder {Path(place).name}' if kind == 'local-dir' else name
    return name, 'this package' if cfg.get('file') else cfg.get('hf_hub_id') or cfg.get('url') or ''


def models_with_weights() -> list[str]:
    """Return the names of Attention Branch Networks whose weights are part of the package, the most faithful first."""
    names = timm.list_pretrained([f'{name}.*' for name in model_names('abn*')])
    return sorted(names, key=lambda name: (not name.endswith('_faithful'), name))
