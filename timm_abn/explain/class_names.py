"""What the classes of a model are called."""

from typing import Any, List, Sequence

import torch.nn as nn
from timm.data import CustomDatasetInfo, ImageNetInfo, infer_imagenet_subset

from ..errors import TimmAbnError, suggest

__all__ = ['class_index', 'class_names']


def class_names(model: nn.Module) -> List[str]:
    """Return the names of a model's classes, or tasks, in their order.

    As in timm's scripts, names come with the model's configuration, else ImageNet's are taken where the number of
    classes is that of ImageNet; else names are numbers.

    Args:
        model: A timm model.
    """
    pretrained_cfg: Any = getattr(model, 'pretrained_cfg', {})
    num_classes: Any = model.num_classes
    label_names = pretrained_cfg.get('label_names')
    if label_names and len(label_names) == num_classes:
        return [CustomDatasetInfo(label_names).index_to_label_name(index) for index in range(num_classes)]
    subset = infer_imagenet_subset({'num_classes': num_classes})
    if subset and not label_names:
        info = ImageNetInfo(subset)
        return [info.index_to_description(index).split(',')[0] for index in range(num_classes)]
    return [f'class {index}' for index in range(num_classes)]


def class_index(name: str, names: Sequence[str]) -> int:
    """Return which class somebody means by its name, whatever the case, or by its number.

    Args:
        name: What was given.
        names: Names of the classes, in their order.

    Raises:
        TimmAbnError: No class is called that, or several are.
    """
    if name in names:
        found = [index for index, known in enumerate(names) if known == name]
    else:
        found = [index for index, known in enumerate(names) if known.casefold() == name.casefold()]
    if not found and name.isdecimal() and int(name) < len(names):
        return int(name)
    if not found:
        known = f'there are {", ".join(names[:10])}{", ..." if len(names) > 10 else ""}.'
        raise TimmAbnError(f'no class is called {name!r}; {suggest(name, names, otherwise=known)}')
    if len(found) > 1:
        raise TimmAbnError(f'several classes are called {name!r}; give the number: {", ".join(map(str, found))}.')
    return found[0]
