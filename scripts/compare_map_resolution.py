"""Compare ways to finer attention maps: what they bring in scores, and what they cost in time.

Example:
    pip install '.[scenes,plot]'
    python scripts/make_multi_attribute_set.py --data-dir data --download --out data/multi_attribute
    python scripts/compare_map_resolution.py --data-dir data/multi_attribute

The grid, written down before any run: multi-task ABNs with sigmoid maps and the product mechanism, from scratch, seeds
0, 1, 2, on scenes of 64x64 pixels, all with the same 40,000 images in the same order (2 epochs of 20,000 scenes, AdamW,
peak learning rate 2e-3, one cycle: those of scripts/train_multi_attribute.py). Two backbones of the topology of the
real ones, narrow enough for a minute of one core:

- ``test_resnet``: timm's ResNet of one basic block a stage, as ResNet-18 with channels 32, 48, 48, 96;
- ``pvt_v2_b0`` with one block a stage, and channels 32, 48, 96, 128.

In both the features have a 4th, 8th, 16th and 32nd of the image's height and width. Variants:

- ``default``: the default cut, before the last stage: maps of 4x4 for these scenes, 14x14 at 224;
- ``earlier cut``: one stage earlier: maps of 8x8, 28x28 at 224;
- ``map_scale=2``: the default cut, maps of twice its resolution: features are upsampled before the branch's stage;
- ``map_scale=2, late``: the same, upsampled after that stage, which costs less;
- ``dilated``: ``output_stride=8``: features at the default cut are as fine as those one stage earlier (ResNet only,
  and one seed, since it takes seven times the multiply-accumulates).

Scores are of all objects of the first 1,000 test scenes, each with the map of its attribute: pointing game, energy in
the mask, IoU at the best threshold (``timm_abn.explain.metrics``), and mean average precision of the predictions. Costs
are multiply-accumulates, parameters, and images/s of ``explain()``, one thread, by the time of the process, the best of
several rounds in turn; of these networks relative to the default, and of the real ``resnet18`` and ``pvt_v2_b0`` (1000
classes, one map, images of 224x224).

One JSON file per run; started again, it goes on with the runs that are missing. Written is ``table.md``.
"""

import argparse
import json
import statistics
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from timm.task import MultiLabelClassificationTask
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from train_multi_attribute import SIZE, evaluate, fit, load, load_segmentation, normalize

import timm_abn  # noqa: F401  registers the models
from timm_abn.explain.metrics import energy, iou, pointing_game
from timm_abn.networks.attention_stage import AttentionStage
from timm_abn.publish.markdown import markdown_table
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.errors import TrainingError
from timm_abn.training.task import extend_timm_tasks
from timm_abn_cli.argument_types import positive, positive_number, zero_or_more
from timm_abn_cli.table import format_table

BACKBONES: dict[str, dict[str, Any]] = {
    'test_resnet': dict(backbone='test_resnet'),
    'pvt_v2_b0, narrow': dict(
        backbone='pvt_v2_b0', depths=(1, 1, 1, 1), embed_dims=(32, 48, 96, 128), num_heads=(1, 2, 4, 4)
    ),
}
REAL = {'test_resnet': 'resnet18', 'pvt_v2_b0, narrow': 'pvt_v2_b0'}
LATE = 'map_scale=2, late'
DILATED = 'dilated'
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    'test_resnet': {
        'default': {},
        'earlier cut': dict(split='layer2'),
        'map_scale=2': dict(map_scale=2),
        LATE: dict(map_scale=2),
        DILATED: dict(output_stride=8),
    },
    'pvt_v2_b0, narrow': {
        'default': {},
        'earlier cut': dict(split='stages.1'),
        'map_scale=2': dict(map_scale=2),
        LATE: dict(map_scale=2),
    },
}
SCORES = {'pointing game': pointing_game, 'energy': energy, 'IoU': iou}
TEST_SCENES = 1000
ROUNDS = 3

Table = tuple[list[str], list[list[str]]]


def main() -> int:
    """Train and score what is missing, measure costs, print the tables and write them; returns the exit code."""
    args = parse_args()
    torch.set_num_threads(1)
    try:
        check_output_folder(args.out)
        runs = train_all(args)
    except (OSError, TrainingError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    tables = [score_table(runs), cost_table()]
    print('\n\n'.join(format_table(*table) for table in tables))
    with staged_files(args.out) as folder:
        text = '\n\n'.join(markdown_table(*table) for table in tables)
        (folder / 'table.md').write_text(f'{text}\n', encoding='utf-8')
    print(f'\nWritten to: {args.out / "table.md"}')
    return 0


def build(arguments: dict[str, Any], late: bool, **kwargs: Any) -> Any:
    """Return an ABN; ``late`` has the upsampling of ``map_scale`` at the end of its attention stage."""
    model = timm.create_model('abn', **arguments, **kwargs)
    if late:
        stage = model.attention_branch.stage
        modules = OrderedDict(stage.named_children())
        modules.move_to_end('upsample')
        model.attention_branch.stage = AttentionStage(modules, stage.source, stage.num_features)
    return model


def build_for_scenes(backbone: str, variant: str, **kwargs: Any) -> Any:
    """Return a network of ten attributes."""
    options = dict(multi_task=True, num_classes=10, task_chunk_size=10, mechanism='product', attention_map='sigmoid')
    return build(dict(BACKBONES[backbone], **VARIANTS[backbone][variant]), variant == LATE, **options, **kwargs)


def train_all(args: argparse.Namespace) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Return the scores of all runs, by backbone and variant; those that there are come from their files."""
    grid = [
        (name, variant, seed)
        for seed in args.seeds
        for name in args.backbones
        for variant in VARIANTS[name]
        if variant != DILATED or seed == args.seeds[0]
    ]
    paths = {run: args.out / f'{"-".join(map(str, run)).replace(", ", "-").replace(" ", "-")}.json' for run in grid}
    if not all(path.is_file() for path in paths.values()):
        extend_timm_tasks()
        train, _ = load(args.data_dir, 'train')
        held_out, _ = load(args.data_dir, 'val')
        test, _ = load(args.data_dir, 'test')
        segmentation = load_segmentation(args.data_dir)[:TEST_SCENES]
        data = train, TensorDataset(*held_out[:250]), TensorDataset(*test[:TEST_SCENES])
    runs: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (backbone, variant, seed), path in paths.items():
        if not path.is_file():
            scores = train_and_score(backbone, variant, seed, data, segmentation, args)
            with staged_files(args.out) as folder:
                (folder / path.name).write_text(json.dumps(scores, indent=1) + '\n')
        runs.setdefault((backbone, variant), []).append(json.loads(path.read_text()))
        print(path.stem, runs[backbone, variant][-1], flush=True)
    return runs


def train_and_score(
    backbone: str,
    variant: str,
    seed: int,
    data: tuple[TensorDataset, TensorDataset, TensorDataset],
    segmentation: torch.Tensor,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Return the scores of a network that is trained for them."""
    train, held_out, test = data
    torch.manual_seed(seed)
    model = build_for_scenes(backbone, variant).to(memory_format=torch.channels_last)
    task = MultiLabelClassificationTask(model, verbose=False)
    start = time.process_time()
    fit(task, train, held_out, argparse.Namespace(**{**vars(args), 'seed': seed}))
    seconds = time.process_time() - start
    found = evaluate(task, test)
    scores = {'mean average precision': found['map'], 'accuracy': found['accuracy'], 'seconds of training': seconds}
    scene, attribute = test.tensors[1].nonzero(as_tuple=True)
    explanations = [model.eval().explain(normalize(images)) for images in test.tensors[0].split(250)]
    maps = torch.cat([explanation.attention_map for explanation in explanations])[scene, attribute].unsqueeze(1)
    masks = (segmentation[scene] == attribute[:, None, None] + 1).unsqueeze(1)
    scores.update({name: score(maps, masks).nanmean().item() for name, score in SCORES.items()})
    return dict(scores, height=maps.shape[2])


def score_table(runs: dict[tuple[str, str], list[dict[str, float]]]) -> Table:
    """Return header and rows of the table of scores, with costs relative to the default."""
    rows = []
    for backbone in dict.fromkeys(backbone for backbone, _ in runs):
        variants = list(VARIANTS[backbone])
        rates = images_per_second([build_for_scenes(backbone, variant).eval() for variant in variants], SIZE, 50)
        costs = [cost(build_for_scenes(backbone, variant, device='meta').eval(), SIZE) for variant in variants]
        for variant, rate, (macs, params) in zip(variants, rates, costs):
            found = runs[backbone, variant]
            height = int(found[0]['height'])
            relative = [f'{rate / rates[0]:.2f}', f'{macs / costs[0][0]:.2f}', f'{params / costs[0][1]:.2f}']
            percent = spread([run['mean average precision'] for run in found], 1)
            scores = [spread([run[name] for run in found], 3) for name in SCORES]
            rows.append([backbone, variant, f'{height}x{height}', percent, *scores, *relative])
    costs_of = ['images/s of explain()', 'GMACs', 'parameters']
    return ['backbone', 'variant', 'map', 'mAP, %', *SCORES, *(f'{name}, relative' for name in costs_of)], rows


def cost_table() -> Table:
    """Return header and rows of the table of what real networks cost."""
    rows = []
    for narrow, backbone in REAL.items():
        models = [real(narrow, variant).eval() for variant in VARIANTS[narrow]]
        rates = images_per_second(models, 224, 2)
        for variant, model, rate in zip(VARIANTS[narrow], models, rates):
            macs, params = cost(real(narrow, variant, device='meta').eval(), 224)
            height = model.explain(torch.zeros(1, 3, 224, 224)).attention_map.shape[2]
            figures = [f'{rate:.1f}', f'{rate / rates[0]:.2f}', f'{macs / 1e9:.2f}', f'{params / 1e6:.2f}']
            rows.append([f'abn, {backbone}, 224', variant, f'{height}x{height}', *figures])
    header = ['network', 'variant', 'map', 'images/s of explain()', 'relative', 'GMACs', 'million parameters']
    return header, rows


def real(narrow: str, variant: str, **kwargs: Any) -> Any:
    """Return the network that a narrow one stands for."""
    return build(dict(VARIANTS[narrow][variant], backbone=REAL[narrow]), variant == LATE, **kwargs)


def images_per_second(models: list[Any], size: int, batch_size: int) -> list[float]:
    """Return how many images each network explains a second, by the time of the process."""
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    best = [float('inf')] * len(models)
    for model in models:
        model.to(memory_format=torch.channels_last).explain(images)
    for _ in range(ROUNDS):
        for index, model in enumerate(models):
            start = time.process_time()
            model.explain(images)
            best[index] = min(best[index], time.process_time() - start)
    return [batch_size / seconds for seconds in best]


def cost(model: Any, size: int) -> tuple[int, int]:
    """Return multiply-accumulates of an image, and parameters, of a network on the meta device."""
    with FlopCounterMode(display=False) as counter:
        model.explain(torch.empty(1, 3, size, size, device='meta'))
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in model.parameters())


def spread(values: list[float], digits: int) -> str:
    deviation = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{deviation}'


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-dir', type=Path, default=Path('data/multi_attribute'), help='default: %(default)s')
    parser.add_argument('--out', type=Path, default=Path('outputs/map_resolution'), help='default: %(default)s')
    parser.add_argument('--backbones', nargs='+', choices=list(BACKBONES), default=list(BACKBONES), help='default: all')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--epochs', type=positive, default=2, help='default: %(default)s')
    parser.add_argument('--batch-size', type=positive, default=64, help='default: %(default)s')
    parser.add_argument('--lr', type=positive_number, default=2e-3, help='peak learning rate (default: %(default)s)')
    parser.add_argument('--weight-decay', type=zero_or_more, default=0.05, help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
