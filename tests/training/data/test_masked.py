"""Training data with human masks: through timm's loader, from PNG files and COCO, and what is refused."""

import json
import logging
import pickle

import numpy as np
import pytest
import timm.data
import torch
from celeba_files import ATTRIBUTES
from PIL import Image

from timm_abn.data.celeba import CelebA
from timm_abn.data.datasets import create_dataset
from timm_abn.data.reading import ImageError
from timm_abn.training.data.loader import extend_timm_loader
from timm_abn.training.data.masked import MaskedDataset, choose
from timm_abn.training.data.transforms import extend_timm_transforms
from timm_abn.training.errors import TrainingError
from timm_abn.training.map_settings import MaskSettings
from timm_abn.training.mask_loss import label_and_masks

SIZE = (36, 40)


def box_of(index):
    return 4 + index, 6 + index, 20 + index, 30  # left, top, right, bottom


def draw(path, box, size=SIZE):
    mask = np.zeros(size[::-1], dtype=np.uint8)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return mask


@pytest.fixture
def images(tmp_path):
    """Four images of two classes, whose red is the mask that they should get."""
    root = tmp_path / 'images' / 'train'
    for index in range(4):
        path = root / f'class{index % 2}' / f'{index}.png'
        red = draw(path, box_of(index))
        Image.fromarray(np.stack([red, red // 2, np.full_like(red, 50 * index)], axis=2)).save(path)
    root = str(tmp_path / 'images')
    return create_dataset(timm.data.create_dataset, '', root, split='train', is_training=True)


@pytest.fixture
def masks(tmp_path):
    """Masks of three of the images."""
    for index in range(3):
        draw(tmp_path / 'masks' / f'class{index % 2}' / f'{index}.png', box_of(index))
    return tmp_path / 'masks'


def coco(path, annotations, categories=(), names='class{}/{}.png'):
    """Annotations (index of the image, box, category), as polygons and as boxes in turn."""
    content = dict(
        images=[
            dict(id=index, file_name=names.format(index % 2, index), width=SIZE[0], height=SIZE[1])
            for index in sorted({index for index, _, _ in annotations})
        ],
        categories=[dict(id=number, name=name) for number, name in enumerate(categories)],
        annotations=[],
    )
    for number, (index, (left, top, right, bottom), category) in enumerate(annotations):
        polygon = [left, top, right, top, right, bottom, left, bottom]
        shape = dict(segmentation=[polygon]) if number % 2 else dict(bbox=[left, top, right - left, bottom - top])
        content['annotations'].append(dict(id=number, image_id=index, category_id=category, **shape))
    path.write_text(json.dumps(content))
    return path


def epoch_of(dataset, settings, workers=0, prefetcher=True, mode='rrc', **options):
    """Return images and targets of an epoch, as timm's script gets them."""
    extend_timm_transforms()
    extend_timm_loader(seed=3, mask_settings=settings)
    images = dict(input_size=(3, 40, 36), train_crop_mode=mode, color_jitter=None, mean=(0.0,) * 3, std=(1.0,) * 3)
    run = dict(num_workers=workers, use_prefetcher=prefetcher, device=torch.device('cpu'), persistent_workers=False)
    batches = list(timm.data.create_loader(dataset, batch_size=2, is_training=True, **{**images, **run, **options}))
    return tuple(torch.cat([batch[part] for batch in batches]) for part in (0, 1))


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('prefetcher', [True, False])
def test_masks_are_where_the_images_show_them(images, masks, workers, prefetcher):
    inputs, targets = epoch_of(images, MaskSettings(masks), workers, prefetcher, scale=(0.3, 1.0))
    labels, found = label_and_masks(targets)
    numbers = (inputs[:, 2].amax(dim=(1, 2)) * 255 / 50).round().long()
    assert sorted(numbers.tolist()) == [0, 1, 2, 3]
    assert torch.equal(labels, numbers % 2)
    for number, image, mask in zip(numbers, inputs, found[:, 0]):
        if number == 3:
            assert not mask.any()  # it has none
        else:
            torch.testing.assert_close(mask, image[0], rtol=0, atol=1e-6)
            assert mask.max() == 1


@pytest.mark.parametrize('drawn_on', ['upright', 'stored'])
def test_masks_of_photos_that_a_camera_turned(images, masks, tmp_path, drawn_on):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned to the left
    for path in tmp_path.rglob('class*/*.png'):
        with Image.open(path) as upright:
            turned = upright.transpose(Image.Transpose.ROTATE_90)
        if 'images' in path.parts:
            turned.save(path, exif=exif)
        elif drawn_on == 'stored':
            turned.save(path)
    dataset = create_dataset(timm.data.create_dataset, '', root=str(tmp_path / 'images'), split='train')
    inputs, targets = epoch_of(dataset, MaskSettings(masks), scale=(0.3, 1.0))
    found = label_and_masks(targets)[1][:, 0]
    has_mask = (inputs[:, 2].amax(dim=(1, 2)) * 255 / 50).round() < 3
    assert has_mask.sum() == 3
    torch.testing.assert_close(found[has_mask], inputs[has_mask, 0], rtol=0, atol=1e-6)


def test_images_and_labels_are_those_without_masks(images, masks, tmp_path):
    with_masks, targets = epoch_of(images, MaskSettings(masks), color_jitter=0.4, re_prob=0.5)
    dataset = timm.data.create_dataset('', root=str(tmp_path / 'images'), split='train')
    inputs, labels = epoch_of(dataset, None, color_jitter=0.4, re_prob=0.5)
    assert torch.equal(with_masks, inputs) and torch.equal(label_and_masks(targets)[0], labels)


@pytest.mark.parametrize('names', ['class{}/{}.png', 'COCO_{1}.png'])
def test_png_and_coco_give_equal_masks(images, masks, tmp_path, names):
    if names != 'class{}/{}.png':
        names = '{1}.png'  # no folders, as in COCO itself
    file = coco(tmp_path / 'masks.json', [(index, box_of(index), None) for index in range(3)], names=names)
    expected = epoch_of(images, MaskSettings(masks), mode='rkrr')[1]
    dataset = timm.data.create_dataset('', root=str(tmp_path / 'images'), split='train')
    assert torch.equal(epoch_of(dataset, MaskSettings(file), mode='rkrr')[1], expected)


def masks_of(dataset, index):
    dataset.transform = timm.data.create_transform((3, 40, 36), is_training=True, no_aug=True, use_prefetcher=True)
    return 255 * label_and_masks(dataset[index][1][None])[1][0].numpy()


def test_objects_of_the_class_of_the_image(images, tmp_path):
    other = (0, 0, 3, 3)
    boxes = [(0, box_of(0), 1), (0, other, 0), (1, other, 1), (1, box_of(1), 2), (2, other, 0), (2, box_of(0), 0)]
    dataset = MaskedDataset(images, MaskSettings(coco(tmp_path / 'a.json', boxes, ['person', 'class0', 'class1'])))
    assert np.array_equal(masks_of(dataset, 0)[0], draw(tmp_path / 'x.png', box_of(0)))
    assert not masks_of(dataset, 1).any()  # 2.png is of class0, and only persons are marked in it
    assert np.array_equal(masks_of(dataset, 2)[0], draw(tmp_path / 'x.png', box_of(1)))
    # where no category is called like a class, all objects count
    dataset = MaskedDataset(images, MaskSettings(coco(tmp_path / 'b.json', boxes, ['person', 'cat', 'dog'])))
    both = np.maximum(draw(tmp_path / 'x.png', box_of(0)), draw(tmp_path / 'x.png', other))
    assert np.array_equal(masks_of(dataset, 0)[0], both)


@pytest.mark.parametrize('kind', ['png', 'coco'])
def test_a_mask_an_attribute(celeba, tmp_path, kind):
    size, box = (178, 218), (20, 30, 90, 150)
    if kind == 'png':
        path = tmp_path / 'masks'
        draw(path / 'Smiling' / '000001.png', box, size)
        draw(path / 'Eyeglasses' / '000005.png', box, size)
        draw(path / 'Eyeglasses' / '000001.png', (0, 0, 0, 0), size)  # nothing was drawn
        draw(path / 'Eyeglasses' / '000002.png', box, size)  # of the validation set
    else:
        path = tmp_path / 'masks.json'
        segmentation = [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]]
        drawn = [(1, 1), (5, 0)]
        content = dict(
            images=[dict(id=index, file_name=f'00000{index}.jpg', width=178, height=218) for index, _ in drawn],
            categories=[dict(id=0, name='Eyeglasses'), dict(id=1, name='Smiling')],
            annotations=[dict(image_id=i, category_id=category, segmentation=segmentation) for i, category in drawn],
        )
        path.write_text(json.dumps(content))
    data = CelebA(str(celeba), 'train')
    dataset = MaskedDataset(data, MaskSettings(path, multi_task=True))
    assert dataset.used == {'000001.jpg', '000005.jpg'} and dataset.attributes == ATTRIBUTES
    dataset.transform = timm.data.create_transform((3, 109, 89), is_training=True, train_crop_mode='squash', hflip=0)
    found = [label_and_masks(dataset[index][1][None], 3) for index in range(3)]
    assert [masks.flatten(2).any(dim=2).int()[0].tolist() for _, masks in found] == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert torch.equal(torch.cat([labels for labels, _ in found]), data.targets)
    left, top, right, bottom = (number // 2 for number in box)
    mask = found[0][1][0, 2]
    assert (mask[top + 2 : bottom - 2, left + 2 : right - 2] == 1).all()
    assert mask.mean() == pytest.approx((right - left) * (bottom - top) / mask.numel(), rel=0.01)


def test_masks_out_of_sight_are_missing(images, masks):
    dataset = MaskedDataset(images, MaskSettings(masks))
    dataset.transform = timm.data.create_transform((3, 4, 4), is_training=True, scale=(0.01, 0.02), hflip=0)
    torch.manual_seed(0)
    found = torch.cat([label_and_masks(dataset[0][1][None])[1] for _ in range(60)]).flatten(1)
    greatest = found.amax(dim=1)
    assert (greatest == 0).any() and (greatest > 0.5).any() and not ((greatest > 0) & (greatest <= 0.5)).any()


def test_an_image_that_is_broken_gives_its_place_and_its_mask_away(images, masks, tmp_path):
    (tmp_path / 'images' / 'train' / 'class0' / '0.png').write_bytes(b'nothing')
    dataset = MaskedDataset(images, MaskSettings(masks))  # 0.png, 2.png, 1.png, 3.png
    assert np.array_equal(masks_of(dataset, 0)[0], draw(tmp_path / 'x.png', box_of(2)))


def test_share_depends_on_names_and_seed_alone():
    names = [f'class{index % 3}/{index}.jpg' for index in range(1000)]
    tenth = choose(names, 0.1, seed=5)
    assert len(tenth) == 100 and choose(list(reversed(names)), 0.1, seed=5) == tenth
    assert choose(names, 0.01, seed=5) < tenth and len(choose(names, 0.01, seed=5)) == 10
    assert len(choose(names, 0.1, seed=6) & tenth) < 30
    assert choose(names, 1.0, seed=5) == set(names) and len(choose(names[:3], 0.01, seed=5)) == 1


def test_what_is_used_is_said_once(images, masks, monkeypatch, caplog):
    for rank, share, said in (
        (0, 1.0, ['masks: 3 of 4 training images']),
        (0, 0.7, ['masks: 2 of 4 training images, a share of 0.7 of 3']),
        (1, 1.0, []),
    ):
        monkeypatch.setenv('RANK', str(rank))
        caplog.clear()
        with caplog.at_level(logging.INFO):
            dataset = MaskedDataset(images, MaskSettings(masks, share=share))
        assert caplog.messages == said
    assert [bool(masks_of(dataset, index).any()) for index in range(4)] == [True, True, True, False]


def test_goes_to_workers_that_are_started_anew(images, masks):
    dataset = MaskedDataset(images, MaskSettings(masks))
    expected = masks_of(dataset, 0)
    copy = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(255 * label_and_masks(copy[0][1][None])[1][0].numpy(), expected) and len(copy) == 4


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (
            lambda path: draw(path / 'masks' / 'cat' / '0.png', box_of(0)),
            'of any of 4 training images: expected files such as class0/0.png in it, the mask of class0/0',
        ),
        (
            lambda path: coco(path / 'masks', [(7, box_of(0), None)]),
            'of any of 4 training images: expected images in it named like those, such as class0/0',
        ),
        (lambda path: (path / 'masks').write_text('{}'), 'is not in COCO format: expected images'),
        (lambda path: (path / 'masks').symlink_to(path / 'images' / 'train'), 'is among the training images in'),
    ],
)
def test_masks_of_no_image_are_one_line(images, tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(TrainingError) as raised:
        MaskedDataset(images, MaskSettings(tmp_path / 'masks'))
    assert message in str(raised.value) and '\n' not in str(raised.value)


def test_attributes_without_any_mask_are_one_line(celeba, images, masks, tmp_path):
    settings = MaskSettings(masks, multi_task=True)
    with pytest.raises(TrainingError, match='expected files such as Eyeglasses/000001.png in it, the mask of 000001'):
        MaskedDataset(CelebA(str(celeba), 'train'), settings)
    with pytest.raises(TrainingError, match='found by attribute names: pass --dataset celeba'):
        MaskedDataset(images, settings)


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_masks_that_do_not_fit_are_one_line(images, masks, tmp_path, workers):
    draw(masks / 'class0' / '0.png', box_of(0), size=(30, 20))
    with pytest.raises(ImageError) as raised:
        epoch_of(images, MaskSettings(masks), workers)
    assert str(raised.value) == 'the mask of class0/0.png has 30 x 20 pixels, the image has 36 x 40.'
    (masks / 'class0' / '0.png').write_bytes(b'nothing')
    with pytest.raises(ImageError) as raised:
        epoch_of(images, MaskSettings(masks), workers)
    assert '0.png' in str(raised.value) and '\n' not in str(raised.value)
