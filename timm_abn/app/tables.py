"""Probabilities, scores and colours as HTML; names of classes and files may come from anybody, and are escaped."""

import html
from collections.abc import Sequence

import torch

from ..maps.colormaps import colormap_table
from .curves import Curves

__all__ = ['LINES', 'color_bar', 'curve_table', 'message', 'probability_table']

LINES = (('#2b6cb0', '#8fbce6'), ('#c05621', '#f2b07a'))  # insertion and deletion, of one map and of another


def color_bar(colormap: str, ends: Sequence[str], caption: str) -> str:
    """Return the colours of a map from the least value to the greatest, what the ends mean, and what the map is."""
    colors = ', '.join(f'rgb{(*color,)}' for color in colormap_table(colormap)[::15].tolist())
    words = ''.join(f'<span>{html.escape(end)}</span>' for end in ends)
    bar = f'<i style="background: linear-gradient(to right, {colors})"></i>'
    return f'<div class="scale">{bar}<div>{words}</div><p>{html.escape(caption)}</p></div>'


def curve_table(curves: dict[str, Curves]) -> str:
    """Return a table of the scores of maps by name, which is the legend of their curves, too."""
    rows = []
    for (name, found), (insertion, deletion) in zip(curves.items(), LINES):
        scores = ((insertion, found.insertion_area), (deletion, found.deletion_area))
        cells = ''.join(f'<td class="number"><i style="background:{c}"></i> {area:.3f}</td>' for c, area in scores)
        rows.append(f'<tr><td>{html.escape(name)}</td><td class="number">{found.gain:.3f}</td>{cells}</tr>')
    head = '<tr><th></th><th>SRG ↑</th><th>insertion ↑</th><th>deletion ↓</th></tr>'
    return f'<table class="probabilities curves">{head}{"".join(rows)}</table>'


def message(text: str, is_problem: bool = False) -> str:
    """Return one line of text, which is not escaped yet."""
    kind = 'problem' if is_problem else 'note'
    return f'<p class="message {kind}" role="status">{html.escape(text)}</p>' if text else ''


def probability_table(
    class_names: Sequence[str], classes: Sequence[int], before: torch.Tensor, after: torch.Tensor | None = None
) -> str:
    """Return a table of ``classes``, their probabilities (K,) as bars, and the change if a map was painted."""
    rows = []
    for index in classes:
        first = before[index].item()
        bars, numbers = f'<i class="before" style="width:{first:.1%}"></i>', f'<td class="number">{first:.3f}</td>'
        if after is not None:
            last = after[index].item()
            bars += f'<i class="after" style="width:{last:.1%}"></i>'
            numbers += f'<td class="number">{last:.3f}</td><td class="number change">{last - first:+.3f}</td>'
        name = html.escape(class_names[index])
        rows.append(f'<tr><td class="name">{name}</td><td class="bars">{bars}</td>{numbers}</tr>')
    painted = '' if after is None else '<th></th><th></th><th>own map</th><th>painted</th><th>change</th>'
    return f'<table class="probabilities"><tr>{painted}</tr>{"".join(rows)}</table>'
