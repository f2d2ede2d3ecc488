"""Measure what attention maps change in networks that are not trained: does their gate reach the prediction?

The map goes from 0.5 everywhere to 0 everywhere ('uniform'), and to 0.5 in its left half only ('half'). The change of
the pre-logits is given relative to their norm, the mean over some images (as in timm_abn.explain.metrics.reliance, in a
third of the time). Weights are random, layer scales are set to 0.3 (timm begins with up to 1e-6), and the statistics of
batch norm are those of the images, which are noise of the spectrum of photos (1/f).

'half' should be 0.05 or more, and 0.03 where only a class token is read; the exit code is 1 if fewer than 95 % of the
names reach that. A table that was begun is gone on with.

examples:
  python scripts/measure_gates.py abn_resnet18 abn_vit_small_patch16_224 pvt_v2_b0
  python scripts/measure_gates.py --families families.json --csv gates.csv
  python scripts/measure_gates.py --sample 150 --csv gates.csv
  python scripts/measure_gates.py --all --csv gates.csv --gate features
"""

import argparse
import contextlib
import csv
import itertools
import json
import math
import random
import re
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.models import get_model_input_config

import timm_abn  # noqa: F401  registers the models
from timm_abn.errors import one_line
from timm_abn.networks.choices import GATES
from timm_abn_cli.argument_types import positive, whole

LAYER_SCALE = 0.3
_LAYER_SCALE = re.compile(r'(^|\.)(gamma\w*|layer_scale\w*|ls\d?)(\.|$)')
ENOUGH, ENOUGH_OF_CLASS_TOKEN = 0.05, 0.03
SHARE = 0.95
COLUMNS = ('name', 'split', 'gate', 'reads', 'uniform', 'half', 'enough', 'seconds')


def natural_noise(model: nn.Module, batch_size: int) -> torch.Tensor:
    """Return images of unit variance whose amplitudes fall with the frequency, as those of photos do."""
    channels, height, width = get_model_input_config(model)['input_size']
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(batch_size, channels, height, width, generator=generator))
    cycles = torch.fft.fftfreq(height)[:, None].mul(height).square() + torch.fft.rfftfreq(width).mul(width).square()
    images = torch.fft.irfft2(spectrum / cycles.sqrt().clamp(min=1), s=(height, width))
    images = (images - images.mean(dim=(2, 3), keepdim=True)) / images.std(dim=(2, 3), keepdim=True)
    return images + 0.5 * torch.randn(batch_size, channels, 1, 1, generator=generator)


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor) -> None:
    """Set layer scales, and the statistics of batch norm to those of ``images``."""
    for name, parameter in model.named_parameters():
        if _LAYER_SCALE.search(name):
            parameter.fill_(LAYER_SCALE)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None  # the statistics of one batch as they are
        norm.reset_running_stats()
        norm.train()
    if norms:
        model(images)
    model.eval()


@torch.no_grad()
def effects(model: Any, images: torch.Tensor) -> dict[str, float]:
    """Return the effects of maps that are 0 everywhere ('uniform'), and in their right half ('half')."""
    shape = model.layout.to_maps(model.extract(images)[0], images).shape
    flat = torch.full((shape[0], 1, *shape[2:]), 0.5)
    half = torch.cat([flat[..., : shape[3] // 2], torch.zeros_like(flat[..., shape[3] // 2 :])], dim=3)
    reference, *changed = (
        model.forward_head(model.forward_features(images, attention=attention), pre_logits=True).flatten(1)
        for attention in (flat, torch.zeros_like(flat), half)
    )
    changes = [((pooled - reference).norm(dim=1) / reference.norm(dim=1)).mean().item() for pooled in changed]
    return dict(zip(('uniform', 'half'), changes))


def measure(name: str, gate: str | None, batch_size: int) -> dict[str, Any]:
    """Return a row of the table.

    Args:
        name: Name of an ABN, or of a backbone.
        gate: The gate; None for that which is chosen.
        batch_size: Number of images.
    """
    start = time.monotonic()
    torch.manual_seed(0)
    arguments: dict[str, Any] = dict(num_classes=10, gate=gate)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if name.startswith('abn_'):
            model: Any = timm.create_model(name, **arguments).eval()
        else:
            model = timm.create_model('abn', backbone=name, **arguments).eval()
    images = natural_noise(model, batch_size)
    calibrate(model, images)
    effect = effects(model, images)
    of_class_token = model.layout.num_prefix_tokens > 0 and model.global_pool == 'token'
    return dict(
        name=name,
        split=model.split,
        gate=model.config['gate'],
        reads='class token' if of_class_token else 'places',
        **{replacement: f'{change:.4f}' for replacement, change in effect.items()},
        enough='yes' if effect['half'] >= (ENOUGH_OF_CLASS_TOKEN if of_class_token else ENOUGH) else 'no',
        seconds=f'{time.monotonic() - start:.1f}',
    )


def backbone_names(most_parameters: float, seed: int | None = None) -> Iterator[str]:
    """Yield timm's names of backbones that have not too many parameters.

    Args:
        most_parameters: The number of parameters that is not too many.
        seed: Of a random order; None for that of the alphabet.
    """
    names = timm.list_models(exclude_filters=['abn', 'abn_*', 'cam_*'])
    if seed is not None:
        random.Random(seed).shuffle(names)
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            model = timm.create_model(name, device=torch.device('meta'))
        if sum(parameter.numel() for parameter in model.parameters()) <= most_parameters:
            yield name


def measured(names: Iterable[str], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of the names that can be cut, which are also written to the table; those that it has, as they are.

    Args:
        names: Names of ABNs, or of backbones.
        args: Arguments of the command line.
    """
    known: dict[str, dict[str, Any]] = {}
    if args.csv and args.csv.exists():
        with args.csv.open(newline='') as file:
            known = {row['name']: row for row in csv.DictReader(file)}
    with args.csv.open('a', newline='') if args.csv else contextlib.nullcontext() as table:
        writer = csv.DictWriter(table, COLUMNS) if table else None
        if writer and not known:
            writer.writeheader()
        for name in names:
            if name in known:
                yield known[name]
                continue
            try:
                row = measure(name, args.gate, args.batch_size)
            except Exception as error:  # what cannot be cut, and what timm cannot build
                print(f'{name}: {one_line(error)}', flush=True)
                continue
            if writer and table:
                writer.writerow(row)
                table.flush()
            yield row


def wilson_interval(successes: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953).

    Args:
        successes: How many of them are in the share.
        number: How many there are, at least 1.
    """
    z = 1.959964
    share = successes / number
    centre = share + z**2 / (2 * number)
    spread = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    low, high = ((centre + side * spread) / (1 + z**2 / number) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)


def main() -> int:
    """Print a line per name, then how many reach the goal, and return the exit code."""
    args = parse_args()
    names: Iterable[str] = args.names
    if args.families:
        names = [family['model'] for family in json.loads(args.families.read_text()).values()]
    elif args.all or args.sample:
        names = backbone_names(args.most_parameters, args.seed if args.sample else None)
    rows: list[dict[str, Any]] = []
    for row in itertools.islice(measured(names, args), args.sample):
        rows.append(row)
        print(*(f'{column}={row[column]}' if column != 'name' else row['name'] for column in COLUMNS), flush=True)
    if not rows:
        print('none of the names can be cut', file=sys.stderr)
        return 2
    reached = sum(row['enough'] == 'yes' for row in rows)
    low, high = wilson_interval(reached, len(rows))
    print(f'{reached} of {len(rows)} names reach the goal: {reached / len(rows):.3f} [{low:.3f}, {high:.3f}]')
    return 0 if reached >= SHARE * len(rows) else 1


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument('names', nargs='*', default=[], help="names of ABNs, or of timm's backbones")
    which.add_argument('--all', action='store_true', help="all of timm's backbones")
    which.add_argument('--sample', type=positive, metavar='N', help='N random ones of those that can be cut')
    which.add_argument('--families', type=Path, metavar='JSON', help='file with a model of each family')
    parser.add_argument(
        '--most-parameters', type=float, default=1e8, help='with --all and --sample (default: %(default)g)'
    )
    parser.add_argument('--seed', type=whole, default=0, help='of --sample (default: %(default)s)')
    parser.add_argument('--gate', choices=GATES, help='default: that which is chosen for each')
    parser.add_argument('--batch-size', type=positive, default=2, help='number of images (default: %(default)s)')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='also keep the table here')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
