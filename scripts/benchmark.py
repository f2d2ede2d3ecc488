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

What is compared runs in turn (timing.py). Times are multiples of the first line's. The ceiling is the machine's best
rate in the same rounds: of a product of matrices, or of a convolution. On a CPU with one thread times are of the
processor, which other work on the machine hardly touches. Memory: weights, and the most of other tensors at once.
"""

import argparse
import functools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from huggingface_hub.utils import tqdm
from timing import Case, Run, count_macs, measure, peak_memory
from timm.models import get_model_input_config

import timm_abn.task  # registers the models, too
from timm_abn.models.loading import untrained_model
from timm_abn.publish.markdown import markdown_table, write_between
from timm_abn_cli.argument_types import device, positive
from timm_abn_cli.table import format_table

TARGET = Path(__file__).resolve().parents[1] / 'docs' / 'costs.md'
START, END = '<!-- written by scripts/benchmark.py -->', '<!-- end -->'
BACKBONES = (
    *('resnet18', 'resnet50', 'resnet152', 'densenet121', 'mobilenetv3_large_100', 'efficientnet_b0'),
    *('convnext_tiny', 'swin_tiny_patch4_window7_224', 'vit_small_patch16_224', 'pvt_v2_b0'),
)
CHUNK_SIZES = (1, 8, 40)


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
    columns = ('', 'ms', 'images/s', 'time', 'GMACs', 'GFLOP/s', 'of ceiling', 'memory (MB)')
    lines = []
    for case in cases:
        seconds = median(case.seconds)
        line = [case.name, f'{seconds * 1e3:.1f}', f'{case.images / seconds:.1f}', f'{case.time_beside(cases[0]):.2f}x']
        gflops = 2 * median(case.rates) / 1e9
        line += [f'{case.num_macs / 1e9:.2f}', f'{gflops:.0f}', f'{case.share_of_ceiling:.0%}']
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
    write_between(args.target, START, END, f'\n\n{markdown_table(header, rows)}\n\n')
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
            best = measure(cases, args.device, args.rounds)
            print(report(cases))
            print(f'ceiling: {2 * median(best.rates) / 1e9:.0f} GFLOP/s ({best.name})')


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
