"""Measure what networks of this package cost on a GPU, and check that they compute there what they do on a CPU.

Example, from the root of the repository, with or without an installation of the package:
    PYTHONPATH=. TIMM_SCRIPTS=pytorch-image-models python scripts/gpu.py
    PYTHONPATH=. python scripts/gpu.py --minutes 15 --networks resnet50 convnext_tiny
    PYTHONPATH=. python scripts/gpu.py --device cpu --networks test_resnet --batch-size 2 --images 8 --steps 2

Networks have random weights, and run in bfloat16 (autocast) and channels-last unless a table says otherwise. What is
compared runs in turn (timing.py); figures are medians, and time is a multiple of the first line's. The quick rows are
measured first, compilation last; one that fails, or for which no time is left, says so in its table. After each row
--out has gpu.json and, on a GPU, docs/costs.md has the tables. Nothing is fetched.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import timm
import torch
import torch.nn as nn
from benchmark import CHUNK_SIZES, TARGET, explain, in_chunks, loop, make_case, step
from PIL import Image
from rows import Line, Row, measure_rows, tables
from timing import Case, Run, measure, timed, waits
from timm.models import get_model_input_config

import timm_abn.task
from timm_abn.errors import TimmAbnError
from timm_abn.models.loading import untrained_model
from timm_abn.publish.markdown import write_between
from timm_abn.staging import check_output_folder, staged_file
from timm_abn_cli.argument_types import device, positive, positive_number

BEGIN, END = '<!-- written by scripts/gpu.py -->', '<!-- end of scripts/gpu.py -->'
NETWORKS = ('resnet50', 'vit_small_patch16_224', 'convnext_tiny', 'resnet152', 'seresnet152')
TASKS, ROUNDS = 40, 5
KINDS = ('backbone', 'abn', 'attached')
# timm's train.py and its launcher take one process for none, and leave NCCL out
ONE_OF_SEVERAL = """
import sys, timm.utils.distributed as of_timm, timm_abn.training.command as of_launcher
of_timm.is_distributed_env = of_launcher.is_one_of_several = lambda *_: True
from timm_abn_cli.training import train
sys.exit(train())
"""
HEADINGS = dict(
    ceiling='The best rate of the card in bfloat16, of a product of matrices or a convolution:',
    equality='Logits and map of `explain()` in float32 without TF32: the greatest difference from the CPU, relative to '
    'the greatest value (goal: 1e-4):',
    waits='What makes the processor wait for the card within `explain()` (goal: nothing):',
    explain='Predictions of the backbone, and `explain()` (goal: attached to it, 1.1x of the time):',
    graphs='A prediction of one image, and `explain()`, as a CUDA graph:',
    training='Training steps (goal: time per GMAC 1.0x of the backbone):',
    tasks='Predictions of a multi-task network, in chunks and in a loop over its tasks:',
    evaluate='`timm_abn.evaluate` of an attention map in float32, from JPEG files:',
    script="timm's `train.py` from JPEG files, as one process of torchrun with NCCL:",
    compiled='Training steps with `torch.compile` (goal: 1.3x as fast):',
)

training_step = functools.partial(step, timm_abn.task.AttentionBranchLoss)


def in_bfloat16(prepare: Callable[..., Run], compiled: bool = False, as_graph: bool = False) -> Callable[..., Run]:
    """Return what prepares a run in bfloat16 and channels-last; on the meta device, where work is counted, a plain one.

    A graph is captured without autocast's cache, which would keep weights beyond the capture.
    """

    def prepare_run(model: Any, images: torch.Tensor) -> Run:
        if images.is_meta:
            return prepare(model, images)
        model = model.to(memory_format=torch.channels_last)
        in_float32 = prepare(
            torch.compile(model, dynamic=False) if compiled else model,
            images.contiguous(memory_format=torch.channels_last),
        )

        def run() -> None:
            with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=not as_graph):
                in_float32()

        return captured(run) if as_graph else run

    return prepare_run


def captured(run: Run) -> Run:
    """Return what replays a run as a CUDA graph."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where libraries choose their kernels, and take memory of their own
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def figures_of(case: Case, first: Case) -> Line:
    """Return what the tables say of a case."""
    figures: Line = {'': case.name, 'images/s': case.images / median(case.seconds), 'time': case.time_beside(first)}
    return figures | {'of ceiling (%)': 100 * case.share_of_ceiling, 'memory (GB)': case.num_bytes / 1e9}


def goal(is_met: bool) -> Line:
    """Return what the tables say of a goal."""
    return {'goal': 'met' if is_met else 'missed'}


class Measurement:
    """The functions that measure rows, and what they share: models, which are built once, and generated photos."""

    def __init__(self, args: argparse.Namespace, folder: Path, end: float) -> None:
        self.args, self.device, self.folder, self.end = args, args.device, folder, end
        self.models: dict[tuple[str, str], Any] = {}

    def rows(self) -> Iterator[Row]:
        """Yield what is measured, in this order."""
        networks, first = self.args.networks, self.args.networks[0]
        yield Row('ceiling', 'bfloat16', self.ceiling)
        explained = [f'multi-task {first}', *(f'{kind} {name}' for kind in KINDS[1:] for name in networks[:2])]
        for section, figures in (('equality', self.equality), ('waits', self.waits)):
            yield from (Row(section, name, figures) for name in explained)
        for section, figures in (('explain', self.explain), ('graphs', self.graphs), ('training', self.training)):
            yield from (Row(section, network, figures) for network in networks)
        yield Row('tasks', f'multi-task {first}', self.tasks)
        yield Row('evaluate', f'abn {first}', self.evaluate)
        yield Row('script', f'abn {first}', self.script)
        yield from (
            Row('compiled', f'{kind} {name}', self.compiled) for kind in ('abn', 'backbone') for name in networks
        )

    def model(self, name: str) -> Any:
        """Return a model for evaluation, built once: a kind, and the name of a backbone."""
        kind, network = name.split()
        if (kind, network) not in self.models:
            self.models[kind, network] = self.new_model(kind, network)
        return self.models[kind, network].eval()

    def new_model(self, kind: str, network: str) -> Any:
        """Return a backbone, the backbone with maps, or an ABN over it; with random weights, none of them 0."""
        if kind == 'attached':
            return timm_abn.attach(self.model(f'backbone {network}'))
        own = f'abn_{network}' if timm.is_model(f'abn_{network}') else 'abn'
        options: dict[str, Any] = dict(backbone=network) if own == 'abn' else {}
        options |= dict(multi_task=True, num_classes=TASKS) if kind == 'multi-task' else {}
        torch.manual_seed(0)
        model = untrained_model(network) if kind == 'backbone' else untrained_model(own, **options)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        return model

    def cases(self, names: list[str], prepare: Callable[..., Run], batch_size: int = 0) -> list[Case]:
        """Return what times models."""
        args = argparse.Namespace(device=self.device, batch_size=batch_size or self.args.batch_size)
        return [make_case(name, self.model(name), prepare, args) for name in names]

    def compare(self, cases: list[Case]) -> Case:
        """Time cases beside each other, and beside the best of the card, which is returned."""
        torch.backends.cudnn.benchmark = True
        return measure(cases, self.device, ROUNDS, torch.bfloat16)

    def ceiling(self, _: str) -> list[Line]:
        """Measure the best rate of the card."""
        best = self.compare([])
        return [{'': best.name, 'TFLOP/s': 2 * median(best.rates) / 1e12}]

    def equality(self, name: str) -> list[Line]:
        """Compare an explanation with that of the CPU."""
        model: Any = self.model(name).cpu()
        images = torch.randn(2, *get_model_input_config(model)['input_size'])
        expected = model.explain(images)
        model, images, cudnn = model.to(self.device), images.to(self.device), torch.backends.cudnn
        cudnn.allow_tf32, cudnn.deterministic = False, True
        try:
            found = model.explain(images)
        finally:
            cudnn.allow_tf32, cudnn.deterministic = True, False
        pairs = dict(logits=(expected.logits, found.logits), map=(expected.attention_map, found.attention_map))
        differences = {name: float((a - b.cpu()).abs().max() / a.abs().max()) for name, (a, b) in pairs.items()}
        return [{'': name, **differences, **goal(max(differences.values()) <= 1e-4)}]

    def waits(self, name: str) -> list[Line]:
        """Look for what makes the processor wait for the card."""
        model = self.model(name).to(self.device)
        images = torch.randn(2, *get_model_input_config(model)['input_size']).to(self.device)
        model.explain(images)  # the first also prepares
        found = waits(lambda: model.explain(images), self.device)
        return [{'': name, 'waits': ', '.join(found) or 'nothing', **goal(not found)}]

    def explain(self, network: str) -> list[Line]:
        """Measure explanations of a batch, and of one image."""
        names = [f'{kind} {network}' for kind in KINDS]
        many, one = (self.cases(names, in_bfloat16(explain), size) for size in (self.args.batch_size, 1))
        self.compare([*many, *one])
        lines = [
            figures_of(case, many[0]) | {'ms of one': 1e3 * median(alone.seconds)} for case, alone in zip(many, one)
        ]
        lines[-1] |= goal(many[-1].time_beside(many[0]) <= 1.1)
        return lines

    def graphs(self, network: str) -> list[Line]:
        """Measure explanations of one image, one operator after the other and as a graph."""
        if self.device.type != 'cuda':
            raise TimmAbnError('skipped: CUDA graphs need a GPU')
        names = [f'{kind} {network}' for kind in KINDS]
        eager, graphs = (self.cases(names, in_bfloat16(explain, as_graph=is_graph), 1) for is_graph in (False, True))
        self.compare([*eager, *graphs])
        medians = [[1e3 * median(case.seconds) for case in pair] for pair in zip(eager, graphs)]
        return [{'': name, 'ms eager': one, 'ms as a graph': other} for name, (one, other) in zip(names, medians)]

    def training(self, network: str) -> list[Line]:
        """Measure training steps of a backbone and of its ABN."""
        backbone, abn = cases = self.cases([f'{kind} {network}' for kind in KINDS[:2]], in_bfloat16(training_step))
        self.compare(cases)
        per_mac = abn.time_beside(backbone, per_mac=True)
        lines = [figures_of(case, backbone) | {'GMACs': case.num_macs / 1e9} for case in cases]
        lines[1] |= {'time per GMAC': per_mac, **goal(per_mac <= 1.0)}
        return lines

    def tasks(self, name: str) -> list[Line]:
        """Measure a loop over tasks, and chunks of them."""
        runs = {f'loop over {TASKS}': loop}
        runs |= {f'chunks of {size}': functools.partial(in_chunks, size) for size in CHUNK_SIZES}
        few = -(-self.args.batch_size // 8)
        cases = [self.cases([name], in_bfloat16(prepare), few)[0] for prepare in runs.values()]
        self.compare(cases)
        return [figures_of(case, cases[0]) | {'': f'{name}, {run}'} for run, case in zip(runs, cases)]

    def photos(self, split: str, number: int) -> Path:
        """Return a folder of generated JPEG files in folders of classes."""
        drawn, args = np.random.default_rng(0), self.args
        place, contents = self.folder / 'photo.jpg', []
        for _ in range(min(number, 64)):
            coarse = Image.fromarray(drawn.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            coarse.resize((256, 256), Image.Resampling.BICUBIC).save(place)
            contents.append(place.read_bytes())
        for index in range(number):
            label = index % min(1000, args.images, args.steps * args.batch_size)
            place = self.folder / 'photos' / split / f'{label:03}' / f'{index}.jpg'
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(contents[index % len(contents)])
        return self.folder / 'photos'

    def evaluate(self, name: str) -> list[Line]:
        """Measure an evaluation of as many images as a quarter of the time that is left allows."""
        model, asked = self.model(name).to(self.device), self.args.images
        photos, few = self.photos('validation', asked), min(asked, 32)
        torch.backends.cudnn.benchmark = False  # batches have many sizes

        def seconds_of(number: int) -> float:
            samples = timm_abn.load_samples(model, photos, limit=number)
            return timed(lambda: timm_abn.evaluate(model, samples, ['attention']), self.device)

        seconds_of(few)  # the first also prepares
        allowed = (self.end - time.monotonic()) / 4 * few / seconds_of(few)
        number = min(asked, max(few, int(allowed)))
        return [{'': name, 'images/s': number / seconds_of(number), 'images': f'{number:,} of {asked:,}'}]

    def script(self, name: str) -> list[Line]:
        """Measure timm's own train.py under the launcher."""
        if not os.environ.get('TIMM_SCRIPTS'):
            raise TimmAbnError('skipped: $TIMM_SCRIPTS names no checkout of timm, which has its train.py')
        args, environment = self.args, dict(os.environ, OMP_NUM_THREADS='1')
        environment['PYTHONPATH'] = os.pathsep.join(
            filter(None, (str(TARGET.parents[1]), os.environ.get('PYTHONPATH')))
        )
        photos = self.photos('train', args.steps * args.batch_size)
        self.photos('validation', args.images)
        flags = f'--model abn --model-kwargs backbone={name.split()[1]} --data-dir {photos} --output {self.folder}'
        flags += f' --epochs 1 --batch-size {args.batch_size} --workers {max((os.cpu_count() or 1) - 2, 0)}'
        flags += f' --amp --amp-dtype bfloat16 --channels-last --log-interval 5 --device {self.device.type}'
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr', '127.0.0.1']
        command += ['--no-python', sys.executable, '-c', ONE_OF_SEVERAL, *flags.split()]
        one_output: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with subprocess.Popen(command, env=environment, **one_output) as process:
            try:
                log = process.communicate(timeout=max(self.end - time.monotonic(), 1))[0]
            except subprocess.TimeoutExpired:
                process.terminate()  # torchrun ends what it has started
                raise TimmAbnError('no time left for all of its steps') from None
        steps = re.findall(r'Train: 0 .*?Time: ([\d.]+)s, +([\d.]+)/s .*Data: ([\d.]+)', log)
        if process.returncode or not steps or 'Training in distributed mode' not in log:
            reasons = re.findall(r'^[\w. -]*[Ee]rror: .+', log, re.MULTILINE) or log.split('\n')[-2:]
            raise TimmAbnError(f'train.py ended with {process.returncode}: {reasons[-1]}')
        seconds, rates, reading = ([float(figure) for figure in column] for column in zip(*steps))
        return [{'': name, 'images/s': median(rates), 'waits for images (%)': 100 * sum(reading) / sum(seconds)}]

    def compiled(self, name: str) -> list[Line]:
        """Measure training steps, eager and compiled."""
        torch._dynamo.reset()
        eager, start = self.cases([name], in_bfloat16(training_step))[0], time.monotonic()
        compiled = self.cases([name], in_bfloat16(training_step, compiled=True))[0]
        seconds = time.monotonic() - start
        self.compare([eager, compiled])
        times_as_fast = eager.time_beside(compiled)
        line = figures_of(compiled, eager) | {'as fast': times_as_fast, 'compilation (s)': seconds}
        return [line | goal(times_as_fast >= 1.3)]


def facts_of(place: torch.device) -> dict[str, str]:
    """Return the card, and the versions of what computes."""
    card = torch.cuda.get_device_name(place) if place.type == 'cuda' else 'none, a CPU'
    facts = dict(card=card, CUDA=torch.version.cuda, cuDNN=torch.backends.cudnn.version(), torch=torch.__version__)
    return {name: str(fact) for name, fact in {**facts, 'timm': timm.__version__}.items()}


def main() -> int:
    """Measure, and write."""
    args = parse_args()
    end, facts = time.monotonic() + 60 * args.minutes, facts_of(args.device)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(Measurement(args, Path(folder), end).rows())

        def write() -> None:
            found = [dict(section=row.section, name=row.name, lines=row.lines, problem=row.problem) for row in rows]
            with staged_file(args.out / 'gpu.json') as staged:
                staged.write_text(json.dumps(dict(facts, rows=found), indent=1), encoding='utf-8')
            if args.target:
                said = ', '.join(f'{name} {value}' for name, value in facts.items())
                write_between(args.target, BEGIN, END, f'\n\nMeasured with: {said}.\n\n{tables(rows, HEADINGS)}\n\n')

        measure_rows(rows, end, write)
    print(tables(rows, HEADINGS))
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', default=NETWORKS, help='backbones, the smallest first (default: five)')
    parser.add_argument('--batch-size', type=positive, default=128, help='default: %(default)s; tasks: an eighth')
    parser.add_argument('--images', type=positive, default=2000, help='to evaluate (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=200, help="of timm's train.py (default: %(default)s)")
    parser.add_argument('--minutes', type=positive_number, default=8, help='no row begins later (default: %(default)s)')
    parser.add_argument('--device', type=device, help='cpu tries the script itself (default: the GPU)')
    parser.add_argument('--out', type=Path, default=Path('outputs/gpu'), help='folder (default: %(default)s)')
    parser.add_argument('--target', type=Path, help='page with the tables (default: docs/costs.md, from a GPU)')
    args = parser.parse_args()
    if args.device is None and not torch.cuda.is_available():
        parser.exit(2, f'{parser.prog}: torch finds no GPU here; with --device cpu the script tries itself.\n')
    args.device = args.device or torch.device('cuda', 0)
    args.target = args.target or (TARGET if args.device.type == 'cuda' else None)
    if args.target and not args.target.is_file():
        parser.error(f'--target must be a page that exists, got {args.target}')
    try:
        check_output_folder(args.out)
    except OSError as error:
        parser.error(f'--out: {error}')
    return args


if __name__ == '__main__':
    sys.exit(main())
