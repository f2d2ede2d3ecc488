"""Training an attached attention branch on your own photos, as ``timm-abn attach`` does.

The model is frozen; the loss asks that the map says what its prediction stands on.
"""

import argparse
import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from PIL import Image
from timm.optim import param_groups_weight_decay
from timm.utils import random_seed
from torch.utils.data import DataLoader

from ..checkpoint_files import CheckpointError, read_checkpoint_file
from ..data.class_names import label_names_of
from ..data.images import Preprocessing
from ..data.photos import Photo, Photos, PhotosDataset
from ..explain.methods import create_explainer
from ..explain.metrics import predict, replacement_curves
from ..explain.metrics.accuracy import uneven_scores
from ..explain.metrics.checks import check_predictions
from ..explain.sheets import draw_overlay_sheet, input_picture
from ..explain.statistics import bootstrap_mean
from ..explain.verdict import Evidence, verdict
from ..models.attaching import MODEL, AttachedModel, backbone_fingerprint, with_backbone, without_backbone
from ..progress import Progress
from ..records import answers, are_exclusive, probabilities_of, record_of
from ..staging import staged_files, write_csv
from .errors import TrainingError
from .faithful import AttachedTraining, complement_of, greatest_half, mask_images
from .loss import AttachedMapLoss

__all__ = ['LAST', 'SUMMARY', 'VERDICT', 'AttachSettings', 'train_attached']

LAST, SUMMARY = 'last.pth.tar', 'summary.csv'
WEIGHT_DECAY = 0.05
WARMUP = 0.05  # of all steps
MOST_SHOWN = 8  # photos of a sheet
MOST_JUDGED = 50  # held-out photos, which cost a tenth of 480 steps
FEWEST_OF_CLASS = 5  # other photos of the predicted class, for its mean map; of fewer the mean map is that of all

JUDGED = ('srg', 'above_mean_map', 'above_grad_cam')
VERDICT = ('judged', *(f'{name}{end}' for name in JUDGED for end in ('', '_low', '_high')), 'verdict')

Row = dict[str, Any]  # numbers, and the verdict


class AttachSettings(NamedTuple):
    """How an attached branch is trained."""

    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3  # the greatest, after the warm-up; falls to 0 along a cosine
    seed: int = 0  # of order, flips and backgrounds
    workers: int = 0  # processes that read photos


def train_attached(
    attached: AttachedModel,
    photos: Photos,
    settings: AttachSettings,
    folder: Path,
    device: torch.device,
    names: Sequence[str],
    resume: bool = False,
) -> list[Row]:
    """Train, and leave a checkpoint, a table and a sheet of overlays after each epoch; returns the rows of the table.

    The last row has a verdict on the map, and the numbers that it stands on (``VERDICT``). Each file is complete at
    every moment. A resumed run ends as an uninterrupted one: order, flips and backgrounds depend on seed and epoch
    alone. ``names`` are those of the classes, for the sheets.

    Raises:
        TrainingError: There are fewer photos than a batch has, or folders cannot be the labels of the model.
        TimmAbnError: A photo cannot be read, or the checkpoint to continue from is of another run.
    """
    if len(photos.training) < settings.batch_size:
        raise TrainingError(
            f'there are {len(photos.training)} photos to train on, fewer than a batch of {settings.batch_size}: pass a '
            f'smaller --batch-size.'
        )
    if photos.classes and not are_exclusive(attached.model):
        raise TrainingError('the labels of this model do not exclude each other, and a folder names one: --unlabelled.')
    run = _Run(attached, photos, settings, device)
    rows = run.resume(folder) if resume else []
    if rows:  # the run may have ended between its checkpoint and what is made of it
        run.write(folder, rows, names)
    for epoch in range(len(rows), settings.epochs):
        start = time.monotonic()
        row = dict(epoch=epoch, **run.train_epoch(epoch), **run.evaluate())
        if epoch == settings.epochs - 1:
            row.update(run.judge())
        rows.append(dict(row, seconds=round(time.monotonic() - start, 1)))
        run.write(folder, rows, names)
    return rows


class _Run:
    """The state of a run."""

    def __init__(self, attached: AttachedModel, photos: Photos, settings: AttachSettings, device: torch.device) -> None:
        self.model, self.is_of_timm = attached.model.to(device), attached.is_of_timm
        self.settings, self.device, self.exclusive = settings, device, are_exclusive(self.model)
        self.preprocessing = Preprocessing(self.model)
        see = partial(_see, self.preprocessing)  # without the box
        levels = self.preprocessing.levels
        self.training = PhotosDataset(photos.training, see, is_training=True, levels=levels)
        self.validation = PhotosDataset(photos.validation, see, levels=levels)
        self.backbone = backbone_fingerprint(self.model)
        self.recorded = self._recorded(attached, photos.classes)
        self.content = _content_of([*photos.training, *photos.validation])
        self.criterion = AttachedMapLoss(nn.CrossEntropyLoss())
        self.terms = tuple(self.criterion.weighted_terms())
        self.trainable = AttachedTraining(self.model)
        groups = param_groups_weight_decay(self.model.attention_branch, WEIGHT_DECAY)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.steps = len(photos.training) // settings.batch_size

    def _recorded(self, attached: AttachedModel, classes: Sequence[str]) -> dict[str, Any]:
        """Return what the checkpoint says of the network and its images, with the names of timm's training script."""
        config = {key: value for key, value in self.preprocessing.config.items() if key in _DATA_KEYS}
        own = {key: value for key, value in attached.arguments.items() if key not in ('num_classes', 'in_chans')}
        return dict(
            model=MODEL,
            model_kwargs=own,
            num_classes=self.model.num_classes,
            in_chans=self.model.in_chans,
            label_names=list(classes) or label_names_of(self.model),
            origin=attached.origin,
            **record_of(self.model).entries(),
            **(dict(backbone_sha256=self.backbone) if attached.is_of_timm else {}),
            eval_metric='share of predictions that the map keeps (%)',
            **{key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
        )

    def train_epoch(self, epoch: int) -> Row:
        """Train for an epoch, and return the means of the losses."""
        settings = self.settings
        random_seed((settings.seed * 10_000 + epoch) % 2**32)
        self.trainable.train()
        loader = DataLoader(
            self.training, settings.batch_size, shuffle=True, drop_last=True, num_workers=settings.workers
        )
        sums = dict.fromkeys(('train_loss', *(f'train_{name}' for name in self.terms)), 0.0)
        bar: Progress[list[torch.Tensor]] = Progress(loader, f'epoch {epoch + 1}/{settings.epochs}', 'batch')
        for step, (images, labels) in enumerate(bar):
            self._set_lr(epoch * self.steps + step)
            images, labels = images.to(self.device), labels.to(self.device)
            flipped = torch.rand(len(images), device=self.device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
            losses = self._step(images, labels if bool((labels >= 0).all()) else None)
            if not math.isfinite(losses['train_loss']):
                check_predictions(self.model.eval().explain(images).logits)  # which no --lr changes
                raise TrainingError(f'the loss is {losses["train_loss"]} in epoch {epoch}: pass a smaller --lr.')
            sums = {name: value + losses[name] for name, value in sums.items()}
            bar.note = ', '.join(f'{name[6:]} {value / (step + 1):.3f}' for name, value in sums.items())
        return {name: round(value / self.steps, 5) for name, value in sums.items()}

    def _questions(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits of the answers to each question: of an image one, (B, K), of K labels K, (B * K, 2)."""
        return answers(logits if self.exclusive else logits.reshape(-1, 1), True)

    def _answers(self, logits: torch.Tensor) -> torch.Tensor:
        return self._questions(logits).argmax(dim=1)

    def _set_lr(self, step: int) -> None:
        total = self.steps * self.settings.epochs
        warmup = max(round(WARMUP * total), 1)
        for group in self.optimizer.param_groups:
            group['lr'] = self.settings.lr * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / total))

    def _step(self, images: torch.Tensor, labels: torch.Tensor | None) -> Row:
        terms: dict[str, torch.Tensor] = {}
        self.criterion.watch = lambda found, _: terms.update(found)
        output = self.trainable(images)
        questions = {name: self._questions(getattr(output, name)) for name in _LOGITS}
        loss = self.criterion(output._replace(**questions), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return dict(train_loss=loss.item(), **{f'train_{name}': terms[name].item() for name in self.terms})

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Return what the held-out photos say."""
        self.model.eval()
        sums: Row = {}
        labelled: list[tuple[torch.Tensor, ...]] = []  # labels, probabilities of the model, those of the branch
        for images, labels in DataLoader(self.validation, self.settings.batch_size, num_workers=self.settings.workers):
            images = images.to(self.device)
            explanation = self.model.explain(images)
            check_predictions(explanation.logits)
            predicted, kept = self._answers(explanation.logits), greatest_half(explanation.attention_map)
            found: Row = {}
            for name, shown in (('eval_kept', kept), ('eval_removed', complement_of(kept, False))):
                same = self._answers(self.model(mask_images(images, shown, 'blur'))) == predicted
                found[name] = same.float().mean().item() * len(images)
            if bool((labels >= 0).all()):
                assert explanation.attention_logits is not None
                logits = explanation.logits, explanation.attention_logits
                for name, own in zip(('eval_top1', 'eval_attention_top1'), logits):
                    found[name] = (self._answers(own).cpu() == labels).sum().item()
                labelled.append((labels, *(probabilities_of(own, self.exclusive).cpu() for own in logits)))
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        row = {name: value / len(self.validation) for name, value in sums.items()}
        if labelled:
            true, *both = (torch.cat(parts) for parts in zip(*labelled))
            for name, own in zip(('eval', 'eval_attention'), both):
                row.update({f'{name}_{key}': value for key, value in uneven_scores(true.tolist(), own).items()})
        return {name: round(value, 5) for name, value in row.items()}

    def judge(self) -> Row:
        """Return a verdict on the map from held-out photos, and the symmetric relevance gains that it stands on."""
        stride = max(len(self.validation) // MOST_JUDGED, 1)
        chosen = range(0, len(self.validation), stride)[:MOST_JUDGED]
        images = torch.stack([self.validation[index][0] for index in chosen]).to(self.device)
        grad_cam, size = create_explainer('grad_cam', self.model.eval()), self.settings.batch_size
        own = torch.cat([self.model.explain(batch).attention_map.float() for batch in images.split(size)])
        rival = torch.cat([grad_cam(batch) for batch in images.split(size)])
        predicted = predict(self.model, images, size).argmax(dim=1)
        every = own, _means_of_others(own, predicted), rival
        gain, of_mean, of_rival = (
            replacement_curves(self.model, images, maps, predicted, batch_size=size).gain.cpu() for maps in every
        )
        known = [bootstrap_mean(values.tolist()) for values in (gain, gain - of_mean, gain - of_rival)]
        evidence = Evidence(known[0], known[1], above_rival=known[2], rival='Grad-CAM at the last stage')
        numbers = [round(value, 5) for interval in known for value in interval[:3]]
        return dict(zip(VERDICT, (len(images), *numbers, verdict(evidence))))

    def write(self, folder: Path, rows: Sequence[Row], names: Sequence[str]) -> None:
        """Write the checkpoint of an epoch, the table, and a sheet."""
        weights = self.model.state_dict()
        checkpoint = dict(
            # of a backbone that timm has, the fingerprint is recorded instead
            state_dict=without_backbone(weights) if self.is_of_timm else weights,
            args=argparse.Namespace(**self.recorded),
            epoch=len(rows) - 1,
            metric=100 * rows[-1]['eval_kept'],
            # what --resume needs
            optimizer=self.optimizer.state_dict(),
            run=self._what_must_be_the_same(),
            rows=list(rows),
        )
        sheet = self._sheet(len(rows), names)
        with staged_files(folder) as staging:  # the checkpoint, of which the others can be made again, appears first
            torch.save(checkpoint, staging / LAST)
            (staging / 'sheets').mkdir()
            sheet.save(staging / 'sheets' / f'epoch-{len(rows):03}.png')
            write_csv(staging / SUMMARY, rows, rows[-1])

    @torch.no_grad()
    def _sheet(self, epoch: int, names: Sequence[str]) -> Image.Image:
        """Return the same few held-out photos as after every epoch, with their maps."""
        stride = max(len(self.validation) // MOST_SHOWN, 1)
        shown = range(0, len(self.validation), stride)[:MOST_SHOWN]
        images = torch.stack([self.validation[index][0] for index in shown])
        explanation = self.model.eval().explain(images.to(self.device))
        mean, std = self.preprocessing.config['mean'], self.preprocessing.config['std']
        probabilities, classes = explanation.top_k(1)
        captions = [
            f'{names[index]} {probability:.2f}'
            for index, probability in zip(classes[:, 0].tolist(), probabilities[:, 0].tolist())
        ]
        return draw_overlay_sheet(
            [input_picture(image, mean, std) for image in images],
            explanation.attention_map.cpu(),
            captions,
            f'epoch {epoch}: the map explains, and does not gate',
        )

    def _what_must_be_the_same(self) -> dict[str, Any]:
        """Return what a resumed run shares with the one before; only the number of its workers may differ."""
        settings = {key: value for key, value in self.settings._asdict().items() if key != 'workers'}
        return {**self.recorded, **settings, 'backbone_sha256': self.backbone, 'photos_sha256': self.content}

    def resume(self, folder: Path) -> list[Row]:
        """Restore the last epoch of a folder, and return the rows of its table."""
        path = folder / LAST
        checkpoint = read_checkpoint_file(path)
        then, now = checkpoint.get('run'), self._what_must_be_the_same()
        if not isinstance(then, Mapping):
            what = 'of another kind'
        else:
            what = ', '.join(f'with {key}={then.get(key)!r}' for key in now if then.get(key) != now[key])
        if what:
            raise CheckpointError(f'{path} is of a run {what}: resume with the same arguments, or choose a new folder.')
        fingerprint = self.recorded.get('backbone_sha256')
        self.model.load_state_dict(with_backbone(checkpoint['state_dict'], self.model, fingerprint, path))
        self.optimizer.load_state_dict(checkpoint['optimizer'])
        return list(checkpoint['rows'])


_LOGITS = ('logits', 'attention_logits', 'masked_logits', 'complement_logits')
_DATA_KEYS = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')


def _means_of_others(maps: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Return, for each image, the mean map of the others that are predicted as the same class, or of all others."""
    same = predicted[:, None] == predicted
    same = torch.where(same.sum(dim=1, keepdim=True) > FEWEST_OF_CLASS, same, True).fill_diagonal_(False)
    weights = same / same.sum(dim=1, keepdim=True).clamp(min=1)
    return (weights.to(maps) @ maps.flatten(1)).reshape(maps.shape)


def _content_of(photos: Sequence[Photo]) -> str:
    """Return the SHA-256 of photos and their classes, which are read for it."""
    digest = hashlib.sha256()
    for path, label in Progress(photos, 'reading the photos', 'photo'):
        digest.update(f'{label} {path.stat().st_size} '.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _see(preprocessing: Preprocessing, image: Image.Image) -> torch.Tensor:
    return preprocessing(image)[0]
