"""List the Attention Branch Networks: parts, size, weights, and the error that the paper reports.

examples:
  timm-abn list
  timm-abn list 'abn_resnet*'

The gate is what the attention map does to the features: it multiplies them as in the paper ('features'), or where norms
would undo that, their distances to their mean ('centred'), and where a class token is read, what that reads ('tokens').
GMACs are multiply-accumulates of the evaluation of one image of the model's own size. The last column is the top-1
error in percent that the paper reports (CVPR 2019, Table 1 and section 4.2); it is not a measurement of these weights.
"""

import argparse
import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..console.table import format_table
from .errors import CommandError

__all__ = ['add_arguments', 'run', 'summarize']

# written by scripts/docs/make_model_cards.py: to build all models takes longer than anybody waits for a list
FACTS = Path(__file__).parents[1] / 'publish' / 'model_facts.json'

HEADER = (
    'model',
    'backbone',
    'split',
    'attention stage',
    'gate',
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
    models = json.loads(FACTS.read_text(encoding='utf-8'))
    names = fnmatch.filter(models, args.pattern or '*')
    if not names:
        raise CommandError(f'no model matches {args.pattern!r}; see timm-abn list')
    rows = [summarize(name, models[name]) for name in names]
    print(format_table(HEADER, rows, right=('input', 'params (M)', 'GMACs')))
    return 0


def summarize(name: str, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a model's row.

    Args:
        name: Name of a registered ABN.
        facts: What ``model_facts.json`` says about it.
    """
    reported = [f'{dataset} {percent:.2f}' for dataset, percent in facts['reported_errors']]
    return (
        name,
        facts['backbone'] + (' (or any)' if name == 'abn' else ''),
        facts['split'],
        facts['attention_stage'].partition(' of ')[0],
        facts['gate'],
        'x'.join(map(str, facts['input_size'])),
        f'{facts["num_params"] / 1e6:.2f}',
        f'{facts["num_macs"] / 1e9:.2f}',
        ', '.join(facts['weights']) or '-',
        ', '.join(reported) or '-',
    )
