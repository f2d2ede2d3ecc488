"""Images to evaluate on: which there are, what they are labelled, and their masks in the frame of the model."""

import json

import numpy as np
import pytest
import torch
from celeba_files import write_celeba
from PIL import Image
from tiny_models import tiny_abn

from timm_abn import TimmAbnError
from timm_abn.data.images import Preprocessing
from timm_abn.data.samples import load_samples, read_samples


@pytest.fixture(scope='module')
def model():
    return tiny_abn('test_resnet', num_classes=2)


def photo(path, size=(80, 60), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.filterwarnings('ignore:the folders of')
def test_folders_are_classes_and_splits(model, tmp_path):
    for folder in ('val/ant', 'val/bee', 'train/ant'):
        for number in range(2):
            photo(tmp_path / folder / f'{number}.png', seed=number)
    samples = load_samples(model, tmp_path)
    assert [(sample.name, sample.label) for sample in samples] == [
        ('ant/0.png', 0),
        ('ant/1.png', 0),
        ('bee/0.png', 1),
        ('bee/1.png', 1),
    ]
    assert [sample.name for sample in load_samples(model, str(tmp_path))] == [sample.name for sample in samples]
    expected, _ = Preprocessing(model)(Image.open(tmp_path / 'val' / 'bee' / '1.png'))
    assert torch.equal(samples[3].image, expected) and samples[3].mask is None
    assert len(load_samples(model, tmp_path, split='train')) == 2


def test_limit_is_drawn_and_the_same_again(model, tmp_path):
    for number in range(20):
        photo(tmp_path / f'{number:02}.png', size=(8, 8))
    names = [sample.name for sample in load_samples(model, tmp_path, limit=5)]
    assert names == sorted(names) and len(set(names)) == 5 and names != [f'{number:02}.png' for number in range(5)]
    assert names == [sample.name for sample in load_samples(model, tmp_path, limit=5)]
    assert names != [sample.name for sample in load_samples(model, tmp_path, limit=5, seed=1)]
    assert len(load_samples(model, tmp_path, limit=50)) == 20
    assert all(sample.label is None for sample in load_samples(model, tmp_path))


def test_a_broken_image_is_a_problem_of_its_own(model, tmp_path):
    photo(tmp_path / '1.jpg')
    (tmp_path / '2.jpg').write_bytes((tmp_path / '1.jpg').read_bytes()[:300])
    samples = load_samples(model, tmp_path)
    assert samples[0].image.shape == samples[:1][0].image.shape == (3, 160, 160)
    with pytest.raises(TimmAbnError, match='2.jpg'):
        samples[-1]
    problems = []
    assert [sample.name for sample in read_samples(samples, [1, 0], problems)] == ['1.jpg']
    assert len(problems) == 1 and '2.jpg' in problems[0]


def test_data_set_of_timm(model, tmp_path):
    raw = tmp_path / 'FashionMNIST' / 'raw'
    raw.mkdir(parents=True)
    images, labels = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28), np.array([1, 0, 1], dtype=np.uint8)
    for name, values, head in (('images-idx3', images, [2051, 3, 28, 28]), ('labels-idx1', labels, [2049, 3])):
        for part in ('train', 't10k'):
            (raw / f'{part}-{name}-ubyte').write_bytes(np.array(head, dtype='>i4').tobytes() + values.tobytes())
    samples = load_samples(model, tmp_path, 'torch/fashion_mnist', 'test')
    assert [(sample.name, sample.label) for sample in samples] == [('000000', 1), ('000001', 0), ('000002', 1)]
    expected, _ = Preprocessing(model)(Image.fromarray(images[1]).convert('RGB'))
    assert torch.equal(samples[1].image, expected)
    with pytest.raises(TimmAbnError, match='masks are found by the names of image files, which torch/fashion_mnist'):
        load_samples(model, tmp_path, 'torch/fashion_mnist', 'test', masks=tmp_path)


def test_mask_moves_with_the_image(model, tmp_path):
    # an image that is its own mask: white object on black, in the frame of the model as in the file
    values = np.zeros((60, 80), dtype=np.uint8)
    values[10:30, 20:70] = 255
    Image.fromarray(values).convert('RGB').save(tmp_path / '1.bmp')
    Image.fromarray(values).save(tmp_path / '1.png')  # beside the image
    (sample,) = load_samples(model, tmp_path, masks=tmp_path)
    bright = sample.image.mean(dim=0) > sample.image.mean(dim=0).amax() / 2
    assert sample.mask.shape == (160, 160) and (sample.mask != bright).float().mean() < 0.02
    assert 0.2 < sample.mask.float().mean() < 0.5
    (tmp_path / 'masks').mkdir()
    Image.fromarray(values[:, :40]).save(tmp_path / 'masks' / '1.png')
    (tmp_path / '1.png').unlink()
    with pytest.raises(TimmAbnError, match='the mask of 1.bmp has 40 x 60 pixels, the image has 80 x 60'):
        load_samples(model, tmp_path, masks=tmp_path / 'masks')[0]


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_masks_of_stored_and_of_upright_pixels(model, tmp_path, orientation):
    upright = np.zeros((60, 80), dtype=np.uint8)
    upright[10:30, 20:70] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(upright, {1: 0, 3: 2, 6: 1, 8: 3}[orientation])  # as EXIF says: 6 is shown turned to the right
    (tmp_path / 'photos').mkdir()
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / 'photos' / '1.jpg', exif=exif)
    kinds = {'upright': upright, 'tagged': stored} | ({'stored': stored} if orientation in (6, 8) else {})
    for kind, values in kinds.items():
        (tmp_path / kind).mkdir()
        told = dict(exif=exif) if kind == 'tagged' else {}
        Image.fromarray(np.ascontiguousarray(values)).save(tmp_path / kind / '1.png', **told)
    found = [load_samples(model, tmp_path / 'photos', masks=tmp_path / kind)[0] for kind in kinds]
    bright = found[0].image.mean(dim=0) > found[0].image.mean(dim=0).amax() / 2
    for kind, sample in zip(kinds, found, strict=True):
        assert (sample.mask != bright).float().mean() < 0.03, kind


def test_masks_of_tasks(tmp_path):
    network = tiny_abn('test_resnet', num_classes=3, multi_task=True)
    network.pretrained_cfg = dict(network.pretrained_cfg, label_names=['hat', 'smile', 'glasses'])
    for name in ('1.jpg', '2.jpg'):
        photo(tmp_path / 'photos' / name)
    boxes = [(1, 'hat', [0, 0, 40, 30]), (1, 'glasses', [0, 0, 80, 60]), (2, 'hat', [40, 0, 40, 60])]
    kinds = ['shoe', 'glasses', 'hat']
    content = dict(
        images=[dict(id=number, file_name=f'{number}.jpg', width=80, height=60) for number in (1, 2)],
        categories=[dict(id=index, name=name) for index, name in enumerate(kinds)],
        annotations=[dict(id=0, image_id=i, category_id=kinds.index(kind), bbox=box) for i, kind, box in boxes],
    )
    (tmp_path / 'masks.json').write_text(json.dumps(content))
    samples = load_samples(network, tmp_path / 'photos', masks=tmp_path / 'masks.json')
    assert [(sample.name, sample.target) for sample in samples] == [('1.jpg', 2), ('1.jpg', 0), ('2.jpg', 0)]
    assert samples[0].mask.all() and 0 < samples[1].mask.float().mean() < 0.5


def test_celeba_has_no_classes(model, tmp_path):
    write_celeba(tmp_path / 'celeba')
    samples = load_samples(model, tmp_path / 'celeba', 'celeba', 'test')
    assert samples and all(sample.label is None for sample in samples)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(data_dir='nowhere'), 'nowhere is not a folder'),
        (dict(data_dir='empty'), 'there are no images in'),
        (dict(data_dir='empty', dataset='torch/fashion_mnist'), 'expected FashionMNIST/raw in'),
        (dict(data_dir='nowhere', dataset='compcars'), 'nowhere does not exist'),
        (
            dict(data_dir='empty', dataset='torch/fashion_mnis'),
            'torch/fashion_mnis, split validation, cannot be read: Unk',
        ),
    ],
)
def test_what_is_refused(model, tmp_path, arguments, message):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(TimmAbnError, match=message):
        load_samples(model, **dict(arguments, data_dir=tmp_path / arguments['data_dir']))
