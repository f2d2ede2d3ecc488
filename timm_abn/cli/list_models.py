"""List the Attention Branch Networks: parts, size, weights, and the error that the paper reports.

examples:
  timm-abn list
  timm-abn list 'abn_resnet*'

GMACs are multiply-accumulates of the evaluation of one image of the model's own size. The last column is the top-1
error in percent that the paper reports (CVPR 2019, Table 1 and section 4.2); it is not a measurement of these weights.
"""
import argparse
from typing import Any, Tuple

import timm
import torch
from huggingface_hub.utils import tqdm
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

from .errors import CommandError
from .models import abn_names
from .table import format_table

__all__ = ['REPORTED_ERRORS', 'add_arguments', 'run', 'summarize']

HEADER = (
    'model', 'backbone', 'split', 'attention stage', 'input', 'params (M)', 'GMACs', 'weights', 'reported error (%)')

REPORTED_ERRORS = {
    'abn_resnet20_cifar': 'CIFAR-100 30.46',
    'abn_resnet32_cifar': 'CIFAR-100 27.91',
    'abn_resnet44_cifar': 'CIFAR-100 25.59',
    'abn_resnet56_cifar': 'CIFAR-100 24.07',
    'abn_resnet110_cifar': 'CIFAR-100 22.82, CIFAR-10 4.91',
    'abn_resnet152': 'ImageNet 21.37',
    'abn_seresnet152': 'ImageNet 20.77',
}


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
    # on the meta device there are shapes but no values: nothing is computed, and no memory taken
    model: Any = timm.create_model(name, device=torch.device('meta')).eval()
    input_size = get_model_input_config(model)['input_size']
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty((1, *input_size), device='meta'))
    tags = [pretrained.partition('.')[2] for pretrained in timm.list_pretrained(f'{name}.*')]
    return (
        name,
        model.perception_branch.pretrained_cfg['architecture'] + (' (or any)' if name == 'abn' else ''),
        model.config['split'],
        model.config['attention_stage'].partition(' of ')[0],
        '{}x{}x{}'.format(*input_size),
        f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}',
        f'{counter.get_total_flops() / 2e9:.2f}',
        ', '.join(tags) or '-',
        REPORTED_ERRORS.get(name, '-'),
    )
