"""What the classes of a model are called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.nn as nn
from timm.data import CustomDatasetInfo, ImageNetInfo, infer_imagenet_subset

from ..errors import TimmAbnError, suggest
from ..records import num_answers

__all__ = ['class_names', 'find_class', 'numbered_names', 'read_class_names']


def class_names(model: nn.Module) -> list[str]:
    """Return the names of the classes, or tasks, of a timm model, in their order.

    As in timm's scripts, names come with the model's configuration, else ImageNet's are taken where the number of
    classes is that of ImageNet; else names are numbers. A model of one logit has two classes, no and yes.
    """
    pretrained_cfg: Any = getattr(model, 'pretrained_cfg', {})
    num_classes = num_answers(model)
    label_names = pretrained_cfg.get('label_names')
    if num_classes == 2 and label_names and len(label_names) == 1:  # what the yes of one logit says
        label_names = [f'not {label_names[0]}', label_names[0]]
    subset = infer_imagenet_subset({'num_classes': num_classes})
    info = ImageNetInfo(subset) if subset else None
    if info and label_names and list(label_names) == info.label_names():
        label_names = None  # the folders of ImageNet are called by numbers of WordNet, which tell nobody anything
    if label_names and len(label_names) == num_classes:
        return [CustomDatasetInfo(label_names).index_to_label_name(index) for index in range(num_classes)]
    if info and not label_names:
        return [info.index_to_description(index).split(',')[0] for index in range(num_classes)]
    return numbered_names(num_classes)


def numbered_names(num_classes: int) -> list[str]:
    """Return the names of classes that have none: their numbers."""
    return [f'class {index}' for index in range(num_classes)]


def read_class_names(path: Path, num_classes: int) -> list[str]:
    """Return the names of classes from a text file in UTF-8, one per line; another number of lines is refused."""
    try:
        names = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError:
        raise TimmAbnError(f'{path} is not a text file in UTF-8') from None
    if len(names) != num_classes:
        raise TimmAbnError(f'{path} has {len(names)} lines for {num_classes} classes')
    return names


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
    hint = suggest(
        name_or_index, names, otherwise=f'the model has {names[0]!r} (0) to {names[-1]!r} ({len(names) - 1})'
    )
    raise TimmAbnError(f'there is no class {name_or_index!r}; {hint}')
