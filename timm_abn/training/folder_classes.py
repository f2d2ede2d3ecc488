"""The classes of a folder of images: their number, their names, and whether they fit the other settings."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm.data.readers.class_map import load_class_map
from timm.utils.misc import natural_key

from ..data.sources import IMAGE_EXTENSIONS, find_images
from ..errors import one_line
from ..models.training_checkpoints import class_names_of
from ..timm_private import search_split
from .errors import TrainingError
from .from_checkpoint import other_classes

__all__ = ['take_classes']


def take_classes(script: str, settings: argparse.Namespace) -> list[str]:
    """Return the flags that give a script the classes of its folder of images.

    ``settings.class_names`` will hold the names in their order, if the folder has some.

    Raises:
        TrainingError: The folder contradicts the arguments, the checkpoint, or itself.
    """
    settings.class_names = None
    if script not in ('train.py', 'validate.py') or settings.task == 'multilabel' or settings.dataset:
        return []
    if not settings.data_dir or not os.path.isdir(settings.data_dir):
        return []
    names = _mapped(settings) if settings.class_map else None
    if script == 'validate.py':
        if names is None and settings.trained_checkpoint:
            _check_validation(settings)
        return []
    root = search_split(settings.data_dir, settings.train_split)
    found = names or _folders(root, settings)
    _check_training(root, found, settings)
    recorded = _recorded_names(settings, len(found))
    if recorded and set(recorded) != set(found):
        raise TrainingError(
            f'{root} has the classes {_some(found)}, but {settings.trained_checkpoint} was trained on '
            f'{_some(recorded)}{other_classes(settings)}.'
        )
    settings.class_names, settings.num_classes = recorded or found, len(found)
    if settings.val_split and names is None:
        _check_subset(search_split(settings.data_dir, settings.val_split), settings, settings.class_names, root)
    return ['--num-classes', str(len(found))]


def _mapped(settings: argparse.Namespace) -> list[str]:
    try:
        indices: Mapping[str, int] = load_class_map(settings.class_map, settings.data_dir)
    except Exception as error:  # as many kinds as there are formats
        raise TrainingError(f'--class-map {settings.class_map} cannot be read: {one_line(error)}.') from error
    by_index = {index: str(name) for name, index in indices.items()}
    return [by_index.get(index, f'class {index}') for index in range(max(by_index, default=-1) + 1)]


def _folders(root: str, settings: argparse.Namespace) -> list[str]:
    """Return the names of the folders that hold images, in timm's order."""
    endings = settings.input_key.split(';') if settings.input_key else IMAGE_EXTENSIONS
    folders = {path.parent for path in find_images(root, endings)}
    found = {'' if folder == Path(root) else folder.name for folder in folders}
    if '' in found:
        others = f' beside folders ({_some(sorted(found - {""}, key=natural_key))})' if len(found) > 1 else ''
        raise TrainingError(f'{root} holds images{others}: each must be in a folder that is called like its class.')
    return sorted(found, key=natural_key)


def _check_training(root: str, found: Sequence[str], settings: argparse.Namespace) -> None:
    if not found:
        raise TrainingError(
            f'image folder: expected a folder for each split, and in it a folder for each class in {root}.'
        )
    if len(found) == 1:
        raise TrainingError(f'{root} has one class, {found[0]!r}: there is nothing to tell apart.')
    if settings.num_classes in (None, len(found)):
        return
    if 'num_classes' in settings.said:
        reason = f'--num-classes {settings.num_classes}, but {root} has {len(found)} classes ({_some(found)})'
        raise TrainingError(f'{reason}: leave it out to train on these.')
    if settings.trained_checkpoint:
        raise TrainingError(
            f'{root} has {len(found)} classes ({_some(found)}), but {settings.trained_checkpoint} is of '
            f'{settings.num_classes}{other_classes(settings)}.'
        )


def _check_validation(settings: argparse.Namespace) -> None:
    """Let the images be labelled by the names of the checkpoint, or by their number alone if it has none."""
    root = search_split(settings.data_dir, settings.split)
    found = _folders(root, settings)
    names = _recorded_names(settings, settings.num_classes)
    if names:
        _check_subset(root, settings, names, settings.trained_checkpoint)
        settings.class_names = names
    elif settings.num_classes not in (None, len(found)) and not (settings.valid_labels or settings.real_labels):
        raise TrainingError(
            f'{root} has {len(found)} classes ({_some(found)}), but {settings.trained_checkpoint} is of '
            f'{settings.num_classes}: pass --class-map to say which of them these are.'
        )


def _recorded_names(settings: argparse.Namespace, num_classes: int | None) -> list[str] | None:
    if not settings.trained_checkpoint or num_classes is None:
        return None
    return class_names_of(settings.recorded, num_classes, settings.trained_checkpoint)


def _check_subset(root: str, settings: argparse.Namespace, names: Sequence[str], source: str | Path) -> None:
    """Refuse images of classes that nothing was trained on, which timm would count as others."""
    strange = [name for name in _folders(root, settings) if name not in names]
    if strange:
        raise TrainingError(f'{root} has classes that {Path(source)} has not: {_some(strange)}.')


def _some(names: Sequence[str], most: int = 5) -> str:
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
