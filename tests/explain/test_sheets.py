"""Sheets: the image and the maps are where they should be, and no text is cut off."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torchvision.transforms.functional import pil_to_tensor

from timm_abn.explain.comparison import Comparison, MethodResult
from timm_abn.explain.lettering import INK, RED, Pen
from timm_abn.explain.sheets import GAP, MARGIN, draw_sheet, input_picture
from timm_abn.maps.operations import overlay_maps

NAMES = ['t-shirt/top', 'a class whose name goes on and on and on, and does not end where others do' * 3, '靴']


def picture(width=32, height=32):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def result(method='grad_cam', problem='', seed=0, least=0, **options):
    maps = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) + least
    score = float('nan') if problem else 0.25
    low, high = maps.min().item(), maps.max().item()
    return MethodResult(method, maps, low, high, score, score, score, problem, **options)


def sheet_of(*results, image=None, target=0, title='photo.jpg', notes=('a note',)):
    return draw_sheet(image or picture(), Comparison(0, 0.75, target, 0.25, results), NAMES, title, notes)


def place_of(sheet, part):
    """Return where a part lies in a sheet, left and top."""
    whole, part = np.asarray(sheet), np.asarray(part)
    candidates = np.argwhere((whole[:, :, :] == part[0, 0]).all(axis=2))
    for top, left in candidates:
        there = whole[top : top + part.shape[0], left : left + part.shape[1]]
        if there.shape == part.shape and (there == part).all():
            return int(left), int(top)
    return None


def has_color(sheet, color):
    return bool((np.asarray(sheet) == ImageColor.getrgb(color)).all(axis=2).any())


def test_the_image_and_its_maps():
    results = [result('attention', seed=1), result('grad_cam', seed=2)]
    sheet = sheet_of(*results)
    enlarged = picture().resize((224, 224), Image.Resampling.NEAREST)  # pixels of a small image stay square
    left, top = place_of(sheet, enlarged)
    assert left == MARGIN
    for index, one in enumerate(results):
        overlay = overlay_maps(pil_to_tensor(enlarged)[None], one.map)[0].permute(1, 2, 0).numpy()
        assert place_of(sheet, overlay) == (MARGIN + (index + 1) * (224 + GAP), top)
    assert not has_color(sheet, RED)


def test_of_a_centred_map_what_is_above_0_is_drawn():
    enlarged = picture().resize((224, 224), Image.Resampling.NEAREST)
    for centred in (False, True):
        one = result(least=-0.5, centred=centred)
        drawn = [
            overlay_maps(pil_to_tensor(enlarged)[None], maps)[0].permute(1, 2, 0).numpy()
            for maps in (one.map, one.map.relu())
        ]
        assert [place_of(sheet_of(one), overlay) is not None for overlay in drawn] == [not centred, centred]


def test_titles_name_the_layer(monkeypatch):
    written, write = [], Pen.text
    monkeypatch.setattr(
        Pen, 'text', lambda self, place, text, *args: written.append(text) or write(self, place, text, *args)
    )
    sheet_of(
        result('grad_cam', layer='layer4'), result('random'), result('pytorch_grad_cam', layer='stages.3.blocks.2')
    )
    assert {'grad_cam at layer4', 'random', 'pytorch_grad_cam', 'at stages.3.blocks.2', 'deletion ↓'} <= set(written)


def test_arrows_which_the_font_lacks_are_drawn():
    drawn = []
    for text in ('↑', '↓'):
        sheet = Image.new('RGB', (40, 40), 'white')
        assert Pen(sheet).text((5, 5), text, 20, 40) == 14
        drawn.append(np.asarray(sheet) < 128)
    up, down = (arrow[:, :, 0].sum(axis=1) for arrow in drawn)  # dark pixels by row
    (rows,) = np.nonzero(up)
    upper, lower = np.array_split(up[rows], 2)
    assert upper.max() > 2 * lower.max() and up.sum() == pytest.approx(down.sum(), abs=4)
    (rows,) = np.nonzero(down)
    upper, lower = np.array_split(down[rows], 2)
    assert lower.max() > 2 * upper.max()


@pytest.mark.parametrize('problem', ['flat map', 'NaN or infinity in the map'])
def test_a_map_that_says_nothing_is_not_drawn(problem):
    sheet = sheet_of(result(problem=problem))
    enlarged = picture().resize((224, 224), Image.Resampling.NEAREST)
    right_half = sheet.crop((MARGIN + 224, 0, *sheet.size))
    assert place_of(right_half, enlarged) is not None
    assert has_color(sheet, RED)


@pytest.mark.parametrize(
    ('size', 'panel'),
    [((224, 224), (224, 224)), ((32, 64), (128, 256)), ((300, 600), (208, 416)), ((150, 150), (300, 300))],
)
def test_panels_of_any_size(size, panel):
    image = picture(*size)
    sheet = sheet_of(result(), image=image)
    resample = Image.Resampling.LANCZOS if panel < size else Image.Resampling.NEAREST
    assert place_of(sheet, image.resize(panel, resample)) is not None


@pytest.mark.parametrize('title', ['x' * 300, 'Größe – é.jpg', '写真.jpg', 'line\nbreak.jpg', ''])
def test_text_stays_inside(title):
    plain = picture(), (result('attention'), result('pytorch_grad_cam'))
    sheet = sheet_of(*plain[1], title=title, target=1, notes=['word ' * 100, 'x' * 500])
    pixels = np.asarray(sheet)
    margins = [pixels[:, : MARGIN - 2], pixels[:, -MARGIN + 2 :], pixels[:10], pixels[-8:]]
    assert all((margin == 255).all() for margin in margins)
    assert has_color(sheet, INK)


def test_columns_of_narrow_images_hold_the_names():
    sheet = sheet_of(result('pytorch_grad_cam'), image=picture(8, 224))
    assert sheet.width == 2 * MARGIN + 2 * 208 + GAP


def test_another_class_than_the_predicted_takes_a_line_more():
    assert sheet_of(result(), target=2).height > sheet_of(result()).height


@pytest.mark.parametrize('channels', [1, 3])
def test_picture_of_an_input(channels):
    x = torch.tensor([0.0, 0.5, 1.0]).expand(channels, 2, 3)
    mean, std = (0.4,) * channels, (0.2,) * channels
    shown = input_picture((x - 0.4) / 0.2, mean, std)
    assert shown.mode == 'RGB' and shown.size == (3, 2)
    np.testing.assert_allclose(np.asarray(shown)[0, :, 0], [0, 127.5, 255], atol=0.6)
