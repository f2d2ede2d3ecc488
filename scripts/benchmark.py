"""Measure what an ABN costs beside its backbone, and beside what the machine can do: time, memory and arithmetic.

Example:
    OMP_NUM_THREADS=1 python scripts/benchmark.py --model abn_resnet50
    OMP_NUM_THREADS=1 python scripts/benchmark.py attached --model tf_efficientnet_lite0 --batch-size 8
    OMP_NUM_THREADS=1 python scripts/benchmark.py tasks --model abn_resnet101 --tasks 40
    OMP_NUM_THREADS=1 python scripts/benchmark.py costs

- start: import of the package, and construction of the network, each in processes of their own;
- explain: a prediction of backbone and network, and an explanation;
- attached: a prediction of the backbone, and what maps of it as it is cost beside, with and without a refinement;
- training: a step of the backbone, of the network, and of the network with the loss of masked images;
- tasks: a multi-task network beside a loop over its tasks, which runs the perception branch once for each;
- costs: writes the table of docs/costs.md, for ten backbones. The text of the page is kept.

What is compared runs in turn, as does a product of matrices: a drift of the machine hits all. Figures are medians of
rounds, multiples are medians of those within a round. On a CPU with one thread times are of the processor, which other
work on the machine hardly touches. Memory: weights, and the most of other tensors at once.
"""

import argparse
import copy
import dataclasses
import functools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from huggingface_hub.utils import tqdm
from timm.models import get_model_input_config
from torch.utils.flop_counter import FlopCounterMode

import timm_abn.task  # registers the models, too
from timm_abn.models.loading import untrained_model
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import staged_file
from timm_abn_cli.argument_types import device, positive
from timm_abn_cli.table import format_table

TARGET = Path(__file__).resolve().parents[1] / 'docs' / 'costs.md'
START, END = '<!-- written by scripts/benchmark.py -->', '<!-- end -->'
BACKBONES = (
    *('resnet18', 'resnet50', 'resnet152', 'densenet121', 'mobilenetv3_large_100', 'efficientnet_b0'),
    *('convnext_tiny', 'swin_tiny_patch4_window7_224', 'vit_small_patch16_224', 'pvt_v2_b0'),
)
SECONDS_OF_A_SAMPLE = 0.05  # what is shorter is run several times, so that clocks and interrupts count little
SIDES = {'cuda': 8192, 'cpu': 4096}  # of matrices: smaller ones do not reach the rate of the machine
CHUNK_SIZES = (1, 8, 40)

Run = Callable[[], Any]


@dataclasses.dataclass(eq=False)
class Case:
    """What is timed, of how many images; of it, multiply-accumulates of one image, and most bytes of tensors at once.

    In each round: the seconds, and multiply-accumulates per second of a product of matrices.
    """

    name: str
    run: Run
    images: int
    num_macs: int
    num_bytes: int
    seconds: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)

    @property
    def share_of_product(self) -> float:
        """Multiply-accumulates per second as a share of those of a product of matrices in the same round."""
        macs = self.num_macs * self.images
        return median(macs / seconds / rate for seconds, rate in zip(self.seconds, self.rates, strict=True))

    def time_beside(self, other: 'Case', per_mac: bool = False) -> float:
        """Return the time of a run, or of a multiply-accumulate, as a multiple of another's in the same round."""
        ratio = median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))
        return ratio * other.num_macs / self.num_macs if per_mac else ratio


def measure(cases: Sequence[Case], place: torch.device, rounds: int) -> None:
    """Time all cases, and a product of matrices, in each round, which begins with another case each time."""
    matrix = torch.randn(2 * (SIDES[place.type],), device=place)
    product: Run = lambda: matrix @ matrix  # noqa: E731
    timed(product, place)  # the first also prepares
    for case in cases:
        case.run()
    repeats = [max(1, math.ceil(SECONDS_OF_A_SAMPLE / timed(case.run, place))) for case in cases]
    for index in range(rounds):
        rate = len(matrix) ** 3 / timed(product, place, repeats=20 if place.type == 'cuda' else 1)
        for position in range(len(cases)):
            number = (position + index) % len(cases)
            cases[number].seconds.append(timed(cases[number].run, place, repeats[number]))
            cases[number].rates.append(rate)


def timed(run: Run, place: torch.device, repeats: int = 1) -> float:
    """Return the mean seconds of a run, until the device has done all of it."""
    clock = time.process_time if place.type == 'cpu' and torch.get_num_threads() == 1 else time.perf_counter
    wait = torch.cuda.synchronize if place.type == 'cuda' else lambda: None
    wait()
    start = clock()
    for _ in range(repeats):
        run()
        wait()
    return (clock() - start) / repeats


def peak_memory(run: Run, place: torch.device) -> int:
    """Return the most bytes of tensors that a run has at once, beyond those that were there before.

    What libraries take for themselves, such as oneDNN for its intermediate forms of weights, is not among them.
    """
    if place.type == 'cuda':
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(place)
        torch.cuda.reset_peak_memory_stats(place)
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(place) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # the profiler's library writes to the error output, below Python
    try:
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            run()
    finally:
        os.dup2(kept, 2)
    # events() of the public interface adds up what an operator takes and gives back, and so hides the peak
    results: Any = profile.profiler.kineto_results
    events = sorted((e for e in results.events() if e.name() == '[memory]'), key=lambda event: event.start_ns())
    present = peak = 0
    for event in events:
        present += event.nbytes()
        peak = max(peak, present)
    return peak


def count_macs(model: Any, images: torch.Tensor, prepare: Callable[[Any, torch.Tensor], Run]) -> int:
    """Return the multiply-accumulates of a run, counted on the meta device, where attention is made of products."""
    run = prepare(copy.deepcopy(model).to('meta'), images.to('meta'))
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def predict(model: Any, images: torch.Tensor) -> Run:
    """Return what predicts."""
    return torch.inference_mode()(lambda: model(images))


def explain(model: Any, images: torch.Tensor) -> Run:
    """Return what explains where the model can, and else predicts."""
    return torch.inference_mode()(lambda: (model.explain if hasattr(model, 'explain') else model)(images))


def explain_predicted(model: Any, images: torch.Tensor) -> Run:
    """Return what explains the predicted class alone."""
    return torch.inference_mode()(lambda: model.explain(images, class_maps=False))


def step(loss: Callable[..., nn.Module], model: Any, images: torch.Tensor) -> Run:
    """Return a training step: forward, a loss of timm_abn.task, backward and plain SGD."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4)
    criterion, target = loss(F.cross_entropy), torch.zeros(len(images), dtype=torch.long, device=images.device)

    def run() -> None:
        optimizer.zero_grad()
        criterion(model(images), target).backward()
        optimizer.step()

    return run


def loop(model: Any, images: torch.Tensor) -> Run:
    """Return what runs the perception branch of a multi-task network once for each task."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        features = model.extract(images)
        maps = model.attention_map(features, images, None).split(1, dim=1)
        outputs = [model.forward_perception(model.gate(features, one)) for one in maps]
        return torch.stack([output[:, 2 * t + 1] - output[:, 2 * t] for t, output in enumerate(outputs)], dim=1)

    return run


def in_chunks(size: int, model: Any, images: torch.Tensor) -> Run:
    """Return what runs a multi-task network with chunks of tasks."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        model.task_chunk_size = size
        return model(images)

    return run


def make_case(name: str, model: Any, prepare: Callable[[Any, torch.Tensor], Run], args: argparse.Namespace) -> Case:
    """Return what times a run of a model, its arithmetic and its memory."""
    model = model.to(args.device)
    images = torch.randn(args.batch_size, *get_model_input_config(model)['input_size']).to(args.device)
    macs = count_macs(model, images, prepare) // len(images)
    run = prepare(model, images)
    run()  # the first also prepares
    weights = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    return Case(name, run, len(images), macs, weights + peak_memory(run, args.device))


def make_cases(section: str, args: argparse.Namespace) -> list[Case]:
    """Return what a section compares."""
    name, ours = args.model.removeprefix('abn_'), args.model
    if section == 'tasks':
        model = timm.create_model(ours, num_classes=args.tasks, multi_task=True).eval()
        runs = {'loop over the tasks': loop}
        runs |= {f'chunks of {size}': functools.partial(in_chunks, size) for size in CHUNK_SIZES}
        return [make_case(title, model, prepare, args) for title, prepare in runs.items()]
    if section == 'attached':
        plain = timm.create_model(name).eval()
        attached, refined = timm_abn.attach(plain), timm_abn.attach(plain)
        refined.refinement = refined.new_refinement().eval()
        maps = {'map of the predicted class': explain_predicted, 'maps of all classes': explain}
        cases = [
            (f'{kind}{title}', model, prepare)
            for kind, model in (('', attached), ('refined, ', refined))
            for title, prepare in maps.items()
        ]
        return [make_case(*case, args) for case in [(name, plain, predict), *cases]]
    backbone, network, masked = (timm.create_model(which).eval() for which in (name, ours, ours))
    if section == 'explain':
        cases = (name, backbone, predict), (ours, network, predict), (f'{ours}.explain', network, explain)
    else:
        of_paper = functools.partial(step, timm_abn.task.AttentionBranchLoss)
        faithful = functools.partial(step, timm_abn.task.FaithfulMapLoss)
        cases = (
            (name, backbone, of_paper),
            (ours, network, of_paper),
            ('and masked images', timm_abn.task.FaithfulTraining(masked), faithful),
        )
    return [make_case(*case, args) for case in cases]


def report(cases: Sequence[Case]) -> str:
    """Return a table of cases, each beside the first."""
    columns = ('', 'ms', 'images/s', 'time', 'GMACs', 'GFLOP/s', 'of product', 'memory (MB)')
    lines = []
    for case in cases:
        seconds = median(case.seconds)
        line = [case.name, f'{seconds * 1e3:.1f}', f'{case.images / seconds:.1f}', f'{case.time_beside(cases[0]):.2f}x']
        gflops = 2 * case.num_macs * case.images / seconds / 1e9
        line += [f'{case.num_macs / 1e9:.2f}', f'{gflops:.0f}', f'{case.share_of_product:.0%}']
        lines.append([*line, f'{case.num_bytes / 2**20:.0f}'])
    return format_table(columns, lines, right=columns[1:])


def measure_start(args: argparse.Namespace) -> str:
    """Measure import and construction, each in a process of its own."""
    construct = 'import timm, timm_abn; timm.create_model("abn", backbone="test_resnet")'
    codes = {'import timm': 'pass', 'import timm_abn': 'pass'}
    codes |= {f'timm.create_model("{name}")': construct for name in (args.model.removeprefix('abn_'), args.model)}
    seconds: dict[str, list[float]] = {code: [] for code in codes}
    for code, before in [*codes.items()] * args.rounds:
        clock = f'import time; {before}; start = time.process_time(); {code}; print(time.process_time() - start)'
        done = subprocess.run([sys.executable, '-c', clock], check=True, capture_output=True, text=True)
        seconds[code].append(float(done.stdout))
    return '\n'.join(f'{code}: {median(values):.3f} s' for code, values in seconds.items())


def write_costs(args: argparse.Namespace) -> str:
    """Write the table of docs/costs.md: an explanation of each ABN beside a prediction of its backbone."""
    args.batch_size = 1
    rows = []
    for backbone in tqdm(args.backbones, unit='backbone'):
        models: Any = untrained_model(backbone), untrained_model('abn', backbone=backbone)
        plain, abn = cases = [make_case(backbone, model, explain, args) for model in models]
        measure(cases, args.device, args.rounds)
        figures = [
            (
                f'{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f}',
                f'{case.num_macs / 1e9:.2f}',
                f'{median(case.seconds) * 1e3:.0f}',
                f'{case.num_bytes / 2**20:.0f}',
            )
            for model, case in zip(models, cases)
        ]
        times = (f'{abn.time_beside(plain, per_mac):.2f}x' for per_mac in (False, True))
        rows.append([f'`{backbone}`', *(figure for both in zip(*figures) for figure in both), *times])
    columns = ('parameters (M)', 'GMACs', 'ms per image', 'memory (MB)')
    header = ('backbone', *(name for column in columns for name in (column, 'with ABN')), 'time', 'time per GMAC')
    before, _, rest = args.target.read_text(encoding='utf-8').partition(START)
    after = rest.partition(END)[2]
    with staged_file(args.target) as staged:
        text = f'{before}{START}\n\n{markdown_table(header, rows)}\n\n{END}{after}'
        staged.write_text(text, encoding='utf-8')
    return f'Written to: {args.target}'


def main() -> None:
    """Measure what is asked for, and print it."""
    args = parse_args()
    where = torch.cuda.get_device_name(args.device) if args.device.type == 'cuda' else 'CPU'
    print(f'{where}, torch {torch.__version__}, timm {timm.__version__}, {torch.get_num_threads()} threads')
    for section in args.sections:
        torch.manual_seed(0)
        print(f'\n{section}')
        if section in ALONE:
            print(ALONE[section](args))
        else:
            cases = make_cases(section, args)
            measure(cases, args.device, args.rounds)
            print(report(cases))


ALONE = dict(start=measure_start, costs=write_costs)
SECTIONS = ('start', 'explain', 'attached', 'training', 'tasks', 'costs')


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sections', nargs='*', default=SECTIONS[:-1], help='which (default: all but costs)')
    parser.add_argument('--model', default='abn_resnet50', help='an ABN, called like its backbone (%(default)s)')
    parser.add_argument('--tasks', type=positive, default=40, help='of the multi-task network (default: %(default)s)')
    parser.add_argument('--backbones', nargs='+', default=BACKBONES, help='of costs (default: ten)')
    parser.add_argument('--batch-size', type=positive, default=2, help='images (default: %(default)s; costs: 1)')
    parser.add_argument('--rounds', type=positive, default=7, help='default: %(default)s')
    parser.add_argument('--device', type=device, default=torch.device('cpu'), help='default: %(default)s')
    parser.add_argument('--target', type=Path, default=TARGET, help='of costs (default: docs/costs.md)')
    args = parser.parse_args()
    if unknown := [name for name in args.sections if name not in SECTIONS]:
        parser.error(f'there is no {unknown[0]!r}; there are {", ".join(SECTIONS)}')
    return args


if __name__ == '__main__':
    main()
