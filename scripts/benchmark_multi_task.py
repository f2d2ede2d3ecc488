"""Measure a multi-task ABN beside a loop over its tasks: time and memory of the perception part.

Example:
    python scripts/benchmark_multi_task.py --model abn_resnet101 --tasks 40

The loop gates the features with one map after the other and runs the perception branch each time. Both work on the same
features and maps, without gradients, and must give the same logits.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Callable, List

import timm
import torch

import timm_abn  # noqa: F401  registers the models

REPEATS = 9
CHUNK_SIZES = (1, 8, 40)


def main() -> None:
    args = parse_args()
    if args.measure is not None:
        print(peak_memory(args))
        return
    model, features, maps = prepare(args)
    runs: List[Callable[[], torch.Tensor]] = [lambda: loop(model, features, maps)]
    runs += [lambda size=size: chunked(model, features, maps, size) for size in CHUNK_SIZES]
    times = [[seconds(run) for run in runs] for _ in range(REPEATS)]
    # the least time is that of the run which other processes disturbed the least
    best = [min(column) for column in zip(*times)]
    expected = runs[0]()
    memory = [float(measure_memory(args, size)) for size in (0, *CHUNK_SIZES)]
    print(f'{args.model}, {args.tasks} tasks, batch {args.batch_size}, {torch.get_num_threads()} threads')
    print(f'loop over the tasks: {best[0]:.3f} s, {memory[0]:.0f} MB')
    for size, run, fastest, peak in zip(CHUNK_SIZES, runs[1:], best[1:], memory[1:]):
        difference = ((run() - expected).abs().max() / expected.abs().max()).item()
        print(
            f'task_chunk_size={size}: {fastest:.3f} s, {fastest / best[0]:.2f}x the time; {peak:.0f} MB, '
            f'{peak / memory[0]:.2f}x the memory; largest relative difference {difference:.1e}'
        )


def prepare(args):
    torch.manual_seed(0)
    model = timm.create_model(args.model, num_classes=args.tasks, multi_task=True).eval()
    images = torch.randn(args.batch_size, *model.pretrained_cfg['input_size'])
    if args.channels_last:
        model, images = (value.to(memory_format=torch.channels_last) for value in (model, images))
    with torch.inference_mode():
        features = model.feature_extractor(images)
        branch = model.attention_branch  # alone: the perception part must not have run before its memory is measured
        maps = branch.attention_map(branch.forward_features(features))
    return model, features, maps


@torch.inference_mode()
def loop(model, features, maps):
    answers = []
    for task in range(maps.shape[1]):
        outputs = model.perception_branch(model.mechanism(features, maps[:, task : task + 1]))
        answers.append(outputs[:, 2 * task + 1] - outputs[:, 2 * task])
    return torch.stack(answers, dim=1)


@torch.inference_mode()
def chunked(model, features, maps, task_chunk_size):
    model.task_chunk_size = task_chunk_size
    return model._perceive(features, maps)  # the perception part alone, which is what is compared


def seconds(run: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_memory(args: argparse.Namespace) -> float:
    """Return the largest resident memory of this process in MB, after the perception part has run."""
    model, features, maps = prepare(args)
    loop(model, features, maps) if args.measure == 0 else chunked(model, features, maps, args.measure)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(args: argparse.Namespace, task_chunk_size: int) -> str:
    command = [sys.executable, __file__, '--model', args.model, '--tasks', str(args.tasks)]
    command += ['--batch-size', str(args.batch_size), '--measure', str(task_chunk_size)]
    command += ['--channels-last'] * args.channels_last
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
