"""Measure a multi-task ABN beside a loop over its tasks: time and memory of the perception part.

Example:
    python scripts/benchmark_multi_task.py --model abn_resnet101 --tasks 40

The loop gates the features with one map after the other and runs the perception branch each time. Both work on the same
features and maps, and must give the same logits. Chunks of tasks run as they do by default, with the convolutions that
they share, and with nothing shared. The arithmetic that is left, and the rate at which this machine multiplies
matrices, say how much faster it could be.
"""

import argparse
import resource
import subprocess
import sys
import time
import types
from collections.abc import Callable

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

import timm_abn  # noqa: F401  registers the models

REPEATS = 9
CHUNK_SIZES = (1, 8, -8, 40)  # below zero: nothing shared between the tasks
LOOP = 0  # in the place of a chunk size


def main() -> None:
    args = parse_args()
    if args.measure is not None:
        print(peak_memory(args))
        return
    model, features, maps = prepare(args)
    print(f'{args.model}, {args.tasks} tasks, batch {args.batch_size}, {torch.get_num_threads()} threads')
    print(f'a matrix product runs at {matrix_product_rate():.0f} GFLOP/s here')
    report_evaluation(args, model, features, maps)
    report_training(model, features, maps)


def report_evaluation(args, model, features, maps) -> None:
    model.eval()
    runs = {size: lambda size=size: perceive(model, features, maps, size) for size in (LOOP, *CHUNK_SIZES)}
    with torch.inference_mode():
        times = fastest(runs)
        expected = runs[LOOP]()
        differences = {size: (run() - expected).abs().max() / expected.abs().max() for size, run in runs.items()}
        work = {size: gigaflops(run) for size, run in runs.items()}
    memory = {size: measure_memory(args, size) for size in runs}
    for size in runs:
        print(
            f'evaluation, {describe(size)}: {times[size]:.3f} s, {times[size] / times[LOOP]:.2f}x the time; '
            f'{work[size]:.0f} GFLOP, {work[size] / work[LOOP]:.2f}x, at {work[size] / times[size]:.0f} GFLOP/s; '
            f'{memory[size]:.0f} MB, {memory[size] / memory[LOOP]:.2f}x; relative difference {differences[size]:.1e}'
        )


def report_training(model, features, maps) -> None:
    model.train()
    features, maps = (value.clone().requires_grad_() for value in (features, maps))
    runs = {
        size: lambda size=size: perceive(model, features, maps, size).sum().backward() for size in (LOOP, *CHUNK_SIZES)
    }
    times = fastest(runs)
    for size in runs:
        print(f'forward and backward, {describe(size)}: {times[size]:.3f} s, {times[size] / times[LOOP]:.2f}x the time')


def describe(size: int) -> str:
    if size == LOOP:
        return 'loop over the tasks'
    return f'task_chunk_size={abs(size)}' + (', nothing shared' if size < 0 else '')


def fastest(runs: dict[int, Callable[[], object]]) -> dict[int, float]:
    """Return the least time of each run in seconds: that of the run which other processes disturbed the least."""
    times: dict[int, list[float]] = {size: [] for size in runs}
    for _ in range(REPEATS):
        for size, run in runs.items():
            start = time.perf_counter()
            run()
            times[size].append(time.perf_counter() - start)
    return {size: min(values) for size, values in times.items()}


def gigaflops(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def matrix_product_rate(size: int = 4096) -> float:
    matrix = torch.randn(size, size)
    return 2 * size**3 / 1e9 / fastest({0: lambda: matrix @ matrix})[0]


def prepare(args):
    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=args.tasks, multi_task=True).eval()
    images = torch.randn(args.batch_size, *model.pretrained_cfg['input_size'])
    if args.channels_last:
        model, images = (value.to(memory_format=torch.channels_last) for value in (model, images))
    with torch.no_grad():
        features = model.feature_extractor(images)
        branch = model.attention_branch  # alone: the perception part must not have run before its memory is measured
        maps = branch.attention_map(branch.forward_features(features))
    return model, features, maps


def perceive(model, features, maps, task_chunk_size):
    """Run the perception part alone, which is what is compared."""
    if task_chunk_size != LOOP:
        model.task_chunk_size = abs(task_chunk_size)
        model._may_be_lazy = types.MethodType(type(model)._may_be_lazy if task_chunk_size > 0 else never, model)
        return model._perceive(features, maps)
    answers = []
    for task in range(maps.shape[1]):
        outputs = model.perception_branch(model.mechanism(features, maps[:, task : task + 1]))
        answers.append(outputs[:, 2 * task + 1] - outputs[:, 2 * task])
    return torch.stack(answers, dim=1)


def never(model, features) -> bool:
    return False


def peak_memory(args: argparse.Namespace) -> float:
    """Return the largest resident memory of this process in MB, after the perception part has run."""
    model, features, maps = prepare(args)
    with torch.inference_mode():
        perceive(model, features, maps, args.measure)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(args: argparse.Namespace, task_chunk_size: int) -> float:
    command = [sys.executable, __file__, '--model', args.model, '--tasks', str(args.tasks)]
    command += ['--batch-size', str(args.batch_size), '--measure', str(task_chunk_size)]
    command += ['--channels-last'] * args.channels_last
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='abn_resnet101', help='name of an ABN (default: %(default)s)')
    parser.add_argument('--tasks', type=int, default=40, help='number of tasks (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=2, help='images (default: %(default)s)')
    parser.add_argument('--channels-last', action='store_true', help='memory format of network and images, of both')
    parser.add_argument('--measure', type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == '__main__':
    main()
