"""Which photos are trained on, and which are held out."""

import random
from pathlib import Path

import pytest
from PIL import Image

from timm_abn.data.errors import DataError
from timm_abn.data.photos import find_photos, hold_out, split_folders


@pytest.fixture
def folder(tmp_path):
    for index in range(20):
        path = tmp_path / 'photos' / ('bright', 'dark')[index % 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(path)
    return tmp_path / 'photos'


def test_a_fifth_of_each_class_is_held_out_always_the_same(folder):
    found = find_photos(folder, labelled=True)
    assert found.classes == ['bright', 'dark'] and len(found.training) == 16
    assert sorted(label for _, label in found.validation) == [0, 0, 1, 1]
    assert found == find_photos(folder, labelled=True)
    photos = [*found.training, *found.validation]
    for seed in range(4):
        assert hold_out(random.Random(seed).sample(photos, 20)) == {path for path, _ in found.validation}
    with pytest.raises(DataError, match='no photo can be held out: it takes 3 of a class, none has more than 2'):
        hold_out([(Path(f'{label}{number}.jpg'), label) for label in 'abc' for number in range(2)])


def test_splits_that_are_there_are_taken(folder):
    (folder.parent / 'split' / 'valid' / 'dark').mkdir(parents=True)
    folder.rename(folder.parent / 'split' / 'train')
    folder = folder.parent / 'split'
    (folder / 'train' / 'dark' / '1.png').rename(folder / 'valid' / 'dark' / '1.png')
    found = find_photos(folder, labelled=True)
    assert len(found.training) == 19 and [label for _, label in found.validation] == [1]
    assert split_folders(folder) == (folder / 'train', folder / 'valid')
    (folder / 'valid').rename(folder / 'test')
    assert split_folders(folder) == (folder / 'train', folder / 'test')
    (folder / 'test').rename(folder / 'other')
    assert split_folders(folder) == (folder / 'train', None)
    (folder / 'train').rename(folder / 'val')
    with pytest.raises(DataError, match='has a folder val, but none called train beside it'):
        split_folders(folder)
