"""The files of an evaluation: one for each batch, written whole or not at all, and used again only for the same.

A file names the fingerprints of the settings, the network and the methods, and of all images of the batch, which are
read to know that they are the same.
"""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...data.samples import Sample, read_samples
from ...errors import TimmAbnError
from ...staging import check_output_folder, staged_file
from ..processes import rank_and_size, wait_for_all
from .fingerprints import fingerprint, sample_fingerprint

__all__ = [
    'begin',
    'changed_error',
    'contents_of',
    'facts_of',
    'key_of',
    'load_maps',
    'parts_left',
    'read_again',
    'read_batch',
    'save_part',
]

_logger = logging.getLogger(__name__)

_OTHER = dict(weights='other weights', network='a network with other arguments', code='other code of the method {}')


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare the settings with those of an evaluation that was begun before, and record them."""
    for place in (folder, folder / 'maps', folder / 'curves', folder / 'mosaics'):
        check_output_folder(place)
    path, before = folder / 'settings.json', settings
    if any((folder / 'maps').glob('*.safetensors')):
        with contextlib.suppress(FileNotFoundError, ValueError):  # damaged: the parts say what they are of
            before = json.loads(path.read_text(encoding='utf-8'))
    then = dict(_entries(before))
    for key, value in _entries(settings):
        if then.get(key) != value:
            kind, _, name = key.partition('.')
            found = _OTHER.get(kind, f'{key}={then.get(key)!r}, not {value!r}').format(name)
            if kind == 'data':
                found = f'data={_rest(then.get(key), value)!r}, not {_rest(value, then.get(key))!r}'
            raise TimmAbnError(f'{folder} holds an evaluation with {found}: choose a new folder.')
    wait_for_all()  # all have compared before anything is written
    if rank_and_size()[0] == 0:
        with staged_file(path) as staged:
            staged.write_text(json.dumps(settings, indent=1), encoding='utf-8')
        unknown = [name for name, code in settings['code'].items() if code is None]
        if (folder / 'maps').is_dir() and unknown:
            _logger.warning(f'the code of {", ".join(unknown)} cannot be known: nothing in {folder} is used again')
    wait_for_all()


def _rest(words: object, others: object) -> str:
    """Return what a description of data says that another does not."""
    known = str(others).split(', ')
    return ', '.join(word for word in str(words).split(', ') if word not in known)


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings one by one, those of a group as 'group.name'."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f'{key}.{name}', entry) for name, entry in value.items())
        else:
            yield key, value


def key_of(settings: Mapping[str, Any]) -> str | None:
    """Return what says that a part belongs to an evaluation; None where that cannot be known."""
    is_known = settings['network'] and all(settings['code'].values())
    return fingerprint(json.dumps(settings, sort_keys=True)) if is_known else None


def save_part(part: Path, key: str | None, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write what was found of a batch."""
    with staged_file(part) as staged:
        save_file(dict(tensors), staged, metadata={'facts': json.dumps({**facts, 'key': key})})


def facts_of(part: Path) -> dict[str, Any] | None:
    """Return what a part says of its batch; None if it is not there, or damaged."""
    try:
        with safe_open(part, framework='pt') as file:
            return json.loads(file.metadata()['facts'])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def parts_left(own: Sequence[Path], key: str | None) -> list[Path]:
    """Return which parts of this process are not there, damaged, or of something else than what the key says."""
    return [part for part in own if not key or (facts_of(part) or {}).get('key') != key]


def read_batch(samples: Sequence[Sample], part: Path, batch_size: int) -> tuple[dict[int, Sample], list[str]]:
    """Return the samples of a part by their indices, and what was wrong with others."""
    problems: list[str] = []
    first = int(part.stem) * batch_size
    indices = range(first, min(first + batch_size, len(samples)))
    return {index: sample for index in indices for sample in read_samples(samples, [index], problems)}, problems


def read_again(samples: Sequence[Sample], part: Path, batch_size: int) -> tuple[list[Sample], list[str]]:
    """Return the samples that a part was written of, and the names of those that have changed since."""
    read, problems = read_batch(samples, part, batch_size)
    before = (facts_of(part) or {})['contents']
    contents = contents_of(read.values(), problems)
    return list(read.values()), [name for content, name in contents.items() if content not in before]


def contents_of(samples: Iterable[Sample], problems: Sequence[str]) -> dict[str, str]:
    """Return a fingerprint of each sample -> its name; one that cannot be read stands for itself."""
    return {**{sample_fingerprint(sample): sample.name for sample in samples}, **dict(zip(problems, problems))}


def changed_error(folder: Path, changed: Sequence[str]) -> TimmAbnError:
    """Return the error that says that images are not what they were."""
    return TimmAbnError(
        f'{folder} holds an evaluation from before {changed[0]} changed ({len(changed)} differ): choose a new folder.'
    )


def load_maps(part: Path, methods: Iterable[str]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Return the maps of methods of the images of a part, each (B, 1, h, w), and their targets."""
    with safe_open(part, framework='pt') as file:
        facts = json.loads(file.metadata()['facts'])
        targets = [row['target'] for row in facts['rows'][: len(facts['indices'])]]  # of the first method
        return {method: file.get_tensor(f'{method}.maps') for method in methods if targets}, targets
