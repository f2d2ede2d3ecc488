"""The reader of images: each kind of file against what a viewer shows, and its limits."""

import contextlib
import io
import logging
import os
import re
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from timm_abn import TimmAbnError
from timm_abn.data import reading
from timm_abn.data.reading import ImageError, check_image, read_image, read_or_next, to_rgb, without_damaged
from timm_abn.records import Levels

ROOT = Path(__file__).parents[2]
SIZE = (6, 4)
RED = (200, 30, 40)


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
@pytest.mark.parametrize('kind', ['png', 'jpg', 'tiff', 'grey.tiff'])
def test_exif_orientation(tmp_path, orientation, kind):
    upright = np.zeros((16, 24, 3), dtype=np.uint8)
    upright[:8, :8], upright[:8, 16:], upright[8:, :8] = RED, (20, 200, 30), (10, 40, 220)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'image.{kind}'
    options = dict(quality=100, subsampling=0) if kind == 'jpg' else {}
    if kind == 'grey.tiff':
        upright[...] = upright[..., :1]
    stored = STORED[orientation](upright)[..., 0] if kind == 'grey.tiff' else STORED[orientation](upright)
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    image = read_image(path)
    np.testing.assert_allclose(np.asarray(image).astype(int), upright, atol=4)
    assert image.info.get('orientation', 1) == orientation


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


def tiff_of_12_bits(values):
    """Two values to three bytes, as libtiff has them; Pillow writes no such file."""
    pixels = b''.join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in zip(values[::2], values[1::2]))
    tags = {256: len(values), 257: 1, 258: 12, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1, 279: len(pixels)}
    entries = b''.join(struct.pack('<HHII', tag, 3, 1, value) for tag, value in tags.items())
    return (b'II*\0' + struct.pack('<IH', 8, len(tags)) + entries + bytes(4)).ljust(200, b'\0') + pixels


def test_grey_tiff_of_12_bits_and_with_white_at_zero(tmp_path):
    (tmp_path / '12.tif').write_bytes(tiff_of_12_bits([0, 1365, 2730, 4095]))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / '12.tif'))[0, :, 0], [0, 85, 170, 255])
    values = np.array([[0, 85 * 257, 170 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / '16.tif', tiffinfo={262: 0})
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / '16.tif'))[0, :, 0], [255, 170, 85, 0])


@pytest.mark.parametrize(
    ('words', 'expected'),
    [(None, [0, 4, 8, 12, 16]), (('0', '4095'), [0, 64, 128, 191, 255]), (('25%', '75%'), [0, 0, 127.5, 255, 255])],
)
def test_levels_of_a_scan_of_12_bits_in_a_file_of_16(tmp_path, words, expected):
    values = np.array([[0, 1024, 2048, 3072, 4095]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / 'scan.png')
    said = (
        contextlib.nullcontext()
        if words
        else pytest.warns(UserWarning, match='nearly black to the model: use --levels')
    )
    with said:
        read = read_image(tmp_path / 'scan.png', words and Levels.parse(words))
    np.testing.assert_allclose(np.asarray(read)[0, :, 0], expected, atol=0.5)
    rgb().save(tmp_path / 'photo.png')  # 8 bits have no other range
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / 'photo.png', Levels(0, 100)))[0, 0], RED)


@pytest.mark.parametrize('words', [('4095', '0'), ('1%', '99'), ('0', 'nan'), ('0%', '101%'), ('0', 'inf'), ('a', 'b')])
def test_levels_that_are_none(words):
    with pytest.raises(TimmAbnError, match=rf'levels must be two grey values .*, got .{words[0]} {words[1]}.\.'):
        Levels.parse(words)


def test_no_other_program_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr('subprocess.Popen', None)
    monkeypatch.setattr('subprocess.check_call', None)
    for name in ('photo.png', 'photo.eps'):
        (tmp_path / name).write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n')
        with pytest.raises(ImageError, match=f'{name} is not an image in a supported format: JPEG, PNG, '):
            read_image(tmp_path / name)


def test_images_are_opened_in_one_place():
    opens = re.compile(r'Image\.open\(|Image\.OPEN|default_loader|imread')
    folders = ('timm_abn', 'timm_abn_cli', 'train_wrappers', 'experiments', 'scripts', 'docs')
    paths = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
    assert [path.name for path in paths if opens.search(path.read_text())] == ['reading.py']


class Endless(io.RawIOBase):
    given = 0

    def read(self, size=-1):
        self.given += size
        return b'\xff' * size


def many_scans(number):
    content = io.BytesIO()
    rgb().save(content, 'jpeg', progressive=True)
    *head, last = content.getvalue()[:-2].split(b'\xff\xda')
    return b'\xff\xda'.join([*head, *[last] * (number - len(head) + 1)]) + b'\xff\xd9'


def test_limits_of_bytes_scans_and_seconds(tmp_path, monkeypatch):
    assert read_image(io.BytesIO(many_scans(reading.MOST_SCANS))).size == SIZE
    with pytest.raises(ImageError, match='the image is a JPEG with 101 scans; at most 100 are decoded'):
        read_image(io.BytesIO(many_scans(reading.MOST_SCANS + 1)))
    monkeypatch.setattr(reading, 'MOST_BYTES', 2**21)
    endless = Endless()
    with pytest.raises(ImageError, match='the image has more than 2,097,152 bytes'):
        read_image(endless)
    assert endless.given == 2**21 + 2**20
    (tmp_path / 'large.png').write_bytes(encoded('png') + bytes(2**21))
    with pytest.raises(ImageError, match=r'large\.png has more than 2,097,152 bytes'):
        read_image(tmp_path / 'large.png')
    monkeypatch.setattr(reading, 'MOST_SECONDS', -1)
    with pytest.raises(ImageError, match='the image takes more than -1 seconds'):
        read_image(io.BytesIO(encoded('png')))


def test_pipes_are_read():
    reader, writer = os.pipe()
    os.write(writer, encoded('jpeg', (16, 16)))
    os.close(writer)
    with os.fdopen(reader, 'rb', buffering=0) as pipe:
        expected = read_image(io.BytesIO(encoded('jpeg', (16, 16))))
        np.testing.assert_array_equal(np.asarray(read_image(pipe)), np.asarray(expected))


def test_threads_leave_the_filters_of_warnings_alone(monkeypatch, recwarn):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)  # above it Pillow warns
    before, content = list(warnings.filters), encoded('png')
    seen = []
    threads = [
        threading.Thread(target=lambda: seen.extend((read_image(io.BytesIO(content)), list(warnings.filters))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[1::2] == [before] * 8 and warnings.filters == before and not recwarn.list


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp', 'gif', 'tiff'])
def test_what_is_cut_off_is_found_before_it_is_decoded(tmp_path, kind):
    path = tmp_path / f'image.{kind}'
    path.write_bytes(encoded(kind))
    check_image(path)
    path.write_bytes(encoded(kind)[:-200])
    with pytest.raises(ImageError, match=str(path)):
        check_image(path)
    if kind == 'jpeg':
        path.write_bytes(encoded(kind) + b'what a camera adds')
        check_image(path)


def test_damaged_images_are_left_out_named_and_counted(tmp_path, caplog):
    for index in range(4):
        (tmp_path / f'{index}.png').write_bytes(encoded('png')[: 300 if index == 2 else None])
    names = [f'{index}.png' for index in range(4)]
    assert without_damaged(names, lambda name: tmp_path / name) == ['0.png', '1.png', '3.png']
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    named, counted = caplog.messages
    assert str(tmp_path / '2.png') in named and counted.startswith('1 of 4 images cannot be read')


def test_the_next_image_takes_the_place_of_one_that_cannot_be_read(caplog):
    def read(index):
        if index in broken:
            raise ImageError(f'{index}.jpg cannot be read: it is broken.')
        return index

    broken = {3, 0}
    assert [read_or_next(read, index, 4) for index in range(4)] == [1, 1, 2, 1]
    assert '3.jpg cannot be read: it is broken: image 0 takes its place.' in caplog.messages
    broken = set(range(20))
    with pytest.raises(ImageError, match='cannot be read'):
        read_or_next(read, 0, 20)
