"""Checking configurations that come from elsewhere: the ``config.json`` of a Hub repository or of a folder.

timm turns its entries into arguments of constructors and into places to load from. Here they are checked first: by the
name, type and range of each entry, before anything is built.
"""

import dataclasses
import json
import math
import re
import reprlib
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Mapping, Optional, Union

import timm
from timm.models import PretrainedCfg

from ..errors import TimmAbnError

__all__ = ['HubError', 'check_config', 'check_model_args', 'check_pretrained_cfg', 'read_config']

MAX_CONFIG_BYTES = 2**24  # the names and descriptions of 22,000 classes take a tenth of it
MAX_CLASSES = 2**20
MAX_IMAGE_SIZE = 2**13
MAX_NUMBER = 2**16  # in arguments of backbones, as wide as no timm model is
MAX_ITEMS = 256
MAX_TEXT = 2**14


class HubError(TimmAbnError):
    """Weights, or the configuration beside them, are not there or cannot be used; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What an entry may hold.

    Attributes:
        allows: Whether a value may stand there.
        expected: What may stand there, in words.
    """

    allows: Callable[[Any], bool]
    expected: str


def _is_integer(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _integer(low: int, high: int) -> Rule:
    return Rule(lambda value: _is_integer(value, low, high), f'a whole number from {low} to {high}')


def _number(low: float, high: float) -> Rule:
    return Rule(
        lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high,
        f'a number from {low:g} to {high:g}',
    )


def _one_of(*choices: Any) -> Rule:
    return Rule(
        lambda value: any(value == choice and type(value) is type(choice) for choice in choices),
        f'one of {", ".join(map(repr, choices))}',
    )


def _pattern(pattern: str, expected: str) -> Rule:
    return Rule(lambda value: _is_text(value) and re.fullmatch(pattern, value) is not None, expected)


def _some(rule: Rule, fewest: int, most: int) -> Rule:
    """Return a rule for a list whose items follow ``rule``."""
    return Rule(
        lambda value: (
            isinstance(value, (list, tuple)) and fewest <= len(value) <= most and all(map(rule.allows, value))
        ),
        f'a list of {fewest if fewest == most else f"{fewest} to {most}"} items, each {rule.expected}',
    )


def _either(*rules: Rule) -> Rule:
    return Rule(lambda value: any(rule.allows(value) for rule in rules), ' or '.join(rule.expected for rule in rules))


_flag = _one_of(True, False)
_null = Rule(lambda value: value is None, 'null')
_text = Rule(_is_text, f'a text of at most {MAX_TEXT} characters')
_texts = _either(_text, _some(_text, 0, MAX_ITEMS))
_channels = _integer(1, 1024)
_pixels = _integer(1, MAX_IMAGE_SIZE)
_image_size = Rule(
    lambda value: (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and _channels.allows(value[0])
        and all(map(_pixels.allows, value[1:]))
    ),
    f'[channels, height, width], none above {MAX_IMAGE_SIZE}',
)
_module_path = _pattern(r'\w+(\.\w+)*', 'the path of a module')
_module_paths = _either(_module_path, _some(_module_path, 0, MAX_ITEMS), _null)
_classes = _integer(0, MAX_CLASSES)
_label_names = Rule(
    lambda value: (
        isinstance(value, (list, tuple, dict))
        and len(value) <= MAX_CLASSES
        and all(map(_is_text, value.values() if isinstance(value, dict) else value))
    ),
    'the names of the classes',
)

# entries of pretrained_cfg; of its other fields, those that say where weights lie are for timm to set
_CFG_RULES: Dict[str, Rule] = {
    'architecture': _pattern(r'\w+', 'the name of a model'),
    'tag': _text,
    'custom_load': _one_of(False),
    'input_size': _image_size,
    'test_input_size': _image_size,
    'min_input_size': _image_size,
    'fixed_input_size': _flag,
    'interpolation': _one_of('bilinear', 'bicubic', 'nearest', 'lanczos', 'hamming', 'box', 'random'),
    'crop_pct': _number(0.01, 10),
    'test_crop_pct': _number(0.01, 10),
    'crop_mode': _one_of('center', 'squash', 'border'),
    'mean': _some(_number(-1e4, 1e4), 1, 1024),
    'std': _some(_number(1e-6, 1e4), 1, 1024),
    'num_classes': _classes,
    'label_offset': _one_of(0),
    'label_names': _label_names,
    'label_descriptions': _label_names,
    'pool_size': _either(_some(_pixels, 1, 2), _null),
    'test_pool_size': _either(_some(_pixels, 1, 2), _null),
    'first_conv': _module_paths,
    'classifier': _module_paths,
    'license': _text,
    'description': _text,
    'origin_url': _text,
    'paper_name': _text,
    'paper_ids': _texts,
    'notes': _texts,
}

# arguments of our own networks; the others belong to the backbone, whose constructor has the last word
_ARGUMENT_RULES: Dict[str, Rule] = {
    'backbone': _pattern(r'[a-z]\w*(\.\w+)?', 'the name of a timm model'),
    'split': _either(_integer(-1000, 1000), _module_path),
    'mechanism': _one_of('residual', 'product'),
    'attention_map': _one_of('sigmoid', 'sum_log', 'raw'),
    'attention_norm': _flag,
    'multi_task': _flag,
    'task_chunk_size': _integer(1, MAX_CLASSES),
    'num_classes': _classes,
    'attention_classes': _integer(1, MAX_CLASSES),
    'in_chans': _channels,
    'img_size': _either(_pixels, _some(_pixels, 2, 2)),
    'global_pool': _pattern(r'\w*', 'the name of a pooling'),
}
# arguments of timm's factories, which do not describe a network but load, place or alter one
_FORBIDDEN_ARGUMENTS = frozenset(
    (
        'cache_dir',
        'checkpoint_path',
        'device',
        'dtype',
        'exportable',
        'feature_cfg',
        'feature_cls',
        'features_only',
        'kwargs_filter',
        'model_cfg',
        'model_cls',
        'model_name',
        'no_jit',
        'out_indices',
        'pretrained',
        'pretrained_backbone',
        'pretrained_cfg',
        'pretrained_cfg_overlay',
        'pretrained_filter_fn',
        'pretrained_model_args',
        'pretrained_strict',
        'pruned',
        'scriptable',
        'variant',
    )
)


def read_config(path: Union[str, Path], origin: str) -> Dict[str, Any]:
    """Read and check a ``config.json``.

    Args:
        path: The file.
        origin: Where it comes from, for messages.

    Raises:
        HubError: It is not there, or ``check_config`` refuses it.
    """
    path = Path(path)
    if not path.is_file():
        raise HubError(f'{origin}: there is no config.json.')
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise HubError(f'{origin}: config.json has {path.stat().st_size} bytes, more than {MAX_CONFIG_BYTES}.')
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (RecursionError, ValueError) as error:
        raise HubError(f'{origin}: config.json is not JSON: {" ".join(str(error).split())}.') from None
    check_config(config, origin)
    return config


def check_config(config: Any, origin: str) -> None:
    """Check what a ``config.json`` holds.

    Args:
        config: What the file holds.
        origin: Where it comes from, for messages.

    Raises:
        HubError: An entry is missing, unknown, of the wrong type or out of range; the message names it.
    """
    if not isinstance(config, dict):
        raise HubError(f'{origin}: config.json must hold an object, got {_short(config)}.')
    architecture, cfg = config.get('architecture'), config.get('pretrained_cfg')
    if not isinstance(architecture, str) or not re.fullmatch(r'\w+', architecture) or not timm.is_model(architecture):
        raise HubError(f'{origin}: architecture must be the name of a model, got {_short(architecture)}.')
    if not isinstance(cfg, Mapping):
        raise HubError(f'{origin}: pretrained_cfg must be an object, got {_short(cfg)}.')
    # timm lets these stand at the top, too, and prefers them there
    on_top = {key: config[key] for key in ('num_classes', 'label_names', 'label_descriptions') if key in config}
    check_pretrained_cfg({**cfg, **on_top}, origin)
    check_model_args(config.get('model_args', {}), origin)


def check_pretrained_cfg(cfg: Mapping[str, Any], origin: str, source: Optional[str] = None) -> None:
    """Check the entry ``pretrained_cfg``.

    Args:
        cfg: What it holds.
        origin: Where it comes from, for messages.
        source: 'hf-hub' or 'local-dir' if timm has added where the weights lie.

    Raises:
        HubError: See ``check_config``.
    """
    added = {'hf-hub': ('source', 'hf_hub_id'), 'local-dir': ('source', 'file')}.get(source or '', ())
    _check_names(cfg, [*_CFG_RULES, *added], 'pretrained_cfg', origin)
    nullable = {field.name for field in dataclasses.fields(PretrainedCfg) if field.default is None}
    for key, rule in _CFG_RULES.items():
        if key in cfg and not (cfg[key] is None and key in nullable):
            _check_entry(f'pretrained_cfg.{key}', cfg[key], rule, origin)
    names, num_classes = cfg.get('label_names'), cfg.get('num_classes', PretrainedCfg.num_classes)
    if isinstance(names, (list, tuple)) and len(names) != num_classes:
        raise HubError(f'{origin}: there are {len(names)} label_names for {num_classes} classes.')


def check_model_args(model_args: Any, origin: str) -> None:
    """Check the entry ``model_args``, the arguments to build a network with.

    Args:
        model_args: What it holds.
        origin: Where it comes from, for messages.

    Raises:
        HubError: See ``check_config``. Names that only a backbone knows are not looked at: its constructor does.
    """
    if not isinstance(model_args, Mapping):
        raise HubError(f'{origin}: model_args must be an object, got {_short(model_args)}.')
    for key, value in model_args.items():
        if key in _ARGUMENT_RULES:
            _check_entry(f'model_args.{key}', value, _ARGUMENT_RULES[key], origin)
    _check_plain(model_args, 'model_args', origin)


def _check_plain(value: Any, name: str, origin: str, depth: int = 0) -> None:
    """Check that arguments of a backbone are plain and small: nothing that names a place, nothing that takes memory."""
    if isinstance(value, Mapping) and depth < 4 and len(value) <= MAX_ITEMS:
        for key, item in value.items():
            if not isinstance(key, str) or not re.fullmatch(r'[A-Za-z_]\w{0,63}', key) or key in _FORBIDDEN_ARGUMENTS:
                raise HubError(f'{origin}: {name} must not hold {_short(key)}.')
            if depth or key not in _ARGUMENT_RULES:
                _check_plain(item, f'{name}.{key}', origin, depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 4 and len(value) <= MAX_ITEMS:
        for item in value:
            _check_plain(item, name, origin, depth + 1)
    elif not _plain.allows(value):
        raise HubError(f'{origin}: {name} must be {_plain.expected}, or a short list of such, got {_short(value)}.')


_plain = _either(_flag, _null, _number(-MAX_NUMBER, MAX_NUMBER), _pattern(r'[\w.\-]{0,64}', 'a short name'))


def _check_names(entries: Mapping[str, Any], known: Collection[str], name: str, origin: str) -> None:
    for key in entries:
        if key not in known:
            raise HubError(f'{origin}: {name} must not hold {_short(key)}.')


def _check_entry(name: str, value: Any, rule: Rule, origin: str) -> None:
    if not rule.allows(value):
        raise HubError(f'{origin}: {name} must be {rule.expected}, got {_short(value)}.')


def _short(value: Any) -> str:
    return reprlib.repr(value)
