"""List the Attention Branch Networks: parts, size, weights, and the error that the paper reports.

examples:
  timm-abn list
  timm-abn list 'abn_resnet*'

GMACs are multiply-accumulates of the evaluation of one image of the model's own size. The last column is the top-1
error in percent that the paper reports (CVPR 2019, Table 1 and section 4.2); it is not a measurement of these weights.
"""

import argparse
from typing import Tuple

import timm
from huggingface_hub.utils import tqdm

from ..publish.model_facts import model_facts
from ..publish.results import REPORTED_RESULTS
from .errors import CommandError
from .models import abn_names
from .table import format_table

__all__ = ['add_arguments', 'run', 'summarize']

HEADER = (
    'model',
    'backbone',
    'split',
    'attention stage',
    'input',
    'params (M)',
    'GMACs',
    'weights',
    'reported error (%)',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('pattern', nargs='?', default='', metavar='PATTERN', help="only these, such as 'abn_resnet*'")


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    names = abn_names(args.pattern)
    if not names:
        raise CommandError(f'no model matches {args.pattern!r}; see timm-abn list')
    rows = [summarize(name) for name in tqdm(names, desc='list', unit='model', leave=False, disable=None)]
    print(format_table(HEADER, rows, right=('input', 'params (M)', 'GMACs')))
    return 0


def summarize(name: str) -> Tuple[str, ...]:
    """Return the cells of a model's row.

    Args:
        name: Name of a registered ABN.
    """
    facts = model_facts(name)
    tags = [pretrained.partition('.')[2] for pretrained in timm.list_pretrained(f'{name}.*')]
    reported = [
        f'{result.dataset} {result.percent:.2f}'
        for result in REPORTED_RESULTS.get(name, ())
        if result.source.startswith('paper') and result.metric == 'top-1 error' and not result.variant
    ]
    return (
        name,
        facts.backbone + (' (or any)' if name == 'abn' else ''),
        facts.split,
        facts.attention_stage.partition(' of ')[0],
        'x'.join(map(str, facts.input_size)),
        f'{facts.num_params / 1e6:.2f}',
        f'{facts.num_macs / 1e9:.2f}',
        ', '.join(tags) or '-',
        ', '.join(reported) or '-',
    )
