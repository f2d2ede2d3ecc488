"""The true classes of images, where the folders that hold them say so."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from timm.utils.misc import natural_key

from .class_names import numbered_names
from .sources import Source

__all__ = ['folder_labels']


def folder_labels(sources: Sequence[Source], names: Sequence[str]) -> list[int | None]:
    """Return the true class of each image, as far as folders tell it; None of the others.

    Only images that were found in a folder have one: the class that is called like the folder around the image, in
    small letters or capitals. Of a model whose classes have no names the folders are counted, sorted as timm's
    ``ImageFolder`` does, if they are as many as the classes, and no image lies outside of them.
    """
    if list(names) == numbered_names(len(names)):
        return _by_number(sources, len(names))
    counts = Counter(name.casefold() for name in names)
    indices = {name.casefold(): index for index, name in enumerate(names) if counts[name.casefold()] == 1}
    return [None if source.named else indices.get(_folder_of(source).casefold()) for source in sources]


def _by_number(sources: Sequence[Source], num_classes: int) -> list[int | None]:
    folders: dict[Path, set[str]] = {}
    for source in sources:
        if not source.named:
            folders.setdefault(_root_of(source), set()).add(_folder_of(source) if len(source.name.parts) > 1 else '')
    indices = {
        root: {name: index for index, name in enumerate(sorted(found, key=natural_key))}
        for root, found in folders.items()
        if len(found) == num_classes and '' not in found
    }
    return [None if source.named else indices.get(_root_of(source), {}).get(_folder_of(source)) for source in sources]


def _folder_of(source: Source) -> str:
    return source.path.absolute().parent.name


def _root_of(source: Source) -> Path:
    """Return the folder that was named, in which the image was found."""
    return source.path.absolute().parents[len(source.name.parts) - 1]
