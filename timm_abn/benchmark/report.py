"""A benchmark as a table, and as JSON."""

from typing import Any

from ..console.table import format_table
from .measuring import Benchmark, Case

__all__ = ['report', 'to_json']

_COLUMNS = (
    'model',
    'mode',
    'images',
    'images/s',
    'ms',
    'memory (MB)',
    'GMACs',
    'GFLOP/s',
    'of product',
)


def report(benchmark: Benchmark) -> str:
    """Return a benchmark as text: where it ran, a table, and what was skipped.

    Args:
        benchmark: What was measured.
    """
    columns = list(_COLUMNS)
    if benchmark.baseline:
        columns += ['time', 'per GMAC']
    if not benchmark.training:
        columns += ['logits +-', 'map +-']
    rows = [_cells(benchmark, case) for case in benchmark.cases]
    lines = [
        ', '.join(f'{name} {value}' for name, value in benchmark.machine.items() if value is not None),
        'product of matrices: ' + ', '.join(f'{key} {rate:.0f} GFLOP/s' for key, rate in benchmark.rates.items()),
        '',
        format_table(columns, rows, right=columns[3:]),
    ]
    if benchmark.baseline:
        lines.append(f'\ntime, per GMAC: as a multiple of that of {benchmark.baseline} in the same mode')
    lines += [f'skipped {name}: {reason}' for name, reason in benchmark.skipped.items()]
    return '\n'.join(lines)


def _cells(benchmark: Benchmark, case: Case) -> list[str]:
    batch_size, _, height, width = case.shape
    cells = [
        case.model,
        case.mode.name,
        f'{batch_size} x {height} x {width}',
        f'{case.images_per_second:.1f}',
        f'{case.latency * 1e3:.2f}',
        f'{case.peak_bytes / 2**20:.0f}',
        f'{case.num_macs / 1e9:.2f}',
        f'{case.gflops:.0f}',
        f'{case.share_of_matrix_product:.0%}',
    ]
    if benchmark.baseline:
        other = benchmark.baseline_of(case)
        cells += ['', ''] if other is None else [f'{case.time_beside(other, per):.2f}x' for per in (False, True)]
    if not benchmark.training:
        cells += [_small(case.logits_difference), _small(case.map_difference)]
    return cells


def _small(number: float | None) -> str:
    return '' if number is None else f'{number:.0e}'


def to_json(benchmark: Benchmark) -> dict[str, Any]:
    """Return a benchmark as JSON knows it; times are seconds of a batch, memory is in bytes.

    Args:
        benchmark: What was measured.
    """
    return dict(
        machine=benchmark.machine,
        matrix_product_gflops=benchmark.rates,
        work='training step' if benchmark.training else 'explanation',
        baseline=benchmark.baseline or None,
        skipped=benchmark.skipped,
        cases=[_case_json(benchmark, case) for case in benchmark.cases],
    )


def _case_json(benchmark: Benchmark, case: Case) -> dict[str, Any]:
    other = benchmark.baseline_of(case)
    return dict(
        model=case.model,
        mode=case.mode.name,
        precision=case.mode.precision,
        shape=list(case.shape),
        parameters=case.num_parameters,
        macs_per_image=case.num_macs,
        latency=case.latency,
        images_per_second=case.images_per_second,
        gflops=case.gflops,
        share_of_matrix_product=case.share_of_matrix_product,
        weight_bytes=case.weight_bytes,
        peak_bytes=case.peak_bytes,
        time_of_baseline=None if other is None else case.time_beside(other),
        time_per_mac_of_baseline=None if other is None else case.time_beside(other, per_mac=True),
        logits_difference=case.logits_difference,
        map_difference=case.map_difference,
        seconds=case.seconds,
    )
