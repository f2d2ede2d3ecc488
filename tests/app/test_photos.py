"""Uploads: what is taken, what is refused in one line, and the size in which photos are shown."""

import numpy as np
import pytest
from PIL import Image

from timm_abn.app import photos
from timm_abn.app.photos import read_photo, shown_size, to_shown_box
from timm_abn.data.reading import ImageError


@pytest.mark.parametrize(('size', 'kept'), [((30, 20), (30, 20)), ((3000, 2), (1024, 1)), ((1500, 2048), (750, 1024))])
def test_a_small_picture_of_a_photo_is_kept(tmp_path, size, kept):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path = tmp_path / 'a photo.png'
    Image.fromarray(pixels).save(path)
    photo, read = read_photo(path)
    path.unlink()
    assert photo.name == 'a photo.png' and photo.size == size and np.array_equal(read, pixels)
    assert photo.picture.size == kept and (size != kept or np.array_equal(photo.picture, pixels))


def refusal(path):
    with pytest.raises(ImageError) as caught:
        read_photo(path)
    message = str(caught.value)
    assert '\n' not in message and str(path.parent) not in message and message.startswith(path.name)
    return message


def test_what_is_refused(tmp_path, monkeypatch):
    text = tmp_path / 'photo.jpg'
    text.write_text('no image')
    assert refusal(text).startswith('photo.jpg is not an image in a supported format: JPEG, ')
    empty = tmp_path / 'empty.png'
    empty.write_bytes(b'')
    assert 'is not an image' in refusal(empty)
    whole = tmp_path / 'whole.jpg'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    half = tmp_path / 'half.jpg'
    half.write_bytes(whole.read_bytes()[:2000])
    assert 'half.jpg cannot be read: image file is truncated' in refusal(half)
    huge = tmp_path / 'huge.png'
    Image.new('1', (10_000, 5_001)).save(huge)  # 6 KB of file, and 150 MB of pixels
    assert refusal(huge) == 'huge.png has 10000 x 5001 pixels, 50.0 million; at most 50 million are taken.'
    monkeypatch.setattr(photos, 'MOST_BYTES', 2**20)
    heavy = tmp_path / 'heavy.jpg'
    heavy.write_bytes(whole.read_bytes() + bytes(3 * 2**19))
    assert refusal(heavy) == 'heavy.jpg has 1.5 MB; at most 1 MB are taken.'


@pytest.mark.parametrize(('size', 'shown'), [((28, 28), (512, 512)), ((4000, 3000), (512, 384)), ((1, 5000), (1, 512))])
def test_the_size_in_which_photos_are_shown(size, shown):
    assert shown_size(size) == shown


def test_boxes_of_what_is_shown():
    assert to_shown_box((500, 0, 3500, 3000), (4000, 3000), (512, 384)) == (64, 0, 448, 384)
    assert to_shown_box((-4, -4, 32, 32), (28, 28), (512, 512)) == (-73, -73, 585, 585)
