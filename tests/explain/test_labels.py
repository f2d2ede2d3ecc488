"""Classes of images by their folders, by hand, and in timm's order."""

from pathlib import PurePath

import pytest
from PIL import Image
from timm.data import create_dataset

from timm_abn.explain.labels import folder_labels


@pytest.mark.parametrize(
    ('names', 'classes', 'expected'),
    [
        (['Cat/1.jpg', 'dog/2.jpg', 'dog/old/3.jpg'], ['dog', 'cat'], [1, 0, None]),
        (['a/1.jpg', 'b/2.jpg', 'a/3.jpg'], ['class 0', 'class 1'], [0, 1, 0]),
        (['10/1.jpg', '9/2.jpg'], ['class 0', 'class 1'], [1, 0]),  # natural order: 9 before 10
        (['a/1.jpg', 'b/2.jpg'], ['class 0', 'class 1', 'class 2'], None),
        (['1.jpg', 'b/2.jpg'], ['class 0', 'class 1'], None),
        (['1.jpg', '2.jpg'], ['class 0'], None),
    ],
)
def test_folders(names, classes, expected):
    assert folder_labels([PurePath(name) for name in names], classes) == expected


def test_order_is_that_of_timm(tmp_path):
    folders = ['class10', 'class9', 'B', 'a', 'x1y2']
    for folder in folders:
        (tmp_path / folder).mkdir()
        Image.new('RGB', (2, 2)).save(tmp_path / folder / 'image.png')
    dataset = create_dataset('', root=str(tmp_path))
    names = [PurePath(name) for name in dataset.filenames()]
    expected = [dataset.reader.samples[index][1] for index in range(len(dataset))]
    assert folder_labels(names, [f'class {index}' for index in range(5)]) == expected
