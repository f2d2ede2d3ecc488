"""Which classes of a trained model the folders of photos are, and whether its predictions agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from ..data.class_names import label_names_of, name_classes, names_of_map, read_class_map
from ..data.folder_labels import FolderClasses, better_order, folder_classes
from ..data.images import Preprocessing
from ..data.photos import Photo, Photos, PhotosDataset
from ..data.samples import read_samples
from ..errors import shortened
from ..records import answers as answers_of
from ..records import num_answers
from .errors import TrainingError

__all__ = ['label_photos']

MOST_TRIED = 256  # photos that the model predicts before training
BATCH_SIZE = 16


def label_photos(
    photos: Photos,
    model: Any,
    class_map: Path | None = None,
    label_names: Path | None = None,
) -> tuple[Photos, str]:
    """Return photos labelled by the classes of a model, which gets their names, and a warning, empty if all is well.

    Folders are matched by the class map, else as ``folder_classes`` does. Then the model predicts some of the photos.
    If another order of the folders fits far better (``better_order``), that is the warning, or an error if the order
    was a guess; else a guess itself is the warning.

    Args:
        photos: With the folders as their classes.
        model: A classifier in any mode.
        class_map: Folder -> class, as timm takes it.
        label_names: Names of the classes of the model, one per line, in place of its own.

    Raises:
        TrainingError: Folders are no classes of the model, or cannot be told.
    """
    own_names = label_names_of(model)
    names = name_classes(model, label_names)
    if class_map:
        found = FolderClasses(read_class_map(class_map), 'map')
    else:
        found = folder_classes(photos.classes, num_answers(model), label_names_of(model))
    _check_known(photos, found.indices, names)
    if found.known_by in ('order', 'map'):
        names = names_of_map(found.indices, names)
        model.pretrained_cfg = dict(model.pretrained_cfg, num_classes=model.num_classes, label_names=names)
    answers = [(photos.classes[folder], predicted) for folder, predicted in _predictions(photos, model)]
    of_folders = [(folder, found.indices[folder], predicted) for folder, predicted in answers]
    better = better_order(of_folders, num_answers(model), own_names)
    if better and found.known_by == 'order':
        raise TrainingError(
            f'{better}: pass --label-names FILE (names in the order of the model, one per line) or --class-map FILE.'
        )

    def labelled(part: Sequence[Photo]) -> list[Photo]:
        return [(path, found.indices[photos.classes[int(label)]]) for path, label in part if label is not None]

    taken = f'the folders are taken as {found.guess}, since none is called like a class of the model'
    return Photos(labelled(photos.training), labelled(photos.validation), names), better or (found.guess and taken)


def _check_known(photos: Photos, indices: Mapping[str, int], names: Sequence[str]) -> None:
    strange = [folder for folder in photos.classes if not indices.get(folder, len(names)) < len(names)]
    if strange:
        raise TrainingError(
            f'the model has {len(names)} classes ({shortened(names)}), the photos have {len(photos.classes)} '
            f'({shortened(photos.classes)}), and {shortened(strange)} cannot be told: pass --unlabelled, or say which '
            'they are by --class-map FILE or --label-names FILE.'
        )


@torch.no_grad()
def _predictions(photos: Photos, model: nn.Module) -> list[tuple[int, int]]:
    """Return what the model predicts of some photos of each folder: (number of the folder, class)."""
    found = sorted([*photos.training, *photos.validation], key=lambda photo: (photo[1], photo[0]))
    tried = found[:: -(-len(found) // MOST_TRIED)]
    preprocessing, was_training = Preprocessing(model), model.training
    place = next(model.parameters()).device
    dataset = PhotosDataset(tried, lambda image: preprocessing(image)[0], levels=preprocessing.levels)
    answers = []
    model.eval()
    for start in range(0, len(tried), BATCH_SIZE):
        problems: list[str] = []  # which training tells
        read: Any = read_samples(dataset, range(len(tried))[start : start + BATCH_SIZE], problems)  # type: ignore[arg-type]
        if read:
            logits = model(torch.stack([image for image, _ in read]).to(place))
            predicted = answers_of(logits, exclusive=True).argmax(dim=1).tolist()
            answers += [(label, index) for (_, label), index in zip(read, predicted)]
    model.train(was_training)
    return answers
