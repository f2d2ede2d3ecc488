"""What happens on the page: from what a visitor does to what is shown."""

import contextlib
import functools
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from PIL import Image

from ..data.reading import read_image
from ..errors import TimmAbnError, one_line
from .curves import Curves, curves_of
from .layout import KEEPS, Parts, about
from .models import OfferedModels, ServedModel
from .painting import draw_edited_map, is_empty, merge_layers, paint, write_files
from .photos import read_photo
from .session import (
    MAPS,
    Session,
    class_kind,
    draw_kind,
    draw_map,
    first_map,
    map_of,
    maps_of,
    method_map,
    open_session,
    prepare,
    scale_of,
    sequential,
    target_of,
    top_classes,
)
from .tables import LINES, color_bar, curve_table, message, probability_table

__all__ = ['build_page']

MOST_PROBABLE = -1  # of the classes to choose from
THUMBNAIL = (240, 240)
FORGOTTEN_AFTER = 60  # seconds: what a photo may wait for its turn after it was uploaded


def build_page(offered: OfferedModels) -> gr.Blocks:
    """Return the page for models to choose from, of which the first is loaded now.

    Raises:
        TimmAbnError: It cannot be loaded, or has no map to paint on.
    """
    first = offered.load(offered.names[0])
    first.explainers  # noqa: B018  so that the first visitor need not wait
    with gr.Blocks(title='timm-abn', analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        _Page(offered, Parts(offered.names, first))
    return blocks


def _reported(handle: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """Let what goes wrong be one line on the page, where all else stays as it was."""

    @functools.wraps(handle)
    def handle_and_report(self: '_Page', *args: Any) -> dict[Any, Any]:
        try:
            return {self.parts.message: '', **handle(self, *args)}
        except TimmAbnError as error:
            return {self.parts.message: message(one_line(error), is_problem=True)}

    return handle_and_report


def _computing(handle: Callable[..., dict[Any, Any]]) -> Callable[..., dict[Any, Any]]:
    """Let one computation run at a time: several would share the same cores."""

    @_reported
    @functools.wraps(handle)
    def handle_alone(self: '_Page', *args: Any) -> dict[Any, Any]:
        with self.computing:
            return handle(self, *args)

    return handle_alone


class _Page:
    """Connects the components; holds nothing of any visitor, whose session is with the browser's own state."""

    def __init__(self, offered: OfferedModels, parts: Parts) -> None:
        self.offered, self.parts, self.computing = offered, parts, threading.Lock()
        self.uploads: list[Path] = []
        p = parts
        options: dict[str, Any] = dict(
            concurrency_limit=1, concurrency_id='model', api_visibility='private', show_progress='hidden'
        )
        # photos are read beside the computation: a slow one keeps nobody waiting
        of_photos = dict(options, concurrency_limit=3, concurrency_id='photos')
        painted, choices = [p.model, p.target, p.keeps, p.canvas], [p.model, p.target, p.kind, p.keeps, p.canvas]
        redrawn = [p.message, p.table, p.painted]
        drawn = [p.canvas, p.picture, p.scale, *redrawn]
        shown = [p.session, p.results, p.files, p.curves, p.areas, *drawn, p.kind, p.keeps, p.target, p.method]
        beside = dict(fn=self.draw_beside, inputs=[p.session, p.model, p.target, p.method], **options)
        beside['outputs'] = [p.message, p.beside, p.beside_scale]
        opened = p.upload.upload(self.open_upload, [p.upload, p.model, p.kind], shown, **of_photos)
        # also after a file that was refused there is room for the next one
        opened = opened.then(lambda: None, None, [p.upload], **options)
        sampled = p.samples.select(self.open_sample, [p.model, p.kind], shown, **options)
        of_model = [p.about, p.offers, p.samples, *shown]
        changed = p.model.input(self.change_model, [p.session, p.model], of_model, **options)
        of_classes = dict(fn=self.draw_classes, inputs=[p.session, p.model], outputs=[p.message, p.classes], **options)
        for event in (opened, sampled, changed):
            event.then(**of_classes).then(**beside)
        redrawing = dict(fn=self.redraw, inputs=[p.session, *choices], outputs=drawn, **options)
        chosen = p.classes.select(self.choose_class, [p.session], [p.message, p.target], **options)
        for redraw in (chosen.then, p.target.input):
            redraw(**redrawing).then(**beside)
        p.kind.input(**redrawing)
        p.method.input(**beside)
        painting = dict(fn=self.predict_painted, inputs=[p.session, *painted], outputs=redrawn, **options)
        p.canvas.input(**painting, trigger_mode='always_last')
        p.keeps.input(**painting)
        of_curves = dict(options, show_progress='full')
        p.draw_curves.click(self.draw_curves, beside['inputs'], [p.message, p.curves, p.areas], **of_curves)
        p.save.click(self.save, [p.session, *choices], [p.message, p.files], **options)

    @_reported
    def open_upload(self, path: str | None, model: str, kind: str) -> dict[Any, Any]:
        if path is None:
            return {}
        served = self.offered.load(model)
        try:
            return self._read(path, served, kind)
        finally:
            self._forget(Path(path))

    def _forget(self, path: Path) -> None:
        """Remove uploads, of which the sessions have all they need; not yet those that others may just have sent.

        gradio keeps equal files once, so that one visitor would take the photo of another away.
        """
        self.uploads.append(path)
        for old in list(self.uploads):
            with contextlib.suppress(OSError):  # another thread did it
                if time.time() - old.stat().st_mtime > FORGOTTEN_AFTER:
                    old.unlink()
            if not old.exists():
                with contextlib.suppress(ValueError):
                    self.uploads.remove(old)

    @_reported
    def open_sample(self, model: str, kind: str, event: gr.SelectData) -> dict[Any, Any]:
        served = self.offered.load(model)
        return self._read(served.examples[event.index], served, kind)

    def _read(self, path: str | Path, served: ServedModel, kind: str | None) -> dict[Any, Any]:
        photo, pixels = read_photo(path, served.preprocessing.levels)
        x, box = prepare(served, photo, pixels)
        del pixels  # not while others compute
        with self.computing:
            return self._open(open_session(photo, served, x, box), served, kind or first_map(served))

    @_computing
    def change_model(self, session: Session | None, model: str) -> dict[Any, Any]:
        served = self.offered.load(model)
        p, kind, examples = self.parts, first_map(served), [read_image(path) for path in served.examples]
        offer = {p.about: about(served), p.offers: gr.Column(visible=bool(examples)), p.samples: examples}
        if session is None:
            return {**offer, **self._choices_of(served, kind)}
        x, box = prepare(served, session.photo, session.photo.picture)
        return {**offer, **self._open(open_session(session.photo, served, x, box), served, kind)}

    def _open(self, session: Session, served: ServedModel, kind: str) -> dict[Any, Any]:
        p = self.parts
        empty = Image.new('RGBA', session.shown.size)  # without any layer the strokes on the last photo would stay
        return {
            p.session: session,
            p.results: gr.Column(visible=True),
            p.table: probability_table(served.class_names, top_classes(session), session.probabilities),
            p.painted: self._own_map(session, served),
            p.files: gr.File(None, visible=False),
            p.curves: gr.LinePlot(None, visible=False),
            p.areas: '',
            **self._draw(session, served, kind, None, [empty]),
            **self._choices_of(served, kind),
        }

    def _choices_of(self, served: ServedModel, kind: str) -> dict[Any, Any]:
        p, is_painted = self.parts, served.is_painted
        methods = [(served.title(name), name) for name in served.explainers]
        targets = [('most probable', MOST_PROBABLE), *((name, i) for i, name in enumerate(served.class_names))]
        label = f'{"Task" if served.has_tasks else "Class"} that is explained'
        return {
            p.kind: gr.Dropdown(list(maps_of(served)), value=kind),
            p.keeps: gr.Radio(visible=is_painted),
            p.target: gr.Dropdown(targets, value=MOST_PROBABLE, label=label),
            p.method: gr.Dropdown(methods, value=methods[0][1] if methods else None),
        }

    def _draw(
        self, session: Session, served: ServedModel, kind: str, target: int | None, layers: Any
    ) -> dict[Any, Any]:
        """Return the map with its colour bar: where it can be painted on under ``layers``, else as a picture."""
        p, picture = self.parts, draw_kind(session, served, kind, target)
        if served.is_painted:
            canvas: Any = dict(background=picture, layers=layers, composite=picture)
            shown = {p.canvas: gr.ImageEditor(canvas, visible=True), p.picture: gr.Image(None, visible=False)}
        else:
            shown = {p.canvas: gr.ImageEditor(visible=False), p.picture: gr.Image(picture, visible=True)}
        return {**shown, p.scale: color_bar(*scale_of(session, served, kind, target))}

    def _own_map(self, session: Session, served: ServedModel, target: int | None = None) -> Any:
        picture = draw_kind(session, served, MAPS[0], target) if served.is_painted else None
        return gr.Image(picture, visible=served.is_painted)

    @_computing
    def draw_classes(self, session: Session | None, model: str) -> dict[Any, Any]:
        p, served = self.parts, self.offered.load(model)
        kind = None if session is None else class_kind(session, served)
        if session is None or kind is None:
            return {p.message: gr.skip(), p.classes: gr.Gallery(visible=False)}
        maps = []
        for index in top_classes(session):
            picture = draw_kind(session, served, kind, index)
            picture.thumbnail(THUMBNAIL)
            maps.append((picture, f'{served.class_names[index]} {session.probabilities[index]:.3f}'))
        return {p.message: gr.skip(), p.classes: gr.Gallery(maps, visible=True)}

    @_reported
    def choose_class(self, session: Session | None, event: gr.SelectData) -> dict[Any, Any]:
        return {self.parts.target: top_classes(_opened(session))[event.index]}

    @_computing
    def redraw(self, session: Session, model: str, target: int, kind: str, keeps: str, canvas: Any) -> dict[Any, Any]:
        if session is None:
            return {}
        drawn = self._draw(session, self.offered.load(model), kind, _target(target), _layers(canvas))
        return {**drawn, **self._predict(session, model, target, keeps, canvas)}

    @_computing
    def predict_painted(
        self, session: Session | None, model: str, target: int, keeps: str, canvas: Any
    ) -> dict[Any, Any]:
        return {} if session is None else self._predict(session, model, target, keeps, canvas)

    def _predict(self, session: Session, model: str, target: int, keeps: str, canvas: Any) -> dict[Any, Any]:
        served = self.offered.load(model)
        if not served.is_painted:
            return {}
        layers, classes = _layers(canvas), top_classes(session)
        # a new photo on the canvas counts as input, too; an empty canvas is no black map
        if is_empty(merge_layers(layers, session, keeps=True)):
            table = probability_table(served.class_names, classes, session.probabilities)
            return {self.parts.table: table, self.parts.painted: self._own_map(session, served, _target(target))}
        edit = paint(session, served, merge_layers(layers, session, keeps == KEEPS[0]), _target(target))
        classes += [] if edit.task is None or edit.task in classes else [edit.task]
        winner = int(edit.probabilities.argmax())
        classes += [] if winner in classes else [winner]
        table = probability_table(served.class_names, classes, session.probabilities, edit.probabilities)
        return {self.parts.table: table, self.parts.painted: draw_edited_map(session, edit)}

    @_computing
    def draw_beside(self, session: Session | None, model: str, target: int, method: str | None) -> dict[Any, Any]:
        said = {self.parts.message: gr.skip()}  # what was said of an upload stays
        if session is None or method is None:
            return said
        served = self.offered.load(model)
        values = method_map(session, served, method, _target(target))
        value_range = (0.0, values.max().item()) if served.explainers[method].centred else None
        caption = f'{served.title(method)}, of {served.class_names[target_of(session, _target(target))]}'
        bar = color_bar(*sequential(value_range is not None), caption)
        return {**said, self.parts.beside: draw_map(session, values, value_range), self.parts.beside_scale: bar}

    @_computing
    def draw_curves(self, session: Session | None, model: str, target: int, method: str | None) -> dict[Any, Any]:
        session, served, wanted = _opened(session), self.offered.load(model), _target(target)
        own = maps_of(served)[0]
        maps = {own: map_of(session, served, own, wanted)}
        if method is not None:
            maps[served.title(method)] = method_map(session, served, method, wanted)
        curves = {name: curves_of(session, served, values, wanted) for name, values in maps.items()}
        flat = [name for name, found in curves.items() if found is None]
        drawn = {name: found for name, found in curves.items() if found is not None}
        flatness = f' {", ".join(flat)}: flat, which has no order.' if flat else ''
        note = message(f'SRG: insertion less deletion, noise has 0. One photo is an anecdote.{flatness}')
        frame = _frame(drawn)
        colors = dict(zip(frame['curve'].unique(), [color for pair in LINES for color in pair]))
        plot = gr.LinePlot(frame, color_map=colors, visible=bool(drawn))
        return {self.parts.curves: plot, self.parts.areas: curve_table(drawn) + note}

    @_computing
    def save(
        self, session: Session | None, model: str, target: int, kind: str, keeps: str, canvas: Any
    ) -> dict[Any, Any]:
        session, served, wanted = _opened(session), self.offered.load(model), _target(target)
        painting = merge_layers(_layers(canvas), session, keeps == KEEPS[0])
        folder = Path(tempfile.mkdtemp(prefix='saved-', dir=self.parts.files.GRADIO_CACHE))
        paths = write_files(session, served, painting, folder, kind, wanted)
        label = f'Files; {paths[-1].name} is a mask for --attention-mask-dir' if served.is_painted else 'Files'
        return {self.parts.files: gr.File([str(path) for path in paths], visible=True, label=label)}


def _layers(canvas: Any) -> Any:
    return canvas['layers'] if canvas else []  # a canvas that is not painted on may send nothing


def _opened(session: Session | None) -> Session:
    if session is None:
        raise TimmAbnError('there is no photo yet: drop one, or take an example.')
    return session


def _target(chosen: int | None) -> int | None:
    return None if chosen is None or chosen == MOST_PROBABLE else chosen


def _frame(curves: dict[str, Curves]) -> pd.DataFrame:
    """Return curves as the table that ``gr.LinePlot`` takes."""
    rows: list[Any] = []
    for name, found in curves.items():
        for label, values in (('insertion', found.insertion), ('deletion', found.deletion)):
            rows += [(x, y, f'{label}, {name.removesuffix(" map")}') for x, y in zip(found.fractions, values)]
    return pd.DataFrame(rows, columns=['share of the pixels', 'probability', 'curve'])
