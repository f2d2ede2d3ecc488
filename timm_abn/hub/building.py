"""Building models with trained weights: what timm's builder does, after a look at what it is given.

Names of this package load weights that exist, or say how to get some. A configuration that comes from elsewhere, with a
'hf-hub:' or 'local-dir:' address, is checked entry by entry; then the network is built once without memory, compared
with the header of the weights, and only then built in earnest.
"""

import contextlib
import threading
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple, Type, TypeVar, Union

import timm
import torch
import torch.nn as nn
from huggingface_hub.errors import RepositoryNotFoundError
from timm.models import build_model_with_cfg, load_model_config_from_hf
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from ..timm_private import load_model_config_from_path, resolve_pretrained_cfg
from .config import HubError, check_model_args, check_pretrained_cfg, read_config
from .download import CONFIG_NAME, fetch_file, fetch_weights, local_weights, one_line_errors, read_header
from .published import ORGANISATION_VARIABLE, is_own_repository, ways_to_weights
from .state_dicts import CheckpointError, check_state_dict

__all__ = [
    'build_model',
    'build_resolved',
    'build_without_memory',
    'check_address',
    'check_folder',
    'network_shapes',
    'resolve_arguments',
]

ModelT = TypeVar('ModelT', bound=nn.Module)

MAX_PARAMETERS = 10**10  # 40 GB
MAX_MODULES = 10_000  # the deepest of timm have a fifth


def build_model(model_cls: Type[ModelT], variant: str, pretrained: bool = False, **kwargs: Any) -> ModelT:
    """Build a registered model; see the functions that this one is made of.

    Args:
        model_cls: Its class.
        variant: Its name, without a tag.
        pretrained: Whether to load trained weights.
        **kwargs: Arguments of timm's ``build_model_with_cfg``, and of the class.

    Raises:
        HubError: See ``resolve_arguments`` and ``build_resolved``.
    """
    return build_resolved(model_cls, variant, pretrained, **resolve_arguments(variant, pretrained, **kwargs))


def resolve_arguments(
    variant: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Optional[Mapping[str, Any]] = None,
    pretrained_model_args: Optional[Mapping[str, Any]] = None,
    **kwargs: Any,
) -> Dict[str, Any]:
    """Return the arguments of a model, with a ``pretrained_cfg`` that is complete and can be trusted.

    Args:
        variant: Name of the model, without a tag.
        pretrained: Whether weights will be loaded.
        pretrained_cfg: Tag, or configuration; from elsewhere if it has a ``source``.
        pretrained_cfg_overlay: Entries that replace those of ``pretrained_cfg``.
        pretrained_model_args: Arguments that came with a configuration from elsewhere.
        **kwargs: Other arguments, those of the configuration included.

    Raises:
        HubError: Weights are asked for where there are none, or a configuration or weights cannot be used.
    """
    model_args = dict(pretrained_model_args or {})
    if not _comes_from_elsewhere(pretrained_cfg):
        cfg = resolve_pretrained_cfg(variant, pretrained_cfg, dict(pretrained_cfg_overlay or {}))
        if pretrained and not cfg.has_weights and not cfg.state_dict:
            raise HubError(f'no weights are published for {variant}: {ways_to_weights(variant)}.')
        if not pretrained or cfg.file or cfg.state_dict or not is_own_repository(cfg.hf_hub_id):
            return dict(kwargs, pretrained_cfg=cfg.to_dict(), pretrained_model_args=model_args)
        pretrained_cfg, model_args = _published_config(variant, str(cfg.hf_hub_id), kwargs.get('cache_dir'))
        kwargs = {**model_args, **kwargs}
    check_pretrained_cfg(pretrained_cfg, _origin(pretrained_cfg), pretrained_cfg['source'])
    check_model_args(model_args, _origin(pretrained_cfg))
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, dict(pretrained_cfg_overlay or {}))
    _check_network(variant, pretrained_cfg, model_args, pretrained, kwargs.get('cache_dir'))
    return dict(kwargs, pretrained_cfg=cfg.to_dict(), pretrained_model_args=model_args)


def build_resolved(model_cls: Type[ModelT], variant: str, pretrained: bool, **kwargs: Any) -> ModelT:
    """Build a model by timm's ``build_model_with_cfg``.

    Args:
        model_cls: Its class.
        variant: Its name, without a tag.
        pretrained: Whether to load trained weights.
        **kwargs: What ``resolve_arguments`` returned, and other arguments of ``build_model_with_cfg``.

    Raises:
        HubError: Weights from elsewhere cannot be loaded.
    """
    cfg = kwargs['pretrained_cfg']
    with one_line_errors(_origin(cfg)) if pretrained and cfg.get('source') else contextlib.nullcontext():
        return build_model_with_cfg(model_cls, variant, pretrained, **kwargs)


def _comes_from_elsewhere(pretrained_cfg: Any) -> bool:
    return isinstance(pretrained_cfg, dict) and pretrained_cfg.get('source') in ('hf-hub', 'local-dir')


def _origin(cfg: Mapping[str, Any]) -> str:
    return str(cfg.get('hf_hub_id') if cfg.get('source') == 'hf-hub' else cfg.get('file'))


def _published_config(
    variant: str,
    hub_id: str,
    cache_dir: Optional[Union[str, Path]],
) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return the ``pretrained_cfg`` and the arguments that lie beside the weights of a registered name."""
    try:
        config = read_config(fetch_file(hub_id, CONFIG_NAME, cache_dir), hub_id)
    except HubError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        raise HubError(
            f'no weights are published for {variant}: {ORGANISATION_VARIABLE} asks for {hub_id}, and {error} '
            f'Or {ways_to_weights(variant)}.'
        ) from error
    if config['architecture'] != variant:
        raise HubError(f'{hub_id} holds weights of {config["architecture"]}, not of {variant}.')
    pretrained_cfg, _, model_args = load_model_config_from_hf(hub_id, cache_dir)
    return pretrained_cfg, model_args


def _check_network(
    variant: str,
    pretrained_cfg: Mapping[str, Any],
    model_args: Mapping[str, Any],
    pretrained: bool,
    cache_dir: Optional[Union[str, Path]],
) -> None:
    """Check that a configuration describes a network of a reasonable size, and the one that the weights are of."""
    origin = _origin(pretrained_cfg)
    header = None
    if pretrained:
        hub_id = pretrained_cfg.get('hf_hub_id')
        path = fetch_weights(hub_id, cache_dir) if hub_id else local_weights(pretrained_cfg['file'])
        header = read_header(path, origin) if path else None
    expected = network_shapes(variant, pretrained_cfg, model_args, origin)
    if header is not None:
        try:
            check_state_dict(header, expected, variant)
        except CheckpointError as error:
            raise HubError(f'{origin}: {error}') from None


def network_shapes(
    variant: str,
    pretrained_cfg: Mapping[str, Any],
    model_args: Mapping[str, Any],
    origin: str,
) -> Dict[str, torch.Tensor]:
    """Return the state dict of the network that a configuration describes: tensors that have a shape but no values.

    Args:
        variant: Name of the model, without a tag.
        pretrained_cfg: Configuration, already checked.
        model_args: Arguments, already checked.
        origin: Where they come from, for messages.

    Raises:
        HubError: There is no such network, or it is larger than any.
    """
    cfg = {key: value for key, value in pretrained_cfg.items() if key not in ('source', 'hf_hub_id', 'file')}
    create = partial(timm.model_entrypoint(variant), pretrained_cfg=cfg, **model_args)
    return build_without_memory(create, origin).state_dict()


def build_without_memory(create: Callable[..., nn.Module], origin: str) -> nn.Module:
    """Build a network on the meta device, where tensors have a shape but no values.

    Args:
        create: Function that builds it on the ``device`` that it is given.
        origin: Where its arguments come from, for messages.

    Raises:
        HubError: There is no such network, or it is larger than any.
    """
    device = torch.device('meta')
    with one_line_errors(origin, 'built: its configuration does not describe a network'), _bounded_size(origin), device:
        return create(device=device)


def check_address(address: str) -> None:
    """Check the ``config.json`` behind an address, before timm reads it.

    Args:
        address: 'hf-hub:' or 'local-dir:' and a place, as ``timm.create_model`` takes it.

    Raises:
        HubError: It is not there, or cannot be used.
    """
    source, _, place = address.partition(':')
    if source == 'local-dir':
        read_config(Path(place) / CONFIG_NAME, place)
    elif source in ('hf-hub', 'hf_hub'):
        read_config(fetch_file(place, CONFIG_NAME), place)


def check_folder(folder: Union[str, Path]) -> Dict[str, Any]:
    """Check that the ``config.json`` and the weights of a folder belong together, and return what the former holds.

    Args:
        folder: The folder.

    Raises:
        HubError: They do not, or one of them cannot be used.
    """
    config = read_config(Path(folder) / CONFIG_NAME, str(folder))
    pretrained_cfg, architecture, model_args = load_model_config_from_path(folder)
    _check_network(architecture, pretrained_cfg, model_args, True, None)
    return config


@contextlib.contextmanager
def _bounded_size(origin: str) -> Iterator[None]:
    """Raise HubError as soon as the networks that this thread builds inside are larger than any real one."""
    thread = threading.get_ident()
    parameters = modules = 0

    def count_parameter(module: nn.Module, name: str, parameter: Optional[nn.Parameter]) -> None:
        nonlocal parameters
        if threading.get_ident() == thread and parameter is not None:
            parameters += parameter.numel()
            check(parameters, MAX_PARAMETERS, 'parameters')

    def count_module(module: nn.Module, name: str, submodule: Optional[nn.Module]) -> None:
        nonlocal modules
        if threading.get_ident() == thread:
            modules += 1
            check(modules, MAX_MODULES, 'modules')

    def check(number: int, most: int, what: str) -> None:
        if number > most:
            raise HubError(f'{origin}: its configuration describes a network of more than {most:,} {what}.')

    hooks = (
        register_module_parameter_registration_hook(count_parameter),
        register_module_module_registration_hook(count_module),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
