"""Features before and after attention as two scatter plots side by side, drawn by Matplotlib."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .lettering import shortened
from .plot_packages import check_plot_packages
from .projection import Separation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['draw_scatter_plots', 'write_figure']

# Matplotlib's tab20, dark ones first, with two others in the place of its greys, which stand for other classes here
PALETTE = (
    *('#1f77b4', '#ff7f0e', '#2ca02c', '#d62728', '#9467bd', '#8c564b', '#e377c2', '#1c1c1c', '#bcbd22', '#17becf'),
    *('#aec7e8', '#ffbb78', '#98df8a', '#ff9896', '#c5b0d5', '#c49c94', '#f7b6d2', '#00574b', '#dbdb8d', '#9edae5'),
)
LONGEST_NAME = 28  # characters
GREY = '#c9c9c9'


def draw_scatter_plots(
    points: tuple[np.ndarray, np.ndarray],
    labels: Sequence[int | None],
    class_names: Sequence[str],
    separations: Mapping[str, Separation],
    title: str = '',
) -> 'Figure':
    """Return a figure of points before and after attention, coloured by class, with a legend.

    The most frequent classes have colours, at most 20; images of others, or of no known class, are grey.

    Args:
        points: Before and after, each of shape (N, 2) (``timm_abn.explain.projection.project``).
        labels: Class of each image; None where it is not known.
        class_names: Names of the classes.
        separations: Scores to print above both (``timm_abn.explain.projection.separation``).
        title: What the figure is of.
    """
    check_plot_packages('matplotlib')
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    colors = _class_colors(labels)
    figure = Figure(figsize=(12.4, 5.8), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.14, wspace=0.02))
    axes = figure.subplots(1, 2)
    size = float(np.clip(9000 / len(labels), 4, 40))
    for axis, own, name in zip(axes, points, ('before', 'after')):
        shades = [GREY if label is None else colors.get(label, GREY) for label in labels]
        grey_first = np.argsort([shade != GREY for shade in shades], kind='stable')
        axis.scatter(*own[grey_first].T, s=size, c=[shades[index] for index in grey_first], alpha=0.8, linewidths=0)
        axis.set_title(f'{name} attention', fontsize=13, loc='left', pad=10 + 14 * len(separations))
        said = '\n'.join(f'{metric} {getattr(value, name)}' for metric, value in separations.items())
        axis.text(0, 1.015, said, transform=axis.transAxes, fontsize=9.5, color='#555555', va='bottom')
        axis.set(xticks=[], yticks=[])
        axis.set_aspect('equal', adjustable='datalim')
        axis.spines[:].set_color('#d8d8d8')
    _draw_legend(figure, labels, colors, class_names)
    if title:
        figure.suptitle(shortened(title, 110), fontsize=11, color='#555555', x=0.0135, ha='left', parse_math=False)
    return figure


def write_figure(figure: 'Figure', path: Path) -> None:
    """Write a figure as PNG."""
    with warnings.catch_warnings():
        # names in scripts that Matplotlib's font does not have become boxes, which is no news on the console
        warnings.filterwarnings('ignore', message='Glyph')
        figure.savefig(path, format='png')


def _class_colors(labels: Sequence[int | None]) -> dict[int, str]:
    counts = Counter(label for label in labels if label is not None)
    frequent = sorted(counts, key=lambda label: (-counts[label], label))[: len(PALETTE)]
    return dict(zip(sorted(frequent), PALETTE))


def _draw_legend(
    figure: 'Figure', labels: Sequence[int | None], colors: Mapping[int, str], class_names: Sequence[str]
) -> None:
    from matplotlib.lines import Line2D

    def marker(color: str) -> Line2D:
        return Line2D([], [], linestyle='', marker='o', markersize=7, color=color)

    entries = [(marker(color), shortened(class_names[label], LONGEST_NAME)) for label, color in colors.items()]
    others = {label for label in labels if label is not None and label not in colors}
    unknown = sum(label is None for label in labels)
    grey: list[str] = [f'{len(others)} other classes'] * bool(others) + ['unknown'] * bool(unknown)
    entries += [(marker(GREY), text) for text in grey]
    handles, texts = zip(*entries)
    legend = figure.legend(handles, texts, loc='outside right center', frameon=False, fontsize=10, handletextpad=0.2)
    for text in legend.get_texts():
        text.set_parse_math(False)
