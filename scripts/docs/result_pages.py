"""What MODEL_CARDS.md and docs/trust.md show of the files in docs/results, which the experiments write."""

import html
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from timm_abn.publish.markdown import markdown_table

FOLDER = Path(__file__).resolve().parents[2] / 'docs' / 'results'
ORDER = ('faithful', 'scenes', 'heads', 'photos', 'solar_cells', 'human_masks', 'fashion_mnist', 'multi_task')
CONTROLS = ('mean map of', 'centre', 'random')
BETTER = {
    'SRG': ' \u2191',
    'deletion': ' \u2193',
    'insertion': ' \u2191',
    'pointing game': ' \u2191',
    'energy': ' \u2191',
    'GridPG': ' \u2191',
}

Result = dict[str, Any]

TRUST = """\
# How far to trust a map

*Written by `python scripts/docs/make_model_cards.py` from `docs/results`; do not edit.*

An ABN makes its map in the forward pass. Whether the prediction depends on the map must be measured. The score is the
symmetric relevance gain (SRG): the area under the probability when the least important pixels are replaced first, minus
the area when the most important are. Noise has an SRG of 0. A method's *mean map* over other images of the predicted
class uses no pixel of this image: only what a map gains over it is about this image.

![SRG of maps, with 95 % intervals; grey marks are controls](trust.svg)

## What holds

{holds}

## What does not hold

{fails}

## Other findings

{says}

## Details and commands

{details}

Differences have 95 % bootstrap intervals over images, each with all of its seeds. A claim holds if the interval of
its first score, usually SRG, lies on the right side of 0; the column "not for" names the scores whose interval does
not. All scores are in the [model cards](model_cards.md). Measure your own model before you show its maps: [Score
explanations](tutorials/scores.md).
"""


def read_results(folder: Path = FOLDER) -> dict[str, Result]:
    """Return the results that are there, by the name of their file."""
    paths = [folder / f'{name}.json' for name in ORDER]
    return {path.stem: json.loads(path.read_text(encoding='utf-8')) for path in paths if path.is_file()}


def number(value: Sequence[Any], digits: int = 3, sign: str = '') -> str:
    """Return an interval as text, '0.31 [0.29, 0.33]'; '-' of no values."""
    mean, low, high, count = value
    return f'{mean:{sign}.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]' if count else '-'


def section(result: Result) -> str:
    """Return the section of a result in the model cards."""
    versions = ''.join(f', {name} {version}' for name, version in result['versions'].items())
    made = f'Measured by `{result["command"]}`; {len(result["seeds"])} seeds{versions}.'.replace('1 seeds', '1 seed')
    text = [f'### {result["title"]}', ' '.join(filter(None, [result['setup'], result.get('says'), made]))]
    for table in result['tables']:
        text += [f'{table["title"]}:'] if 'title' in table else []
        text.append(table_of(table))
    return '\n\n'.join(text) + '\n'


def table_of(table: dict[str, Any]) -> str:
    """Return a table of a result, without columns that are empty, and without controls, which the chart shows."""
    shown = [row for row in table['rows'] if not str(row[0]).startswith(CONTROLS)]
    rows = [[number(cell) if isinstance(cell, list) else cell or '' for cell in row] for row in shown]
    kept = [index for index in range(len(table['columns'])) if any(row[index].strip('-') for row in rows)]
    header = [table['columns'][index] for index in kept]
    header = [name + BETTER.get(name.split(',')[0].split(' above')[0], '') for name in header]
    return markdown_table(header, [[row[index] for index in kept] for row in rows])


def trust_page(results: dict[str, Result]) -> str:
    """Return the text of docs/trust.md."""
    claims = [(result, claim) for result in results.values() for claim in result.get('claims', ())]
    says = [textwrap.fill(f'**{r["title"]}.** {r["says"]}', 120) for r in results.values() if 'says' in r]
    scored = [result for result in results.values() if 'claims' in result]
    details = [(result['title'], str(len(result['seeds'])), f'`{result["command"]}`') for result in scored]
    return TRUST.format(
        holds=claim_table(claim for claim in claims if claim[1]['holds']),
        fails=claim_table(claim for claim in claims if not claim[1]['holds']),
        says='\n\n'.join(says),
        details=markdown_table(('measured', 'seeds', 'command'), details),
    )


def claim_table(claims: Iterable[tuple[Result, dict[str, Any]]]) -> str:
    """Return a table of claims, with differences; a word if there are none."""
    rows = []
    for result, claim in claims:
        found = [f'{name} {number(difference, 2, "+")}' for name, difference in claim['differences'].items()]
        undecided = [name for name, difference in claim['differences'].items() if not is_better(name, difference)]
        rows.append((claim['claim'], ', '.join(found), ', '.join(undecided), str(len(result['seeds']))))
    return markdown_table(('claim', 'difference', 'not for', 'seeds'), rows) if rows else 'None of what was measured.'


def is_better(score: str, difference: Sequence[float]) -> bool:
    """Return whether the interval of a difference lies on the right side of 0."""
    _, low, high, _ = difference
    return high < 0 if score == 'deletion' else low > 0


STYLE = """\
text { font: 13px sans-serif; fill: #24292f } .title { font-weight: bold } .paper { fill: #ffffff }
.axis { stroke: #8c959f } .map { stroke: #0969da; fill: #0969da } .control { stroke: #8c959f; fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117 } .map { stroke: #58a6ff; fill: #58a6ff }
}"""
LEFT, WIDTH, LINE = 300, 380, 20  # pixels: of names, of the scale, of a row


def chart(results: dict[str, Result]) -> str:
    """Return SRG of all maps as an SVG: a mark and its 95 % interval, grey for controls."""
    groups = [group for result in results.values() for group in result.get('charts', ())]
    values = [bound for group in groups for point in group['points'] for bound in point['SRG'][1:3]]
    low, high = min([0.0, *values]), max([0.1, *values])

    def place(value: float) -> float:
        return round(LEFT + WIDTH * (value - low) / (high - low), 1)

    parts, top = [], 30
    for group in groups:
        parts.append(f'<text class="title" x="10" y="{top}">{html.escape(group["title"])}</text>')
        for point in group['points']:
            top += LINE
            mean, least, most, _ = point['SRG']
            kind, y = 'control' if point['control'] else 'map', top - 4
            parts += [
                f'<text x="20" y="{top}">{html.escape(point["map"])}</text>',
                f'<line class="{kind}" stroke-width="3" x1="{place(least)}" x2="{place(most)}" y1="{y}" y2="{y}"/>',
                f'<circle class="{kind}" r="5" cx="{place(mean)}" cy="{y}"/>',
                f'<text x="{LEFT + WIDTH + 15}" y="{top}">{mean:.2f}</text>',
            ]
        top += 2 * LINE
    axis = f'<line class="axis" x1="{place(0)}" x2="{place(0)}" y1="15" y2="{top - LINE}"/>'
    caption = f'<text x="10" y="{top}">SRG (higher is better; noise has 0, the line); grey: controls</text>'
    width, height = LEFT + WIDTH + 60, top + 15
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="SRG of maps and controls">'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return '\n'.join([head, f'<style>{STYLE}</style>', paper, axis, *parts, caption, '</svg>', ''])
