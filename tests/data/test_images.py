import io
import struct
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageCms
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision import transforms

from timm_abn import Explanation
from timm_abn.data.images import Preprocessing, denormalize, draw_overlay, place_map
from timm_abn.data.reading import ImageError, read_image, to_rgb

SIZE = (6, 4)
RED = (200, 30, 40)


def model_of(channels=3, size=(32, 32), **cfg):
    """A module that says what a timm model says about its input, and no more."""
    model = nn.Module()
    model.in_chans = channels
    model.pretrained_cfg = dict(
        input_size=(channels, *size), interpolation='bilinear', mean=(0.5,) * channels, std=(0.25,) * channels, **cfg
    )
    return model


def with_info(image, **info):
    image.info.update(info)
    return image


def red_palette(mode='P'):
    image = Image.new('P', SIZE, 1)
    image.putpalette([255, 255, 255, *RED])
    return image if mode == 'P' else image.convert(mode)


def lab(image):
    profiles = ImageCms.createProfile('sRGB'), ImageCms.createProfile('LAB')
    return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, 'RGB', 'LAB'))


def rgb():
    return Image.new('RGB', SIZE, RED)


# image, the RGB value that a viewer shows, and how far rounding may be off
MODES = {
    '1': (lambda: Image.new('1', SIZE, 1), (255, 255, 255), 0),
    'L': (lambda: Image.new('L', SIZE, 77), (77, 77, 77), 0),
    'L with a transparent level': (lambda: with_info(Image.new('L', SIZE, 77), transparency=77), (255, 255, 255), 0),
    'L with another transparent level': (lambda: with_info(Image.new('L', SIZE, 77), transparency=3), (77, 77, 77), 0),
    '1 with a transparent level': (lambda: with_info(Image.new('1', SIZE, 0), transparency=0), (255, 255, 255), 0),
    'LA': (lambda: Image.new('LA', SIZE, (55, 51)), (215, 215, 215), 1),
    'La': (lambda: Image.new('LA', SIZE, (55, 51)).convert('La'), (215, 215, 215), 1),
    'P': (red_palette, RED, 0),
    'P with a transparent colour': (lambda: with_info(red_palette(), transparency=1), (255, 255, 255), 0),
    'P with alphas': (lambda: with_info(red_palette(), transparency=bytes([255, 51])), (244, 210, 212), 1),
    'PA': (lambda: red_palette('PA'), RED, 0),
    'RGB': (rgb, RED, 0),
    'RGB with a transparent colour': (lambda: with_info(rgb(), transparency=RED), (255, 255, 255), 0),
    'RGBA opaque': (lambda: rgb().convert('RGBA'), RED, 0),
    'RGBA transparent black': (lambda: Image.new('RGBA', SIZE, (0, 0, 0, 0)), (255, 255, 255), 0),
    'RGBA': (lambda: Image.new('RGBA', SIZE, (*RED, 51)), (244, 210, 212), 1),
    'RGBa': (lambda: Image.new('RGBA', SIZE, (*RED, 51)).convert('RGBa'), (244, 210, 212), 3),
    'RGBX': (lambda: rgb().convert('RGBX'), RED, 0),
    'CMYK': (lambda: Image.new('CMYK', SIZE, (55, 225, 215, 0)), RED, 0),
    'YCbCr': (lambda: rgb().convert('YCbCr'), RED, 2),
    'HSV': (lambda: rgb().convert('HSV'), RED, 4),
    'LAB': (lambda: lab(rgb()), RED, 4),
    'I;16': (lambda: Image.new('I;16', SIZE, 77 * 257), (77, 77, 77), 0),
    'I;16 bright': (lambda: Image.new('I;16', SIZE, 65535), (255, 255, 255), 0),
    'I;16 dark': (lambda: Image.new('I;16', SIZE, 200), (1, 1, 1), 0),
    'I;16B': (lambda: Image.new('I;16B', SIZE, 77 * 257), (77, 77, 77), 0),
    'I of 16 bit': (lambda: Image.new('I', SIZE, 77 * 257), (77, 77, 77), 0),
    'I of 8 bit': (lambda: Image.new('I', SIZE, 77), (77, 77, 77), 0),
    'F in [0, 1]': (lambda: Image.new('F', SIZE, 0.3), (76, 76, 76), 1),
    'F in [0, 255]': (lambda: Image.new('F', SIZE, 77.0), (77, 77, 77), 0),
}


@pytest.mark.parametrize('name', MODES)
def test_modes(name):
    create, expected, tolerance = MODES[name]
    image = to_rgb(create())
    assert image.mode == 'RGB' and image.size == SIZE
    np.testing.assert_allclose(np.asarray(image)[1, 2], expected, atol=tolerance)
    assert (np.asarray(image) == np.asarray(image)[0, 0]).all()


@pytest.mark.parametrize('values', [[-3.0, 0.0, 7.0], [0.0, 300.0, 1000.0]])
def test_other_ranges_are_stretched(values):
    image = to_rgb(Image.fromarray(np.array([values], dtype=np.float32)))
    expected = np.round((np.array(values) - values[0]) / (values[2] - values[0]) * 255)
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], expected)
    whole = to_rgb(Image.fromarray(np.array([[-70000, 0, 70000]], dtype=np.int32)))
    np.testing.assert_array_equal(np.asarray(whole)[0, :, 0], [0, 128, 255])


def test_values_that_are_not_finite():
    values = np.array([[np.nan, 0.0, 0.5, 1.0, np.inf, -np.inf]], dtype=np.float32)
    np.testing.assert_array_equal(np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0], [0, 0, 128, 255, 255, 0])
    nothing = to_rgb(Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)))
    np.testing.assert_array_equal(np.asarray(nothing), 0)


@pytest.mark.parametrize('kind', ['png', 'tiff'])
def test_sixteen_bit_files_are_scaled_not_clipped(tmp_path, kind):
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    path = tmp_path / f'image.{kind}'
    Image.fromarray(values).save(path)
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 0].ravel(), np.arange(256))


def test_sixteen_bit_png_with_a_transparent_level(tmp_path):
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    pixels = b'\0' + struct.pack('>3H', 0, 1000, 30000)
    (tmp_path / 'image.png').write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 3, 1, 16, 0, 0, 0, 0))
        + chunk(b'tRNS', struct.pack('>H', 1000))
        + chunk(b'IDAT', zlib.compress(pixels))
        + chunk(b'IEND', b'')
    )
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / 'image.png'))[0, :, 0], [0, 255, 117])


def test_cmyk_jpeg_and_animated_gif(tmp_path):
    Image.new('CMYK', SIZE, (55, 225, 215, 0)).save(tmp_path / 'image.jpg', quality=100)
    np.testing.assert_allclose(np.asarray(read_image(tmp_path / 'image.jpg'))[0, 0], RED, atol=6)
    frames = [Image.new('RGB', SIZE, color) for color in (RED, (0, 0, 0))]
    frames[0].save(tmp_path / 'image.gif', save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(np.asarray(read_image(tmp_path / 'image.gif'))[0, 0], RED, atol=1)


# how the stored pixels come from the upright ones, from the EXIF standard (row 0 and column 0 of the stored image)
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],  # row 0 is the top, column 0 the right
    3: lambda a: a[::-1, ::-1],  # the bottom, the right
    4: lambda a: a[::-1],  # the bottom, the left
    5: lambda a: a.swapaxes(0, 1),  # the left, the top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # the right, the top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # the right, the bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # the left, the bottom
}


@pytest.mark.parametrize('orientation', STORED)
@pytest.mark.parametrize('kind', ['png', 'jpg', 'tiff'])
def test_exif_orientation(tmp_path, orientation, kind):
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = RED, (20, 200, 30), (10, 40, 220)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'image.{kind}'
    options = dict(quality=100, subsampling=0) if kind == 'jpg' else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, **options)
    np.testing.assert_allclose(np.asarray(read_image(path)).astype(int), upright, atol=4)


def test_sixteen_bit_with_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    Image.fromarray(np.ascontiguousarray(STORED[6](values))).save(tmp_path / 'image.png', exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / 'image.png'))[..., 0], values // 257)


def test_damaged_exif_does_not_lose_the_image(tmp_path):
    rgb().save(tmp_path / 'image.png', exif=b'Exif\0\0not a TIFF header')
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / 'image.png'))[0, 0], RED)


def encoded(kind, size=(64, 64)):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8) & 0xF0  # so that PNG compresses it
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is not an image'),
        (b'a text\n' * 100, 'is not an image'),
        (encoded('jpeg')[:2000], 'truncated'),
        (encoded('png')[:2000], 'cannot be read'),
        (encoded('png')[:200] + b'\xff' * 500 + encoded('png')[700:], 'cannot be read'),
        (encoded('webp')[:500], 'read'),
        (encoded('gif')[:2000], 'cannot be read'),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / 'image.jpg'
    path.write_bytes(content)
    with pytest.raises(ImageError, match=message) as error:
        read_image(path)
    assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match='No such file'):
        read_image(tmp_path / 'image.jpg')
    with pytest.raises(ImageError, match='cannot be read'):
        read_image(tmp_path)


def test_decompression_bomb(tmp_path, monkeypatch, recwarn):
    Image.new('1', (40, 40)).save(tmp_path / 'image.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    read_image(tmp_path / 'image.png')
    assert not recwarn.list
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 500)
    with pytest.raises(ImageError, match='more than 1,000 pixels'):
        read_image(tmp_path / 'image.png')


@pytest.mark.parametrize(('name', 'channels'), [('abn_resnet18', 3), ('abn_resnet20_cifar.fashion_mnist', 1)])
@pytest.mark.parametrize('size', [(300, 200), (17, 90), (1, 1)])
def test_preprocessing_is_timms(name, channels, size):
    model = timm.create_model(name, device=torch.device('meta'))
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = create_transform(**resolve_model_data_config(model))(image.convert('L' if channels == 1 else 'RGB'))
    x, _ = Preprocessing(model)(image)
    assert x.shape[0] == channels
    torch.testing.assert_close(x, expected, rtol=0, atol=0)


def test_grey_model_over_a_backbone_for_colour():
    model = timm.create_model('abn_resnet18', in_chans=1, device=torch.device('meta'))
    x, _ = Preprocessing(model)(Image.new('RGB', (300, 200), (128, 128, 128)))
    assert x.shape == (1, 224, 224)
    mean, std = (sum(model.pretrained_cfg[key]) / 3 for key in ('mean', 'std'))
    torch.testing.assert_close(x, torch.full_like(x, (128 / 255 - mean) / std))


def test_preprocessing_takes_the_size_of_the_model():
    model = timm.create_model('abn', backbone='test_vit', img_size=96, device=torch.device('meta'))
    assert Preprocessing(model)(Image.new('RGB', (300, 200)))[0].shape == (3, 96, 96)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match='the model takes 4'):
        Preprocessing(model_of(channels=4))


def test_long_thin_images_are_refused_before_they_fill_the_memory():
    with pytest.raises(ImageError, match='1 x 30000 pixels is too long and thin'):
        Preprocessing(model_of(size=(224, 224)))(Image.new('RGB', (1, 30000)))
    Preprocessing(model_of(size=(224, 224), crop_mode='squash'))(Image.new('RGB', (1, 30000)))


CONFIGS = [
    dict(crop_pct=0.875),
    dict(crop_pct=1.0),
    dict(crop_pct=0.8, crop_mode='squash'),
    dict(crop_pct=0.9, crop_mode='border'),
    dict(crop_pct=0.9, size=(64, 48)),
    dict(crop_pct=1.0, size=(48, 64), channels=1),
    dict(crop_pct=0.9, crop_mode='border', channels=1),
]


@pytest.mark.parametrize('config', CONFIGS, ids=str)
@pytest.mark.parametrize('size', [(400, 300), (300, 431), (350, 350), (61, 40)])
def test_a_map_comes_back_to_where_it_was_seen(config, size):
    # a bright square in the original; what the model sees of it, taken for a map, must come back onto the square
    width, height = size
    square = np.zeros((height, width), dtype=bool)
    square[int(height * 0.3) : int(height * 0.55), int(width * 0.5) : int(width * 0.75)] = True
    image = Image.fromarray(np.where(square, 255, 0).astype(np.uint8)).convert('RGB')
    x, box = Preprocessing(model_of(**dict(dict(size=(64, 64)), **config)))(image)
    seen = x.mean(dim=0)[None, None] * 0.25 + 0.5
    back = place_map(seen, box, size, 'bilinear').numpy()
    assert back.shape == (height, width)
    found = back > 0.5
    assert (found & square).sum() / (found | square).sum() > 0.93
    for axis in (0, 1):
        centers = [np.mean(np.nonzero(mask)[axis]) for mask in (found, square)]
        # half a pixel of the smaller image, and half one of the original for the rounding of the box
        assert abs(centers[0] - centers[1]) < 0.5 * max(width, height) / 48 + 0.5


def test_the_part_that_was_cut_off_is_zero_in_the_map_and_untouched_in_the_overlay():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8))
    _, box = Preprocessing(model_of(size=(32, 32), crop_pct=1.0))(image)
    assert box == (50, 0, 150, 100)
    placed = place_map(torch.ones(1, 1, 8, 8), box, image.size, 'bilinear')
    assert placed[:, 50:150].eq(1).all() and placed[:, :50].eq(0).all() and placed[:, 150:].eq(0).all()
    overlay = np.asarray(draw_overlay(image, torch.ones(1, 1, 8, 8), box))
    original = np.asarray(image)
    np.testing.assert_array_equal(overlay[:, :50], original[:, :50])
    np.testing.assert_array_equal(overlay[:, 150:], original[:, 150:])
    expected = original[:, 50:150] * 0.5 + np.array([253, 231, 37]) * 0.5  # the brightest colour of viridis
    np.testing.assert_allclose(overlay[:, 50:150], expected, atol=1)


def test_an_overlay_is_drawn_as_an_explanation_draws_it():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    attention_map = torch.rand(1, 1, 7, 5, generator=torch.Generator().manual_seed(0))
    explanation = Explanation(logits=torch.zeros(1, 2), attention_map=attention_map)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    for options in (dict(colormap='magma'), dict(interpolation='bicubic')):
        expected = explanation.overlay(pixels, normalize=False, **options)[0].permute(1, 2, 0)
        drawn = draw_overlay(image, attention_map, (0, 0, 60, 40), **options)
        np.testing.assert_array_equal(np.asarray(drawn), expected)


def test_a_border_that_the_preprocessing_added_is_not_drawn():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 100, 3), dtype=np.uint8))
    rows = torch.arange(100.0)[None, None, :, None].expand(1, 1, 100, 100) / 100
    framed = Image.new('RGB', (110, 100))
    framed.paste(image, (10, 25))
    expected = draw_overlay(framed, rows, (10, 0, 110, 100)).crop((10, 25, 110, 75))
    np.testing.assert_array_equal(np.asarray(draw_overlay(image, rows, (0, -25, 100, 75))), np.asarray(expected))


def test_a_box_may_be_larger_than_the_image():
    image = Image.new('RGB', (100, 50))
    _, box = Preprocessing(model_of(size=(32, 32), crop_pct=1.0, crop_mode='border'))(image)
    assert box == (0, -25, 100, 75)
    rows = torch.arange(100.0)[None, None, :, None].expand(1, 1, 100, 100) / 100
    torch.testing.assert_close(place_map(rows, box, image.size, 'bilinear')[:, 0], torch.arange(25.0, 75.0) / 100)


@pytest.mark.parametrize('size', [(1, 1), (2, 1), (3, 1), (1, 5), (500, 1)])
def test_tiny_images(size):
    image = Image.new('RGB', size, RED)
    x, (left, top, right, bottom) = Preprocessing(model_of())(image)
    assert x.shape == (3, 32, 32)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert draw_overlay(image, torch.rand(1, 1, 8, 8), (left, top, right, bottom)).size == size


def test_denormalize_undoes_timms_normalisation():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = create_transform(32, mean=mean, std=std, crop_pct=1.0)(image)
    torch.testing.assert_close(denormalize(x[None], mean, std)[0], transforms.ToTensor()(image))
    with pytest.raises(ValueError, match='each of 3 channels, got 1 and 1'):
        denormalize(x[None], (0.5,), (0.5,))
