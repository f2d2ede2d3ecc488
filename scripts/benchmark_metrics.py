"""Measure what deletion and insertion cost beside as many plain forward passes of the same network.

Both run alternately in one process, in the same batches; the ratio is that of the medians.

Example:
    python scripts/benchmark_metrics.py --model resnet18 --size 224 --batch-size 32 --steps 224
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch

import timm_abn  # noqa: F401  registers the models
from timm_abn.explain.metrics import deletion_and_insertion_curves


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='resnet18', help='name of a timm model (default: %(default)s)')
    parser.add_argument('--size', type=int, default=224, help='height and width (default: %(default)s)')
    parser.add_argument('--images', type=int, default=1, help='how many images (default: %(default)s)')
    parser.add_argument('--steps', type=int, default=224, help='steps of each curve (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=32, help='default: %(default)s')
    parser.add_argument('--repeats', type=int, default=5, help='default: %(default)s')
    parser.add_argument('--threads', type=int, help="of torch (default: torch's)")
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = timm.create_model(args.model).eval().to(args.device)
    images = torch.randn(args.images, 3, args.size, args.size, device=args.device)
    maps = torch.rand(args.images, 1, 7, 7, device=args.device)
    sizes = batch_sizes(args.images, args.steps, args.batch_size)
    plain, curves = medians_in_turn(
        [
            lambda: plain_passes(model, images, sizes),
            lambda: deletion_and_insertion_curves(model, images, maps, steps=args.steps, batch_size=args.batch_size),
        ],
        args.repeats,
    )
    print(
        f'{args.model}, {args.size} px, {args.images} images, {args.steps} steps, batches of {args.batch_size}, '
        f'{args.device}: {sum(sizes)} plain forward passes {plain:.3f} s, deletion and insertion {curves:.3f} s, '
        f'ratio {curves / plain:.3f}'
    )


def batch_sizes(images: int, steps: int, batch_size: int) -> list[int]:
    """Return the sizes of the batches that pass the model: whole images, then the steps of either curve."""
    sizes = []
    for total in (images, images * steps, images * steps):
        sizes += [batch_size] * (total // batch_size) + [total % batch_size] * (total % batch_size > 0)
    return sizes


@torch.no_grad()
def plain_passes(model: torch.nn.Module, images: torch.Tensor, sizes: list[int]) -> None:
    batch = images.repeat(-(-max(sizes) // len(images)), 1, 1, 1)
    for size in sizes:
        model(batch[:size])


def medians_in_turn(runs: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median seconds of each, run alternately, so that a drift of the machine hits all; first a warm-up."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for run, times in zip(runs, seconds):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]


if __name__ == '__main__':
    main()
