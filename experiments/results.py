"""What the experiments share: rows of scores that are made once, intervals, tables, and errors of one line."""

import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

import timm_abn
from timm_abn.errors import TimmAbnError
from timm_abn.explain.statistics import Interval, bootstrap_mean
from timm_abn.staging import staged_file, staged_files
from timm_abn_cli.table import format_table

Row = dict[str, Any]  # of an image, or of a map of it: what it is of, by name, and scores, by metric
Cells = list[str | Interval | None]  # a line of a table


def run(work: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Do the work of a script, and return the exit code; an error that a user can cause is one line."""
    try:
        work(args)
    except (OSError, TimmAbnError) as error:
        print(f'{Path(sys.argv[0]).name}: error: {error}', file=sys.stderr)
        return 2
    return 0


def once(path: Path, settings: Mapping[str, Any], make: Callable[[], list[Row]]) -> list[Row]:
    """Return the rows that a file has, or make them and write it; a file of other settings is an error."""
    settings = {name: str(value) for name, value in settings.items()}
    if path.is_file():
        found = json.loads(path.read_text(encoding='utf-8'))
        if found['settings'] != settings:
            raise TimmAbnError(f'{path} is of a run with other settings, {found["settings"]}: choose another --out')
        return found['rows']
    rows = make()
    with staged_file(path) as staged:
        staged.write_text(json.dumps(dict(settings=settings, rows=rows)), encoding='utf-8')
    return rows


def as_rows(scores: Mapping[str, Sequence[float]], **what: Any) -> list[Row]:
    """Return a row for each image, from the scores of all of them by metric."""
    return [dict(what, image=image, **dict(zip(scores, values))) for image, values in enumerate(zip(*scores.values()))]


def where(rows: Iterable[Row], **what: Any) -> list[Row]:
    """Return the rows that are of what is named."""
    return [row for row in rows if all(row.get(name) == value for name, value in what.items())]


def interval(rows: Iterable[Row], metric: str, unit: str = 'image') -> Interval:
    """Return the mean of a metric over the rows that have it; units are drawn, each with all of its rows."""
    found = [row for row in rows if metric in row]
    return bootstrap_mean([row[metric] for row in found], groups=[row[unit] for row in found])


def difference(rows: Sequence[Row], others: Sequence[Row], metric: str, unit: str = 'image') -> Interval:
    """Return the mean difference of a metric between rows and others of the same units, in the same order."""
    values = [row[metric] - other[metric] for row, other in zip(rows, others, strict=True)]
    return bootstrap_mean(values, groups=[row[unit] for row in rows])


def means(rows: Sequence[Row], metric: str, of: str) -> dict[Any, float]:
    """Return the mean of a metric for each value of ``of``, such as each seed, without what has no score (NaN)."""
    found = {value: [row[metric] for row in where(rows, **{of: value})] for value in dict.fromkeys(r[of] for r in rows)}
    return {value: mean(scores) for value, scores in found.items()}


def mean(values: Iterable[float]) -> float:
    """Return the mean of what is not NaN; NaN of nothing."""
    present = [value for value in values if not math.isnan(value)]
    return statistics.fmean(present) if present else math.nan


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return mean and deviation as text: '0.851 ± 0.008'; '' of nothing."""
    return f'{mean(values):.{digits}f}{deviation(values, digits)}' if values else ''


def deviation(values: Iterable[float], digits: int = 3) -> str:
    """Return the standard deviation as text, ' ± 0.008'; '' of a single value."""
    values = list(values)
    return f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''


def write(args: argparse.Namespace, result: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Print the tables of a result; write it, and all rows, into ``args.out``.

    Args:
        args: Of the command line.
        result: ``title``, ``setup``, ``command`` and ``tables``; ``charts`` and ``claims`` where there are
            (``scoring.py``). With seeds and versions it becomes ``results.json``, for docs/results.
        rows: Of all images and seeds.
    """
    for table in result['tables']:
        lines = [['' if cell is None else str(cell) for cell in row] for row in table['rows']]
        print(f'{table.get("title", result["title"])}\n{format_table(table["columns"], lines)}\n')
    names = list(dict.fromkeys(name for row in rows for name in row))
    versions = {module.__name__: module.__version__ for module in (timm_abn, timm, torch)}
    made = dict(seeds=getattr(args, 'seeds', [0]), versions=versions)
    with staged_files(args.out) as folder:
        text = json.dumps(rounded(made | dict(result)), indent=1, ensure_ascii=False)
        (folder / 'results.json').write_text(f'{text}\n', encoding='utf-8')
        with (folder / 'scores.csv').open('w', newline='', encoding='utf-8', errors='backslashreplace') as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    print(f'Written to: {args.out / "results.json"}, {args.out / "scores.csv"}')


def rounded(value: Any) -> Any:
    """Return what JSON holds of a result: intervals as lists, six digits, NaN as null."""
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(entry) for entry in value]
    return (None if math.isnan(value) else round(value, 6)) if isinstance(value, float) else value
