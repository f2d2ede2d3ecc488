"""Sheets: an image and the maps of several methods side by side, with their scores, drawn by Pillow alone."""

from collections.abc import Sequence

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ..data.images import denormalize
from ..maps.colormaps import colormap_table
from ..maps.operations import overlay_maps
from .comparison import Comparison, MethodResult
from .lettering import GREY, HEADING, LINE, NOTE, RED, TEXT, TITLE, Pen, line_height
from .methods.explainer import method_title

__all__ = ['SCORES', 'draw_sheet', 'enlarge', 'input_picture']

MARGIN, GAP, BAR = 28, 18, 10
# of a result, and which way is better
SCORES = dict(gain='SRG \u2191', deletion='deletion \u2193', insertion='insertion \u2191')
LEAST_WIDTH, MOST_WIDTH = 208, 416  # of a panel, in pixels: below, text does not fit; above, sheets get too large


def input_picture(x: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Return an image as the model sees it, normalised, shape (C, H, W), C = 1 or 3, as RGB."""
    return to_pil_image(denormalize(x[None].float().cpu(), mean, std)[0]).convert('RGB')


def draw_sheet(
    picture: Image.Image,
    comparison: Comparison,
    class_names: Sequence[str],
    title: str,
    notes: Sequence[str] = (),
    colormap: str = 'viridis',
) -> Image.Image:
    """Return a sheet: the image, then each method's map laid over it, with its range and its scores below.

    Each map is stretched to its own range, which a bar of the colours names; of a centred one what is above 0 is shown.
    Maps that are flat or hold a NaN are not drawn; the sheet says so. Characters that the font of Pillow does not have
    become '?'.

    Args:
        picture: The image as the model sees it (``input_picture``).
        comparison: What the methods say of it.
        class_names: Names of the classes, or tasks.
        title: What the sheet is of.
        notes: Texts below the maps, one paragraph each.
        colormap: 'viridis', 'inferno' or 'magma'.
    """
    enlarged = enlarge(picture)
    panel = enlarged.size
    column = max(panel[0], LEAST_WIDTH)
    width = 2 * MARGIN + (len(comparison.results) + 1) * (column + GAP) - GAP
    sheet = Image.new('RGB', (width, 4000), 'white')
    pen = Pen(sheet)
    top = _draw_header(pen, comparison, class_names, title, width)
    titles = [['input'], *(_title(pen, result, column) for result in comparison.results)]
    size = HEADING if all(pen.width(line, HEADING) <= column for title in titles for line in title) else TEXT
    lefts = range(MARGIN, width, column + GAP)
    ends = [pen.paragraphs((left, top), title, size, column) for left, title in zip(lefts, titles)]
    top_of_panels = max(ends) + 4
    sheet.paste(enlarged, (MARGIN, top_of_panels))
    bottom = top_of_panels + panel[1]
    for left, result in zip(lefts[1:], comparison.results):
        sheet.paste(_overlay(enlarged, result, colormap), (left, top_of_panels))
        bottom = max(bottom, _draw_facts(pen, result, (left, top_of_panels + panel[1]), column, panel[0], colormap))
    bottom = pen.paragraphs((MARGIN, bottom + GAP), notes, NOTE, width - 2 * MARGIN, GREY)
    return sheet.crop((0, 0, width, bottom + MARGIN - 8))


def enlarge(picture: Image.Image) -> Image.Image:
    """Return an RGB picture in the size of a panel; its pixels stay square where they are larger than the sheet's."""
    panel = _panel_size(picture.size)
    return picture.resize(panel, Image.Resampling.BOX if panel[0] >= picture.width else Image.Resampling.LANCZOS)


def _panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of a panel: of small images a multiple, so that their pixels stay square."""
    longer = max(size)
    factor: float = -(-LEAST_WIDTH // longer)
    if longer * factor > MOST_WIDTH:
        factor = MOST_WIDTH / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _draw_header(pen: Pen, comparison: Comparison, class_names: Sequence[str], title: str, width: int) -> int:
    """Draw the header and return where it ends."""
    room = width - 2 * MARGIN
    top = MARGIN - 6
    pen.text((MARGIN, top), title, TITLE, room)
    top += line_height(TITLE)
    facts = [('prediction', class_names[comparison.predicted], comparison.probability)]
    if comparison.target != comparison.predicted:
        facts.append(('explained', class_names[comparison.target], comparison.target_probability))
    for label, name, probability in facts:
        left = MARGIN + pen.text((MARGIN, top), f'{label}: ', TEXT, room, GREY)
        number = f'   {probability:.4f}'
        left += pen.text((left, top), name, TEXT, width - MARGIN - left - pen.width(number, TEXT))
        pen.text((left, top), number, TEXT, room)
        top += line_height(TEXT)
    pen.draw.line([(MARGIN, top + 6), (width - MARGIN, top + 6)], fill=LINE)
    return top + 18


def _title(pen: Pen, result: MethodResult, room: int) -> list[str]:
    """Return the title of a method, the layer in a line of its own where one is too short for both."""
    title = method_title(result.method, result.layer)
    fits = not result.layer or pen.width(title, HEADING) <= room
    return [title] if fits else [result.method, f'at {result.layer}']


def _overlay(enlarged: Image.Image, result: MethodResult, colormap: str) -> Image.Image:
    if result.problem:
        return enlarged
    shown = result.map.clamp(min=0) if result.centred else result.map
    return to_pil_image(overlay_maps(pil_to_tensor(enlarged)[None], shown, colormap=colormap)[0])


def _draw_facts(pen: Pen, result: MethodResult, place: tuple[int, int], column: int, panel: int, colormap: str) -> int:
    """Draw the range and the scores of a method below its map, and return where they end."""
    left, top = place
    top += 8
    if not result.problem:
        colors = colormap_table(colormap).numpy()[None]
        pen.sheet.paste(Image.fromarray(colors).resize((panel, BAR)), (left, top))
    top += BAR + 3
    low, high = '0' if result.centred else f'{result.low:.3g}', f'{result.high:.3g}'
    pen.text((left, top), low, NOTE, column, GREY)
    pen.text((left + panel - pen.width(high, NOTE), top), high, NOTE, column, GREY)
    top += line_height(NOTE) + 4
    if result.problem:
        pen.text((left, top), result.problem, TEXT, column, RED)
        return top + 2 * line_height(TEXT)
    for name, label in SCORES.items():
        number = f'{getattr(result, name):.3f}'
        pen.text((left, top), label, TEXT, column, GREY)
        pen.text((left + panel - pen.width(number, TEXT), top), number, TEXT, column)
        top += line_height(TEXT)
    return top
