"""Probabilities as HTML; names of classes and files may come from anybody, and are escaped."""

import html
from collections.abc import Sequence

import torch

__all__ = ['message', 'probability_table']


def message(text: str, is_problem: bool = False) -> str:
    """Return one line of text, which is not escaped yet."""
    kind = 'problem' if is_problem else 'note'
    return f'<p class="message {kind}" role="status">{html.escape(text)}</p>' if text else ''


def probability_table(
    class_names: Sequence[str], classes: Sequence[int], before: torch.Tensor, after: torch.Tensor | None = None
) -> str:
    """Return a table of ``classes``, their probabilities (K,) as bars, and the change that painting made."""
    rows = []
    for index in classes:
        first = before[index].item()
        last = first if after is None else after[index].item()
        change = '' if after is None else f'{last - first:+.3f}'
        rows.append(
            f'<tr><td class="name">{html.escape(class_names[index])}</td>'
            f'<td class="bars"><i class="before" style="width:{first:.1%}"></i>'
            f'<i class="after" style="width:{last:.1%}"></i></td>'
            f'<td class="number">{first:.3f}</td><td class="number now">{last:.3f}</td>'
            f'<td class="number change">{change}</td></tr>'
        )
    head = '<tr><th></th><th></th><th>own map</th><th>painted</th><th>change</th></tr>'
    return f'<table class="probabilities">{head}{"".join(rows)}</table>'
