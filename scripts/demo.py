"""Explain the shipped Fashion-MNIST test images with the shipped model: a table, and a picture.

Example:
    python scripts/demo.py --out outputs/demo.png
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont

import timm_abn
from timm_abn.data.images import Preprocessing, draw_overlay
from timm_abn.data.reading import read_image
from timm_abn.explain.runs import map_words
from timm_abn.maps.colormaps import colormap_table
from timm_abn.maps.operations import normalize_maps
from timm_abn.records import explained_by
from timm_abn.staging import staged_file
from timm_abn_cli.table import format_table

MODEL = 'abn_resnet20_cifar.fashion_mnist_faithful'
SAMPLES = Path(timm_abn.__file__).parent / 'samples'


class Result(NamedTuple):
    """An image, the map that explains the model, and what it said."""

    name: str
    image: Image.Image
    map: torch.Tensor  # that explains the model best, (1, 1, h, w), in [0, 1]
    prediction: str
    probability: float
    truth: str
    words: str  # what the map is


def main() -> None:
    """Print the table and leave the picture."""
    args = parse_args()
    results = explain_samples(args.checkpoint)
    print_table(results)
    with staged_file(args.out) as staged:
        draw(results).save(staged, optimize=True)
    print(f'\nThe picture is {args.out}.')


def explain_samples(checkpoint: Path | None = None) -> list[Result]:
    """Return what the model says about the shipped images."""
    model: Any = timm_abn.load_model(MODEL, checkpoint)
    preprocessing = Preprocessing(model)
    names = timm_abn.class_names(model)
    words = map_words(model, explained_by(model).removesuffix('_map'))

    paths = sorted(SAMPLES.glob('*.png'))
    images = [read_image(path) for path in paths]
    explanation = model.explain(torch.stack([preprocessing(image)[0] for image in images]))
    shown = normalize_maps(explanation.explaining_map().clamp(min=0))
    probabilities, indices = explanation.top_k(1)
    return [
        Result(
            name=path.stem,
            image=image,
            map=shown[index : index + 1],
            prediction=names[indices[index].item()],
            probability=probabilities[index].item(),
            truth=names[int(path.name.split('_')[0])],  # names begin with the index of the class
            words=words,
        )
        for index, (path, image) in enumerate(zip(paths, images, strict=True))
    ]


def print_table(results: list[Result]) -> None:
    """Print one line per image, and how many are right."""
    header = ('image', 'prediction', 'probability', 'truth', '')
    rows = [
        (r.name, r.prediction, f'{r.probability:.4f}', r.truth, 'right' if r.prediction == r.truth else 'WRONG')
        for r in results
    ]
    print(format_table(header, rows, right=('probability',)))
    print(f'\n{count_right(results)} of {len(results)} right; overlays: {results[0].words}')


def count_right(results: list[Result]) -> int:
    """Return how many predictions are true."""
    return sum(result.prediction == result.truth for result in results)


COLUMNS = 4
TILE = 168  # six times the 28 pixels of an image
SEAM, GAP, MARGIN, HEADER, CAPTION = 6, 48, 64, 168, 96
INK, GREY, PAPER, RIGHT, WRONG = '#1b1f24', '#6b737c', '#ffffff', '#1f7a5c', '#c2410c'


def draw(results: list[Result]) -> Image.Image:
    """Return a picture of all results: input, attention overlay, prediction and truth."""
    rows = -(-len(results) // COLUMNS)
    cell = 2 * TILE + SEAM
    width = 2 * MARGIN + COLUMNS * cell + (COLUMNS - 1) * GAP
    height = HEADER + rows * (TILE + CAPTION) + MARGIN // 4
    picture = Image.new('RGB', (width, height), PAPER)
    canvas = ImageDraw.Draw(picture)
    canvas.text((MARGIN, 76), 'What an Attention Branch Network stands on', INK, font(40), anchor='ls')
    score = f'{count_right(results)} of {len(results)} right'
    subtitle = f'{MODEL}   |   {results[0].words}   |   {score}'
    canvas.text((MARGIN, 116), subtitle, GREY, font(20), anchor='ls')
    draw_legend(picture, right=width - MARGIN, top=52)
    for index, result in enumerate(results):
        row, column = divmod(index, COLUMNS)
        draw_result(picture, result, MARGIN + column * (cell + GAP), HEADER + row * (TILE + CAPTION))
    return picture


def draw_result(picture: Image.Image, result: Result, left: int, top: int) -> None:
    """Draw one result: input, overlay, prediction and truth."""
    image = result.image.resize((TILE, TILE), Image.Resampling.BICUBIC)
    picture.paste(image, (left, top))
    picture.paste(draw_overlay(image, result.map, (0, 0, TILE, TILE)), (left + TILE + SEAM, top))
    canvas = ImageDraw.Draw(picture)
    is_right = result.prediction == result.truth
    color = RIGHT if is_right else WRONG
    right, baseline = left + 2 * TILE + SEAM, top + TILE + 31
    probability = '> 99.9 %' if result.probability > 0.999 else f'{result.probability * 100:.1f} %'
    canvas.text((left, baseline), result.prediction, color, font(24), anchor='ls')
    canvas.text((right, baseline), probability, color, font(24), anchor='rs')
    canvas.text((left, baseline + 27), f'truth: {result.truth}', GREY, font(18), anchor='ls')
    if not is_right:
        canvas.text((right, baseline + 27), 'wrong', WRONG, font(18), anchor='rs')


def draw_legend(picture: Image.Image, right: int, top: int, width: int = 240) -> None:
    """Draw the colours of the overlays."""
    colors = colormap_table('viridis').numpy()[None]
    picture.paste(Image.fromarray(colors).resize((width, 18), Image.Resampling.BILINEAR), (right - width, top))
    canvas = ImageDraw.Draw(picture)
    canvas.text((right - width, top + 42), 'least', GREY, font(18), anchor='ls')
    canvas.text((right, top + 42), 'most', GREY, font(18), anchor='rs')


def font(size: int) -> Any:
    """Return the font that comes with Pillow."""
    return ImageFont.load_default(size)


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/demo.png'), help='where to write the picture')
    parser.add_argument('--checkpoint', type=Path, help='weights to use instead of the shipped ones')
    return parser.parse_args()


if __name__ == '__main__':
    main()
