"""List the Attention Branch Networks: parts, size, weights, and the error reported by the paper.

examples:
  timm-abn list
  timm-abn list 'abn_resnet*'

The gate says how the attention map acts: it multiplies the features as in the paper ('features'); if norms would undo
that, it multiplies their distances to their mean ('centred'); if a class token is read, it also weights what the token
reads ('tokens'). GMACs are the multiply-accumulates to evaluate one image of the model's own size. The last column is
the top-1 error in percent that the paper reports (CVPR 2019, Table 1 and section 4.2), not a measurement of these
weights.
"""

import argparse
import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CommandError
from .table import format_table

__all__ = ['add_arguments', 'run', 'summarize']

# written by scripts/docs/make_model_cards.py: to build all models takes longer than anybody waits for a list
FACTS = Path(__file__).parents[1] / 'timm_abn' / 'publish' / 'model_facts.json'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        'pattern', nargs='?', default='', metavar='PATTERN', help="list only matching names, such as 'abn_resnet*'"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    models = json.loads(FACTS.read_text(encoding='utf-8'))
    names = fnmatch.filter(models, args.pattern or '*')
    if not names:
        raise CommandError(f'no model matches {args.pattern!r}; see timm-abn list')
    rows = [summarize(name, models[name]) for name in names]
    print(format_table(list(rows[0]), [list(row.values()) for row in rows], right=('input', 'params (M)', 'GMACs')))
    return 0


def summarize(name: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the row of a model, by column, from what ``model_facts.json`` says about it."""
    reported = [f'{dataset} {percent:.2f}' for dataset, percent in facts['reported_errors']]
    return {
        'model': name,
        'backbone': facts['backbone'] + (' (or any)' if name == 'abn' else ''),
        'split': facts['split'],
        'attention stage': facts['attention_stage'].partition(' of ')[0],
        'gate': facts['gate'],
        'input': 'x'.join(map(str, facts['input_size'])),
        'params (M)': f'{facts["num_params"] / 1e6:.2f}',
        'GMACs': f'{facts["num_macs"] / 1e9:.2f}',
        'weights': ', '.join(facts['weights']) or '-',
        'reported error (%)': ', '.join(reported) or '-',
    }
