"""The components of the page, and their layout."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from .inputs import only_strokes, only_uploads
from .models import ServedModel
from .painting import STROKE

__all__ = ['KEEPS', 'STYLE', 'Parts', 'about', 'theme']

KEEPS = ("keep the network's own map", 'are black (0)')
WHITE, BLACK = ('#ffffff', STROKE), ('#000000', STROKE)

STYLE = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
.message { margin: 0; padding: .35rem .7rem; border-radius: .4rem; }
.message.problem { background: #fdecea; color: #8c1d18; }
.message.note { background: #eef4fb; color: #1d3a5c; }
.probabilities { width: 100%; border: 0 !important; border-collapse: collapse; font-variant-numeric: tabular-nums; }
.probabilities tr { border: 0 !important; }
.probabilities td, .probabilities th { padding: .25rem .3rem; border: 0 !important; font-weight: normal; }
.probabilities th { font-size: .8rem; opacity: .7; text-align: right; white-space: nowrap; }
.probabilities .number { text-align: right; width: 3rem; white-space: nowrap; }
.probabilities .name { min-width: 5rem; }
.probabilities .bars { width: 28%; }
.probabilities .bars i { display: block; height: .5rem; margin: 2px 0; min-width: 1px; }
.probabilities .before { background: #9a9a9a; }
.probabilities .after { background: #2b6cb0; }
.curves { max-width: 34rem; }
.curves i { display: inline-block; width: 1.2rem; height: .3rem; vertical-align: middle; }
.scale > i { display: block; height: .7rem; border-radius: .2rem; }
.scale div { display: flex; justify-content: space-between; }
.scale div, .scale p { font-size: .8rem; margin: .1rem 0 0; }
.pictures .grid-wrap { min-height: 0 !important; max-height: none !important; overflow: hidden !important; }
.pictures .grid-wrap { contain: inline-size; }
.pictures .grid-container { display: flex; margin-top: 1.3rem; overflow-x: auto; }
.pictures .gallery-item { flex: 1 0 90px; max-width: 240px; }
.pictures .caption-label { padding: .1rem .3rem; font-size: .7rem; white-space: normal; }
#samples .gallery-item { max-width: 150px; }
#classes .grid-container { flex-wrap: wrap; }
.picture { display: flex; flex-direction: column; }
.picture label.float { position: static; align-self: start; }
.picture .image-container { flex: 1; min-height: 0; }
.gradio-container:not(:has(#painted)) #beside { height: auto !important; }
"""

GATES = """Its attention map gates: it weighs the features that are classified. Paint on it, white for *look here* and
black for *look away*, and the prediction changes with it."""
EXPLAINS = """Its map shows the evidence for a class at each position, from the network's own head. The map takes no
part in the prediction, so there is nothing to paint."""


def theme() -> gr.themes.Base:
    """Return a theme without fonts from elsewhere."""
    return gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])


def about(served: ServedModel) -> str:
    """Return which model is loaded, where its weights come from, and what its map does, as Markdown."""
    source = f', weights from {served.source}' if served.source else ''
    return f'**{served.name}**{source}. {GATES if served.is_painted else EXPLAINS}'


class Parts:
    """The components of the page that events change; made, and laid out, inside of a ``gr.Blocks``.

    What a photo fills is not there before the first photo, nor is what a click makes before that click.
    """

    def __init__(self, models: Sequence[str], served: ServedModel) -> None:
        # a visitor who has left, or sleeps, is forgotten after an hour
        self.session = gr.State(None, time_to_live=3600)
        gr.Markdown('# Where does it look?')
        self.about = gr.Markdown(about(served), elem_id='about')
        self.message = gr.HTML(elem_id='message')
        self._add_inputs(models, served.examples)
        with gr.Column(visible=False) as self.results:
            with gr.Row():
                with gr.Column(min_width=340):
                    self._add_map()
                with gr.Column(min_width=340):
                    self._add_choices()
                with gr.Column(min_width=340):
                    self.painted = _picture('The attention map that gates', 'painted', height=240)
                    self.beside = _picture('The other method', 'beside', height=240)
                    self.beside_scale = gr.HTML()
            self.classes = _gallery('The most probable: choose one to see its map', 'classes')
            with gr.Row():
                self.draw_curves = gr.Button('Deletion and insertion of this photo', elem_id='draw-curves')
                self.save = gr.Button('Save the overlay and the maps', elem_id='save')
            self._add_curves()
            self.files = gr.File(file_count='multiple', interactive=False, visible=False, elem_id='files')

    def _add_inputs(self, models: Sequence[str], examples: Sequence[Any]) -> None:
        with gr.Row(equal_height=True):
            with gr.Column(min_width=240):
                self.upload = only_uploads(gr.File(label='Photo', elem_id='upload', height=160))
            with gr.Column(scale=2, min_width=340, visible=bool(examples)) as self.offers:
                self.samples = _gallery('Or an example', 'samples', examples)
            with gr.Column(min_width=240, visible=len(models) > 1):
                self.model = gr.Dropdown(list(models), value=models[0], label='Model', elem_id='model')

    def _add_map(self) -> None:
        canvas = gr.ImageEditor(
            label='Paint here',
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
            height=430,
            elem_id='canvas',
        )
        self.canvas = only_strokes(canvas)
        self.picture = _picture('The map', 'map')
        self.scale = gr.HTML(elem_id='scale')

    def _add_choices(self) -> None:
        self.table = gr.HTML(elem_id='probabilities')
        self.kind = gr.Dropdown([], label='What the colours show', elem_id='kind')
        self.keeps = gr.Radio(list(KEEPS), value=KEEPS[0], label='Positions that are not painted', elem_id='keeps')
        self.target = gr.Dropdown([], elem_id='target')
        self.method = gr.Dropdown([], label='Another method beside it', elem_id='method')

    def _add_curves(self) -> None:
        self.curves = gr.LinePlot(
            x='share of the pixels',
            y='probability',
            color='curve',
            colors_in_legend=[],  # which would be cut; the table of scores is the legend
            x_lim=[0, 1],
            y_lim=[0, 1],
            height=280,
            buttons=[],
            show_label=False,
            visible=False,
            elem_id='curves',
        )
        self.areas = gr.HTML(elem_id='areas')


def _picture(label: str, elem_id: str, **shown: Any) -> gr.Image:
    fixed: dict[str, Any] = dict(format='jpeg', interactive=False, buttons=['download', 'fullscreen'])
    return gr.Image(label=label, elem_id=elem_id, elem_classes='picture', **fixed, **shown)


def _gallery(label: str, elem_id: str, pictures: Sequence[Any] = ()) -> gr.Gallery:
    fixed: dict[str, Any] = dict(height='auto', allow_preview=False, interactive=False, buttons=[])
    return gr.Gallery(pictures, label=label, elem_id=elem_id, elem_classes='pictures', **fixed)
