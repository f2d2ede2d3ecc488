"""Which classes of a model folders of images are: by name, by number, or in order; the only place that decides it."""

import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn as nn

from ..errors import printable, shortened
from ..records import num_answers
from .class_names import class_order, class_spellings, label_names_of
from .sources import Source

__all__ = ['FolderClasses', 'better_order', 'folder_classes', 'folder_labels']


class FolderClasses(NamedTuple):
    """Folder -> class of a model, of those folders that are one; and how that is known: 'name', 'number', 'order'."""

    indices: dict[str, int]
    known_by: str = ''

    @property
    def guess(self) -> str:
        """What nothing but the folders themselves says, as the end of a sentence; empty if names say it."""
        guesses = dict(order='classes in natural order', number='numbers of classes, which begin at 0')
        return f'{guesses[self.known_by]} ({_some(self.indices)})' if self.known_by in guesses else ''


def folder_classes(folders: Iterable[str], num_classes: int, label_names: Any = None) -> FolderClasses:
    """Return which classes of a model folders are.

    Folders are called like classes; of ImageNet by a synset, a description or the first word of it; capitals, spaces
    and ways to encode a letter need not agree where no other class is meant. Or, where a model's classes have no names,
    they are as many as the classes, and in their order (``class_order``), which is a guess. Or all are called by the
    numbers of classes.

    Args:
        folders: Names of folders.
        num_classes: Of the model.
        label_names: Of the model's configuration; without them those of ImageNet are taken if the number is its.
    """
    folders = set(folders)
    spellings = class_spellings(num_classes, label_names)
    indices: dict[str, int] = {}
    for spell in (printable, _plainly):
        for names in spellings:
            spelt = [spell(name) for name in names]
            counts = Counter(spelt)
            found = {name: index for index, name in enumerate(spelt) if counts[name] == 1}
            indices.update({f: found[spell(f)] for f in folders if f not in indices and spell(f) in found})
    if indices:
        return FolderClasses(indices, 'name')
    numbers = {folder: int(folder) for folder in folders if folder.isdecimal()}
    are_numbers = len(set(numbers.values())) == len(folders) and all(n < num_classes for n in numbers.values())
    may_be_all = len(folders) == num_classes and not (label_names and len(label_names) == num_classes)
    if are_numbers and not (may_be_all and len(spellings) == 1):  # then numbers, too, may be in another order
        return FolderClasses(numbers, 'number')
    if may_be_all:
        return FolderClasses({folder: index for index, folder in enumerate(class_order(folders))}, 'order')
    return FolderClasses({})


def folder_labels(sources: Sequence[Source], model: nn.Module) -> list[int | None]:
    """Return the true class of each image, as far as folders tell it (``folder_classes``); None of the others.

    Only images that were found in a folder have one: that of the folder around the image. Folders are numbers, or in
    order, if no image lies outside of them, which a warning tells.
    """
    roots: dict[Path, list[Source]] = defaultdict(list)
    for source in sources:
        if not source.named:
            # the folder that was named, in which the image was found
            roots[source.path.absolute().parents[len(source.name.parts) - 1]].append(source)
    labels: dict[Path, int] = {}
    for root, members in roots.items():
        folders = {source.folder for source in members}
        found = folder_classes(folders, num_answers(model), label_names_of(model))
        if found.known_by != 'name' and any(len(source.name.parts) == 1 for source in members):
            continue
        if found.guess:
            warnings.warn(
                f'the folders of {root} do not match the class names of the model and are taken for {found.guess}. '
                'With --label-names FILE they are matched by name.',
                stacklevel=2,
            )
        labels.update({s.path: found.indices[s.folder] for s in members if s.folder in found.indices})
    return [None if source.named else labels.get(source.path) for source in sources]


def better_order(answers: Sequence[tuple[str, int, int]], num_classes: int, label_names: Any = None) -> str:
    """Return a sentence if predictions fit another order of folders far better: ten more right, and a fifth of all.

    Args:
        answers: (folder, its class as it was taken, what the model predicts) of each image.
        num_classes: Of the model.
        label_names: Names that the model records, where others were taken.
    """
    taken = {folder: label for folder, label, _ in answers}
    counts = Counter((folder, predicted) for folder, _, predicted in answers)
    folders = class_order(taken)
    fits = {
        'in the order of their names as plain text': {name: index for index, name in enumerate(sorted(folders))},
        'in alphabetical order': {name: index for index, name in enumerate(sorted(folders, key=str.casefold))},
    }
    recorded = folder_classes(folders, num_classes, label_names)
    if recorded.known_by == 'name':
        fits['called as the model records'] = recorded.indices
    most = {folder: max(range(num_classes), key=lambda index: counts[folder, index]) for folder in folders}
    if len(set(most.values())) == len(folders):
        fits[f'others ({_some(most)})'] = most
    right = {text: sum(counts[item] for item in order.items()) for text, order in fits.items()}
    best = max(right, key=lambda text: right[text])
    now = sum(counts[item] for item in taken.items())
    if right[best] - now < max(10, len(answers) / 5):
        return ''
    return (
        f'the model is correct on {now} of {len(answers)} images if folders are matched to classes as now '
        f'({_some(taken)}), but on {right[best]} if they are {best}'
    )


def _some(indices: Mapping[str, int]) -> str:
    return shortened([f'{folder} = {indices[folder]}' for folder in class_order(indices)], 3)


def _plainly(name: str) -> str:
    """Return a name in small letters, its accents composed, and with spaces for what files have in place of them."""
    return unicodedata.normalize('NFC', printable(name)).casefold().replace('_', ' ').replace('-', ' ')
