"""Training the refinement of an attached network on your own photos, as ``timm-abn attach`` does.

The model is frozen, and no labels are used; the loss (``refinement_loss``) asks that the map says what its prediction
stands on, and held-out photos decide whether it does (``held_out``).
"""

import argparse
import copy
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from timm.optim import param_groups_weight_decay
from timm.utils import random_seed
from torch.utils.data import DataLoader

from ..attached.refinement import Refinement
from ..checkpoint_files import CheckpointError, read_checkpoint_file
from ..data.class_names import label_names_of
from ..data.images import Preprocessing
from ..data.photos import Photos, PhotosDataset
from ..explain.processes import rank_and_size
from ..explain.statistics import bootstrap_mean
from ..export.folding import fold_batch_norm
from ..models.attaching import MODEL, AttachedModel, backbone_fingerprint, without_backbone
from ..progress import Progress
from ..records import record_of
from ..staging import staged_files, write_csv
from .errors import TrainingError
from .held_out import gains, judge, split_held_out
from .refinement_loss import REST, refinement_terms

__all__ = ['LAST', 'STATE', 'SUMMARY', 'AttachSettings', 'outcome_in_words', 'train_attached']

LAST, STATE, SUMMARY = 'last.pth.tar', 'continue.pth.tar', 'summary.csv'
ROUND = 60  # steps, after which held-out photos decide
PATIENCE = 3  # rounds without a gain
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # of all steps
MOST_MEASURED = 256  # photos, for the statistics of channels

Row = dict[str, Any]  # numbers, and the verdict


class AttachSettings(NamedTuple):
    """How a refinement is trained."""

    steps: int = 480
    batch_size: int = 32  # of each process
    lr: float = 1e-3  # the greatest, after the warm-up; falls to 0 along a cosine
    seed: int = 0  # of order, flips, shares and backgrounds
    workers: int = 0  # processes that read photos


def train_attached(
    attached: AttachedModel,
    photos: Photos,
    settings: AttachSettings,
    folder: Path,
    device: torch.device,
    resume: bool = False,
) -> list[Row]:
    """Train, and leave a checkpoint, a table and what ``resume`` needs after each round of 60 steps.

    The checkpoint holds the best refinement so far, by the symmetric relevance gain on held-out photos. Where none is
    clearly better than the evidence that it begins from (the interval of the paired differences is above 0), it holds
    that. Each file is complete at every moment. A resumed run ends as an uninterrupted one; with more steps it goes on.
    All processes of a process group train together.

    Returns:
        The rows of the table, one for each round and one for the start; the last has a verdict (``VERDICT``).

    Raises:
        TrainingError: The loss is not finite.
        TimmAbnError: A photo cannot be read, the model predicts NaN, or the run to continue is another one.
    """
    run = _Run(attached, photos, settings, device)
    if resume:
        run.resume(folder)
    while run.step < settings.steps and not run.has_stopped:
        run.train_round()
        run.write(folder)
    run.end(folder)
    return run.rows


def outcome_in_words(rows: Sequence[Row], steps: int) -> str:
    """Return which refinement was kept, and whether training stopped before so many steps."""
    best, last = rows[_kept(rows)], rows[-1]['step']
    words = f'the refinement of step {best["step"]} is kept'
    if not best['step']:
        words = (
            'no refinement is clearly better on held-out photos than the evidence that it begins from, which is kept'
        )
    return words + f'; stopped at step {last}, since nothing was gained for {PATIENCE} rounds' * (last < steps)


def _kept(rows: Sequence[Row]) -> int:
    """Return the row of the greatest gain of those that are clearly above the start, else that of the start."""
    clear = [index for index, row in enumerate(rows) if row['above_start_low'] > 0]
    return max(clear, key=lambda index: rows[index]['srg_held_out'], default=0)


class _Run:
    """The state of a run."""

    def __init__(self, attached: AttachedModel, photos: Photos, settings: AttachSettings, device: torch.device) -> None:
        self.model, self.is_of_timm, self.settings, self.device = attached.model, attached.is_of_timm, settings, device
        self.model.to(device).eval().requires_grad_(False)
        assert self.model.refinement is not None
        self.refinement: Refinement = self.model.refinement.requires_grad_(True)
        self.preprocessing = Preprocessing(self.model)
        self.training, held_out = (self._see(part) for part in photos)
        decide, judged = split_held_out(len(held_out))
        self.deciding, self.judging = (
            torch.stack([held_out[i] for i in Progress(part, 'reading held-out photos', 'photo')]).to(device)
            for part in (decide, judged)
        )
        # what training steps run; held-out photos are predicted by the model itself
        self.folded: Any = fold_batch_norm(self.model, self.deciding[:1])
        self.folded.refinement = self.refinement
        self.backbone = backbone_fingerprint(self.model)
        self.recorded = self._recorded(attached)
        self.content = _content_of([*photos.training, *photos.validation])
        groups = param_groups_weight_decay(self.refinement, WEIGHT_DECAY)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.step = 0
        self.rows: list[Row] = []
        self.start_gains: list[float] = []  # of held-out photos, by the evidence alone

    def _see(self, photos: Sequence[Path]) -> PhotosDataset:
        see = self.preprocessing
        return PhotosDataset(photos, lambda image: see(image)[0], see.levels)

    def _recorded(self, attached: AttachedModel) -> dict[str, Any]:
        """Return what the checkpoint says of the network and its images, with the names of timm's training script."""
        config = {key: value for key, value in self.preprocessing.config.items() if key in _DATA_KEYS}
        own = {key: value for key, value in attached.arguments.items() if key not in ('num_classes', 'in_chans')}
        return dict(
            model=MODEL,
            model_kwargs=own,
            num_classes=self.model.num_classes,
            in_chans=self.model.in_chans,
            label_names=label_names_of(self.model),
            origin=attached.origin,
            **record_of(self.model).entries(),
            **(dict(backbone_sha256=self.backbone) if attached.is_of_timm else {}),
            **{key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        )

    @property
    def has_stopped(self) -> bool:
        """Whether the gain has not grown for some rounds."""
        found = [row['srg_held_out'] for row in self.rows]
        return bool(found) and len(found) - 1 - found.index(max(found)) >= PATIENCE

    def begin(self) -> None:
        """Set the statistics of channels, and note what the evidence alone is worth."""
        measured = min(MOST_MEASURED, len(self.training))
        with torch.no_grad():
            batches = DataLoader(self.training, self.settings.batch_size, sampler=self._order(0, measured))
            seen = (self.model.look(images.to(self.device), with_cut=True) for images in batches)
            self.refinement.set_statistics((found.cut, found.last) for found in seen if found.cut is not None)
        self._note()

    def train_round(self) -> None:
        """Train for a round, and let held-out photos decide; before the first they do so of the start."""
        if not self.rows:
            self.begin()
        start, settings, (rank, size) = time.monotonic(), self.settings, rank_and_size()
        number, end = len(self.rows), min(self.step + ROUND, settings.steps)
        random_seed((settings.seed * 10_000 + number) % 2**32, rank)
        first, last = (step * settings.batch_size * size for step in (self.step, end))
        order = self._order(first, last)[rank::size]
        loader = DataLoader(self.training, settings.batch_size, sampler=order, num_workers=settings.workers)
        sums = dict.fromkeys(('train_loss', 'train_kept', 'train_rest'), 0.0)
        rounds = number + -(-(settings.steps - end) // ROUND)
        bar: Progress[torch.Tensor] = Progress(loader, f'round {number}/{rounds}', 'step', shown=rank == 0)
        for done, images in enumerate(bar, 1):
            losses = self._train_step(images.to(self.device))
            if not math.isfinite(losses['train_loss']):
                raise TrainingError(f'the loss is {losses["train_loss"]} in step {self.step}: pass a smaller --lr.')
            sums = {name: value + losses[name] for name, value in sums.items()}
            bar.note = ', '.join(f'{name[6:]} {value / done:.3f}' for name, value in sums.items())
        self._note(**{name: round(value / done, 5) for name, value in sums.items()})
        self.rows[-1]['seconds'] = round(time.monotonic() - start, 1)

    def _order(self, first: int, last: int) -> list[int]:
        """Return which photos are seen from the first to the last of a run: all in a drawn order, then all again."""
        count = len(self.training)
        orders = [
            torch.randperm(count, generator=torch.Generator().manual_seed(self.settings.seed * 10_000 + number))
            for number in range(first // count, -(-last // count))
        ]
        return torch.cat(orders)[first % count :][: last - first].tolist()

    def _train_step(self, images: torch.Tensor) -> Row:
        total, step = self.settings.steps, self.step
        warmup = max(round(WARMUP * total), 1)
        for group in self.optimizer.param_groups:
            group['lr'] = self.settings.lr * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / total))
        flipped = torch.rand(len(images), device=self.device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        terms = refinement_terms(self.folded, images.to(memory_format=torch.channels_last))
        loss = terms['kept'] + REST * terms['rest']
        self.optimizer.zero_grad()
        loss.backward()
        if (processes := rank_and_size()[1]) > 1:
            for parameter in self.refinement.parameters():
                assert parameter.grad is not None
                dist.all_reduce(parameter.grad)
                parameter.grad /= processes
        self.optimizer.step()
        self.step += 1
        return dict(train_loss=loss.item(), **{f'train_{name}': term.item() for name, term in terms.items()})

    def _note(self, **losses: float) -> None:
        """Add the row of a round, and keep its refinement if it is the best."""
        found = gains(self.model, self.deciding, self.settings.batch_size)
        self.start_gains = self.start_gains or found
        srg = sum(found) / len(found)
        above = bootstrap_mean([own - start for own, start in zip(found, self.start_gains, strict=True)])
        self.rows.append(
            dict(step=self.step, **losses, srg_held_out=round(srg, 5), above_start_low=round(above.low, 5))
        )
        if _kept(self.rows) == len(self.rows) - 1:
            self.best_weights = copy.deepcopy(self.refinement.state_dict())

    def end(self, folder: Path) -> None:
        """Take the best refinement, judge it if that is still to do, and write all files again."""
        state = self._state()
        self.refinement.load_state_dict(self.best_weights)
        if 'verdict' not in self.rows[-1]:
            self.rows[-1].update(judge(self.model, self.judging, self.settings.batch_size))
        self.write(folder, state)

    def write(self, folder: Path, state: Mapping[str, Any] | None = None) -> None:
        """Write the checkpoint of the best refinement, the table, and the state of the run, by default the present."""
        if rank_and_size()[0]:
            return
        weights = {**self.model.state_dict(), **{f'refinement.{name}': w for name, w in self.best_weights.items()}}
        checkpoint = dict(
            # of a backbone that timm has, the fingerprint is recorded instead
            state_dict=without_backbone(weights) if self.is_of_timm else weights,
            args=argparse.Namespace(**self.recorded),
            rows=list(self.rows),
        )
        with staged_files(folder) as staging:  # by their names: the state, of which a run goes on, appears first
            torch.save(dict(state or self._state(), rows=list(self.rows)), staging / STATE)
            torch.save(checkpoint, staging / LAST)
            write_csv(staging / SUMMARY, self.rows, dict.fromkeys(name for row in self.rows for name in row))

    def _state(self) -> dict[str, Any]:
        """Return what a run goes on with; what is trained is a copy."""
        return dict(
            state_dict=copy.deepcopy(self.refinement.state_dict()),
            best=self.best_weights,
            start_gains=self.start_gains,
            optimizer=copy.deepcopy(self.optimizer.state_dict()),
            run=self._what_must_be_the_same(),
        )

    def _what_must_be_the_same(self) -> dict[str, Any]:
        """Return what a resumed run shares with the one before."""
        settings = {key: value for key, value in self.settings._asdict().items() if key not in ('steps', 'workers')}
        of_run = dict(backbone_sha256=self.backbone, photos_sha256=self.content, processes=rank_and_size()[1])
        return {**self.recorded, **settings, **of_run}

    def resume(self, folder: Path) -> None:
        """Restore the last round of a folder."""
        path = folder / STATE
        state = read_checkpoint_file(path)
        then, now = state.get('run'), self._what_must_be_the_same()
        if not isinstance(then, Mapping):
            what = 'of another kind'
        else:
            what = ', '.join(f'with {key}={then.get(key)!r}' for key in now if then.get(key) != now[key])
        if what:
            raise CheckpointError(f'{path} is of a run {what}: resume with the same arguments, or choose a new folder.')
        self.refinement.load_state_dict(state['state_dict'])
        self.optimizer.load_state_dict(state['optimizer'])
        self.rows, self.best_weights = list(state['rows']), dict(state['best'])
        self.start_gains = list(state['start_gains'])
        self.step = self.rows[-1]['step']


_DATA_KEYS = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')


def _content_of(photos: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and sizes of photos."""
    sizes = [f'{path.name} {path.stat().st_size}' for path in photos]
    return hashlib.sha256('\n'.join(sizes).encode()).hexdigest()
