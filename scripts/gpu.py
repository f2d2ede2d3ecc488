"""Measure what networks of this package cost on one GPU, and check that they compute there what they do on a CPU.

Example, without an installation of the package, and with timm's scripts for its train.py:
    PYTHONPATH=. TIMM_SCRIPTS=pytorch-image-models python scripts/gpu.py
    PYTHONPATH=. python scripts/gpu.py --minutes 15 --networks resnet50 convnext_tiny --out outputs/gpu
    PYTHONPATH=. python scripts/gpu.py --device cpu --networks test_resnet --batch-size 2 --images 8 --steps 2

All but the first check is in bfloat16 (autocast) and channels-last, with random weights. What is compared runs in turn
(timing.py), and figures are medians. Rows are measured one after the other, the cheap ones first, and compilation last;
one that fails, or for which no time is left, says so in the table, which is written to --out after each, as gpu.json
and gpu.md, and at the end to docs/costs.md. Nothing is fetched.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import gc
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
from timing import Case, Run, measure, profiled, timed
from timm.models import get_model_input_config

import timm_abn.task
from timm_abn.errors import TimmAbnError, one_line
from timm_abn.models.loading import untrained_model
from timm_abn.publish.markdown import markdown_table, plain, write_between
from timm_abn.staging import check_output_folder, staged_files
from timm_abn_cli.argument_types import device, positive, positive_number

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = '<!-- written by scripts/gpu.py -->', '<!-- end of scripts/gpu.py -->'
NETWORKS = ('resnet50', 'vit_small_patch16_224', 'convnext_tiny', 'resnet152', 'seresnet152')  # small ones first
KINDS = ('backbone', 'abn', 'attached')
WAITS = ('StreamSynchronize', 'DeviceSynchronize', 'EventSynchronize', 'DtoH')
WAITS += tuple(f'aten::{name}' for name in ('item', '_local_scalar', 'is_nonzero', 'nonzero', 'equal', 'masked_select'))
# timm's train.py and its launcher take one process for none, and would leave NCCL out
ONE_OF_SEVERAL = """
import sys, timm.utils.distributed as of_timm, timm_abn.training.command as of_launcher
of_timm.is_distributed_env = of_launcher.is_one_of_several = lambda *_: True
from timm_abn_cli.training import train
sys.exit(train())
"""
HEADINGS = dict(
    ceiling='The most that the card can do in bfloat16: a product of matrices, or a convolution.',
    equality='Logits and map in float32 without TF32: greatest difference from the CPU, relative to the greatest value '
    '(goal: 1e-4); and what makes the processor wait for the card within `explain()` (goal: nothing).',
    explain='A prediction of the backbone, and `explain()` (goal: attached, 1.1x of the forward pass).',
    graphs='One image as a CUDA graph.',
    training='Training steps, eager (goal: per multiply-accumulate, 1.0x of the backbone).',
    tasks='A multi-task network, beside a loop over its tasks.',
    evaluate='`timm_abn.evaluate` of the attention map in float32, images read from JPEG files.',
    script="timm's own `train.py`, as one process of torchrun with NCCL, on generated JPEG files.",
    compiled='Training steps with `torch.compile` (goal: 1.3x of eager).',
)

training_step = functools.partial(step, timm_abn.task.AttentionBranchLoss)
Line = dict[str, str | float]


@dataclasses.dataclass
class Row:
    """What is measured at once: the function, then its lines of the table, or why there are none."""

    section: str
    name: str
    figures: Callable[[str], list[Line]]
    lines: list[Line] = dataclasses.field(default_factory=list)
    problem: str = 'no time left'


def in_bfloat16(
    prepare: Callable[[Any, torch.Tensor], Run], compiled: bool = False, as_graph: bool = False
) -> Callable[[Any, torch.Tensor], Run]:
    """Return what prepares a run in bfloat16 and channels-last; on the meta device, where work is counted, a plain one.

    A graph is captured without the cache of weights in bfloat16, which would not be part of it.
    """

    def prepare_run(model: Any, images: torch.Tensor) -> Run:
        if images.is_meta:
            return prepare(model, images)
        model = model.to(memory_format=torch.channels_last)
        model = torch.compile(model, dynamic=False) if compiled else model
        plain_run = prepare(model, images.contiguous(memory_format=torch.channels_last))

        def run() -> None:
            with torch.autocast(images.device.type, torch.bfloat16, cache_enabled=not as_graph):
                plain_run()

        return captured(run) if as_graph else run

    return prepare_run


def captured(run: Run) -> Run:
    """Return what replays a run as a CUDA graph."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where libraries choose their kernels and take their memory
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def waits(run: Run, place: torch.device) -> list[str]:
    """Return the calls in a run that make the processor wait for the card; on a CPU those that would."""

    def marked() -> None:
        with torch.profiler.record_function('the run'):
            run()

    events = profiled(marked, place).events()
    span = next(event.time_range for event in events if event.name == 'the run')
    # the profiler itself waits, too, before and after
    names = {event.name for event in events if span.start <= event.time_range.start <= span.end or 'DtoH' in event.name}
    return sorted(name for name in names if any(part in name for part in WAITS))


def figures_of(case: Case, beside: Case) -> Line:
    """Return what is said of every case."""
    seconds = median(case.seconds)
    figures: Line = {'': case.name, 'ms': seconds * 1e3, 'images/s': case.images / seconds}
    figures |= {'memory (GB)': case.num_bytes / 1e9, 'of ceiling (%)': 100 * case.share_of_ceiling}
    return figures | {'time': case.time_beside(beside)}


def verdict(is_met: bool) -> str:
    """Return what the table says of a goal."""
    return 'met' if is_met else 'missed'


class Measurement:
    """What the rows share: models, which are built once, generated photos, and the time that is left."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.device, self.folder = args, args.device, folder
        self.start = time.monotonic()
        self.models: dict[tuple[str, str], Any] = {}

    @property
    def seconds_left(self) -> float:
        """Seconds until no other row begins."""
        return 60 * self.args.minutes - (time.monotonic() - self.start)

    def rows(self) -> Iterator[Row]:
        """Yield what is measured, in this order."""
        networks = self.args.networks
        yield Row('ceiling', 'bfloat16', self.ceiling)
        for kind in ('abn', 'attached', 'tasks'):
            for network in networks[:2]:
                yield Row('equality', f'{kind} {network}', self.equality)
        for section, figures in (('explain', self.explain), ('graphs', self.graphs), ('training', self.training)):
            yield from (Row(section, network, figures) for network in networks)
        for section, figures in (('tasks', self.tasks), ('evaluate', self.evaluate), ('script', self.script)):
            yield Row(section, networks[0], figures)
        for kind in ('abn', 'backbone'):
            yield from (Row('compiled', f'{kind} {network}', self.compiled) for network in networks)

    def model(self, kind: str, network: str) -> Any:
        """Return a backbone, an ABN or multi-task ABN over it, or the backbone as it is with maps, for evaluation."""
        if (kind, network) not in self.models:
            self.models[kind, network] = self.new_model(kind, network)
        return self.models[kind, network].eval()

    def new_model(self, kind: str, network: str) -> Any:
        """Return a new model, none of whose weights are 0, on the CPU."""
        if kind == 'attached':
            return timm_abn.attach(self.model('backbone', network))
        torch.manual_seed(0)
        over = f'abn_{network}' if timm.is_model(f'abn_{network}') else 'abn'
        options: dict[str, Any] = dict(backbone=network) if over == 'abn' else {}
        if kind == 'tasks':
            options |= dict(multi_task=True, num_classes=self.args.tasks)
        model = untrained_model(network) if kind == 'backbone' else untrained_model(over, **options)
        for parameter in model.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        return model

    def ceiling(self, _: str) -> list[Line]:
        """Measure what the card can do."""
        best = measure([], self.device, self.args.rounds, torch.bfloat16)
        return [{'': best.name, 'TFLOP/s': 2 * median(best.rates) / 1e12}]

    def equality(self, name: str) -> list[Line]:
        """Compare an explanation with that of the CPU, and look for what makes the processor wait."""
        model = self.model(*name.split()).float().cpu()
        images = torch.randn(2, *get_model_input_config(model)['input_size'])
        expected = model.explain(images)
        model, images = model.to(self.device), images.to(self.device)
        found = model.explain(images)
        logits, maps = (
            float((theirs - mine.cpu()).abs().max() / theirs.abs().max())
            for theirs, mine in (
                (expected.logits, found.logits),
                (expected.attention_map, found.attention_map),
            )
        )
        line: Line = {'': name, 'logits': logits, 'map': maps, 'goal': verdict(max(logits, maps) <= 1e-4)}
        waiting = waits(lambda: model.explain(images), self.device)
        return [line | {'waits': ', '.join(waiting) or 'nothing', 'goal of waits': verdict(not waiting)}]

    def explain(self, network: str) -> list[Line]:
        """Measure explanations of a batch, and of one image."""
        many, alone = (
            [make_case(f'{kind} {network}', self.model(kind, network), in_bfloat16(explain), args) for kind in KINDS]
            for args in (self.args, self.one)
        )
        measure([*many, *alone], self.device, self.args.rounds, torch.bfloat16)
        lines = [
            figures_of(case, many[0]) | {'ms of one image': 1e3 * median(one.seconds)} for case, one in zip(many, alone)
        ]
        lines[-1]['goal'] = verdict(many[-1].time_beside(many[0]) <= 1.1)
        return lines

    @property
    def one(self) -> argparse.Namespace:
        """The arguments, with one image in a batch."""
        return argparse.Namespace(**{**vars(self.args), 'batch_size': 1})

    def graphs(self, network: str) -> list[Line]:
        """Measure explanations of one image, eager and as a CUDA graph."""
        if self.device.type != 'cuda':
            raise TimmAbnError('skipped: CUDA graphs need a GPU')
        eager, graphs = (
            [
                make_case(
                    f'{kind} {network}', self.model(kind, network), in_bfloat16(explain, as_graph=is_graph), self.one
                )
                for kind in KINDS
            ]
            for is_graph in (False, True)
        )
        measure([*eager, *graphs], self.device, self.args.rounds, torch.bfloat16)
        return [
            {'': case.name, 'ms eager': 1e3 * median(case.seconds), 'ms as a graph': 1e3 * median(graph.seconds)}
            for case, graph in zip(eager, graphs)
        ]

    def training(self, network: str) -> list[Line]:
        """Measure training steps of a backbone and of its ABN."""
        plain_case, abn = cases = [
            make_case(f'{kind} {network}', self.model(kind, network), in_bfloat16(training_step), self.args)
            for kind in KINDS[:2]
        ]
        measure(cases, self.device, self.args.rounds, torch.bfloat16)
        per_mac = abn.time_beside(plain_case, per_mac=True)
        lines = [figures_of(case, plain_case) | {'GMACs': case.num_macs / 1e9} for case in cases]
        lines[1] |= {'time per GMAC': per_mac, 'goal': verdict(per_mac <= 1.0)}
        return lines

    def tasks(self, network: str) -> list[Line]:
        """Measure a multi-task network: a loop over the tasks, and chunks of them."""
        model, runs = self.model('tasks', network), {f'loop over {self.args.tasks} tasks': loop}
        runs |= {f'chunks of {size}': functools.partial(in_chunks, size) for size in CHUNK_SIZES}
        few = argparse.Namespace(**{**vars(self.args), 'batch_size': -(-self.args.batch_size // 8)})
        cases = [make_case(name, model, in_bfloat16(prepare), few) for name, prepare in runs.items()]
        measure(cases, self.device, self.args.rounds, torch.bfloat16)
        return [figures_of(case, cases[0]) for case in cases]

    def photos(self, split: str, number: int) -> Path:
        """Return a folder of generated JPEG files in folders of classes."""
        drawn, files, args = np.random.default_rng(0), [], self.args
        classes = min(1000, args.images, args.steps * args.batch_size)
        for index in range(min(number, 64)):
            files.append(self.folder / f'{index}.jpg')
            coarse = Image.fromarray(drawn.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            coarse.resize((256, 256), Image.Resampling.BICUBIC).save(files[-1])
        contents = [file.read_bytes() for file in files]
        for index in range(number):
            place = self.folder / 'photos' / split / f'{index % classes:03}'
            place.mkdir(parents=True, exist_ok=True)
            (place / f'{index}.jpg').write_bytes(contents[index % len(contents)])
        return self.folder / 'photos'

    def evaluate(self, network: str) -> list[Line]:
        """Measure an evaluation of as many images as a quarter of the time that is left allows."""
        model = self.model('abn', network).to(self.device)
        photos, asked = self.photos('validation', self.args.images), self.args.images

        def seconds_of(number: int) -> float:
            samples = timm_abn.load_samples(model, photos, limit=number)
            return timed(lambda: timm_abn.evaluate(model, samples, ['attention']), self.device)

        few = min(asked, 32)
        seconds_of(few)  # the first also prepares
        number = min(asked, max(few, int(self.seconds_left / 4 * few / seconds_of(few))))
        return [{'': f'abn {network}', 'images/s': number / seconds_of(number), 'images': f'{number:,} of {asked:,}'}]

    def script(self, network: str) -> list[Line]:
        """Measure timm's own train.py under the launcher."""
        if not os.environ.get('TIMM_SCRIPTS'):
            raise TimmAbnError('skipped: $TIMM_SCRIPTS does not name a checkout of timm, which has its train.py')
        photos, args = self.photos('train', self.args.steps * self.args.batch_size), self.args
        self.photos('validation', args.images)
        model = ['abn', '--model-kwargs', f'backbone={network}']
        flags = f'--epochs 1 --batch-size {args.batch_size} --workers {max((os.cpu_count() or 1) - 2, 0)} --amp'
        flags += f' --amp-dtype bfloat16 --channels-last --log-interval 5 --device {self.device.type}'
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--local-addr', '127.0.0.1']
        command += ['--no-python', sys.executable, '-c', ONE_OF_SEVERAL, '--data-dir', str(photos), '--model', *model]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
        environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1', 'NCCL_SOCKET_IFNAME': 'lo'}
        with (self.folder / 'log').open('w+') as log:
            process = subprocess.Popen(
                [*command, '--output', str(self.folder), *flags.split()], stdout=log, stderr=log, env=environment
            )
            try:
                process.wait(max(self.seconds_left, 1))
            except subprocess.TimeoutExpired:
                raise TimmAbnError('no time left for all of its steps') from None
            finally:
                process.terminate()  # torchrun ends what it has started
                process.wait()
            log.seek(0)
            text = log.read()
        print(text[-4000:], file=sys.stderr)
        rates = [float(rate) for rate in re.findall(r'Train: 0 .*Time: [\d.]+s, +([\d.]+)/s', text)]
        if process.returncode or not rates:
            raise TimmAbnError(f'train.py ended with {process.returncode}; its last lines are in the error output')
        waited = re.findall(r'Train: 0 .*Time: .*\(([\d.]+)s.*Data: [\d.]+ \(([\d.]+)\)', text)[-1]
        backend = ' '.join(sorted(set(re.findall('nccl|gloo', text)))) or '?'
        return [
            {'': f'abn {network}', 'images/s': median(rates), 'for data (%)': 100 * float(waited[1]) / float(waited[0])}
        ]

    def compiled(self, name: str) -> list[Line]:
        """Measure training steps, eager and compiled."""
        torch._dynamo.reset()
        kind, network = name.split()
        model = self.model(kind, network)
        eager = make_case(name, model, in_bfloat16(training_step), self.args)
        start = time.monotonic()
        compiled = make_case(name, model, in_bfloat16(training_step, compiled=True), self.args)
        seconds = time.monotonic() - start
        measure([eager, compiled], self.device, self.args.rounds, torch.bfloat16)
        factor = eager.time_beside(compiled)
        line = {**figures_of(compiled, eager), 'of eager': factor, 'compiled in (s)': seconds}
        return [line | {'goal': verdict(factor >= 1.3)}]


def run(row: Row) -> None:
    """Measure a row; what goes wrong is the outcome."""
    is_exact = row.section == 'equality'
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = not is_exact, is_exact
    torch.backends.cudnn.benchmark = row.section not in ('equality', 'evaluate')  # whose sizes change
    try:
        row.lines = row.figures(row.name)
        row.problem = ''
    except Exception as error:  # such as out of memory, of many types
        row.problem = one_line(error)[:200]
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def markdown(facts: dict[str, str], rows: list[Row]) -> str:
    """Return the facts, and a table for each section."""
    parts = [', '.join(f'{name} {value}'.strip() for name, value in facts.items()) + '.']
    for section, heading in HEADINGS.items():
        own = [row for row in rows if row.section == section]
        header = list(dict.fromkeys(name for row in own for line in row.lines for name in line)) or ['', '']
        lines = [[cell(line.get(name, '')) for name in header] for row in own for line in row.lines]
        lines += [[row.name, plain(row.problem), *[''] * (len(header) - 2)] for row in own if row.problem]
        parts += [heading, markdown_table(header, lines)]
    return '\n\n'.join(parts)


def cell(value: str | float) -> str:
    """Return a figure of three digits, or a text."""
    return value if isinstance(value, str) else f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def facts_of(place: torch.device) -> dict[str, str]:
    """Return the card, and the versions of what computes."""
    facts = {'': 'CPU', 'torch': torch.__version__, 'timm': timm.__version__, 'timm-abn': timm_abn.__version__}
    if place.type == 'cuda':
        facts[''] = torch.cuda.get_device_name(place)
        facts |= {'CUDA': str(torch.version.cuda), 'cuDNN': str(torch.backends.cudnn.version())}
    return facts


def main() -> int:
    """Measure, and write the tables."""
    args = parse_args()
    check_output_folder(args.out)
    facts = facts_of(args.device)
    with tempfile.TemporaryDirectory() as folder:
        measurement = Measurement(args, Path(folder))
        rows = list(measurement.rows())
        for row in rows:
            if measurement.seconds_left > 0:
                run(row)
            print(
                f'{measurement.seconds_left:4.0f} s left, {row.section} {row.name}: {row.problem or row.lines}',
                file=sys.stderr,
            )
            tables = markdown(facts, rows)
            with staged_files(args.out) as staging:
                (staging / 'gpu.md').write_text(tables, encoding='utf-8')
                found = [dict(section=r.section, name=r.name, lines=r.lines, problem=r.problem) for r in rows]
                (staging / 'gpu.json').write_text(json.dumps(dict(facts=facts, rows=found), indent=1), encoding='utf-8')
    if args.target:
        write_between(args.target, BEGIN, END, f'\n\n{tables}\n\n')
    print(tables)
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--networks', nargs='+', default=NETWORKS, help='backbones, the smallest first (default: five)')
    parser.add_argument('--batch-size', type=positive, default=128, help='default: %(default)s')
    parser.add_argument('--tasks', type=positive, default=40, help='of the multi-task network (default: %(default)s)')
    parser.add_argument('--images', type=positive, default=2000, help='to evaluate (default: %(default)s)')
    parser.add_argument('--steps', type=positive, default=200, help="of timm's train.py (default: %(default)s)")
    parser.add_argument('--rounds', type=positive, default=5, help='default: %(default)s')
    parser.add_argument('--minutes', type=positive_number, default=8, help='after which no row begins (%(default)s)')
    parser.add_argument('--device', type=device, help='default: the GPU')
    parser.add_argument('--out', type=Path, default=Path('outputs/gpu'), help='default: %(default)s')
    parser.add_argument(
        '--target', type=Path, help='page to write the tables into (default: docs/costs.md, from a GPU)'
    )
    args = parser.parse_args()
    if args.device is None:
        if not torch.cuda.is_available():
            parser.exit(2, f'{parser.prog}: torch finds no GPU here; --device cpu tries everything in small\n')
        args.device, args.target = torch.device('cuda', 0), args.target or TARGET
    return args


if __name__ == '__main__':
    sys.exit(main())
