"""Trainings that are compared, by timm's train.py under our launcher, for several seeds and several at a time.

No epoch is picked: what counts is the checkpoint after the last one. What has ended is not trained again.
"""

import argparse
import csv
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_abn.errors import TimmAbnError
from timm_abn.models.loading import load_classifier

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model that takes part, and how it is trained."""

    title: str
    model: str
    flags: tuple[str, ...] = ()
    recipe: str = 'fashion_mnist'

    def folder(self, args: argparse.Namespace, seed: int) -> Path:
        """Return the folder of a run."""
        words = re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')
        return args.out / f'{words}-seed{seed}'

    def last_row(self, args: argparse.Namespace, seed: int) -> dict[str, str] | None:
        """Return the metrics after the last epoch, if the run has come to it."""
        path = self.folder(args, seed) / 'summary.csv'
        rows = list(csv.DictReader(path.open())) if path.is_file() else []
        return rows[-1] if rows and rows[-1]['epoch'] == str(args.epochs - 1) else None

    def load(self, args: argparse.Namespace, seed: int) -> Any:
        """Return the network that a run has trained."""
        return load_classifier(self.model.split('.')[0], checkpoint=self.folder(args, seed) / 'last.pth.tar')


def add_training_arguments(parser: argparse.ArgumentParser, out: str, data_dir: str = 'data', epochs: int = 4) -> None:
    """Add what says where and how contestants are trained."""
    parser.add_argument('--data-dir', type=Path, default=Path(data_dir), help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path(out), help='default: %(default)s')
    parser.add_argument('--epochs', type=int, default=epochs, help='default: %(default)s')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time (default: %(default)s)')
    parser.add_argument('--timm-scripts', metavar='DIR', help='as of timm-abn-train (default: $TIMM_SCRIPTS)')
    parser.add_argument(
        'flags', nargs='*', metavar='-- FLAGS', help="for timm's train.py, such as -- --amp --amp-dtype bfloat16"
    )


def train_all(args: argparse.Namespace, contestants: Sequence[Contestant]) -> None:
    """Train whatever has not been trained; after a failure those that have begun end, and it is raised."""
    args.out.mkdir(parents=True, exist_ok=True)
    waiting = [(contestant, seed) for seed in args.seeds for contestant in contestants]
    waiting = [(contestant, seed) for contestant, seed in waiting if not contestant.last_row(args, seed)]
    running: dict[subprocess.Popen, Path] = {}
    failed: list[Path] = []
    while running or (waiting and not failed):
        while waiting and len(running) < args.jobs and not failed:
            contestant, seed = waiting.pop(0)
            folder = contestant.folder(args, seed)
            print(f'{folder.name} begins, {len(waiting)} wait', flush=True)
            running[_begin(args, contestant, seed)] = folder
        for process in [process for process in running if process.poll() is not None]:
            folder = running.pop(process)
            if process.returncode:
                failed.append(folder)
        time.sleep(0.2)
    if failed:
        raise TimmAbnError(f'{failed[0].name} failed; see {failed[0]}.log')


def _begin(args: argparse.Namespace, contestant: Contestant, seed: int) -> subprocess.Popen:
    folder = contestant.folder(args, seed)
    script = ROOT / 'train_wrappers' / 'train.py'
    words = ['--recipe', contestant.recipe, '--model', contestant.model, *contestant.flags, '--seed', seed]
    words += ['--data-dir', args.data_dir, '--workers', 0, '--epochs', args.epochs, '--val-interval', args.epochs]
    words += ['--output', args.out, '--experiment', folder.name, *args.flags]
    words += ['--timm-scripts', args.timm_scripts] if args.timm_scripts else []
    command = list(map(str, [sys.executable, script, *words]))
    # one thread each: two runs side by side use two cores better than one run with two threads
    with open(f'{folder}.log', 'w') as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ, OMP_NUM_THREADS='1'))
