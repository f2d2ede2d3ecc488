"""Write the table of docs/costs.md: what an ABN costs beside its backbone, for ten backbones.

Example:
    OMP_NUM_THREADS=1 python scripts/make_costs.py

The text of the page is kept; the table between its two marks is replaced.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import tqdm

import timm_abn  # noqa: F401  registers the models
from timm_abn.benchmark.measuring import Case, measure
from timm_abn.benchmark.modes import Mode
from timm_abn.models.loading import untrained_model
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_files

TARGET = Path(__file__).resolve().parents[1] / 'docs' / 'costs.md'
START, END = '<!-- written by scripts/make_costs.py -->', '<!-- end -->'

BACKBONES = (
    'resnet18',
    'resnet50',
    'resnet152',
    'densenet121',
    'mobilenetv3_large_100',
    'efficientnet_b0',
    'convnext_tiny',
    'swin_tiny_patch4_window7_224',
    'vit_small_patch16_224',
    'pvt_v2_b0',
)
COLUMNS = (
    'backbone',
    'parameters (M)',
    'with ABN',
    'GMACs',
    'with ABN',
    'ms per image',
    'with ABN',
    'memory (MB)',
    'with ABN',
    'time',
    'time per GMAC',
)


def main() -> None:
    """Measure one backbone after the other, each in turn with its ABN, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backbones', nargs='+', default=list(BACKBONES), help='default: ten')
    parser.add_argument('--rounds', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--target', type=Path, default=TARGET, help='default: docs/costs.md')
    args = parser.parse_args()
    rows = [make_row(name, args.rounds) for name in tqdm(args.backbones, unit='backbone')]
    before, _, rest = args.target.read_text(encoding='utf-8').partition(START)
    after = rest.partition(END)[2]
    table = markdown_table(COLUMNS, rows)
    with staged_files(args.target.parent) as staging:
        text = f'{before}{START}\n\n{table}\n\n{END}{after}'
        (staging / args.target.name).write_text(text, encoding='utf-8')


def make_row(backbone: str, rounds: int) -> Sequence[str]:
    """Return the cells of a backbone.

    Args:
        backbone: Its name.
        rounds: How often each network is timed.
    """
    models: Any = {'abn': untrained_model('abn', backbone=backbone), backbone: untrained_model(backbone)}
    result = measure(models, [Mode()], torch.device('cpu'), batch_sizes=[1], rounds=rounds, baseline=backbone)
    abn, plain = result.cases
    cells = [cell for both in zip(figures(plain), figures(abn), strict=True) for cell in both]
    return [f'`{backbone}`', *cells, f'{abn.time_beside(plain):.2f}x', f'{abn.time_beside(plain, per_mac=True):.2f}x']


def figures(case: Case) -> tuple[str, ...]:
    """Return parameters, work, time and memory of a case."""
    return (
        f'{case.num_parameters / 1e6:.1f}',
        f'{case.num_macs / 1e9:.2f}',
        f'{case.latency * 1e3:.0f}',
        f'{case.peak_bytes / 2**20:.0f}',
    )


if __name__ == '__main__':
    main()
