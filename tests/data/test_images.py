import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from torchvision import transforms

from timm_abn import Explanation
from timm_abn.data.images import Preprocessing, denormalize, draw_overlay, place_map
from timm_abn.data.reading import ImageError

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
    with pytest.raises(ImageError, match='1 x 30000 pixels is too long and narrow'):
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
