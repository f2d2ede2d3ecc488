"""From strokes on a picture to an edited map, the prediction under it, and files to keep."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data.images import place_map
from ..explain.editing import Edit, edit_prediction
from ..staging import staged_files
from .models import ServedModel
from .session import Session, draw_kind, draw_map, map_of, target_of

__all__ = ['STROKE', 'draw_edited_map', 'is_empty', 'mask_of', 'merge_layers', 'paint', 'write_files']

STROKE = 0.6  # opacity of a stroke, so that the photo shows through; above one half the last stroke outweighs others


def merge_layers(layers: Sequence[Image.Image | None], session: Session, keeps: bool) -> Image.Image:
    """Return strokes as one painting of mode 'LA', in the size in which the photo is shown.

    ``layers`` are RGBA, the lowest first, in the proportions of the photo; None is empty. Strokes are white or black:
    of those that lie over each other the last counts, and counts in full, however translucent it is drawn. ``keeps``
    says whether the model's own map stays where nothing is painted; else it is black there.
    """
    merged = Image.new('RGBA', session.shown.size, (0, 0, 0, 0 if keeps else 255))
    for layer in layers:
        if layer is not None:
            *color, opacity = layer.convert('RGBA').resize(merged.size).split()
            light = Image.merge('RGB', color).convert('L').point(lambda value: 255 * (value > 127))
            opacity = opacity.point(lambda value: min(255, round(value / STROKE)))
            merged.alpha_composite(Image.merge('RGBA', (light, light, light, opacity)))
    return Image.merge('LA', (merged.convert('RGB').convert('L'), merged.getchannel('A')))


def is_empty(painting: Image.Image) -> bool:
    """Return whether nothing was painted, so that the model's own map stays."""
    return painting.getchannel('A').getextrema() == (0, 0)


def paint(session: Session, served: ServedModel, painting: Image.Image, target: int | None = None) -> Edit:
    """Return what the model predicts with the painted map; of several tasks with that of ``target``."""
    task = target_of(session, target) if served.has_tasks else None
    return edit_prediction(served.model, session.explanation, session.x, painting, session.shown_box, task)


def draw_edited_map(session: Session, edit: Edit) -> Image.Image:
    """Return the photo with the edited map, in colours that span the range of both maps."""
    both = torch.cat([edit.predicted_map.flatten(), edit.edited_map.flatten()])
    return draw_map(session, edit.edited_map, (both.min().item(), both.max().item()))


def mask_of(session: Session, edit: Edit, painting: Image.Image) -> Image.Image:
    """Return the painted map as a mask of the photo, in its size: 255 where it is above one half, else 0.

    That is what ``timm-abn-train --attention-mask-dir`` reads. Strokes have their own edges, which are finer than the
    places of the map.
    """
    light, opacity = (np.asarray(band, dtype=np.float32) / 255 for band in painting.resize(session.size).split())
    own = place_map(edit.predicted_map.float().cpu(), session.box, session.size, 'bilinear').numpy()
    values = light * opacity + own * (1 - opacity)
    return Image.fromarray(np.where(values > 0.5, 255, 0).astype(np.uint8))


def write_files(
    session: Session, served: ServedModel, painting: Image.Image, folder: Path, kind: str, target: int | None = None
) -> list[Path]:
    """Write the overlay of a map (``kind`` of ``MAPS``, for ``target``) and the map; return the paths.

    Of a model whose map is painted on also the painted map, and the mask.
    """
    stem = Path(session.photo.name).stem
    shown = map_of(session, served, kind, target).float().cpu()
    names = [f'{stem}.overlay.png', f'{stem}.map.npy']
    with staged_files(folder) as staging:
        draw_kind(session, served, kind, target, full_size=True).save(staging / names[0])
        np.save(staging / names[1], place_map(shown, session.box, session.size, 'bilinear').numpy())
        if not served.is_painted:
            return [folder / name for name in names]
        edit = paint(session, served, painting, target)
        names += [f'{stem}.painted.npy', f'{stem}.png']
        np.save(staging / names[2], edit.edited_map[0, 0].float().cpu().numpy())
        mask_of(session, edit, painting).save(staging / names[3])
    return [folder / name for name in names]
