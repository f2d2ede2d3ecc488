"""Measure what a model costs: images per second, memory, arithmetic, beside a baseline and what the machine can do.

examples:
  timm-abn benchmark --model abn_resnet50 --baseline resnet50
  timm-abn benchmark --model abn --model-kwargs backbone=convnext_tiny --modes eager channels_last+compile \\
      --batch-size 1 8 64 --out costs.json
  timm-abn benchmark --model abn_resnet152 --baseline resnet152 --train --modes eager bf16 --device cuda

Modes are eager (float32 as it comes), or options joined by +: channels_last, bf16, tf32 (CUDA), compile, max_autotune.
Those for which the device has no fast path are named and skipped. An ABN explains (logits and attention map, one
forward pass), another model predicts; --train measures a training step: forward, loss, backward, plain SGD. Weights are
random: --model-kwargs says what the model is like.

Every case runs once in each round, in turn, so that other work on the machine affects all of them; the table holds
medians. With one thread (OMP_NUM_THREADS=1) times are processor time, which other work hardly touches.

memory: weights, and the most of other tensors at once. GMACs: multiply-accumulates of an image (of a training step with
--train). of product: the share of the rate of this machine's own product of matrices in the same precision. logits +-,
map +-: the largest difference from eager, of logits as a share of the largest.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from ..benchmark.modes import DEFAULT_MODES, parse_mode
from ..console.argument_types import positive
from ..staging import check_output_folder, staged_files
from .errors import CommandError
from .models import add_model_kwargs

__all__ = ['add_arguments', 'check', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('--model', required=True, help='name of a model of timm, with or without ABN')
    add_model_kwargs(parser)
    parser.add_argument('--baseline', metavar='MODEL', help='another model, which runs in turn with it')
    parser.add_argument(
        '--modes',
        nargs='+',
        default=list(DEFAULT_MODES),
        metavar='MODE',
        help=f'how to run them (default: {" ".join(DEFAULT_MODES)})',
    )
    parser.add_argument(
        '--batch-size', type=positive, nargs='+', default=[8], metavar='B', help='images at once (default: 8)'
    )
    parser.add_argument(
        '--img-size', type=positive, nargs='+', metavar='N', help='height and width (default: those of the model)'
    )
    parser.add_argument('--train', action='store_true', help='measure a training step')
    parser.add_argument('--rounds', type=positive, default=7, help='how often each case runs (default: 7)')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the results as JSON, too')
    parser.add_argument('--device', help='where to compute (default: cuda where torch finds it, else cpu)')


def check(args: argparse.Namespace) -> None:
    """Raise TimmAbnError if arguments have no meaning, before the models are imported."""
    for name in args.modes:
        parse_mode(name)
    for option, values in (('--modes', args.modes), ('--batch-size', args.batch_size), ('--img-size', args.img_size)):
        if values and len(set(values)) != len(values):
            raise CommandError(f'{option} must be different ones, got {" ".join(map(str, values))}')
    if args.baseline == args.model:
        raise CommandError(f'--baseline must be another model than {args.model}')
    if args.out:
        if args.out.suffix != '.json':
            raise CommandError(f'--out must end in .json, got {args.out}')
        if args.out.is_dir():
            raise CommandError(f'--out must be a file, {args.out} is a folder')
        check_output_folder(args.out.parent)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from ..benchmark.measuring import measure
    from ..benchmark.report import report, to_json
    from ..models.loading import untrained_model
    from .devices import choose_device

    device = choose_device(args.device, 'benchmark')
    model: Any = untrained_model(args.model, **args.model_kwargs)
    models = {args.model: model}
    if args.baseline:
        models[args.baseline] = untrained_model(args.baseline, num_classes=model.num_classes, in_chans=model.in_chans)
    benchmark = measure(
        models,
        [parse_mode(name) for name in args.modes],
        device,
        batch_sizes=args.batch_size,
        img_sizes=args.img_size or [None],
        rounds=args.rounds,
        training=args.train,
        baseline=args.baseline or '',
    )
    print(report(benchmark))
    if args.out:
        with staged_files(args.out.parent) as staging:
            (staging / args.out.name).write_text(json.dumps(to_json(benchmark), indent=1) + '\n', encoding='utf-8')
        print(f'\nWritten to: {args.out}')
    return 0
