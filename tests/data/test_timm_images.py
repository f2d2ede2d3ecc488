"""timm's loaders over the reader of this package: the tensors of ``load_samples``, and timm's of ordinary images."""

import io

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image
from timm.data.readers import reader_image_folder
from tiny_models import tiny_abn

from timm_abn.data.datasets import create_dataset
from timm_abn.data.errors import DataError
from timm_abn.data.reading import ImageError
from timm_abn.data.samples import load_samples
from timm_abn.data.timm_images import find_images_and_targets
from timm_abn.records import Levels
from timm_abn.training.data.transforms import extend_timm_transforms
from timm_abn.training.replacing import replace


@pytest.fixture(autouse=True)
def extended(monkeypatch):
    for owner, name in ((reader_image_folder, 'find_images_and_targets'), (timm.data.loader, 'create_transform')):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    replace(reader_image_folder, 'find_images_and_targets', find_images_and_targets)
    extend_timm_transforms()


def of_timm(root, **options):
    return create_dataset(timm.data.create_dataset, '', root=str(root), **options)


def tensors(dataset, model):
    """Return images and labels as timm's validate.py gets them."""
    config = timm.data.resolve_model_data_config(model)
    names = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')
    options = dict({name: config[name] for name in names}, use_prefetcher=False, num_workers=0)
    loader = timm.data.create_loader(dataset, batch_size=64, device=torch.device('cpu'), **options)
    return next(iter(loader))


def write(folder, kind):
    rng = np.random.default_rng(0)
    for index in range(20):
        values = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        path = folder / f'class{index % 2}' / f'{index:02}.{"jpg" if kind in ("jpeg", "exif") else "png"}'
        path.parent.mkdir(exist_ok=True)
        if kind == '16 bits':
            Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(path)
        elif kind == 'alpha':
            Image.fromarray(np.dstack([values, values[..., :1] > 99]) * np.uint8([1, 1, 1, 255])).save(path)
        elif kind == 'palette':
            Image.fromarray(values).quantize(32).save(path, transparency=3)
        else:
            exif = Image.Exif()
            exif[0x0112] = 6 if kind == 'exif' else 1
            Image.fromarray(values).save(path, exif=exif)


@pytest.mark.parametrize('kind', ['jpeg', 'exif', '16 bits', 'alpha', 'palette'])
def test_validate_and_evaluate_see_the_same_to_the_last_bit(tmp_path, kind):
    write(tmp_path, kind)
    model = tiny_abn('test_resnet', num_classes=2)
    model.pretrained_cfg = dict(model.pretrained_cfg, label_names=['class0', 'class1'])
    samples = load_samples(model, tmp_path)
    expected = torch.stack([sample.image for sample in samples])
    images, labels = tensors(of_timm(tmp_path), model)
    assert torch.equal(images, expected) and len(labels) == 20
    assert labels.tolist() == [sample.label for sample in samples]
    timms = tensors(timm.data.create_dataset('', root=str(tmp_path)), model)[0]
    # what turns images stands in timm's transform, too
    assert torch.equal(images, timms) == (kind in ('jpeg', 'exif'))


def test_grey_models_and_levels(tmp_path):
    (tmp_path / 'a').mkdir()
    Image.fromarray(np.array([[0, 2048, 4095]], dtype=np.uint16)).save(tmp_path / 'a' / '1.png')
    dataset = of_timm(tmp_path, input_img_mode='L', levels=Levels(0, 4095))
    assert dataset[0][0].mode == 'L' and np.asarray(dataset[0][0]).tolist() == [[0, 128, 255]]


def test_images_of_an_archive_or_the_hub(tmp_path):
    class Reader(list):
        filename = None

    exif, content = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.new('RGBA', (60, 90), (0, 0, 0, 0)).save(content, 'png', exif=exif)
    dataset = timm.data.ImageDataset(None, reader=Reader([(content, 3), (io.BytesIO(b'%!PS-Adobe-3.0'), 4)]))
    read = create_dataset(lambda *args, **kwargs: dataset, 'hfds/somebody/something')
    image, target = read[0]
    assert image.size == (90, 60) and image.getpixel((0, 0)) == (255, 255, 255) and target == 3
    with pytest.raises(ImageError, match='the image is not an image in a supported format'):
        read[1]


def test_folders_that_natural_order_does_not_tell_apart(tmp_path):
    names = ['00001', '0001', '001', '01', '1', 'A', 'a']  # timm leaves them to the order of a set, which changes
    for name in names:
        (tmp_path / name).mkdir()
        Image.new('RGB', (8, 8)).save(tmp_path / name / '1.png')
    assert [*of_timm(tmp_path).reader.class_to_idx] == names


def test_damaged_images(tmp_path, monkeypatch, caplog):
    write(tmp_path, '16 bits')
    (tmp_path / 'class0' / '04.png').write_bytes(b'nothing')
    dataset, trained = of_timm(tmp_path), of_timm(tmp_path, is_training=True)
    assert (
        len(dataset) == 19
        and '1 of 20 images cannot be read and are left out' in caplog.text
        and '04.png' in caplog.text
    )
    (tmp_path / 'class0' / '08.png').write_bytes(b'nothing')  # after the check
    index = dataset.filenames(basename=True).index('08.png')
    with pytest.raises(ImageError, match=r'08\.png is not an image'):
        dataset[index]
    assert np.array_equal(trained[index][0], trained[index + 1][0]) and 'takes its place' in caplog.text
    for path in tmp_path.rglob('*.png'):
        path.write_bytes(b'nothing')
    with pytest.raises(DataError, match='none of the images in .* can be read'):
        of_timm(tmp_path)


def test_images_that_a_data_set_decoded_itself_are_turned_too():
    turned = Image.new('RGB', (60, 90), 'red')
    turned.info['exif'] = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    transform = timm.data.loader.create_transform((3, 32, 32), crop_pct=1.0)
    as_read = transform.transforms[0]
    assert as_read(turned).size == (90, 60) and as_read(Image.new('L', (3, 2))).mode == 'L'
    plain = Image.new('RGB', (60, 90))
    assert as_read(plain) is plain
    assert as_read(Image.new('RGBA', (1, 1))).getpixel((0, 0)) == (255, 255, 255)
