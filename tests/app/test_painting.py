"""From strokes to a map, a prediction, and a mask that training reads."""

from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from timm_abn.app.painting import STROKE, draw_edited_map, is_empty, mask_of, merge_layers, paint, write_files
from timm_abn.app.session import MAPS, open_session, prepare
from timm_abn.data.masks import read_masks


@pytest.fixture(scope='module')
def session(served, photo_of):
    photo = photo_of('my.photo.png', 60, 60)
    return open_session(photo, served, *prepare(served, photo, photo.picture))


def strokes(color, box, size=(512, 512)):
    layer = Image.new('RGBA', size, (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], fill=color)
    return layer


def test_strokes_lie_over_the_map_or_over_black(session):
    white = strokes('white', (0, 0, 256, 512))
    light, opacity = merge_layers([None, white], session, keeps=True).split()
    assert np.asarray(light)[0, [0, 511]].tolist() == [255, 0] and np.asarray(opacity)[0, [0, 511]].tolist() == [255, 0]
    assert is_empty(merge_layers([None], session, keeps=True))
    assert not is_empty(merge_layers([white], session, keeps=True))
    light, opacity = merge_layers([white], session, keeps=False).split()
    assert np.asarray(light)[0, [0, 511]].tolist() == [255, 0] and np.asarray(opacity).min() == 255
    both = merge_layers([white, strokes('black', (0, 0, 128, 512))], session, keeps=True)
    assert np.asarray(both)[0, [0, 200], 0].tolist() == [0, 255]
    # a screen with other pixels than the page
    large = merge_layers([strokes('white', (0, 0, 512, 1024), (1024, 1024))], session, keeps=True)
    assert np.array_equal(np.asarray(large)[:, :250], np.asarray(merge_layers([white], session, keeps=True))[:, :250])


def test_translucent_strokes_count_in_full_and_the_last_one_wins(session):
    canvas = Image.new('RGBA', (512, 512))
    for color, box in (('white', (0, 0, 256, 512)), ('black', (0, 0, 128, 512)), ('white', (0, 0, 64, 512))):
        stroke = strokes(color, box)
        stroke.putalpha(stroke.getchannel('A').point(lambda value: round(STROKE * value)))
        canvas.alpha_composite(stroke)  # as the browser lays one over the other
    assert 0 < canvas.getpixel((200, 0))[3] < 200  # the photo shows through
    found = np.asarray(merge_layers([canvas], session, keeps=True))[0, [30, 100, 200, 300]]
    assert found[:3].tolist() == [[255, 255], [0, 255], [255, 255]] and found[3, 1] == 0


def test_the_prediction_follows_the_strokes(session, served):
    nothing = paint(session, served, merge_layers([], session, keeps=True))
    torch.testing.assert_close(nothing.probabilities, session.probabilities)
    assert nothing.before is session.explanation
    dark = merge_layers([strokes('white', (0, 0, 256, 512))], session, keeps=False)
    edit = paint(session, served, dark)
    maps = torch.zeros_like(session.explanation.attention_map)
    maps[..., : maps.shape[3] // 2] = 1
    assert torch.equal(edit.edited_map, maps)
    with torch.no_grad():
        torch.testing.assert_close(edit.probabilities, served.model(session.x, attention=maps).softmax(dim=1)[0])
    assert draw_edited_map(session, edit).size == session.shown.size


def test_a_saved_mask_is_one_of_the_photo_for_training(session, served, tmp_path):
    painting = merge_layers([strokes('white', (128, 0, 384, 256))], session, keeps=False)
    edit = paint(session, served, painting)
    paths = write_files(session, served, painting, tmp_path, MAPS[0])
    names = ['my.photo.overlay.png', 'my.photo.map.npy', 'my.photo.painted.npy', 'my.photo.png']
    assert [path.name for path in paths] == names
    mask = read_masks(tmp_path).find(PurePath('my.photo.jpg'))
    expected = np.zeros((60, 60), dtype=np.uint8)
    expected[:30, 15:45] = 255
    assert mask.size == session.size and np.array_equal(mask, expected)
    assert np.array_equal(np.load(paths[2]), edit.edited_map[0, 0])
    assert np.load(paths[1]).shape == (60, 60)
    with Image.open(paths[0]) as overlay:
        assert overlay.size == (60, 60)
    assert not [path for path in Path(tmp_path).iterdir() if path not in paths]


def test_where_nothing_was_painted_the_mask_is_the_map(session, served):
    painting = merge_layers([], session, keeps=True)
    edit = paint(session, served, painting)
    own = edit.predicted_map[0, 0]
    share = (np.asarray(mask_of(session, edit, painting)) > 0).mean()
    assert share == pytest.approx((own > 0.5).float().mean().item(), abs=0.1)
