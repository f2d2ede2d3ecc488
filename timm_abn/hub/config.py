"""Checking configurations that come from elsewhere: the ``config.json`` of a Hub repository or of a folder.

timm turns its entries into arguments of constructors and into places to load from. Here they are checked first: by the
name, type and range of each entry, before anything is built.
"""

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg

from ..errors import TimmAbnError, one_line
from ..networks.config import AbnConfig
from ..records import Record

__all__ = ['HubError', 'check_config', 'check_entries', 'read_config']

MAX_CONFIG_BYTES = 2**22  # the names and descriptions of 22,000 classes take half of it
MAX_CLASSES = 2**20
MAX_NUMBER = 2**16  # in arguments of backbones, as wide as no timm model is
MAX_ITEMS = 256
MAX_TEXT = 2**14
MAX_PIXELS = 2**23  # times channels, of an input; twice the largest of timm, 3 x 1024 x 1024, and more


class HubError(TimmAbnError):
    """What lies at a 'hf-hub:' or 'local-dir:' address is not there or cannot be used; the message is one line."""


# What an entry may hold: a kind and its bounds. 'int', 'number': lowest, highest. 'one of': the choices. 'text': a
# pattern, and what it is in words. 'list', 'names': rule of an item, fewest, most. 'items': what they are in words, a
# rule for each. 'either': other rules.
_FLAG = ('one of', True, False)
_NULL = ('one of', None)
# nothing that moves the cursor of a terminal, turns the direction of writing, or is half of a character
_PRINTED = r'[^\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]'
_NAME = ('text', f'{_PRINTED}*', f'a text of one line, of at most {MAX_TEXT} characters')
_TEXT = ('text', rf'(\s|{_PRINTED})*', f'a text of at most {MAX_TEXT} characters')
_TEXTS = ('either', _TEXT, ('list', _TEXT, 0, MAX_ITEMS))
_CLASSES = ('int', 0, MAX_CLASSES)
_PIXELS = ('int', 1, 2**11)
_CHANNELS = ('int', 1, 1024)
_SIZE = ('items', '[channels, height, width], none above 2048', _CHANNELS, _PIXELS, _PIXELS)
_PATH = ('text', r'\w+(\.\w+)*', 'the path of a module')
_PATHS = ('either', _PATH, ('list', _PATH, 0, MAX_ITEMS), _NULL)
_POOL = ('either', ('list', _PIXELS, 1, 2), _NULL)
_LABELS = ('names', _NAME, 0, MAX_CLASSES)
_PLAIN = ('either', _FLAG, _NULL, ('number', -MAX_NUMBER, MAX_NUMBER), ('text', r'[\w.\-]{0,64}', 'a short name'))

# entries of pretrained_cfg; of its other fields, those that say where weights lie are for timm to set
_CFG_RULES = {
    'architecture': ('text', r'\w+', 'the name of a model'),
    'custom_load': ('one of', False),
    **dict.fromkeys(('input_size', 'test_input_size', 'min_input_size'), _SIZE),
    'fixed_input_size': _FLAG,
    'interpolation': ('one of', 'bilinear', 'bicubic', 'nearest', 'lanczos', 'hamming', 'box'),
    **dict.fromkeys(('crop_pct', 'test_crop_pct'), ('number', 0.25, 1)),
    'crop_mode': ('one of', 'center', 'squash', 'border'),
    'mean': ('list', ('number', -1e4, 1e4), 1, 1024),
    'std': ('list', ('number', 1e-6, 1e4), 1, 1024),
    'num_classes': _CLASSES,
    'label_offset': ('one of', 0),
    **dict.fromkeys(('label_names', 'label_descriptions'), _LABELS),
    **dict.fromkeys(('pool_size', 'test_pool_size'), _POOL),
    **dict.fromkeys(('first_conv', 'classifier'), _PATHS),
    **dict.fromkeys(('tag', 'license', 'description', 'origin_url', 'paper_name'), _TEXT),
    **dict.fromkeys(('paper_ids', 'notes'), _TEXTS),
}
_NULLABLE = {field.name for field in dataclasses.fields(PretrainedCfg) if field.default is None}

# arguments that need a rule besides that of ``AbnConfig``; the others belong to the backbone, whose constructor checks
_ARGUMENT_RULES = {
    'backbone': ('text', r'[a-z]\w*(\.\w+)?', 'the name of a timm model'),
    'split': ('either', ('int', -1000, 1000), _PATH),
    'img_size': ('either', _PIXELS, ('list', _PIXELS, 2, 2)),
    'global_pool': ('text', r'\w*', 'the name of a pooling'),
}
_OWN_ARGUMENTS = {*_ARGUMENT_RULES, *(field.name for field in dataclasses.fields(AbnConfig))}
# arguments of timm's factories, which do not describe a network but load, place or alter one
_FORBIDDEN_ARGUMENTS = frozenset(
    'cache_dir checkpoint_path device dtype exportable feature_cfg feature_cls features_only kwargs_filter model_cfg '
    'model_cls model_name no_jit out_indices pretrained pretrained_backbone pretrained_cfg pretrained_cfg_overlay '
    'pretrained_filter_fn pretrained_model_args pretrained_strict pruned scriptable variant'.split()
)


def _allows(rule: Any, value: Any) -> bool:
    kind, *bounds = rule
    if kind == 'either':
        return any(_allows(other, value) for other in bounds)
    if kind == 'one of':
        return any(value == choice and type(value) is type(choice) for choice in bounds)
    if kind == 'text':
        return isinstance(value, str) and len(value) <= MAX_TEXT and bool(re.fullmatch(bounds[0], value, re.DOTALL))
    if kind == 'items':
        rules = bounds[1:]
        return isinstance(value, (list, tuple)) and len(value) == len(rules) and all(map(_allows, rules, value))
    if kind in ('list', 'names'):
        if kind == 'names' and isinstance(value, dict):
            value = list(value.values())
        item, fewest, most = bounds
        is_list = isinstance(value, (list, tuple)) and fewest <= len(value) <= most
        return is_list and all(_allows(item, entry) for entry in value)
    is_number = type(value) is int or (kind == 'number' and type(value) is float and math.isfinite(value))
    return is_number and bounds[0] <= value <= bounds[1]


def _expected(rule: Any) -> str:
    kind, *bounds = rule
    if kind == 'either':
        return ' or '.join(map(_expected, bounds))
    if kind == 'one of':
        return f'one of {", ".join(map(repr, bounds))}' if len(bounds) > 1 else repr(bounds[0])
    if kind == 'text':
        return bounds[1]
    if kind == 'items':
        return bounds[0]
    if kind in ('list', 'names'):
        item, fewest, most = bounds
        return f'a list of {fewest if fewest == most else f"{fewest} to {most}"} items, each {_expected(item)}'
    return f'a {"whole " if kind == "int" else ""}number from {bounds[0]:g} to {bounds[1]:g}'


def _check(name: str, value: Any, rule: Any, origin: str) -> None:
    if not _allows(rule, value):
        raise HubError(f'{origin}: {name} must be {_expected(rule)}, got {reprlib.repr(value)}.')


def read_config(path: str | Path, origin: str) -> dict[str, Any]:
    """Read and check a ``config.json``; ``origin`` says where it comes from.

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
        raise HubError(f'{origin}: config.json is not JSON: {one_line(error)}.') from None
    check_config(config, origin)
    return config


def check_config(config: Any, origin: str) -> None:
    """Check what a ``config.json`` holds.

    Raises:
        HubError: An entry is missing, unknown, of the wrong type or out of range; the message names it.
    """
    if not isinstance(config, dict):
        raise HubError(f'{origin}: config.json must hold an object, got {reprlib.repr(config)}.')
    architecture: Any = config.get('architecture')
    cfg = config.get('pretrained_cfg')
    if not _allows(_CFG_RULES['architecture'], architecture) or not timm.is_model(architecture):
        raise HubError(f'{origin}: architecture must be the name of a model, got {reprlib.repr(architecture)}.')
    if not isinstance(cfg, Mapping):
        raise HubError(f'{origin}: pretrained_cfg must be an object, got {reprlib.repr(cfg)}.')
    model_args = config.get('model_args', {})
    # timm lets these stand at the top, too, and prefers them there
    on_top = {key: config[key] for key in ('num_classes', 'label_names', 'label_descriptions') if key in config}
    check_entries({**cfg, **on_top}, model_args, origin)
    for name in ('architecture', *on_top):
        _check_same(name, {'config.json': config[name], 'pretrained_cfg': cfg.get(name)}, origin)
    pools = {'config.json': config.get('global_pool'), 'model_args': model_args.get('global_pool')}
    _check_same('global_pool', pools, origin)
    try:
        record = Record.take(config)
    except TimmAbnError as error:
        raise HubError(f'{origin}: {error}') from None
    if record.probabilities == 'softmax' and (config.get('num_classes') == 1 or model_args.get('multi_task')):
        raise HubError(f"{origin}: probabilities must be 'sigmoid' for one logit and for tasks, got 'softmax'.")


def check_entries(pretrained_cfg: Mapping[str, Any], model_args: Any, origin: str, source: str = '') -> None:
    """Check the entries ``pretrained_cfg`` and ``model_args``, the arguments to build a network with.

    Names that only a backbone knows are for its constructor to check. ``source`` is 'hf-hub' or 'local-dir' if timm has
    added where the weights lie.

    Raises:
        HubError: See ``check_config``.
    """
    added = {'hf-hub': ('source', 'hf_hub_id'), 'local-dir': ('source', 'file')}.get(source, ())
    for key, value in pretrained_cfg.items():
        if key not in _CFG_RULES and key not in added:
            raise HubError(f'{origin}: pretrained_cfg must not hold {reprlib.repr(key)}.')
        if key in _CFG_RULES and not (value is None and key in _NULLABLE):
            _check(f'pretrained_cfg.{key}', value, _CFG_RULES[key], origin)
    if not isinstance(model_args, Mapping):
        raise HubError(f'{origin}: model_args must be an object, got {reprlib.repr(model_args)}.')
    for key, value in model_args.items():
        if key in _ARGUMENT_RULES:
            _check(f'model_args.{key}', value, _ARGUMENT_RULES[key], origin)
    try:
        AbnConfig.take(model_args)
    except TimmAbnError as error:
        raise HubError(f'{origin}: model_args: {error}') from None
    if 'in_chans' in model_args and model_args['in_chans'] is None:  # timm would build a network for no channels
        raise HubError(f'{origin}: model_args: in_chans must be a whole number, got None.')
    _check_plain(model_args, 'model_args', origin)
    _check_agreement(pretrained_cfg, model_args, origin)


def _check_agreement(cfg: Mapping[str, Any], model_args: Mapping[str, Any], origin: str) -> None:
    """Check that what is said twice is the same: else part of the weights would have no place, and be random."""
    said = dict(pretrained_cfg=cfg.get('num_classes'), model_args=model_args.get('num_classes'))
    _check_same('num_classes', said, origin)
    num_classes = cfg.get('num_classes', model_args.get('num_classes', PretrainedCfg.num_classes))
    names = cfg.get('label_names')
    # of one logit the yes is named, or no and yes
    if names is not None and len(names) != num_classes and not (num_classes == 1 and len(names) == 2):
        raise HubError(f'{origin}: there are {len(names)} label_names for {num_classes} classes.')
    sizes = {key: cfg[key] for key in ('input_size', 'test_input_size', 'min_input_size') if cfg.get(key)}
    for key, size in sizes.items():
        if math.prod(size) > MAX_PIXELS:
            raise HubError(
                f'{origin}: pretrained_cfg.{key} is of {math.prod(size):,} values, more than {MAX_PIXELS:,}.'
            )
    channels = {f'pretrained_cfg.{key}': size[0] for key, size in sizes.items()}
    _check_same('in_chans', {**channels, 'model_args': model_args.get('in_chans')}, origin)
    known = {3, *channels.values()}  # of a backbone for colour images with in_chans=1 the averages are taken
    for key in ('mean', 'std'):
        if cfg.get(key) is not None and channels and len(cfg[key]) not in known | {1}:
            raise HubError(
                f'{origin}: pretrained_cfg.{key} has {len(cfg[key])} values for {max(channels.values())} channels.'
            )


def _check_same(name: str, said: Mapping[str, Any], origin: str) -> None:
    known = {place: value for place, value in said.items() if value is not None}
    if any(value != next(iter(known.values())) for value in known.values()):
        places = ', '.join(f'{reprlib.repr(value)} in {place}' for place, value in known.items())
        raise HubError(f'{origin}: {name} contradicts itself: {places}.')


def _check_plain(value: Any, name: str, origin: str, depth: int = 0) -> None:
    """Check that arguments of a backbone are plain and small: nothing that names a place, nothing that takes memory."""
    if not isinstance(value, (Mapping, list, tuple)) or depth >= 4 or len(value) > MAX_ITEMS:
        if not _allows(_PLAIN, value):
            raise HubError(
                f'{origin}: {name} must be {_expected(_PLAIN)}, or a short list of such, got {reprlib.repr(value)}.'
            )
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str) or not re.fullmatch(r'[A-Za-z_]\w{0,63}', key) or key in _FORBIDDEN_ARGUMENTS:
                raise HubError(f'{origin}: {name} must not hold {reprlib.repr(key)}.')
            if depth or key not in _OWN_ARGUMENTS:
                _check_plain(item, f'{name}.{key}', origin, depth + 1)
    else:
        for item in value:
            _check_plain(item, name, origin, depth + 1)
