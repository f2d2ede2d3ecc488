"""Files of images in, overlays out: which map, in which range of colours."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from timm_abn import Explanation, MultiTaskExplanation, TimmAbnError
from timm_abn.data.sources import find_sources
from timm_abn.explain.files import Drawing
from timm_abn.explain.runs import explain_files
from timm_abn.maps.colormaps import colormap_table

NAMES = ['ant', 'bee', 'cat']
# two images, a map of 1 x 2 places each
ATTENTION = torch.tensor([[0.2, 0.4], [0.3, 0.6]]).reshape(2, 1, 1, 2)
# class 2 is predicted of the first image, class 0 of the second: contrasts (4, 0) and (9, -2)
CLASS_MAPS = torch.tensor([[[1.0, 2.0], [3.0, -1.0], [6.0, 0.5]], [[8.0, 1.0], [2.0, 4.0], [-4.0, 2.0]]]).unsqueeze(2)


@pytest.fixture
def model():
    """An ABN that says of the first image, and of the second, what is written above."""
    model = timm.create_model('abn_resnet20_cifar', num_classes=3).eval()
    logits = CLASS_MAPS.mean(dim=(2, 3))
    known = Explanation(logits=logits, attention_map=ATTENTION, attention_logits=logits, class_maps=CLASS_MAPS)
    model.explain = lambda images: known[:2] if len(images) == 2 else known[int(images.mean() > 0)]
    return model


@pytest.fixture
def sources(tmp_path):
    for name, grey in (('black', 0), ('white', 255)):
        Image.new('RGB', (32, 32), (grey,) * 3).save(tmp_path / f'{name}.png')
    return find_sources([tmp_path / 'black.png', tmp_path / 'white.png'])


def levels_of(path, grey, colormap='viridis'):
    """Return which colours, of 256, lie over the left and the right edge of a picture of one grey."""
    with Image.open(path) as overlay:
        edges = torch.from_numpy(np.asarray(overlay).astype(np.float32))[0, [0, -1]]
    blended = (colormap_table(colormap).float() + grey) / 2
    distances = (edges[:, None] - blended).abs().amax(dim=2)
    assert (distances.amin(dim=1) <= 0.5).all()
    return [(row <= 0.5).nonzero().flatten().tolist() for row in distances]


def assert_levels(folder, black, white, colormap='viridis'):
    for name, grey, expected in (('black', 0, black), ('white', 255, white)):
        for found, level in zip(levels_of(folder / f'{name}.overlay.png', grey, colormap), expected, strict=True):
            assert level in found, (name, found, level)


@pytest.mark.parametrize('batch_size', [1, 2])
@pytest.mark.parametrize(
    ('drawing', 'value_range', 'black', 'white'),
    [
        (Drawing(), None, (0, 255), (0, 255)),
        (Drawing(scale='absolute'), (0, 1), (51, 102), (76, 153)),  # 0.3 * 255 = 76.5, to the even one
        (Drawing(scale='common'), (0.2, 0.6), (0, 128), (64, 255)),  # 0.1 / 0.4 * 255 = 63.75
        (Drawing('class'), None, (255, 0), (255, 0)),
        (Drawing('class', 1, 'common'), (0, 2), (255, 0), (0, 128)),  # (3, -1) and (2, 4) less their means, above 0
        (Drawing('contrast'), None, (255, 128), (255, 99)),  # 0.5 - 2 / 18 = 0.389
        (Drawing('contrast', scale='common'), (-9, 9), (184, 128), (255, 99)),  # 0.5 + 4 / 18 = 0.722
        (Drawing('contrast', 1), None, (99, 0), (128, 255)),  # 3 - 3.5 and -1 - 1.25; 2 - 2 and 4 - 1.5
    ],
)
def test_colours_of_a_selection(model, sources, tmp_path, drawing, value_range, black, white, batch_size):
    found = explain_files(model, sources, tmp_path, NAMES, drawing, batch_size=batch_size)
    assert found.value_range == (None if value_range is None else pytest.approx(value_range))
    assert_levels(tmp_path, black, white, 'coolwarm' if drawing.shown == 'contrast' else 'viridis')


def test_what_is_told_of_an_image(model, sources, tmp_path):
    found = explain_files(model, sources, tmp_path, NAMES, Drawing(scale='common', map_format='npy'), top_k=2)
    assert [image.source for image in found.images] == sources and found.problems == []
    assert [image.classes for image in found.images] == [[2, 0], [0, 1]]
    # of the logits 1.5, 1, 3.25: e^3.25 / (e^1.5 + e^1 + e^3.25) = 25.790 / 32.990
    assert found.images[0].probabilities == pytest.approx([0.78175, 0.13585], abs=1e-5)
    assert [image.ranges for image in found.images] == [[pytest.approx((0.2, 0.4))], [pytest.approx((0.3, 0.6))]]
    assert found.images[1].overlays == [tmp_path / 'white.overlay.png']
    with Image.open(tmp_path / 'white.overlay.png') as overlay:
        assert overlay.text == {'timm-abn map range': '0.3 to 0.6', 'timm-abn colour range': '0.2 to 0.6'}
    values = np.load(tmp_path / 'white.map.npy')  # as they are, whatever the scale
    assert values[0, 0] == pytest.approx(0.3) and values[0, -1] == pytest.approx(0.6)


def test_grey_maps_are_as_shown(model, sources, tmp_path):
    explain_files(model, sources, tmp_path, NAMES, Drawing(scale='absolute', map_format='png'))
    with Image.open(tmp_path / 'white.map.png') as grey:
        assert np.asarray(grey)[0, [0, -1]].tolist() == [76, 153]


def test_a_common_range_leaves_out_what_is_not_finite(model, sources, tmp_path):
    maps = ATTENTION.clone()
    maps[0, 0, 0, 0] = float('nan')
    logits = CLASS_MAPS.mean(dim=(2, 3))
    model.explain = lambda images: Explanation(logits, maps, logits, CLASS_MAPS)
    found = explain_files(model, sources, tmp_path, NAMES, Drawing(scale='common'))
    assert found.value_range == pytest.approx((0.3, 0.6))


def test_an_image_that_is_lost_before_it_is_drawn(model, sources, tmp_path):
    explain = model.explain

    def and_lose_the_first(images):
        sources[0].path.write_bytes(b'')
        return explain(images)

    model.explain = and_lose_the_first
    found = explain_files(model, sources, tmp_path / 'out', NAMES, Drawing(scale='common'))
    assert [image.source for image in found.images] == sources[1:] and found.problems[0][0] is sources[0]
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['white.overlay.png']


@pytest.mark.parametrize(
    ('name', 'kwargs', 'drawing', 'message'),
    [
        ('abn_resnet20_cifar', {}, Drawing('class', scale='absolute'), 'class maps have no bounds.*--scale common'),
        ('abn_resnet20_cifar', {}, Drawing('contrast', scale='absolute'), 'contrast maps have no bounds'),
        (
            'abn_resnet20_cifar',
            dict(attention_map='sum_log'),
            Drawing(scale='absolute'),
            "kind 'sum_log' are not bounded.*--scale common",
        ),
        (
            'abn_resnet20_cifar',
            dict(multi_task=True, attention_map='raw'),
            Drawing(scale='absolute'),
            "kind 'raw' are not bounded.*--scale common",
        ),
        ('abn_resnet20_cifar', dict(multi_task=True), Drawing('contrast'), 'do not exclude each other'),
        ('cam_resnet110_cifar', dict(num_blocks=1), Drawing(scale='common'), '--show class draws the map itself$'),
        ('cam_resnet110_cifar', dict(num_blocks=1), Drawing(scale='absolute'), '--show class.*with --scale common'),
    ],
)
def test_maps_and_scales_that_a_model_has_not(sources, tmp_path, name, kwargs, drawing, message):
    model = timm.create_model(name, num_classes=3, **kwargs).eval()
    with pytest.raises(TimmAbnError, match=message) as error:
        explain_files(model, sources, tmp_path / 'out', NAMES, drawing)
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('class_index', 'files'), [(None, ['black.ant.overlay.png', 'black.cat.overlay.png']), (1, ['black.overlay.png'])]
)
def test_class_maps_of_tasks(sources, tmp_path, class_index, files):
    model = timm.create_model('abn_resnet20_cifar', num_classes=3, multi_task=True).eval()
    logits = torch.tensor([[2.0, -1.0, 1.0]])
    model.explain = lambda images: MultiTaskExplanation(logits, CLASS_MAPS[:1].sigmoid(), logits, CLASS_MAPS[:1])
    drawing = Drawing('class', class_index)
    found = explain_files(model, sources[:1], tmp_path / 'out', NAMES, drawing, top_k=2)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == files
    expected = [(-0.5, 0.5), (-2.75, 2.75)] if class_index is None else [(-2, 2)]  # less their means
    assert found.images[0].ranges == expected


def test_class_maps_of_a_cam_baseline(sources, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model('cam_resnet110_cifar', num_blocks=1, num_classes=3).eval()
    (image,) = explain_files(model, sources[:1], tmp_path, NAMES, Drawing('class')).images
    assert image.ranges[0] != (0, 1)
    (image,) = explain_files(model, sources[:1], tmp_path, NAMES, Drawing()).images
    assert image.ranges[0] == (0, 1)
