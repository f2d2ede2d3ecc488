"""Evaluating explanations batch by batch: first all maps, then the curves of these and of the mean maps of others.

The results of a batch are one file for each. An evaluation that was interrupted continues after the last of them, and
several processes take turns at the batches: in both cases the outcome is that of one process, since no batch depends on
others but by the mean maps, which are those of all. Only sums of maps are kept in memory.
"""

import contextlib
import datetime
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
import torch.nn as nn
from timm.data import resolve_model_data_config

from ...data.class_names import class_names
from ...data.samples import Sample
from ...errors import TimmAbnError
from ...hub.state_dicts import fingerprint_of
from ...progress import Progress
from ...records import are_exclusive, record_of
from ...version import __version__
from ..methods import create_explainer
from ..methods.floors import FLOORS
from ..metrics import STEPS
from ..metrics.predictions import Explainer
from ..processes import of_all_processes, rank_and_size, shared_scratch_folder, wait_for_all
from .batches import explain_batch, nothing, score_batch
from .collecting import put_together
from .controls import MeanMaps
from .fingerprints import fingerprint
from .grids import Grid, check_grid, draw_grid, score_grid
from .parts import (
    begin,
    changed_error,
    contents_of,
    facts_of,
    key_of,
    load_maps,
    parts_left,
    read_again,
    read_batch,
    save_part,
)
from .results import Evaluation, write_evaluation

__all__ = ['evaluate', 'preparation_of', 'weights_fingerprint']

_logger = logging.getLogger(__name__)


def evaluate(
    model: nn.Module,
    samples: Sequence[Sample],
    methods: Sequence[str] | Mapping[str, Explainer],
    folder: str | Path | None = None,
    steps: int = STEPS,
    baseline: str = 'mean',
    patch_size: int = 1,
    batch_size: int = 32,
    seed: int = 0,
    data: str = '',
    grid: int | None = None,
) -> Evaluation | None:
    """Score explanations of a model's predictions, and write ``scores.csv`` and ``summary.json``.

    Under ``torch.distributed``, each process takes a share of the batches.

    Args:
        model: The model, in evaluation mode, on the device to compute on. Its head is temporarily replaced to compute
            the ``randomised`` score.
        samples: Any sequence of samples, such as ``load_samples`` returns. An error while one is read concerns only
            that image. Each is read twice.
        methods: Names of methods of explanation (``timm_abn.explain.methods.EXPLAINERS``), or name -> any function of
            images and targets that returns maps (B, 1, h, w). Differences are to the first one. 'random' and 'centre'
            are added.
        folder: Folder for the results. If it holds the same evaluation, an interrupted one is resumed, and a finished
            one is shown again with a line that says so; this takes as long as reading the images. A method whose code
            cannot be inspected is evaluated again. None writes nothing; several processes must then be on one machine.
        steps: Steps of deletion and insertion.
        baseline: What replaces pixels: 'mean', 'black', 'blur' or 'linear'.
        patch_size: Side of the squares that are replaced, in pixels.
        batch_size: Images at once, and at most as many changed images.
        seed: Seed of the bootstrap, and of the random draws of reliance, mosaics and the replaced head.
        data: Description of the samples, for the record; an evaluation of others in the same folder is refused.
        grid: Images along each side of mosaics, to score methods by GridPG; None to leave it out.

    Returns:
        None in processes other than the first.

    Raises:
        TimmAbnError: The folder holds an evaluation of another network, method or image, or with other settings; an
            argument is invalid; or the model predicts NaN.
    """
    if not len(samples) or not methods:
        raise TimmAbnError(f'an evaluation needs images and methods, got {len(samples)} and {len(methods)}.')
    if grid is not None:
        check_grid(model, grid)
    explainers = dict(methods) if isinstance(methods, Mapping) else {n: create_explainer(n, model) for n in methods}
    explainers.update({name: create_explainer(name, model) for name in FLOORS if name not in explainers})
    settings: dict[str, Any] = dict(
        weights=weights_fingerprint(model),
        network=fingerprint(model),
        preparation=preparation_of(model),
        probabilities=record_of(model).probabilities,
        images=len(samples),
        data=data,
        methods=list(explainers),
        layers={name: getattr(explainer, 'layer', '') for name, explainer in explainers.items()},
        code={name: fingerprint(explainer) for name, explainer in explainers.items()},
        steps=steps,
        baseline=baseline,
        patch_size=patch_size,
        batch_size=batch_size,
        seed=seed,
        grid=grid,
        versions=dict(timm_abn=__version__, timm=timm.__version__, torch=torch.__version__),
    )
    with shared_scratch_folder() if folder is None else contextlib.nullcontext(Path(folder)) as place:
        begin(place, settings)
        work = _Work(model, samples, explainers, settings, place)
        mosaics, findings = work.run()
        if work.rank:
            return None
        parts, names = list(zip(work.maps, work.curves)), class_names(model)
        evaluation = put_together(parts, mosaics, settings, names, are_exclusive(model), findings)
        write_evaluation(place, evaluation)
        return evaluation


def weights_fingerprint(model: nn.Module) -> str:
    """Return a fingerprint of the weights of a model: the beginning of the SHA-256 of its state dict."""
    return fingerprint_of(model.state_dict())[:16]


def preparation_of(model: nn.Module, said: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return how images are prepared for a model, as JSON can say it; what is ``said`` comes first."""
    return json.loads(json.dumps({**resolve_model_data_config(model), **said}))


class _Work:
    """The phases of an evaluation, the share of this process of each; all wait for each other between them."""

    def __init__(
        self,
        model: nn.Module,
        samples: Sequence[Sample],
        methods: Mapping[str, Explainer],
        settings: Mapping[str, Any],
        folder: Path,
    ) -> None:
        self.model, self.samples, self.methods, self.settings, self.folder = model, samples, methods, settings, folder
        self.rank, self.world_size = rank_and_size()
        self.key, self.batch_size = key_of(settings), settings['batch_size']
        self.maps, self.curves = (self._paths(kind, -(-len(samples) // self.batch_size)) for kind in ('maps', 'curves'))

    def _paths(self, kind: str, number: int) -> list[Path]:
        return [self.folder / kind / f'{index:06}.safetensors' for index in range(number)]

    def run(self) -> tuple[list[Path], list[str]]:
        """Write all files that are left to write; return those of mosaics, and what is to be said of these.

        Raises:
            TimmAbnError: Images have changed since files were written of them.
        """
        left = self._left(self.maps, self.key)
        self._check([part for part in self._own(self.maps) if part not in left])
        self._explain(left)
        wait_for_all()
        # curves depend on the maps of all images
        contents = [(facts_of(part) or {})['contents'] for part in self.maps]
        key = fingerprint(self.key, contents) if self.key else None
        curves_left = self._left(self.curves, key)
        self._score(curves_left, key)
        mosaics, findings = self._play(key)
        if not of_all_processes([*left, *curves_left]) and self.rank == 0:
            ended = datetime.datetime.fromtimestamp(max(part.stat().st_mtime for part in self.curves))
            _logger.warning(f'{self.folder} holds this evaluation, of {ended:%Y-%m-%d %H:%M}: it is shown again')
        wait_for_all()
        return mosaics, findings

    def _own(self, parts: Sequence[Path]) -> Sequence[Path]:
        return parts[self.rank :: self.world_size]

    def _left(self, parts: Sequence[Path], key: str | None) -> list[Path]:
        return parts_left(self._own(parts), key)

    def _progress(self, parts: list[Path], what: str) -> Progress[Path]:
        return Progress(parts, f'evaluate: {what}', 'batch', shown=self.rank == 0)

    def _check(self, written: list[Path]) -> None:
        """Raise TimmAbnError if images have changed since files were written of them, in any process."""
        changed: list[str] = []
        for part in self._progress(written, 'reading the earlier evaluation'):
            changed += read_again(self.samples, part, self.batch_size)[1]
        changed = of_all_processes(changed)
        if changed:
            raise changed_error(self.folder, changed)

    def _explain(self, left: list[Path]) -> None:
        for part in self._progress(left, 'maps'):
            read, problems = read_batch(self.samples, part, self.batch_size)
            samples = list(read.values())
            tensors, facts = explain_batch(self.model, samples, self.methods, self.settings) if samples else nothing()
            facts.update(indices=list(read), unreadable=problems, contents=contents_of(samples, problems))
            save_part(part, self.key, tensors, facts)

    def _score(self, left: list[Path], key: str | None) -> None:
        controls = self._controls() if left else {}
        for part in self._progress(left, 'curves'):
            of_maps = self.folder / 'maps' / part.name
            samples, changed = read_again(self.samples, of_maps, self.batch_size)
            if changed:
                raise changed_error(self.folder, changed)
            maps, targets = load_maps(of_maps, self.methods)
            options = maps, targets, controls, self.settings
            tensors, facts = score_batch(self.model, samples, *options) if samples else nothing()
            save_part(part, key, tensors, facts)

    def _play(self, key: str | None) -> tuple[list[Path], list[str]]:
        """Write the files of GridPG; return them, or why there are none."""
        if not self.settings['grid']:
            return [], []
        try:
            grid = draw_grid(self.maps, self.settings['grid'], self.settings['seed'])
        except TimmAbnError as error:
            return [], [f'no GridPG: {error}']
        at_once = max(self.batch_size // grid.members.shape[1], 1)
        parts = self._paths('mosaics', -(-len(grid.members) // at_once))
        for part in self._progress(self._left(parts, key), 'mosaics'):
            shown = slice(int(part.stem) * at_once, (int(part.stem) + 1) * at_once)
            own = Grid(grid.members[shown], grid.classes[shown])
            save_part(part, key, {}, score_grid(self.model, self.samples, self.methods, own, self.batch_size))
        return parts, []

    def _controls(self) -> dict[str, MeanMaps]:
        """Return the sums of the maps of all images, for each method but the floors."""
        controls = {method: MeanMaps() for method in self.methods if method not in FLOORS}
        for part in self.maps:
            maps, targets = load_maps(part, controls)
            for method, own in maps.items():
                controls[method].add(own, targets)
        return controls
