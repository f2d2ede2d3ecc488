"""Building models with trained weights: timm's builder, after its input has been checked.

Names of this package load weights that exist, or say how to get some. A configuration that comes from elsewhere, with a
'hf-hub:' or 'local-dir:' address, is checked entry by entry; then the network is built once without memory, compared
with the header of the weights, and only then built with memory. Its cut is proven the first time only.
"""

import collections
import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
import torch.nn as nn
from huggingface_hub.errors import RepositoryNotFoundError
from timm.models import build_model_with_cfg, load_model_config_from_hf
from torch.utils._python_dispatch import TorchDispatchMode

from ..checkpoint_files import CheckpointError
from ..records import Record, set_record
from ..timm_private import load_model_config_from_path, resolve_pretrained_cfg
from .config import HubError, check_entries, read_config
from .download import CONFIG_NAME, fetch_file, find_weights, one_line_errors, read_header
from .published import ORGANISATION_VARIABLE, RECORDS_OF_WEIGHTS, is_own_repository, no_weights
from .state_dicts import check_state_dict

__all__ = ['ModelT', 'build_model', 'build_without_memory', 'check_address', 'check_folder']

ModelT = TypeVar('ModelT', bound=nn.Module)

MOST = dict(parameters=10**10, tensors=10_000)  # 40 GB; the deepest of timm have a fifth of the tensors


def build_model(
    model_cls: type[ModelT] | Callable[[dict[str, Any]], type[ModelT]],
    variant: str,
    pretrained: bool = False,
    **kwargs: Any,
) -> ModelT:
    """Build a registered model by timm's ``build_model_with_cfg``, after checking what comes from elsewhere.

    ``model_cls`` may be a function that returns the class, and may change the arguments, which are complete then;
    ``variant`` is the name without a tag.

    Raises:
        HubError: Weights are asked for where there are none, or a configuration or weights cannot be used.
    """
    kwargs, record = _resolve_arguments(variant, pretrained, **kwargs)
    if not isinstance(model_cls, type):
        model_cls = model_cls(kwargs)
    cfg = kwargs['pretrained_cfg']
    with one_line_errors(_origin(cfg)) if pretrained and cfg.get('source') else contextlib.nullcontext():
        model: ModelT = build_model_with_cfg(model_cls, variant, pretrained, **kwargs)
    if kwargs.get('num_classes', cfg['num_classes']) == cfg['num_classes']:  # else the outputs are others
        set_record(model, record)
    return model


def _resolve_arguments(
    variant: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    pretrained_model_args: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[dict[str, Any], Record]:
    """Return the arguments of a model, with a complete ``pretrained_cfg`` that can be trusted, and its record."""
    model_args, overlay = dict(pretrained_model_args or {}), dict(pretrained_cfg_overlay or {})
    if not isinstance(pretrained_cfg, dict) or pretrained_cfg.get('source') not in ('hf-hub', 'local-dir'):
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
        if pretrained and not cfg.has_weights and not cfg.state_dict:
            raise HubError(no_weights(variant))
        if not pretrained or cfg.file or cfg.state_dict or not is_own_repository(cfg.hf_hub_id):
            known = RECORDS_OF_WEIGHTS.get(f'{variant}.{cfg.tag}') if pretrained else None
            return dict(kwargs, pretrained_cfg=cfg.to_dict(), pretrained_model_args=model_args), known or Record()
        hub_id, cache_dir = str(cfg.hf_hub_id), kwargs.get('cache_dir')
        _check_published(variant, hub_id, cache_dir)
        pretrained_cfg, _, model_args = load_model_config_from_hf(hub_id, cache_dir)
    check_entries(pretrained_cfg, model_args, _origin(pretrained_cfg), pretrained_cfg['source'])
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, overlay)
    kwargs = {**model_args, **kwargs}
    origin, cache_dir = _origin(pretrained_cfg), kwargs.get('cache_dir')
    record = Record.take(_config_at(pretrained_cfg['source'], origin, cache_dir))
    weights = find_weights(pretrained_cfg['source'], origin, cache_dir) if pretrained else None
    _check_network(variant, pretrained_cfg, model_args, origin, weights)
    return dict(kwargs, pretrained_cfg=cfg.to_dict(), pretrained_model_args=model_args), record


def _origin(cfg: Mapping[str, Any]) -> str:
    return str(cfg.get('hf_hub_id') if cfg.get('source') == 'hf-hub' else cfg.get('file'))


def _check_published(variant: str, hub_id: str, cache_dir: str | Path | None) -> None:
    """Raise HubError unless the repository of a registered name is there, and holds what the name says."""
    try:
        config = read_config(fetch_file(hub_id, CONFIG_NAME, cache_dir), hub_id)
    except HubError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        raise HubError(no_weights(variant, f'{ORGANISATION_VARIABLE} selects {hub_id}, but {error} Or ')) from error
    if config['architecture'] != variant:
        raise HubError(f'{hub_id} holds weights for {config["architecture"]}, not for {variant}.')


def _check_network(
    variant: str, pretrained_cfg: Mapping[str, Any], model_args: Mapping[str, Any], origin: str, weights: Path | None
) -> None:
    """Check that a configuration describes a network of a reasonable size, and the one that the weights are of."""
    header = read_header(weights, origin) if weights else None
    cfg = {key: value for key, value in pretrained_cfg.items() if key not in ('source', 'hf_hub_id', 'file')}
    network = build_without_memory(partial(timm.model_entrypoint(variant), pretrained_cfg=cfg, **model_args), origin)
    _check_classifier(network, cfg, origin)
    try:
        if header is not None:
            check_state_dict(header, network.state_dict(), variant, origin)
    except CheckpointError as error:
        raise HubError(str(error)) from None


def _check_classifier(network: nn.Module, cfg: Mapping[str, Any], origin: str) -> None:
    """Check that the layers that timm replaces where another number of classes is asked for are classifiers."""
    paths = cfg.get('classifier') or ()
    outputs = cfg.get('num_classes', 0) * getattr(getattr(network, 'config', None), 'outputs_per_class', 1)
    for path in [paths] if isinstance(paths, str) else paths:
        weight = network.state_dict().get(f'{path}.weight')
        if outputs and weight is not None and len(weight) != outputs:
            raise HubError(f'{origin}: pretrained_cfg.classifier {path!r} has {len(weight)} outputs, not {outputs}.')


class _BoundedSize(TorchDispatchMode):
    """Raises HubError as soon as the networks that this thread builds inside are larger than any real one."""

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin, self.made = origin, collections.Counter()  # type: ignore[var-annotated]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not any(isinstance(value, torch.Tensor) for value in args):
            self.made.update(parameters=result.numel(), tensors=1)
            for what, most in MOST.items():
                if self.made[what] > most:
                    network = f'a network of more than {most:,} {what}'
                    raise HubError(f'{self.origin}: its configuration describes {network}.')
        return result


def build_without_memory(create: Callable[..., nn.Module], origin: str) -> nn.Module:
    """Build a network on the meta device, where tensors have a shape but no values.

    Raises:
        HubError: There is no such network, or it is larger than any real one.
    """
    device = torch.device('meta')
    with one_line_errors(origin, 'built: its configuration does not describe a network'), _BoundedSize(origin), device:
        return create(device=device)


def check_address(address: str) -> dict[str, Any]:
    """Return the ``config.json`` behind an address, before timm reads it; empty of what is none.

    Raises:
        HubError: It is not there, or cannot be used.
    """
    source, _, place = address.partition(':')
    return _config_at(source.replace('_', '-'), place) if source in ('hf-hub', 'hf_hub', 'local-dir') else {}


def _config_at(source: str, place: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    is_folder = source == 'local-dir'
    return read_config(Path(place) / CONFIG_NAME if is_folder else fetch_file(place, CONFIG_NAME, cache_dir), place)


def check_folder(folder: str | Path) -> dict[str, Any]:
    """Check that the ``config.json`` and the weights of a folder belong together, and return what the former holds.

    Raises:
        HubError: They do not, or one of them cannot be used.
    """
    config = read_config(Path(folder) / CONFIG_NAME, str(folder))
    pretrained_cfg, architecture, model_args = load_model_config_from_path(folder)
    origin = _origin(pretrained_cfg)
    _check_network(architecture, pretrained_cfg, model_args, origin, find_weights('local-dir', origin))
    return config
