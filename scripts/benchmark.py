"""Measure what an ABN costs beside its backbone: import, construction, evaluation.

Example:
    python scripts/benchmark.py --model abn_resnet152
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

REPEATS = 7


def main() -> None:
    """Print one line per figure, medians of several runs, each of them in a process of its own where it matters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='abn_resnet152', help='name of an ABN (default: %(default)s)')
    parser.add_argument('--measure', choices=['timm', 'timm_abn', 'backbone', 'model'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure_once(args.measure, args.model)
        return
    import timm

    import timm_abn  # noqa: F401  registers the models

    backbone = timm.model_entrypoint(args.model).__name__.removeprefix('abn_')

    plain, plugin = in_turn('timm', 'timm_abn', args.model)
    report('import', 'timm', plain[0], 'timm_abn', plugin[0])
    plain, plugin = in_turn('backbone', 'model', args.model)
    report('construction', backbone, plain[0], args.model, plugin[0])
    print(
        f'peak memory of construction: {plugin[1]:.0f} MB above the imports, '
        f'{plugin[1] / plugin[2]:.2f}x the {plugin[2]:.0f} MB of the parameters'
    )
    evaluation(args.model, backbone)


def in_turn(first: str, second: str, model: str) -> list[list[float]]:
    """Return the medians of what both measure, run alternately, so that a drift of the machine hits both."""
    results: list[list[list[float]]] = [[], []]
    for _ in range(REPEATS):
        for index, what in enumerate((first, second)):
            command = [sys.executable, __file__, '--measure', what, '--model', model]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            results[index].append([float(value) for value in output.split()])
    return [[statistics.median(column) for column in zip(*rows)] for rows in results]


def measure_once(what: str, model: str) -> None:
    start = time.process_time()
    import timm

    if what != 'timm':
        import timm_abn
    if what in ('timm', 'timm_abn'):
        print(time.process_time() - start)
        return
    import torch

    import timm_abn  # noqa: F401

    torch.set_num_threads(1)
    name = model.removeprefix('abn_') if what == 'backbone' else model
    timm.create_model('abn', backbone='test_resnet')  # what is imported or cached on first use is not the model's cost
    before = peak_memory()
    start = time.process_time()
    network = timm.create_model(name)
    seconds = time.process_time() - start
    size = sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    print(seconds, peak_memory() - before, size)


def peak_memory() -> float:
    """Return the largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def evaluation(model: str, backbone: str) -> None:
    """Print the time of an evaluation forward pass beside the backbone's, and that of an explanation."""
    import timm
    import torch

    networks = [timm.create_model(name).eval() for name in (backbone, model)]
    images = torch.randn(2, *networks[0].pretrained_cfg['input_size'])
    with torch.inference_mode():
        plain, attended, explained = (
            median_time(run)
            for run in (lambda: networks[0](images), lambda: networks[1](images), lambda: networks[1].explain(images))
        )
    report('evaluation, batch 2', backbone, plain, model, attended)
    report('explanation, batch 2', model, attended, f'{model}.explain', explained)


def median_time(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def report(what: str, first_name: str, first: float, second_name: str, second: float) -> None:
    print(f'{what}: {first_name} {first:.3f} s, {second_name} {second:.3f} s, ratio {second / first:.2f}', flush=True)


if __name__ == '__main__':
    main()
