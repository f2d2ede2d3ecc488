"""Training an attached attention branch on your own photos, as ``timm-abn attach`` does.

Where the map only explains, both halves of the model are frozen, and the loss asks that the map says what their
prediction stands on; else the network is trained on, with maps that it depends on.
"""

import argparse
import csv
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub.utils import tqdm
from timm.data import create_transform, resolve_model_data_config
from timm.optim import param_groups_weight_decay
from timm.utils import random_seed
from torch.utils.data import DataLoader

from ..data.images import Preprocessing
from ..data.photos import Photos, PhotosDataset
from ..explain.sheets import draw_overlay_sheet, input_picture
from ..hub.state_dicts import CheckpointError
from ..models.attaching import MODEL, AttachedModel
from ..models.training_checkpoints import read_checkpoint_file
from ..networks.map_training import complement_of, greatest_half, mask_images
from ..networks.network import AttentionBranchNet
from ..staging import staged_files
from .errors import TrainingError
from .loss import ExplainingMapLoss, FaithfulMapLoss

__all__ = ['BEST', 'LAST', 'SUMMARY', 'AttachSettings', 'train_attached']

LAST, BEST, SUMMARY = 'last.pth.tar', 'model_best.pth.tar', 'summary.csv'
WEIGHT_DECAY = 0.05
BACKBONE_LR = 0.1  # of that of the branch, where a trained model is trained on
BACKBONE_LR_OF_NEW_CLASSES = 0.5  # and where its classifier is a new one, so that its features have more to learn
SCALE_LR = 10.0  # of that of the branch, for the scale of a map that starts flat
WARMUP = 0.05  # of all steps
MOST_SHOWN = 8  # photos of a sheet

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class AttachSettings:
    """How an attached branch is trained.

    Attributes:
        epochs: Number of epochs.
        batch_size: Photos per step.
        lr: Greatest learning rate of the branch, after the warm-up; falls to 0 along a cosine.
        seed: Of order, flips, crops and backgrounds.
        workers: Processes that read photos; 0 for none beside this one.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0
    workers: int = 0


def train_attached(
    attached: AttachedModel,
    photos: Photos,
    settings: AttachSettings,
    folder: Path,
    device: torch.device,
    names: Sequence[str],
    resume: bool = False,
) -> list[Row]:
    """Train, and leave checkpoints, a table and a sheet of overlays after each epoch; returns the rows of the table.

    Each file is complete at every moment. A resumed run ends as an uninterrupted one: order, flips and backgrounds
    depend on seed and epoch alone.

    Args:
        attached: The network, and how to build it again.
        photos: To train on, and held out.
        settings: How.
        folder: Where to.
        device: Where to compute.
        names: Names of the classes, for the sheets.
        resume: Whether to continue after the last epoch in ``folder``.

    Raises:
        TrainingError: There are fewer photos than a batch has.
        TimmAbnError: A photo cannot be read, or the checkpoint to continue from is of another run.
    """
    if len(photos.training) < settings.batch_size:
        raise TrainingError(
            f'there are {len(photos.training)} photos to train on, fewer than a batch of {settings.batch_size}: pass a '
            f'smaller --batch-size.'
        )
    run = _Run(attached, photos, settings, device)
    rows = run.resume(folder) if resume else []
    for epoch in range(len(rows), settings.epochs):
        start = time.monotonic()
        row: Row = dict(epoch=epoch, **run.train_epoch(epoch), **run.evaluate())
        rows.append(dict(row, seconds=round(time.monotonic() - start, 1)))
        best = max(row_['eval_top1'] for row_ in rows) if run.trains_backbone else None
        run.write(folder, epoch, rows, names, is_best=best is not None and rows[-1]['eval_top1'] == best)
    return rows


class _Run:
    """The state of a run."""

    def __init__(
        self,
        attached: AttachedModel,
        photos: Photos,
        settings: AttachSettings,
        device: torch.device,
    ) -> None:
        self.model: AttentionBranchNet = attached.model.to(device)
        self.attached, self.settings, self.device = attached, settings, device
        self.classes = photos.classes
        self.trains_backbone = self.model.mechanism.insertion != 'explaining'
        self.preprocessing = Preprocessing(self.model)
        see = _Seen(self.preprocessing)
        self.training = PhotosDataset(photos.training, self._augmentation() if self.trains_backbone else see)
        self.validation = PhotosDataset(photos.validation, see)
        loss = FaithfulMapLoss if self.trains_backbone else ExplainingMapLoss
        self.criterion: FaithfulMapLoss = loss(nn.CrossEntropyLoss())
        self.terms = tuple(name for name in self.criterion.weighted_terms() if name != 'perception')
        self.model.train_maps(complement=bool(self.criterion.weights['complement']))
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=settings.lr)
        self.steps = len(photos.training) // settings.batch_size

    def _augmentation(self) -> Callable:
        config = resolve_model_data_config(self.model)
        kept = ('input_size', 'interpolation', 'mean', 'std')
        return create_transform(
            **{key: config[key] for key in kept}, is_training=True, scale=(0.5, 1.0), color_jitter=0.0
        )

    def _parameter_groups(self) -> list[dict[str, Any]]:
        branch = self.model.attention_branch
        groups = [dict(group, share=1.0) for group in param_groups_weight_decay(branch, WEIGHT_DECAY)]
        if branch.starts_flat:  # its scale has the longest way to go, from 0
            for group in groups:
                group['params'] = [weight for weight in group['params'] if weight is not branch.map_norm.weight]
            groups.append(dict(params=[branch.map_norm.weight], weight_decay=0.0, share=SCALE_LR))
        if self.trains_backbone:
            share = BACKBONE_LR_OF_NEW_CLASSES if self.attached.has_new_classifier else BACKBONE_LR
            for half in (self.model.feature_extractor, self.model.perception_branch):
                groups += [dict(group, share=share) for group in param_groups_weight_decay(half, WEIGHT_DECAY)]
        return groups

    def train_epoch(self, epoch: int) -> Row:
        """Train for an epoch, and return the means of the losses."""
        settings = self.settings
        random_seed(settings.seed * 10_000 + epoch)  # timm's crops are drawn by Python's generator
        self.model.train()
        loader = DataLoader(
            self.training,
            settings.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=settings.workers,
        )
        sums = dict.fromkeys(('train_loss', *(f'train_{name}' for name in self.terms)), 0.0)
        bar = tqdm(loader, f'epoch {epoch + 1}/{settings.epochs}', unit='batch')
        for step, (images, labels) in enumerate(bar):
            self._set_lr(epoch * self.steps + step)
            images, labels = images.to(self.device), labels.to(self.device)
            flipped = torch.rand(len(images), device=self.device) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
            losses = self._step(images, labels if bool((labels >= 0).all()) else None)
            if not math.isfinite(losses['train_loss']):
                raise TrainingError(f'the loss is {losses["train_loss"]} in epoch {epoch}: pass a smaller --lr.')
            sums = {name: value + losses[name] for name, value in sums.items()}
            bar.set_postfix({name.partition('_')[2]: f'{value / (step + 1):.3f}' for name, value in sums.items()})
        return {name: round(value / self.steps, 5) for name, value in sums.items()}

    def _set_lr(self, step: int) -> None:
        total = self.steps * self.settings.epochs
        warmup = max(round(WARMUP * total), 1)
        share = min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / total))
        for group in self.optimizer.param_groups:
            group['lr'] = self.settings.lr * share * group['share']

    def _step(self, images: torch.Tensor, labels: torch.Tensor | None) -> dict[str, float]:
        terms: dict[str, torch.Tensor] = {}
        self.criterion.watch = lambda found, _: terms.update(found)
        loss = self.criterion(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return dict(train_loss=loss.item(), **{f'train_{name}': terms[name].item() for name in self.terms})

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Return what the held-out photos say."""
        self.model.eval()
        sums: dict[str, float] = {}
        for images, labels in DataLoader(self.validation, self.settings.batch_size, num_workers=self.settings.workers):
            images = images.to(self.device)
            explanation = self.model.explain(images)
            maps, predicted = explanation.attention_map, explanation.logits.argmax(dim=1)
            found: dict[str, float] = {}
            if self.trains_backbone:
                found['eval_area'] = maps.mean(dim=(1, 2, 3)).sum().item()
            kept = maps if self.trains_backbone else greatest_half(maps)
            for name, shown in (('eval_kept', kept), ('eval_removed', complement_of(kept, False))):
                answers = self.model(mask_images(images, shown, 'blur')).argmax(dim=1)
                found[name] = (answers == predicted).sum().item()
            if bool((labels >= 0).all()):
                found['eval_top1'] = (predicted.cpu() == labels).sum().item()
                attention: Any = explanation.attention_logits
                found['eval_attention_top1'] = (attention.argmax(dim=1).cpu() == labels).sum().item()
            sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
        return {name: round(value / len(self.validation), 5) for name, value in sums.items()}

    def write(self, folder: Path, epoch: int, rows: Sequence[Row], names: Sequence[str], is_best: bool) -> None:
        """Write the checkpoint of an epoch, the table, and a sheet."""
        checkpoint = dict(
            epoch=epoch,
            arch=MODEL,
            state_dict=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            version=2,
            args=self._recorded(),
            metric=100 * rows[-1]['eval_top1' if self.trains_backbone else 'eval_kept'],
            rows=list(rows),
        )
        sheet = self._sheet(epoch, names)
        with staged_files(folder / 'sheets') as staging:
            sheet.save(staging / f'epoch-{epoch + 1:03}.png')
        with staged_files(folder) as staging:
            for name in (LAST, *([BEST] if is_best else [])):
                torch.save(checkpoint, staging / name)
            with (staging / SUMMARY).open('w', newline='', encoding='utf-8') as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)

    def _recorded(self) -> argparse.Namespace:
        """Return what the checkpoint says of the network and its images, with the names of timm's training script."""
        own = {key: value for key, value in self.attached.arguments.items() if key not in ('num_classes', 'in_chans')}
        config = {key: value for key, value in self.preprocessing.config.items() if key in _DATA_KEYS}
        return argparse.Namespace(
            model=MODEL,
            model_kwargs=own,
            num_classes=self.model.num_classes,
            in_chans=self.model.in_chans,
            label_names=self.classes or None,
            origin=self.attached.origin,
            num_photos=len(self.training),
            eval_metric='top1' if self.trains_backbone else 'share of predictions that the map keeps',
            **{key: list(value) if isinstance(value, tuple) else value for key, value in config.items()},
            **dataclasses.asdict(self.settings),
        )

    @torch.no_grad()
    def _sheet(self, epoch: int, names: Sequence[str]) -> Any:
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
        says = 'the map explains, and does not gate' if not explanation.map_gates else 'the map gates'
        return draw_overlay_sheet(
            [input_picture(image, mean, std) for image in images],
            explanation.attention_map.cpu(),
            captions,
            f'epoch {epoch + 1}: {says}',
        )

    def resume(self, folder: Path) -> list[Row]:
        """Restore the last epoch of a folder, and return the rows of its table."""
        path = folder / LAST
        checkpoint: Mapping[str, Any] = read_checkpoint_file(path)
        settings = checkpoint.get('args')
        recorded = vars(settings) if isinstance(settings, argparse.Namespace) else {}
        now = vars(self._recorded())
        differing = [key for key in now if key in recorded and recorded[key] != now[key] and key != 'workers']
        if 'rows' not in checkpoint or differing:
            what = f'with {differing[0]}={recorded[differing[0]]!r}' if differing else 'of another kind'
            raise CheckpointError(f'{path} is of a run {what}: resume with the same arguments, or choose a new folder.')
        self.model.load_state_dict(checkpoint['state_dict'])
        self.optimizer.load_state_dict(checkpoint['optimizer'])
        return list(checkpoint['rows'])


_DATA_KEYS = ('input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode')


class _Seen:
    """A model's own preprocessing for evaluation, without the box; a class, since workers are sent a copy."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, image: Any) -> torch.Tensor:
        x, _ = self.preprocessing(image)
        return x
