"""Which class an image of a folder belongs to, by the name of the folder that it lies in."""

from pathlib import PurePath
from typing import List, Optional, Sequence

from timm.utils.misc import natural_key

__all__ = ['folder_labels']


def folder_labels(names: Sequence[PurePath], class_names: Sequence[str]) -> Optional[List[Optional[int]]]:
    """Return the class of each image, or None if the folders are not the classes of the model.

    A folder is a class if it is called like one, whatever the case. If none is, and there are as many folders as
    classes, they are the classes in timm's order (``timm.data.readers.reader_image_folder``).

    Args:
        names: Paths of the images, relative to the folder that was given. The last folder counts.
        class_names: Names of the model's classes, in their order.

    Returns:
        For each image its class, None for those whose folder is no class while others are; or None for all.
    """
    indices = {name.casefold(): index for index, name in enumerate(class_names)}
    folders = [name.parent.name for name in names]
    labels = [indices.get(folder.casefold()) for folder in folders]
    if any(label is not None for label in labels):
        return labels
    distinct = sorted(set(folders), key=natural_key)
    if '' in distinct or len(distinct) != len(class_names):
        return None
    return [distinct.index(folder) for folder in folders]
