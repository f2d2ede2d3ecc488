"""The classes of a folder of images: their number, their names, and whether they fit the other settings."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm

from ..data.class_names import class_order, names_of_map, read_class_map
from ..data.folder_labels import folder_classes
from ..data.photos import split_folders
from ..data.sources import IMAGE_EXTENSIONS, find_images
from ..errors import printable, shortened
from ..hub.building import check_address
from ..models.training_checkpoints import class_names_of
from ..timm_private import search_split
from .errors import TrainingError
from .from_checkpoint import other_classes

__all__ = ['take_classes']


def take_classes(script: str, settings: argparse.Namespace) -> list[str]:
    """Return the flags that give a script the classes of its folder of images.

    ``settings.class_names`` will hold the names in their order, if the folder has some, ``settings.data`` what
    ``create_dataset`` is told, and ``settings.notes`` what the user should know.

    Raises:
        TimmAbnError: The folder contradicts the arguments, the checkpoint, or itself.
    """
    settings.class_names, settings.data, settings.notes = None, {}, []
    if script not in ('train.py', 'validate.py') or settings.task == 'multilabel' or settings.dataset:
        return []
    if not settings.data_dir or not os.path.isdir(settings.data_dir):
        return []
    places = Path(settings.class_map), Path(settings.data_dir) / settings.class_map
    mapped = read_class_map(places[not places[0].exists() and places[1].exists()]) if settings.class_map else {}
    if script == 'validate.py':
        _take_validation(settings, mapped)
        return []
    training, held_out = _split(settings)
    folders = _folders(training, settings)
    if mapped:
        _check_mapped(training, folders, mapped, settings)
    names = names_of_map(mapped) if mapped else [printable(folder) for folder in folders]
    _check_training(training, names, settings)
    recorded = _recorded_names(settings, len(names))
    if recorded and (recorded != names if mapped else set(recorded) != set(names)):
        raise TrainingError(
            f'{training} has the classes {shortened(names)}, but {settings.trained_checkpoint} was trained on '
            f'{shortened(recorded)}{other_classes(settings)}.'
        )
    settings.class_names, settings.num_classes = recorded or names, len(names)
    settings.data = dict(
        class_indices=mapped or {folder: settings.class_names.index(printable(folder)) for folder in folders},
        folders=(training, held_out) if settings.val_split else None,
    )
    if held_out is not None and not mapped:
        _check_known(held_out, set(_folders(held_out, settings)) - set(folders), training)
    return ['--num-classes', str(len(names))]


def _split(settings: argparse.Namespace) -> tuple[Path, Path | None]:
    """Return the folders of both splits, as ``timm-abn attach`` takes them."""
    root = Path(settings.data_dir)
    if not settings.val_split:  # timm then validates nothing
        return Path(search_split(str(root), settings.train_split)), None
    training, held_out = split_folders(root, settings.train_split, settings.val_split)
    if held_out is None:
        settings.notes.append(
            f'{root} has no folder {settings.val_split}: a fifth of the images of each class of {training} is held '
            'out, always the same.'
        )
    return training, held_out


def _check_mapped(root: Path, folders: Sequence[str], mapped: Mapping[str, int], settings: argparse.Namespace) -> None:
    """Say which folders a class map leaves out, as timm does without a word."""
    strange = [folder for folder in folders if folder not in mapped]
    if len(strange) == len(folders):
        raise TrainingError(f'--class-map {settings.class_map} names no folder of {root} ({shortened(folders)}).')
    if strange:
        settings.notes.append(f'folders of {root} that --class-map lacks are left out: {shortened(strange)}.')


def _folders(root: Path, settings: argparse.Namespace) -> list[str]:
    """Return the names of the folders that hold images, in the order of their classes."""
    endings = settings.input_key.split(';') if settings.input_key else IMAGE_EXTENSIONS
    found = {'' if path.parent == root else path.parent.name for path in find_images(root, endings)}
    if '' in found:
        others = f' beside folders ({shortened(class_order(found - {""}))})' if len(found) > 1 else ''
        raise TrainingError(f'{root} holds images{others}: each must be in a folder named after its class.')
    return class_order(found)


def _check_training(root: Path, found: Sequence[str], settings: argparse.Namespace) -> None:
    if not found:
        raise TrainingError(
            f'image folder: expected a folder for each split, and in it a folder for each class in {root}.'
        )
    if len(found) == 1:
        raise TrainingError(f'{root} has only one class, {found[0]!r}.')
    if settings.num_classes in (None, len(found)):
        return
    if 'num_classes' in settings.said:
        reason = f'--num-classes {settings.num_classes}, but {root} has {len(found)} classes ({shortened(found)})'
        raise TrainingError(f'{reason}: leave it out to train on these.')
    if settings.trained_checkpoint:
        raise TrainingError(
            f'{root} has {len(found)} classes ({shortened(found)}), but {settings.trained_checkpoint} is of '
            f'{settings.num_classes}{other_classes(settings)}.'
        )


def _take_validation(settings: argparse.Namespace, mapped: dict[str, int]) -> None:
    """Let images be labelled as the model's classes are called, or by number, or by order if nothing says more."""
    root = Path(search_split(settings.data_dir, settings.split))
    folders = _folders(root, settings)
    model = settings.trained_checkpoint or settings.model
    trained_on = settings.recorded.get('data_dir')
    if trained_on and root.resolve() == Path(settings.data_dir).resolve() == Path(str(trained_on)).resolve():
        settings.notes.append(f'{root} has no folder {settings.split}: this counts images that {model} was trained on.')
    num_classes, label_names = _of_model(settings)
    if num_classes == 1:
        raise TrainingError(f'{model} has one logit, for which timm computes no accuracy: use timm-abn evaluate.')
    settings.class_names = _recorded_names(settings, num_classes)
    if mapped:
        _check_mapped(root, folders, mapped, settings)
        settings.data = dict(class_indices=mapped)
        return
    if num_classes is None or settings.valid_labels or settings.real_labels:  # which count folders themselves
        settings.data = dict(class_indices={folder: index for index, folder in enumerate(folders)})
        return
    found = folder_classes(folders, num_classes, label_names)
    if not found.indices and not label_names:
        raise TrainingError(
            f'{root} has {len(folders)} classes ({shortened(folders)}), but {model} is of {num_classes}: pass '
            '--class-map to match them.'
        )
    _check_known(root, set(folders) - set(found.indices), model)
    if found.guess:
        settings.notes.append(f'no class of {model} matches a folder of {root}: folders are taken for {found.guess}.')
    settings.data = dict(class_indices=found.indices)


def _of_model(settings: argparse.Namespace) -> tuple[int | None, Any]:
    """Return the number of classes of the model that is validated, and their names, as far as they are known."""
    if settings.trained_checkpoint:
        return settings.num_classes, _recorded_names(settings, settings.num_classes)
    if ':' in settings.model:
        config = check_address(settings.model)
        cfg = {**config.get('pretrained_cfg', {}), **config}  # what stands at the top, too, timm takes from there
    else:
        known = timm.get_pretrained_cfg(settings.model.split('.')[0]) and timm.get_pretrained_cfg(settings.model)
        cfg = known.to_dict() if known else {}
    return settings.num_classes or cfg.get('num_classes'), cfg.get('label_names')


def _recorded_names(settings: argparse.Namespace, num_classes: int | None) -> list[str] | None:
    if not settings.trained_checkpoint or num_classes is None:
        return None
    return class_names_of(settings.recorded, num_classes, settings.trained_checkpoint)


def _check_known(root: Path, strange: set[str], source: str | Path) -> None:
    """Refuse images of classes that nothing was trained on, which timm would count as others."""
    if strange:
        raise TrainingError(f'{root} has classes that {source} lacks: {shortened(class_order(strange))}.')
