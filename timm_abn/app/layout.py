"""The components of the page, and their layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .inputs import only_strokes, only_uploads

__all__ = ['KEEPS', 'STYLE', 'Parts', 'sample_paths', 'theme']

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

Drop a photo. The colours are the map that the network made while it predicted. Paint on that of an Attention Branch
Network: white is *look here*, black is *look away*; the prediction follows the map you paint."""

SAVED = """Of a map that is painted on, the PNG file called like the photo is the painted map as a mask, white where it
is above one half: training reads it from the folder of `--attention-mask-dir`."""


def theme() -> gr.themes.Base:
    """Return a theme without fonts from elsewhere."""
    return gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])


def sample_paths() -> list[Path]:
    """Return the images that are offered as examples: those of the package."""
    return sorted((Path(__file__).parents[1] / 'samples').glob('*.png'))


class Parts:
    """The components of the page that events change; made, and laid out, inside of a ``gr.Blocks``."""

    def __init__(self, models: list[str], kind: str, words: str, kinds: Sequence[str], is_painted: bool) -> None:
        # a visitor who has left, or sleeps, is forgotten after an hour
        self.session = gr.State(None, time_to_live=3600)
        picture: dict[str, Any] = dict(format='jpeg', interactive=False, height=330, buttons=['download', 'fullscreen'])
        gr.Markdown(INTRODUCTION)
        self.message = gr.HTML(elem_id='message')
        with gr.Row():
            with gr.Column(scale=2, min_width=240):
                self._add_choices(models)
            with gr.Column(scale=3, min_width=380):
                self._add_canvas(kind, words, kinds, is_painted)
            with gr.Column(scale=3, min_width=340):
                self.table = gr.HTML(elem_id='probabilities', min_height=190)
                self.painted = gr.Image(label='The painted map', elem_id='painted', visible=is_painted, **picture)
        with gr.Row():
            with gr.Column(scale=3, min_width=340):
                self.method = gr.Dropdown([], label='Another method beside it', elem_id='method')
                self.beside = gr.Image(show_label=False, elem_id='beside', **picture)
            with gr.Column(scale=4, min_width=400):
                self._add_curves()
            with gr.Column(scale=3, min_width=320):
                self.save = gr.Button('Save overlay, maps and mask', elem_id='save')
                self.files = gr.File(label='Files', file_count='multiple', interactive=False, elem_id='files')
                gr.Markdown(SAVED)

    def _add_choices(self, models: list[str]) -> None:
        self.upload = only_uploads(gr.File(label='Photo', elem_id='upload', height=130))
        self.samples = gr.Gallery(
            [str(path) for path in sample_paths()],
            label='Or an example',
            columns=2,
            height=240,
            allow_preview=False,
            interactive=False,
            buttons=[],
            elem_id='samples',
        )
        self.model = gr.Dropdown(models, value=models[0], label='Model', visible=len(models) > 1, elem_id='model')
        self.target = gr.Dropdown([], label='Class or task that is explained', elem_id='target')

    def _add_canvas(self, kind: str, words: str, kinds: Sequence[str], is_painted: bool) -> None:
        self.kind = gr.Radio(list(kinds), value=kind, info=words, label='What the colours show', elem_id='kind')
        canvas = gr.ImageEditor(
            label='Paint on the attention map' if is_painted else 'The map',
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
            interactive=is_painted,
            elem_id='canvas',
        )
        self.canvas = only_strokes(canvas)
        label = 'Places that are not painted'
        self.keeps = gr.Radio(list(KEEPS), value=KEEPS[0], label=label, visible=is_painted, elem_id='keeps')

    def _add_curves(self) -> None:
        self.draw_curves = gr.Button('Deletion and insertion of this photo', elem_id='draw-curves')
        self.curves = gr.LinePlot(
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
        self.areas = gr.HTML(elem_id='areas')
