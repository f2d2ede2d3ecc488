"""Scatter plots: points in the colours of their classes, and a legend that says which."""

import numpy as np
import pytest

pytest.importorskip('matplotlib')

from matplotlib.backends.backend_agg import FigureCanvasAgg

from timm_abn.explain.projection import Separation
from timm_abn.explain.scatter_plots import GREY, PALETTE, draw_scatter_plots, write_figure
from timm_abn.explain.statistics import Interval

INTERVAL = Interval(0.5, 0.4, 0.6, 9)


def points_of(labels):
    points = np.random.default_rng(0).normal(size=(len(labels), 2))
    return points, points + 1


def drawn(labels, names=None, **kwargs):
    separations = {'silhouette': Separation(INTERVAL, Interval(0.75, 0.7, 0.8, 9), INTERVAL)}
    names = names or [f'class {index}' for index in range(50)]
    return draw_scatter_plots(points_of(labels), labels, names, separations, **kwargs)


def legend_of(figure):
    (legend,) = figure.legends
    colors = [handle.get_color() for handle in legend.get_lines()]
    return dict(zip([text.get_text() for text in legend.get_texts()], colors))


def test_points_and_their_colors():
    from matplotlib.colors import to_hex

    labels = [3, 0, None, 3, 1]
    figure = drawn(labels)
    assert legend_of(figure) == {
        'class 0': PALETTE[0],
        'class 1': PALETTE[1],
        'class 3': PALETTE[2],
        'unknown': GREY,
    }
    for axis, own in zip(figure.axes, points_of(labels)):
        (collection,) = axis.collections
        order = [2, 0, 1, 3, 4]  # grey lies below
        np.testing.assert_allclose(collection.get_offsets(), own[order])
        shades = [to_hex(color) for color in collection.get_facecolors()]
        assert shades == [GREY, PALETTE[2], PALETTE[0], PALETTE[2], PALETTE[1]]
    assert [axis.get_title(loc='left') for axis in figure.axes] == ['before attention', 'after attention']
    said = [axis.texts[0].get_text() for axis in figure.axes]
    assert said == ['silhouette 0.500 [0.400, 0.600]', 'silhouette 0.750 [0.700, 0.800]']


def test_more_classes_than_colors():
    labels = [*range(25), 24, 24]
    legend = legend_of(drawn(labels))
    assert len(legend) == 21 and legend['5 other classes'] == GREY
    assert 'class 24' in legend and 'class 19' not in legend  # the most frequent, then the first


def test_names_of_any_kind(recwarn, tmp_path):
    figure = drawn([0, 1, 2], ['$x_1$ is no formula', '靴', 'a name that goes on and on until it ends'])
    assert list(legend_of(figure)) == ['$x_1$ is no formula', '靴', 'a name that go…until it ends']
    write_figure(figure, tmp_path / 'picture.png')
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]


@pytest.mark.parametrize('labels', [[0, 1] * 5, list(range(30)), [None] * 5])
def test_nothing_is_cut_off(labels):
    names = ['a name of twenty-eight letters'] * 50
    figure = drawn(labels, names, title='t' * 300)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    width, height = canvas.get_width_height()
    texts = [
        *figure.legends[0].get_texts(),
        *(text for axis in figure.axes for text in [*axis.texts, axis._left_title]),
    ]
    for text in [*texts, figure._suptitle]:
        box = text.get_window_extent(renderer)
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    left, right = (axis.get_window_extent(renderer) for axis in figure.axes)
    assert left.x1 < right.x0 < right.x1 < figure.legends[0].get_window_extent(renderer).x0
