"""Measure which of timm's models this package explains, as ABN and attached to: all names, on the meta device.

A network of ten classes is built over each, cut at its default split, and explains images of the backbone's own size.
The table has one row per name: where it is cut, its gate, the layout of its features and the size of its map, or why
there is none; and the layout and the size of the maps of evidence that ``timm_abn.attach`` makes of the model as it is,
or why it makes none. Without names and --sample it goes to docs/coverage.csv, and its summary to the README.

examples:
  python scripts/docs/measure_coverage.py --processes 2 --resume coverage.partial.csv
  python scripts/docs/measure_coverage.py resnet50 vit_base_patch16_dinov3 --csv outputs/coverage.csv
  python scripts/docs/measure_coverage.py --sample 50 --csv outputs/coverage.csv
"""

import argparse
import collections
import contextlib
import csv
import gc
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.utils import tqdm
from timm.models import get_model_input_config
from torch.utils._python_dispatch import TorchDispatchMode

import timm_abn
from timm_abn.errors import TimmAbnError, one_line
from timm_abn.publish.markdown import write_between
from timm_abn.staging import staged_file
from timm_abn_cli.argument_types import positive, whole

ROOT = Path(__file__).parents[2]
TABLE = ROOT / 'docs' / 'coverage.csv'
README = ROOT / 'README.md'
BEGIN, END = '<!-- coverage -->', '<!-- end of coverage -->'
COLUMNS = ('name', 'family', 'works', 'split', 'gate', 'layout', 'map', 'reason', 'evidence', 'evidence_reason')
META = torch.device('meta')


class _ShapesAlone(TorchDispatchMode):
    """Leaves out what does nothing to shapes: filling parameters, and batch norm, which is slow on the meta device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.endswith('_') and args[0].is_meta:
            return args[0]
        if func is torch.ops.aten.native_batch_norm.default and args[0].is_meta:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        return func(*args, **(kwargs or {}))


def backbone_names() -> list[str]:
    """Return the names of timm's own models."""
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith('timm.')]


def family_of(name: str) -> str:
    """Return the module of timm that a model is in."""
    return timm.model_entrypoint(name).__module__.rpartition('.')[2]


def measure(name: str) -> dict[str, str]:
    """Return the row of a name."""
    row = dict.fromkeys(COLUMNS, '') | dict(name=name, family=family_of(name))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with _ShapesAlone():
                backbone = timm.create_model(name, num_classes=10, device=META)
            images = torch.empty((1, *get_model_input_config(backbone)['input_size']), device=META)
            row.update(evidence_of(backbone, images))
            model = timm_abn.AttentionBranchNet(backbone, num_classes=10, device=META).eval()
        with _ShapesAlone():
            height, width = model.explain(images).attention_map.shape[2:]
    except Exception as error:  # as many kinds as there are backbones; those of ours say what to do
        kind = '' if isinstance(error, TimmAbnError) else f'{type(error).__name__}: '
        return row | dict(works='no', reason=kind + one_line(error))
    return row | dict(
        works='yes',
        split=model.config.split,
        gate=model.config.gate,
        layout=model.layout.layout,
        map=f'{height}x{width}',
    )


def evidence_of(backbone: torch.nn.Module, images: torch.Tensor) -> dict[str, str]:
    """Return the layout and size of the maps that ``timm_abn.attach`` makes of a model, or why it makes none."""
    try:
        with _ShapesAlone():
            attached = timm_abn.AttachedNet(backbone)
            height, width = attached.explain(images).attention_map.shape[2:]
    except Exception as error:  # as many kinds as there are models
        kind = '' if isinstance(error, TimmAbnError) else f'{type(error).__name__}: '
        return dict(evidence='no', evidence_reason=kind + one_line(error))
    form = 'traced' if attached.is_traced else attached.places.layout
    return dict(evidence=f'{form} {height}x{width}')


def summary(rows: list[dict[str, str]]) -> str:
    """Return the sentence that says how many names, and families, there are in a table, and how many work."""
    working = [row for row in rows if row['works'] == 'yes']
    names = f'{len(working):,} of {len(rows):,} names'
    families = f'{count_families(working)} of {count_families(rows)} families'
    return f'{names}, {families} of timm {timm.__version__}'


def count_families(rows: list[dict[str, str]]) -> int:
    """Return how many families rows are of."""
    return len({row['family'] for row in rows})


def read_table(file: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with file.open(newline='', encoding='utf-8') as table:
        return list(csv.DictReader(table))


def write_table(file: Path, rows: list[dict[str, str]]) -> None:
    """Write a table, all of it or none."""
    with staged_file(file) as staged, staged.open('w', newline='', encoding='utf-8') as table:
        writer = csv.DictWriter(table, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def measure_all(names: list[str], num_processes: int, journal: Path | None = None) -> list[dict[str, str]]:
    """Return the rows of names, in their order; rows of a journal are taken as they are, and new ones added to it."""
    known = {row['name']: row for row in read_table(journal)} if journal and journal.exists() else {}
    left = [name for name in names if name not in known]
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(journal.open('a', newline='', encoding='utf-8')) if journal else None
        writer = csv.DictWriter(file, COLUMNS, lineterminator='\n') if file else None
        if writer and not known:
            writer.writeheader()
        rows: Iterator[dict[str, str]] = map(measure, left)
        if num_processes > 1:
            pool = torch.multiprocessing.get_context('spawn').Pool(num_processes, _begin_process)
            rows = stack.enter_context(pool).imap(measure, left, chunksize=4)
        for row in tqdm(rows, total=len(left), desc='names'):
            known[row['name']] = row
            if writer and file:
                writer.writerow(row)
                file.flush()
    return [known[name] for name in names]


def _begin_process() -> None:
    torch.set_num_threads(1)  # shapes need no more
    gc.freeze()  # the modules of torch need not be looked through at each collection


def main() -> int:
    """Measure, write, and return the exit code."""
    args = parse_args()
    known = backbone_names()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        print(f'timm has no model {unknown[0]!r}', file=sys.stderr)
        return 2
    names = args.names or known
    if args.sample:
        names = sorted(random.Random(args.seed).sample(known, min(args.sample, len(known))))
    start = time.monotonic()
    rows = measure_all(names, args.processes, args.resume)
    seconds = (time.monotonic() - start) * args.processes / len(rows)
    is_whole = len(rows) == len(known)
    table = args.csv or (TABLE if is_whole else None)
    if table:
        write_table(table, rows)
    if is_whole and table == TABLE:
        write_between(README, BEGIN, END, summary(rows))
    for row in rows if not is_whole else []:
        print(*(value for value in row.values() if value))
    without = [row for row in rows if row['evidence'] in ('', 'no')]
    print(f'evidence: {len(rows) - len(without):,} of {len(rows):,} names')
    refused = collections.Counter(row['family'] for row in rows if row['works'] == 'no')
    print(f'{summary(rows)}; {seconds:.2f} seconds per name, in one process')
    if refused:
        print('not of:', ', '.join(f'{family} {count}' for family, count in refused.most_common()))
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument('names', nargs='*', default=[], help="names of timm's models (default: all)")
    which.add_argument('--sample', type=positive, metavar='N', help='N random ones')
    parser.add_argument('--seed', type=whole, default=0, help='of --sample (default: %(default)s)')
    parser.add_argument('--processes', type=positive, default=1, help='that share the names (default: %(default)s)')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='keep the table here (default, of all: docs)')
    parser.add_argument('--resume', type=Path, metavar='FILE', help='go on with the rows of a run that was broken off')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
