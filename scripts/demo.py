"""Explain real photos with a real ImageNet model as it is, and test images with a packaged ABN: a table and a picture.

Example:
    python scripts/demo.py --out outputs/demo.png

The photos come with the package; they were chosen before maps existed, and ImageNet has no class for two of them. The
second class whose evidence is drawn was chosen by what the photos show.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing, draw_overlay
from timm_abn.data.reading import read_image
from timm_abn.examples import MODEL, example_model, example_photos
from timm_abn.explain.lettering import GREY, HEADING, INK, NOTE, RED, TEXT, TITLE, Pen, line_height
from timm_abn.maps.colormaps import colormap_table
from timm_abn.records import probabilities_of
from timm_abn.staging import staged_file
from timm_abn_cli.table import format_table

ABN = 'abn_resnet20_cifar.fashion_mnist_faithful'
SAMPLES = Path(timm_abn.__file__).parent / 'samples'
# name of the photo -> what it shows ('' of what ImageNet has no class for), and another class to ask for
PHOTOS = {
    'cat': ('cat', 'window screen'),
    'coffee': ('espresso', 'cup'),
    'camera': ('tripod', 'reflex camera'),
    'rocket': ('', 'drilling platform'),
    'astronaut': ('', 'space shuttle'),
}
ITEMS = ('9_ankle-boot_00000', '2_pullover_00001', '8_bag_00018')

HEIGHT, SMALL, GAP, MARGIN, LIST = 190, 112, 16, 36, 250  # pixels: of photos, of items, between, around, of classes


class Answer(NamedTuple):
    """What a model says of a picture.

    Attributes:
        title: What the picture shows.
        pictures: The picture and others of it, of the same size, each with its caption.
        classes: The most probable classes, with their probabilities.
        is_right: None where there is no right answer.
    """

    title: str
    pictures: list[tuple[str, Image.Image]]
    classes: list[tuple[str, float]]
    is_right: bool | None


def main() -> None:
    """Print the table and leave the picture."""
    args = parse_args()
    photos, items = explain_photos(), explain_items(args.checkpoint)
    header = ('picture', 'prediction', 'probability', '')
    words = {None: 'no class of ImageNet', True: 'right', False: 'WRONG'}
    rows = [(a.title, a.classes[0][0], f'{a.classes[0][1]:.2f}', words[a.is_right]) for a in (*photos, *items)]
    print(format_table(header, rows, right=('probability',)))
    with staged_file(args.out) as staged:
        draw(photos, items).save(staged, optimize=True)
    print(f'\nThe picture is {args.out}.')


def explain_photos() -> list[Answer]:
    """Return what an ImageNet model, as it is, says of the photos, with the evidence for two classes of each."""
    model: Any = timm_abn.attach(example_model())
    see, names, paths = Preprocessing(model), timm_abn.class_names(model), example_photos()
    answers = []
    for name, (truth, other) in PHOTOS.items():
        photo = read_image(paths[name]).convert('RGB')
        x, box = see(photo)
        explanation = model.explain(x[None])
        (probabilities,), (top,) = (values.tolist() for values in explanation.top_k(5))
        overlays = []
        for index in (top[0], names.index(other)):
            overlay = draw_overlay(photo, explanation.heatmap(torch.tensor([index])), box)
            overlays.append((f'evidence for "{names[index]}"', overlay))
        pictures = [(f'{name}.jpg', photo), *overlays]
        classes = [(names[index], value) for index, value in zip(top, probabilities)]
        answers.append(Answer(name, pictures, classes, truth in classes[0][0] if truth else None))
    return answers


def explain_items(checkpoint: Path | None = None) -> list[Answer]:
    """Return what an ABN says of test images, also when half of what its map lets pass is painted black."""
    model: Any = timm_abn.load_model(ABN, checkpoint)
    see, names = Preprocessing(model), timm_abn.class_names(model)
    answers = []
    for name in ITEMS:
        item = read_image(SAMPLES / f'{name}.png')
        x, box = see(item)
        explanation = model.explain(x[None])
        (probabilities,), (top,) = (values.tolist() for values in explanation.top_k(5))
        gate = explanation.attention_map
        painted = torch.where(gate >= gate[gate > 0].median(), 0.0, gate)
        with torch.no_grad():
            after = probabilities_of(model(x[None], attention=painted), True)[0]
        said = int(after.argmax())
        pictures = [
            (name.split('_')[1], item),
            ('evidence', draw_overlay(item, explanation.heatmap(), box)),
            ('its map', draw_overlay(item, gate, box)),
            (f'painted: {names[said]}', draw_overlay(item, painted, box)),
        ]
        classes = [(names[index], value) for index, value in zip(top, probabilities)]
        truth = names[int(name.split('_')[0])]
        answers.append(Answer(name, pictures, classes, truth == classes[0][0]))
    return answers


def draw(photos: Sequence[Answer], items: Sequence[Answer]) -> Image.Image:
    """Return the picture: a row for each answer, with the most probable classes."""
    widest = max(sum(scaled(p, HEIGHT).width + GAP for _, p in answer.pictures) for answer in photos)
    caption = line_height(NOTE) + 8
    titles = {
        f'A timm model as it is ({MODEL}): evidence for any class, from the forward pass': photos,
        f'An Attention Branch Network ({ABN.split(".")[0]}): its map gates the features, so painting it matters': items,
    }
    heights = [HEIGHT] * len(photos) + [SMALL] * len(items)
    height = 2 * MARGIN + len(titles) * 2 * line_height(TITLE) + sum(heights) + len(heights) * (caption + GAP)
    sheet = Image.new('RGB', (2 * MARGIN + widest + LIST, height), 'white')
    pen, top = Pen(sheet), MARGIN
    for (title, answers), size in zip(titles.items(), (HEIGHT, SMALL)):
        pen.text((MARGIN, top), title, HEADING, sheet.width - 2 * MARGIN)
        top += 2 * line_height(HEADING)
        for answer in answers:
            left = MARGIN
            for words, picture in answer.pictures:
                shown = scaled(picture, size)
                sheet.paste(shown, (left, top))
                pen.text((left, top + size + 4), words, NOTE, shown.width, GREY)
                left += shown.width + GAP
            draw_classes(pen, answer, MARGIN + widest, top, size)
            top += size + caption + GAP
    draw_legend(sheet, pen, sheet.height - MARGIN - line_height(NOTE) // 2)
    return sheet


def draw_classes(pen: Pen, answer: Answer, left: int, top: int, room: int) -> None:
    """Draw the most probable classes, as many as there is room for, and bars of their probabilities."""
    line = line_height(TEXT) + 14
    for rank, (name, probability) in enumerate(answer.classes[: room // line]):
        color = RED if rank == 0 and answer.is_right is False else INK if rank == 0 else GREY
        pen.text((left, top), name, TEXT, LIST - 60, color)
        pen.text((left + LIST - 45, top), f'{probability:.2f}', TEXT, 45, color)
        bar = top + line_height(TEXT)
        pen.draw.rectangle((left, bar, left + LIST, bar + 5), fill='#e8eaed')
        pen.draw.rectangle((left, bar, left + round(LIST * probability), bar + 5), fill='#0969da')
        top += line
    if answer.is_right is None:
        pen.text((left, top), 'ImageNet has no class for it', NOTE, LIST, RED)


def draw_legend(sheet: Image.Image, pen: Pen, top: int) -> None:
    """Draw the colours of the overlays."""
    colors = Image.fromarray(colormap_table('viridis').numpy()[None]).resize((200, 14), Image.Resampling.BILINEAR)
    words = 'evidence, of each map from none (dark) to its most (bright)'
    pen.text((MARGIN, top), words, NOTE, sheet.width)
    sheet.paste(colors, (MARGIN + pen.width(words, NOTE) + GAP, top + 3))


def scaled(picture: Image.Image, height: int) -> Image.Image:
    """Return a picture of this height."""
    size = round(picture.width * height / picture.height), height
    return picture.resize(size, Image.Resampling.BICUBIC if picture.height > height else Image.Resampling.NEAREST)


def parse_args() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('outputs/demo.png'), help='where to write the picture')
    parser.add_argument('--checkpoint', type=Path, help='weights of the ABN to use instead of the packaged ones')
    return parser.parse_args()


if __name__ == '__main__':
    main()
