"""The measurement: each case once per round, in turn, so that all of them meet a drift of the machine; then medians."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from timm.models import get_model_input_config

from ..errors import one_line
from .machine import SECONDS_OF_A_SAMPLE, describe_machine, matrix_product, peak_memory, precision_of_products, timed
from .modes import BenchmarkError, Mode, why_not
from .workload import Run, count_macs, in_mode, num_bytes, prepare, with_image_size

__all__ = ['Benchmark', 'Case', 'measure']


@dataclasses.dataclass(eq=False)
class Case:
    """One network in one mode, on batches of one shape.

    Attributes:
        model: Its name.
        mode: How it ran.
        shape: Of the images, (B, in_chans, H, W).
        num_parameters: How many parameters it has.
        num_macs: Multiply-accumulates of one image.
        weight_bytes: Bytes of its parameters and buffers.
        peak_bytes: Most bytes of tensors at once, weights included.
        logits_difference: Largest difference of a logit from that of 'eager', as a share of the largest of these; None
            of training steps.
        map_difference: Largest difference of the attention map from that of 'eager'; None where there is no map.
        seconds: Of a batch, in each round.
        rates: Multiply-accumulates per second of a product of matrices in the same precision, in each round.
    """

    model: str
    mode: Mode
    shape: tuple[int, ...]
    num_parameters: int
    num_macs: int
    weight_bytes: int
    peak_bytes: int
    logits_difference: float | None
    map_difference: float | None
    seconds: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)

    @property
    def latency(self) -> float:
        """Seconds of a batch."""
        return median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Images per second."""
        return self.shape[0] / self.latency

    @property
    def gflops(self) -> float:
        """GFLOP/s, two for each multiply-accumulate."""
        return 2 * self.num_macs * self.images_per_second / 1e9

    @property
    def share_of_matrix_product(self) -> float:
        """Multiply-accumulates per second as a share of those of a product of matrices in the same round."""
        macs = self.num_macs * self.shape[0]
        return median(macs / seconds / rate for seconds, rate in zip(self.seconds, self.rates, strict=True))

    def time_beside(self, other: 'Case', per_mac: bool = False) -> float:
        """Return the time of a batch as a multiple of another's in the same round.

        Args:
            other: What ran in the same rounds.
            per_mac: Of a multiply-accumulate instead of a batch.
        """
        ratio = median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        return ratio * other.num_macs / self.num_macs if per_mac else ratio


@dataclasses.dataclass(eq=False)
class Benchmark:
    """What was measured.

    Attributes:
        cases: What ran.
        skipped: What did not, and why.
        rates: GFLOP/s of a product of matrices, by precision.
        baseline: Name of the network that the others stand beside; '' without one.
        training: Whether training steps ran.
        machine: Where: see ``describe_machine``.
    """

    cases: list[Case]
    skipped: dict[str, str]
    rates: dict[str, float]
    baseline: str
    training: bool
    machine: dict[str, Any]

    def baseline_of(self, case: Case) -> Case | None:
        """Return the case of the baseline in the same mode, on images of the same shape; None if there is none."""
        same = (
            other
            for other in self.cases
            if (other.model, other.mode, other.shape) == (self.baseline, case.mode, case.shape)
        )
        return None if case.model == self.baseline else next(same, None)


def measure(
    models: Mapping[str, nn.Module],
    modes: Sequence[Mode],
    device: torch.device,
    batch_sizes: Sequence[int] = (8,),
    img_sizes: Sequence[int | None] = (None,),
    rounds: int = 7,
    training: bool = False,
    baseline: str = '',
) -> Benchmark:
    """Measure networks, interleaved: explanations of those that explain themselves, predictions of others.

    Args:
        models: Networks by name, in evaluation mode, on the CPU; they are left as they are.
        modes: How to run them; those for which the device has no fast path are skipped.
        device: Where to run them.
        batch_sizes: Images at once.
        img_sizes: Height and width of images; None for the network's own.
        rounds: How often each case is timed.
        training: Measure training steps instead.
        baseline: Name of the network that the others stand beside.

    Raises:
        BenchmarkError: Images of a size do not pass a network, memory is too small, or nothing is left to measure.
    """
    skipped = {mode.name: reason for mode in modes if (reason := why_not(mode, device))}
    modes = [mode for mode in modes if mode.name not in skipped]
    total = len(models) * len(img_sizes) * len(modes) * len(batch_sizes)
    cases: list[Case] = []
    runs: list[tuple[Run, int]] = []
    try:
        with tqdm(total=total, desc='prepare', leave=False, disable=None) as progress:
            for case, run in _prepared(models, modes, device, batch_sizes, img_sizes, training, skipped):
                if run is not None:
                    cases.append(case)
                    runs.append((run, _repeats(run, device)))
                progress.update()
        if not cases:
            raise BenchmarkError(f'no mode can be measured: {"; ".join(f"{k}: {v}" for k, v in skipped.items())}')
        # a network and its baseline run one after the other, when the machine is as it is for both
        order = sorted(range(len(cases)), key=lambda i: (modes.index(cases[i].mode), cases[i].shape))
        cases, runs = [cases[i] for i in order], [runs[i] for i in order]
        rates = _run_in_turn(cases, runs, device, rounds)
    except torch.OutOfMemoryError:
        raise BenchmarkError('out of memory; try a smaller --batch-size, or fewer modes at once') from None
    return Benchmark(cases, skipped, rates, baseline, training, describe_machine(device))


def _prepared(
    models: Mapping[str, nn.Module],
    modes: Sequence[Mode],
    device: torch.device,
    batch_sizes: Sequence[int],
    img_sizes: Sequence[int | None],
    training: bool,
    skipped: dict[str, str],
) -> Iterator[tuple[Any, Run | None]]:
    """Yield each case, and what runs it, warm; None where it cannot be compiled, which is added to ``skipped``."""
    for (name, model), size in itertools.product(models.items(), img_sizes):
        sized = with_image_size(model, size, name)
        channels, *own = get_model_input_config(sized)['input_size']
        height, width = (size, size) if size else own
        for mode in modes:
            placed = in_mode(sized, mode, device, training)
            for batch_size in batch_sizes:
                generator = torch.Generator().manual_seed(0)
                images = torch.randn(batch_size, channels, height, width, generator=generator).to(device)
                run = prepare(placed, mode, images, training)
                try:
                    outputs = {output: value.float().clone() for output, value in run().items()}
                    run()
                except torch.OutOfMemoryError:
                    raise
                except Exception as error:  # a compiler, or what it needs, is missing; or it cannot compile this
                    if not mode.compiler:
                        raise
                    skipped[f'{mode.name} of {name}'] = one_line(error)
                    yield None, None
                    continue
                differences = _differences(sized, outputs, images) if outputs else {}
                weights = num_bytes(placed)
                case = Case(
                    name,
                    mode,
                    tuple(images.shape),
                    num_parameters=sum(parameter.numel() for parameter in placed.parameters()),
                    num_macs=count_macs(sized, images, training) // batch_size,
                    weight_bytes=weights,
                    peak_bytes=weights + peak_memory(run, device),
                    logits_difference=differences.get('logits'),
                    map_difference=differences.get('attention_map'),
                )
                yield case, run


def _differences(model: nn.Module, outputs: Mapping[str, torch.Tensor], images: torch.Tensor) -> dict[str, float]:
    eager = Mode()
    expected = prepare(in_mode(model, eager, images.device, training=False), eager, images, training=False)()
    differences = {name: (outputs[name] - expected[name]).abs().max().item() for name in expected}
    differences['logits'] /= max(expected['logits'].abs().max().item(), torch.finfo(torch.float32).tiny)
    return differences


def _repeats(run: Callable[[], Any], device: torch.device) -> int:
    return max(1, math.ceil(SECONDS_OF_A_SAMPLE / timed(run, device)))


def _run_in_turn(
    cases: list[Case],
    runs: list[tuple[Run, int]],
    device: torch.device,
    rounds: int,
) -> dict[str, float]:
    """Time each case in each round, and products of matrices beside them, whose GFLOP/s are returned by precision."""
    products = {precision: matrix_product(precision, device) for precision in {case.mode.precision for case in cases}}
    rates: dict[str, list[float]] = {precision: [] for precision in products}

    def time_products() -> None:
        for precision, (product, num_macs) in products.items():
            with precision_of_products(precision):
                seconds = timed(product, device, _REPEATS_OF_PRODUCTS[device.type == 'cuda'])
            rates[precision].append(num_macs / seconds)

    time_products()  # the first product also prepares
    for values in rates.values():
        values.clear()
    with tqdm(total=rounds * len(cases), desc='measure', leave=False, disable=None) as progress:
        for index in range(rounds):
            time_products()
            # each round begins elsewhere, so that no case always follows the same other
            order = [(position + index) % len(cases) for position in range(len(cases))]
            for position in order:
                case, (run, repeats) = cases[position], runs[position]
                case.seconds.append(timed(run, device, repeats))
                case.rates.append(rates[case.mode.precision][-1])
                progress.update()
    return {precision: 2 * median(values) / 1e9 for precision, values in sorted(rates.items())}


_REPEATS_OF_PRODUCTS = {False: 1, True: 20}
