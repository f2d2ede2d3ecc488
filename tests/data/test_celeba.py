"""CelebA in folders made as its archive unpacks, with three attributes of the forty."""

import numpy as np
import pytest
import timm.data
import torch
from celeba_files import ATTRIBUTES, IMAGES
from timm.data import MultiLabelTarget

from timm_abn.data.celeba import CelebA
from timm_abn.data.datasets import create_dataset
from timm_abn.data.errors import DataError
from timm_abn.data.reading import ImageError
from timm_abn.training.replacing import replace

ATTR, PART = 'list_attr_celeba.txt', 'list_eval_partition.txt'
TRAIN = [[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]


@pytest.fixture
def create(monkeypatch, celeba):
    """timm's create_dataset, called as train.py of timm 1.0.31 does for ``--task multilabel``."""
    monkeypatch.setattr(timm.data, 'create_dataset', timm.data.create_dataset)
    replace(timm.data, 'create_dataset', create_dataset)

    def create(num_classes=3, target_format='indices', **kwargs):
        transform = MultiLabelTarget(num_classes, dense=target_format == 'multihot')
        arguments = dict(root=str(celeba), target_format=target_format, target_transform=transform, target_key=None)
        return timm.data.create_dataset('celeba', **dict(arguments, **kwargs))

    return create


@pytest.mark.parametrize(
    'split, numbers',
    [('train', [1, 3, 5]), ('val', [2]), ('validation', [2]), ('test', [4]), ('train+val', [1, 2, 3, 5])],
)
def test_splits(celeba, split, numbers):
    dataset = CelebA(str(celeba), split)
    assert dataset.images == [f'{number:06}.jpg' for number in numbers] and len(dataset) == len(numbers)
    assert dataset.attributes == ATTRIBUTES
    for index, number in enumerate(numbers):
        image, target = dataset[index]
        assert image.size == (178, 218) and abs(np.asarray(image).mean() - 40 * (number - 1)) < 2
        expected = [float(value) for value in IMAGES[dataset.images[index]][1].replace('-1', '0').split()]
        assert target.tolist() == expected and target.dtype == torch.float32


@pytest.mark.parametrize('target_format', ['indices', 'multihot'])
def test_targets_through_the_loader_of_timm(create, target_format):
    loader = timm.data.create_loader(
        create(split='train', target_format=target_format),
        input_size=(3, 32, 32),
        batch_size=3,
        num_workers=0,
        device=torch.device('cpu'),
    )
    images, targets = next(iter(loader))
    assert images.shape == (3, 3, 32, 32)
    assert targets.tolist() == TRAIN and targets.dtype == torch.float32


def test_attributes_are_chosen_in_the_order_asked_for(create):
    dataset = create(2, split='train', target_key='Smiling, Eyeglasses')
    assert [dataset[index][1].tolist() for index in range(3)] == [[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]
    assert dataset.attributes == ['Smiling', 'Eyeglasses']


def test_zero_may_stand_for_minus_one(celeba):
    path = celeba / ATTR
    path.write_text(path.read_text().replace('-1', '0'))
    assert CelebA(str(celeba), 'train').targets.tolist() == TRAIN


def test_model_and_data_must_have_as_many_attributes(create):
    with pytest.raises(DataError, match='the model has 40 classes, but the data 3 attributes; pass --num-classes 3'):
        create(40)
    with pytest.raises(DataError, match='the model has 3 classes, but the data 1 attributes'):
        create(3, target_key='Male')


def test_attribute_that_is_not_there(create):
    with pytest.raises(DataError, match=r"no attribute 'smiling' \(--target-key\); did you mean Smiling\?"):
        create(2, target_key='Male,smiling')
    with pytest.raises(DataError, match=r"no attribute 'Bald' \(--target-key\); it has Eyeglasses, Male, Smiling\."):
        create(1, target_key='Bald')


def test_attribute_asked_for_twice(create):
    with pytest.raises(DataError, match='--target-key names the attribute Smiling twice'):
        create(3, target_key='Smiling,Male, Smiling')


def test_single_label_training_is_refused(create):
    with pytest.raises(DataError, match='--dataset celeba has several attributes per image: pass --task multilabel'):
        create(target_transform=None)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    'file, old, new, message',
    [
        (ATTR, '-1  1 -1', '-1  1', 'line 3 of list_attr_celeba.txt .* 3 attributes, got 2 attributes'),
        (ATTR, '-1  1 -1', '-1  2 -1', "line 3 of list_attr_celeba.txt must give 1, or -1 .* got '2'"),
        (ATTR, '000003', '000009', 'lacks 1 images of list_eval_partition.txt, the first is 000003'),
        (ATTR, '000005.jpg -1 -1  1\n', '', 'claims 5 images, but has 4'),
        (ATTR, '5\n', '\u00b24\n', 'must start with the number of images, .* got .\u00b24 / Eyeglasses'),
        (ATTR, '5\n', '5' * 5000 + '\n', 'must start with the number of images'),
        (ATTR, 'Male', 'Smiling', 'the second line of list_attr_celeba.txt names .* Smiling twice'),
        (ATTR, '000005', '000001', 'line 7 of list_attr_celeba.txt names 000001.jpg for the second'),
        (PART, '000005', '000004', 'line 5 .* names 000004.jpg for the second time'),
        (PART, '000005.jpg 0', '\n000001.jpg 0', 'line 6 .* names 000001.jpg for the second time'),
        (ATTR, '5\n', '', 'must start with the number of images, then a line with the names of the attributes'),
        (PART, '000003.jpg 0', '000003.jpg 3', "line 3 .* 0, 1 or 2, got '000003.jpg 3'"),
        (PART, '000003.jpg 0', '000003.jpg', "line 3 .* 0, 1 or 2, got '000003.jpg'"),
    ],
)
def test_broken_files_are_one_line(celeba, file, old, new, message):
    edit(celeba / file, old, new)
    with pytest.raises(DataError, match=message) as error:
        CelebA(str(celeba), 'train')
    assert '\n' not in str(error.value)


def test_what_is_missing_is_named(celeba):
    (celeba / 'img_align_celeba' / '000003.jpg').unlink()
    with pytest.raises(DataError, match=r'1 images of the split are missing, the first is .*000003\.jpg'):
        CelebA(str(celeba), 'train')
    assert len(CelebA(str(celeba), 'test')) == 1
    with pytest.raises(DataError, match="no split 'hold-out'; it has train, val, test"):
        CelebA(str(celeba), 'train+hold-out')
    edit(celeba / PART, '000004.jpg 2', '000004.jpg 1')
    with pytest.raises(DataError, match="lists no image of the split 'test'"):
        CelebA(str(celeba), 'test')
    for name in (ATTR, PART, 'img_align_celeba'):
        (celeba / name).rename(celeba / 'elsewhere')
        with pytest.raises(DataError, match=f'expected {name} in .*; --data-dir must hold list_attr_celeba.txt, '):
            CelebA(str(celeba), 'train')
        (celeba / 'elsewhere').rename(celeba / name)


@pytest.mark.parametrize('file', [ATTR, PART])
def test_blank_lines_are_no_lines(celeba, file):
    edit(celeba / file, '000003.jpg', '\n000003.jpg')
    (celeba / file).write_text((celeba / file).read_text() + '\n  \n')
    assert CelebA(str(celeba), 'train').targets.tolist() == TRAIN
    edit(celeba / file, '000005.jpg', '000005.jpg strange')
    with pytest.raises(DataError, match=f'line {8 if "attr" in file else 6} of {file}'):
        CelebA(str(celeba), 'train')


@pytest.mark.parametrize('file', [ATTR, PART])
@pytest.mark.parametrize('content', ['5\n'.encode('utf-16'), bytes(range(256))], ids=['UTF-16', 'binary'])
def test_files_that_are_not_text(celeba, file, content):
    (celeba / file).write_bytes(content)
    with pytest.raises(DataError, match=f'{file} is not a text file in UTF-8'):
        CelebA(str(celeba), 'train')


def test_files_and_folders_in_the_place_of_each_other(celeba, tmp_path):
    (celeba / 'img_align_celeba').rename(tmp_path / 'images')
    (celeba / 'img_align_celeba').touch()
    with pytest.raises(DataError, match='img_align_celeba must be the folder of the images: Not a directory'):
        CelebA(str(celeba), 'train')
    for file in (ATTR, PART):
        (celeba / file).unlink()
        (celeba / file).mkdir()
        with pytest.raises(DataError, match=f'{file} cannot be read: Is a directory'):
            CelebA(str(celeba), 'train')


def test_broken_images_are_left_out_before_training(celeba, caplog):
    (celeba / 'img_align_celeba' / '000003.jpg').write_bytes(b'nothing')
    dataset = CelebA(str(celeba), 'train')
    assert len(dataset) == len(dataset.targets) == len(TRAIN) - 1 and '000003.jpg' not in dataset.images
    assert '000003.jpg is not an image' in caplog.text and f'1 of {len(TRAIN)} images cannot be read' in caplog.text


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('size, reason', [(0, 'is not an image'), (700, 'cannot be read: image file is truncated')])
def test_broken_image_is_named_in_one_line(celeba, workers, size, reason):
    path = celeba / 'img_align_celeba' / '000003.jpg'
    loader = torch.utils.data.DataLoader(CelebA(str(celeba), 'train'), batch_size=None, num_workers=workers)
    path.write_bytes(path.read_bytes()[:size])
    iterator = iter(loader)
    with pytest.raises(ImageError, match=f'^CelebA: {path} {reason}') as error:
        list(iterator)
    assert '\n' not in str(error.value)
    if workers:
        iterator._shutdown_workers()  # collected in a later test, it would keep that one waiting for 5 seconds
