"""Masks: pixel by pixel as drawn, in the frame that the model sees, and what is refused."""

import json
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from timm_abn import TimmAbnError
from timm_abn.data.masks import place_mask, read_masks

NAME = PurePath('dogs/1.jpg')


def coco(path, annotations, images=None, categories=((7, 'dog'), (9, 'cat'))):
    content = dict(
        images=images or [dict(id=1, file_name='1.jpg', width=6, height=4)],
        annotations=[dict(annotation, id=index, image_id=1) for index, annotation in enumerate(annotations)],
        categories=[dict(id=number, name=name) for number, name in categories],
    )
    path.write_text(json.dumps(content))
    return path


def pixels(mask):
    return (np.asarray(mask) > 127).astype(int).tolist()


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'I;16'])
def test_png(tmp_path, mode):
    values = np.zeros((4, 6), dtype=np.uint8)
    values[1:3, 2:5] = 1  # as label images have it: not 0 is the object, however dark
    image = {
        '1': lambda: Image.fromarray(values * 255).convert('1'),
        'L': lambda: Image.fromarray(values),
        'P': lambda: Image.fromarray(values * 255).convert('P'),
        'RGB': lambda: Image.fromarray(np.stack([values * 0, values, values * 0], axis=2)),
        'I;16': lambda: Image.fromarray(values.astype(np.uint16)),
    }[mode]()
    (tmp_path / 'dogs').mkdir()
    image.save(tmp_path / 'dogs' / '1.png')
    mask = read_masks(tmp_path).find(NAME)
    assert pixels(mask) == values.tolist()
    assert read_masks(tmp_path).find(PurePath('1.jpg')) is None


def test_png_of_several_kinds(tmp_path):
    for kind, column in (('dog', 0), ('cat', 5)):
        values = np.zeros((4, 6), dtype=np.uint8)
        values[:, column] = 255
        (tmp_path / kind / 'dogs').mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / kind / 'dogs' / '1.png')
    masks = read_masks(tmp_path, ['dog', 'cat', 'bird'])
    assert masks.categories == ('dog', 'cat')
    assert pixels(masks.find(NAME, 'cat')) == [[0, 0, 0, 0, 0, 1]] * 4
    assert pixels(masks.find(NAME)) == [[1, 0, 0, 0, 0, 1]] * 4


def test_coco_polygons_boxes_and_run_lengths(tmp_path):
    square = [1, 1, 4, 1, 4, 3, 1, 3]  # corners of the pixels in columns 1 to 3 and rows 1 to 2
    runs = dict(size=[4, 6], counts=[0, 2, 22])  # down the first column
    path = coco(
        tmp_path / 'masks.json',
        [
            dict(category_id=7, segmentation=[square]),
            dict(category_id=9, bbox=[4, 0, 2, 1]),
            dict(category_id=9, segmentation=runs),
        ],
    )
    masks = read_masks(path)
    assert masks.categories == ('dog', 'cat')
    assert pixels(masks.find(NAME, 'dog')) == [[0] * 6, [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0] * 6]
    assert pixels(masks.find(NAME, 'cat')) == [[1, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0], [0] * 6, [0] * 6]
    assert np.asarray(masks.find(NAME)).astype(bool).sum() == 10
    assert masks.find(PurePath('2.jpg')) is None


def test_coco_names_with_and_without_folders(tmp_path):
    images = [dict(id=index, file_name=name, width=2, height=2) for index, name in enumerate(['a/1.jpg', 'b/1.jpg'])]
    path = coco(tmp_path / 'masks.json', [dict(bbox=[0, 0, 1, 1])], images)
    masks = read_masks(path)
    assert pixels(masks.find(PurePath('b/1.jpg'))) == [[1, 0], [0, 0]]
    assert pixels(masks.find(PurePath('a/1.jpg'))) == [[0, 0], [0, 0]]  # named in the file, without an object
    assert masks.find(PurePath('c/1.jpg')) is None  # two of that name: which is meant would be a guess


@pytest.mark.parametrize(
    ('annotation', 'message'),
    [
        (
            dict(segmentation=[[1, 2, 3]]),
            'annotation 0 of 1.jpg cannot be drawn: a polygon needs x and y of at least three',
        ),
        (dict(segmentation=dict(size=[4, 6], counts='abc')), 'compressed text; decode it with pycocotools'),
        (dict(segmentation=dict(size=[4, 6], counts=[3])), 'run lengths must cover 6 x 4 pixels'),
        (dict(), "cannot be drawn: 'bbox'"),
    ],
)
def test_annotations_that_are_refused(tmp_path, annotation, message):
    masks = read_masks(coco(tmp_path / 'masks.json', [annotation]))
    with pytest.raises(TimmAbnError, match=message):
        masks.find(NAME)


@pytest.mark.parametrize('content', ['nothing', '[]', '{}', '{"images": [{}], "annotations": []}'])
def test_files_that_are_refused(tmp_path, content):
    (tmp_path / 'masks.json').write_text(content)
    with pytest.raises(TimmAbnError, match='masks.json is not in COCO format: expected images'):
        read_masks(tmp_path / 'masks.json')
    with pytest.raises(TimmAbnError, match='there are no masks .*nowhere: expected a folder of PNG files, or a JSON'):
        read_masks(tmp_path / 'nowhere')


def test_mask_in_the_frame_of_the_model():
    values = np.zeros((4, 6), dtype=np.uint8)
    values[:, 3:] = 255
    mask = Image.fromarray(values)
    # the middle 4 x 4 at twice the size
    seen = place_mask(mask, (1, 0, 5, 4), (8, 8))
    assert seen.dtype == bool and seen[:, 4:].all() and not seen[:, :4].any()
    # a border of one pixel, which is no object
    seen = place_mask(mask, (-1, -1, 7, 5), (6, 8))
    assert seen.astype(int).tolist() == [[0] * 8, *[[0, 0, 0, 0, 1, 1, 1, 0]] * 4, [0] * 8]


def test_which_images_have_a_mask_is_known_without_reading_it(tmp_path):
    for name in ('Smiling/dogs/1.png', 'dogs/2.png'):
        (tmp_path / 'png' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'png' / name).touch()
    images = [dict(id=number, file_name=f'{number}.jpg', width=6, height=4) for number in (1, 2)]
    file = coco(tmp_path / 'masks.json', [dict(category_id=9, bbox=[0, 0, 2, 2])], images)
    found = [
        (read_masks(tmp_path / 'png'), None, [False, True, False]),
        (read_masks(tmp_path / 'png', ['Smiling', 'Male']), 'Smiling', [True, False, False]),
        (read_masks(file), None, [True, False, False]),
        (read_masks(file), 'cat', [True, False, False]),
        (read_masks(file), 'dog', [False, False, False]),
    ]
    for masks, category, expected in found:
        assert [masks.knows(PurePath(f'dogs/{number}.jpg'), category) for number in (1, 2, 3)] == expected
