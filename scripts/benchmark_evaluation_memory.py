"""Measure how the memory of an evaluation grows with the number of images: after 500, after all, and with the results.

Example:
    python scripts/benchmark_evaluation_memory.py --images 10000

Images are made when they are asked for, as those of a folder are read. Printed is the resident memory of the process.
"""

import argparse
import functools
import sys
import tempfile
from pathlib import Path

import timm
import torch

import timm_abn
from timm_abn_cli.argument_types import positive

FIRST = 500  # images after which nothing should grow


def main() -> int:
    """Print the memory; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=positive, default=10_000, help='(default: 10000)')
    args = parser.parse_args()
    if not Path('/proc/self/statm').exists():
        print('the memory of a process can be read on Linux only', file=sys.stderr)
        return 2
    torch.manual_seed(0)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=10).eval()
    seen: dict[int, float] = {}

    def sample(index: int) -> timm_abn.Sample:
        if index in (FIRST, args.images - 1):
            seen[index] = megabytes()
        generator = torch.Generator().manual_seed(index)
        return timm_abn.Sample(f'{index}', torch.randn(3, 32, 32, generator=generator), label=index % 10)

    samples = [functools.partial(sample, index) for index in range(args.images)]
    with tempfile.TemporaryDirectory() as folder:
        evaluation = timm_abn.evaluate(model, samples, ['attention', 'class_map', 'centre'], folder, steps=8)
    after = megabytes()
    for index, used in seen.items():
        print(f'{index:>7,} images: {used:.0f} MB')
    rows = 0 if evaluation is None else len(evaluation.rows)
    print(f'with the results, {rows:,} rows: {after:.0f} MB')
    return 0


def megabytes() -> float:
    """Return the resident memory of this process."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * 4096 / 1e6


if __name__ == '__main__':
    sys.exit(main())
