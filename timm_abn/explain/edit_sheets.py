"""The sheet of an edited map: the image, its map before and after, and what the prediction made of that."""

from collections.abc import Sequence

from PIL import Image
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from ..maps.operations import overlay_maps
from .editing import Edit
from .files import format_range, range_of
from .lettering import GREY, HEADING, INK, LINE, NOTE, TEXT, TITLE, Pen, line_height
from .sheets import GAP, LEAST_WIDTH, MARGIN, enlarge

__all__ = ['changed_classes', 'draw_edit_sheet']

BEFORE, AFTER = '#9a9a9a', '#2b6cb0'  # colours of the bars
BAR = 9


def changed_classes(edit: Edit, top_k: int = 5) -> Sequence[int]:
    """Return the classes to tell of: the edited task, then the most probable before and after, in falling order.

    Args:
        edit: What was predicted.
        top_k: How many before, and after.
    """
    before = edit.before.probabilities[0]
    count = min(top_k, len(before))
    chosen = {*before.topk(count).indices.tolist(), *edit.probabilities.topk(count).indices.tolist()}
    if edit.task is not None:
        chosen.add(edit.task)
    return sorted(chosen, key=lambda index: (index != edit.task, -before[index].item()))


def draw_edit_sheet(
    picture: Image.Image,
    edit: Edit,
    class_names: Sequence[str],
    title: str,
    notes: Sequence[str] = (),
    top_k: int = 5,
    colormap: str = 'viridis',
) -> Image.Image:
    """Return a sheet: the image, the map before and after on one scale of [0, 1], and probabilities as bars.

    Args:
        picture: The image as the model sees it (``timm_abn.explain.sheets.input_picture``).
        edit: What was predicted.
        class_names: Names of all classes, or tasks.
        title: What the sheet is of.
        notes: What is said below, a paragraph each.
        top_k: How many classes to tell of, before and after.
        colormap: 'viridis', 'inferno' or 'magma'.
    """
    shown = enlarge(picture)
    column = max(shown.width, LEAST_WIDTH)
    room = 3 * (column + GAP) - GAP
    classes = changed_classes(edit, top_k)
    sheet = Image.new('RGB', (room + 2 * MARGIN, shown.height + 40 * len(classes) + 60 * len(notes) + 300), 'white')
    pen = Pen(sheet)
    pen.text((MARGIN, MARGIN - 6), title, TITLE, room)
    top = MARGIN - 6 + line_height(TITLE) + 8
    panels = [('input', None), ('map before', edit.predicted_map), ('map after', edit.edited_map)]
    for index, (heading, values) in enumerate(panels):
        left = MARGIN + index * (column + GAP)
        below = top + line_height(HEADING) + 4
        pen.text((left, top), heading, HEADING, column)
        if values is None:
            sheet.paste(shown, (left, below))
            continue
        pixels = pil_to_tensor(shown)[None]
        drawn = overlay_maps(pixels, values.float().cpu(), colormap=colormap, normalize=False)
        sheet.paste(to_pil_image(drawn[0]), (left, below))
        pen.text((left, below + shown.height + 6), format_range(*range_of(values)), NOTE, column, GREY)
    top += line_height(HEADING) + shown.height + 6 + line_height(NOTE) + GAP
    pen.draw.line([(MARGIN, top), (MARGIN + room, top)], fill=LINE)
    top += 12
    before = edit.before.probabilities[0]
    for index in classes:
        pair = before[index].item(), edit.probabilities[index].item()
        top = _draw_class(pen, class_names[index], pair, (MARGIN, top), column, room)
    bottom = pen.paragraphs((MARGIN, top + 4), notes, NOTE, room, GREY)
    return sheet.crop((0, 0, sheet.width, bottom + MARGIN - 8))


def _draw_class(pen: Pen, name: str, pair: tuple[float, float], place: tuple[int, int], column: int, room: int) -> int:
    """Draw a class, with a bar before and one after, and return where it ends."""
    left, top = place
    pen.text(place, name, TEXT, column)
    start = left + column + GAP
    numbers = f'{pair[0]:.4f}  to  {pair[1]:.4f}'
    width = left + room - start - pen.width('0.0000  to  0.0000', TEXT) - GAP
    for row, (probability, color) in enumerate(zip(pair, (BEFORE, AFTER))):
        upper = top + 2 + row * (BAR + 1)
        pen.draw.rectangle([start, upper, start + round(width * probability), upper + BAR - 1], fill=color)
    pen.text((start + width + GAP, top), numbers, TEXT, room, INK)
    return top + line_height(TEXT) + 6
