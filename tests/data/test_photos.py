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


def test_a_fifth_of_each_folder_is_held_out_always_the_same(folder):
    found = find_photos(folder)
    assert len(found.training) == 16
    assert sorted(path.parent.name for path in found.validation) == ['bright', 'bright', 'dark', 'dark']
    assert found == find_photos(folder)
    photos = [(path, path.parent) for part in found for path in part]
    for seed in range(4):
        assert hold_out(random.Random(seed).sample(photos, 20)) == set(found.validation)
    with pytest.raises(DataError, match='no photo can be held out: a class needs 3, none has more than 2'):
        hold_out([(Path(f'{label}{number}.jpg'), label) for label in 'abc' for number in range(2)])


def test_of_folders_with_few_photos_a_fifth_of_all_is_held_out(folder):
    for index, path in enumerate(sorted(folder.rglob('*.png'))[:10]):
        (folder / str(index // 2)).mkdir(exist_ok=True)
        path.rename(folder / str(index // 2) / path.name)
    assert [len(part) for part in find_photos(folder)] == [16, 4]


def test_splits_that_are_there_are_taken(folder):
    (folder.parent / 'split' / 'valid' / 'dark').mkdir(parents=True)
    folder.rename(folder.parent / 'split' / 'train')
    folder = folder.parent / 'split'
    (folder / 'train' / 'dark' / '1.png').rename(folder / 'valid' / 'dark' / '1.png')
    found = find_photos(folder)
    assert len(found.training) == 19 and found.validation == [folder / 'valid' / 'dark' / '1.png']
    assert split_folders(folder) == (folder / 'train', folder / 'valid')
    (folder / 'valid').rename(folder / 'test')
    assert split_folders(folder) == (folder / 'train', folder / 'test')
    (folder / 'test').rename(folder / 'other')
    assert split_folders(folder) == (folder / 'train', None)
    (folder / 'train').rename(folder / 'val')
    with pytest.raises(DataError, match='has a folder val, but no folder train'):
        split_folders(folder)
