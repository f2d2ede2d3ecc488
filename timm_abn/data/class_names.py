"""Names of a model's classes, their order, and which class a word means."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.data import CustomDatasetInfo, ImageNetInfo, infer_imagenet_subset
from timm.data.readers.class_map import load_class_map
from timm.utils.misc import natural_key

from ..errors import TimmAbnError, one_line, printable, suggest
from ..records import num_answers

__all__ = [
    'class_names',
    'class_order',
    'class_spellings',
    'find_class',
    'label_names_of',
    'names_of_map',
    'name_classes',
    'read_class_map',
    'read_class_names',
]


def class_names(model: nn.Module) -> list[str]:
    """Return the names of the classes, or tasks, of a timm model, in their order.

    As in timm's scripts, names come from the model's configuration; otherwise from ImageNet if the number of classes is
    ImageNet's; otherwise they are numbers. A model with one logit has two classes, no and yes. Characters that
    terminals or files do not accept are escaped.
    """
    return [printable(name) for name in class_spellings(num_answers(model), label_names_of(model))[0]]


def label_names_of(model: nn.Module) -> Any:
    """Return the ``label_names`` of a model's configuration; of one name of one logit, those of its no and yes."""
    names = (getattr(model, 'pretrained_cfg', None) or {}).get('label_names')
    if names and len(names) == model.num_classes == 1 and num_answers(model) == 2:
        return [f'not {names[0]}', names[0]]
    return names


def class_spellings(num_classes: int, label_names: Any = None) -> list[list[str]]:
    """Return what classes are called, by number: their names first; of ImageNet also its synsets and descriptions.

    ``label_names`` are those of a configuration; those of another number of classes are none.
    """
    subset = infer_imagenet_subset({'num_classes': num_classes})
    info = ImageNetInfo(subset) if subset else None
    if info:
        # the folders of ImageNet are called by numbers of WordNet, which tell nobody anything
        descriptions = info.label_descriptions()
        spellings = [[text.split(',')[0] for text in descriptions], list(info.label_names()), list(descriptions)]
        if not label_names or list(label_names) in spellings:
            return spellings
    if label_names and len(label_names) == num_classes:
        names = CustomDatasetInfo(label_names)
        return [[names.index_to_label_name(index) for index in range(num_classes)]]
    return [[f'class {index}' for index in range(num_classes)]]


def class_order(names: Iterable[str]) -> list[str]:
    """Return the names of folders in the order of their classes: timm's natural order, ties by the names themselves.

    timm leaves ties (A and a, 1 and 01) to the order of a set, which changes from process to process.
    """
    return sorted(set(names), key=lambda name: (natural_key(name), name))


def name_classes(model: Any, path: Path | None) -> list[str]:
    """Return the names of the classes of a model, once it has those of a text file, if there is one.

    Raises:
        TimmAbnError: See ``read_class_names``.
    """
    if path is not None:
        names = read_class_names(path, model)
        model.pretrained_cfg = dict(model.pretrained_cfg, num_classes=model.num_classes, label_names=names)
    return class_names(model)


def read_class_names(path: Path, model: nn.Module) -> list[str]:
    """Return the names of a model's classes from a text file in UTF-8, one per line; of one logit also its yes alone.

    Raises:
        TimmAbnError: It has another number of lines, or blank ones.
    """
    names = _read_lines(path)
    if len(names) not in (model.num_classes, num_answers(model)):
        lines = '1 line' if len(names) == 1 else f'{len(names)} lines'
        raise TimmAbnError(f'{path} has {lines} for {num_answers(model)} classes')
    return names


def read_class_map(path: Path) -> dict[str, int]:
    """Return the class of each folder from a class map as timm takes it: a text file, a name per line, or a .pkl.

    Raises:
        TimmAbnError: It is none; the message is one line.
    """
    if path.suffix.lower() == '.txt' and path.is_file():
        names = _read_lines(path)
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise TimmAbnError(f'--class-map {path} names {twice[0]!r} more than once.')
        return {name: index for index, name in enumerate(names)}
    try:
        found = {str(name): int(index) for name, index in load_class_map(str(path)).items()}
    except Exception as error:  # as many kinds as there are formats
        raise TimmAbnError(f'--class-map {path} cannot be read: {one_line(error)}.') from error
    if not found or min(found.values()) < 0:
        raise TimmAbnError(f'--class-map {path} must give each name of a class a number of 0 or more.')
    return found


def names_of_map(indices: Mapping[str, int]) -> list[str]:
    """Return what classes are called by a class map; those that it leaves out have numbers."""
    by_index = {index: printable(name) for name, index in reversed([*indices.items()])}
    return [by_index.get(index, f'class {index}') for index in range(max(by_index) + 1)]


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, without a byte order mark, spaces around them, and blank ones at the end."""
    try:
        text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        raise TimmAbnError(f'{path} is not a text file in UTF-8') from None
    lines = [line.strip() for line in text.rstrip().split('\n')]
    if '' in lines:
        raise TimmAbnError(f'line {lines.index("") + 1} of {path} is blank; it must name a class')
    return lines


def find_class(name_or_index: str, names: Sequence[str]) -> int:
    """Return the index of a class, given its name, in small letters or capitals, or its index.

    A name comes before an index that looks the same.

    Raises:
        TimmAbnError: There is no such class, or there are several.
    """
    for wanted, spelt in ((name_or_index, names), (name_or_index.casefold(), [name.casefold() for name in names])):
        found = [index for index, name in enumerate(spelt) if name == wanted]
        if len(found) > 1:
            indices = ', '.join(map(str, found))
            raise TimmAbnError(f'there are several classes {name_or_index!r}; give the index of one: {indices}')
        if found:
            return found[0]
    if name_or_index.isdecimal() and int(name_or_index) < len(names):
        return int(name_or_index)
    span = f'the model has {names[0]!r} (0) to {names[-1]!r} ({len(names) - 1})'
    hint = suggest(name_or_index, names, otherwise=span)
    raise TimmAbnError(f'there is no class {name_or_index!r}; {hint}')
