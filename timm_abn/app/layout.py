"""The components of the page, and their layout."""

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr

from .session import MAPS

__all__ = ['KEEPS', 'STYLE', 'Parts', 'lay_out', 'theme']

KEEPS = ("keep the network's own map", 'are black (0)')
WHITE, BLACK = '#ffffff', '#000000'

STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
.message { margin: 0; padding: .35rem .7rem; border-radius: .4rem; }
.message.problem { background: #fdecea; color: #8c1d18; }
.message.note { background: #eef4fb; color: #1d3a5c; }
.probabilities { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.probabilities td, .probabilities th { padding: .25rem .4rem; border: 0; text-align: left; font-weight: normal; }
.probabilities th { font-size: .8rem; opacity: .7; text-align: right; }
.probabilities .number { text-align: right; width: 3.6rem; }
.probabilities .name { min-width: 7rem; }
.probabilities .bars { width: 26%; }
.probabilities .bars i { display: block; height: .5rem; margin: 2px 0; min-width: 1px; }
.probabilities .before { background: #9a9a9a; }
.probabilities .after { background: #2b6cb0; }
"""

INTRODUCTION = """# Where does it look, and what if it looked elsewhere?

Drop a photo. The colours are the map that the network made while it predicted. Paint on it: white is *look here*, black
is *look away*; the prediction follows the map you paint."""


@dataclasses.dataclass
class Parts:
    """The components of the page that events change."""

    session: Any
    upload: Any
    samples: Any
    model: Any
    target: Any
    kind: Any
    keeps: Any
    message: Any
    canvas: Any
    table: Any
    painted: Any
    method: Any
    beside: Any
    draw_curves: Any
    curves: Any
    areas: Any
    save: Any
    files: Any


def theme() -> Any:
    """Return a theme without fonts from elsewhere."""
    return gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])


def sample_paths() -> list[Path]:
    """Return the images that are offered as examples: those of the package."""
    return sorted((Path(__file__).parents[1] / 'samples').glob('*.png'))


def lay_out(models: list[str]) -> Parts:
    """Create the components, inside of a ``gr.Blocks``.

    Args:
        models: Names of the models that are offered.
    """
    # a visitor who has left, or sleeps, is forgotten after an hour
    session = gr.State(None, time_to_live=3600)
    picture: Any = dict(format='jpeg', interactive=False, height=330, buttons=['download', 'fullscreen'])
    gr.Markdown(INTRODUCTION)
    message = gr.HTML(elem_id='message')
    with gr.Row():
        with gr.Column(scale=2, min_width=240):
            upload, samples, model, target = _choices(models)
        with gr.Column(scale=3, min_width=380):
            kind, canvas, keeps = _canvas()
        with gr.Column(scale=3, min_width=340):
            table = gr.HTML(elem_id='probabilities', min_height=190)
            painted = gr.Image(label='The painted map', elem_id='painted', **picture)
    with gr.Row():
        with gr.Column(scale=3, min_width=340):
            method = gr.Dropdown([], label='Another method beside it', elem_id='method')
            beside = gr.Image(show_label=False, elem_id='beside', **picture)
        with gr.Column(scale=4, min_width=400):
            draw_curves, curves, areas = _curves()
        with gr.Column(scale=3, min_width=320):
            save = gr.Button('Save overlay, maps and mask', elem_id='save')
            files = gr.File(label='Files', file_count='multiple', interactive=False, elem_id='files')
            gr.Markdown(
                'The PNG file called like the photo is the painted map as a mask, white where it is above one half: '
                'training reads it from the folder of `--attention-mask-dir`.'
            )
    return Parts(
        session, upload, samples, model, target, kind, keeps, message, canvas, table, painted, method, beside,
        draw_curves, curves, areas, save, files,
    )  # fmt: skip


def _choices(models: list[str]) -> tuple[Any, Any, Any, Any]:
    upload = gr.File(label='Photo', elem_id='upload', height=130)
    samples = gr.Gallery(
        [str(path) for path in sample_paths()],
        label='Or an example',
        columns=2,
        height=240,
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id='samples',
    )
    model = gr.Dropdown(models, value=models[0], label='Model', visible=len(models) > 1, elem_id='model')
    target = gr.Dropdown([], label='Class or task that is explained', elem_id='target')
    return upload, samples, model, target


def _canvas() -> tuple[Any, Any, Any]:
    kind = gr.Radio(list(MAPS), value=MAPS[0], label='What the colours show', elem_id='kind')
    canvas = gr.ImageEditor(
        label='Paint on the attention map',
        type='pil',
        image_mode='RGBA',
        format='png',
        sources=(),
        transforms=(),
        layers=False,
        brush=gr.Brush(default_size=60, colors=[WHITE, BLACK], default_color=WHITE, color_mode='fixed'),
        eraser=gr.Eraser(default_size=60),
        canvas_size=(512, 512),
        buttons=[],
        height=470,
        elem_id='canvas',
    )
    keeps = gr.Radio(list(KEEPS), value=KEEPS[0], label='Places that are not painted', elem_id='keeps')
    return kind, canvas, keeps


def _curves() -> tuple[Any, Any, Any]:
    draw = gr.Button('Deletion and insertion of this photo', elem_id='draw-curves')
    curves = gr.LinePlot(
        x='share of the pixels',
        y='probability',
        color='curve',
        x_lim=[0, 1],
        y_lim=[0, 1],
        height=280,
        buttons=[],
        show_label=False,
        elem_id='curves',
    )
    return draw, curves, gr.HTML(elem_id='areas')
