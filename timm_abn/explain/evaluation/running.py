"""Evaluating explanations batch by batch.

The results of a batch are one file, written whole or not at all. An evaluation that was interrupted continues after the
last of them, and several processes take turns at the batches: in both cases the outcome is that of one process, since
no batch depends on those before it. A file is used again only if nothing has changed that went into it: it names the
fingerprints of the settings, the network and the methods, and of all images of the batch, which are read for that.
"""

import contextlib
import datetime
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import timm
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from timm.data import resolve_model_data_config

from ...data.samples import Sample, read_samples
from ...errors import TimmAbnError
from ...hub.state_dicts import fingerprint_of
from ...networks.network import AttentionBranchNet
from ...progress import Progress
from ...records import are_exclusive, num_answers, record_of
from ...staging import check_output_folder, staged_file
from ...version import __version__
from ..methods import create_explainer
from ..metrics import (
    STEPS,
    ReplacementCurves,
    chance_corrected_energy,
    energy,
    iou,
    map_problems,
    pointing_game,
    predict,
    replacement_curves,
    replacement_effects,
)
from ..metrics.predictions import Explainer, resolve_targets
from ..processes import of_all_processes, rank_and_size, shared_scratch_folder, wait_for_all
from .fingerprints import fingerprint, sample_fingerprint
from .results import FAITHFULNESS, LOCALISATION, NO_MASK, Evaluation, put_together, write_evaluation

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
) -> Evaluation | None:
    """Score explanations of a model's predictions, and write ``scores.csv`` and ``summary.json``.

    Under ``torch.distributed`` each process takes its share of the batches.

    Args:
        model: The model, in evaluation mode, on the device to compute on.
        samples: Any sequence of samples, such as ``load_samples`` returns; an error that one raises while it is read is
            a problem of this image alone.
        methods: Names of methods of explanation (``timm_abn.explain.methods.EXPLAINERS``), or name -> any function of
            images and targets that returns maps (B, 1, h, w). Differences are to the first one.
        folder: Where results go. An evaluation of the same that was interrupted there is resumed, and one that was
            finished is shown again, which a line says: that takes as long as reading the images. Where the code of a
            method cannot be known, it is evaluated anew. None to leave nothing behind; several processes must then be
            of one machine.
        steps: Of deletion and insertion.
        baseline: What replaces pixels: 'mean', 'black' or 'blur'.
        patch_size: Side of the squares that are replaced, in pixels.
        batch_size: Images at once, and at most as many changed images.
        seed: Of the bootstrap, and of what reliance draws.
        data: What the samples are, for the record; an evaluation of others in the same folder is refused.

    Returns:
        None in processes other than the first.

    Raises:
        TimmAbnError: The folder holds an evaluation of another network, method or image, or with other settings; an
            argument has no meaning; or the model predicts NaN.
    """
    if not isinstance(methods, Mapping):
        methods = {name: create_explainer(name, model) for name in methods}
    if not len(samples) or not methods:
        raise TimmAbnError(f'an evaluation needs images and methods, got {len(samples)} and {len(methods)}.')
    settings: dict[str, Any] = dict(
        weights=weights_fingerprint(model),
        network=fingerprint(model),
        preparation=preparation_of(model),
        probabilities=record_of(model).probabilities,
        images=len(samples),
        data=data,
        methods=list(methods),
        code={name: fingerprint(explainer) for name, explainer in methods.items()},
        steps=steps,
        baseline=baseline,
        patch_size=patch_size,
        batch_size=batch_size,
        seed=seed,
        versions=dict(timm_abn=__version__, timm=timm.__version__, torch=torch.__version__),
    )
    rank, world_size = rank_and_size()
    with shared_scratch_folder() if folder is None else contextlib.nullcontext(Path(folder)) as place:
        _begin(place, settings, rank)
        parts = [place / 'parts' / f'{index:06}.safetensors' for index in range(-(-len(samples) // batch_size))]
        left = _left_of(parts[rank::world_size], samples, settings, place)
        for part in Progress(left, 'evaluate', 'batch', shown=rank == 0):
            read, problems = _read(samples, part, batch_size)
            tensors, facts = _evaluate_batch(model, read, methods, settings) if read else ({}, {'rows': []})
            facts.update(unreadable=problems, key=_key_of(settings), contents=_contents(read, problems))
            with staged_file(part) as staged:
                save_file(tensors, staged, metadata={'facts': json.dumps(facts)})
        wait_for_all()
        if rank:
            return None
        num_classes = num_answers(model) if are_exclusive(model) else 0  # else labels are no classes
        evaluation = put_together(parts, settings, num_classes)
        write_evaluation(place, evaluation)
        return evaluation


def weights_fingerprint(model: nn.Module) -> str:
    """Return a fingerprint of the weights of a model: the beginning of the SHA-256 of its state dict."""
    return fingerprint_of(model.state_dict())[:16]


def preparation_of(model: nn.Module, said: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return how images are prepared for a model, as JSON can say it; what is ``said`` comes first."""
    return json.loads(json.dumps({**resolve_model_data_config(model), **said}))


_OTHER = dict(weights='other weights', network='a network of other arguments', code='other code of the method {}')


def _begin(folder: Path, settings: Mapping[str, Any], rank: int) -> None:
    """Compare the settings with those of an evaluation that was begun before, and record them."""
    for place in (folder, folder / 'parts'):
        check_output_folder(place)
    path, before = folder / 'settings.json', settings
    if any((folder / 'parts').glob('*.safetensors')):
        with contextlib.suppress(FileNotFoundError, ValueError):  # damaged: the parts say what they are of
            before = json.loads(path.read_text(encoding='utf-8'))
    then = dict(_entries(before))
    for key, value in _entries(settings):
        if then.get(key) != value:
            kind, _, name = key.partition('.')
            found = _OTHER.get(kind, f'{key}={then.get(key)!r}, not {value!r}').format(name)
            if kind == 'data':
                found = f'data={_rest(then.get(key), value)!r}, not {_rest(value, then.get(key))!r}'
            raise TimmAbnError(f'{folder} holds an evaluation with {found}: choose a new folder.')
    wait_for_all()  # all have compared before anything is written
    if rank == 0:
        with staged_file(path) as staged:
            staged.write_text(json.dumps(settings, indent=1), encoding='utf-8')
        unknown = [name for name, code in settings['code'].items() if code is None]
        if (folder / 'parts').is_dir() and unknown:
            _logger.warning(f'the code of {", ".join(unknown)} cannot be known: nothing in {folder} is used again')
    wait_for_all()


def _rest(words: object, others: object) -> str:
    """Return what a description of data says that another does not."""
    known = str(others).split(', ')
    return ', '.join(word for word in str(words).split(', ') if word not in known)


def _entries(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield settings one by one, those of a group as 'group.name'."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((f'{key}.{name}', entry) for name, entry in value.items())
        else:
            yield key, value


def _left_of(own: Sequence[Path], samples: Sequence[Sample], settings: Mapping[str, Any], folder: Path) -> list[Path]:
    """Return which parts of this process are not there, damaged, or of something else; says so if all are there.

    Raises:
        TimmAbnError: One is of images that have changed since.
    """
    key, shown = _key_of(settings), rank_and_size()[0] == 0
    known = {part: facts['contents'] for part in own if (facts := _facts_of(part)) and key and facts.get('key') == key}
    changed: list[str] = []
    for part in Progress(list(known), 'evaluate: reading what was evaluated before', 'batch', shown):
        contents = _contents(*_read(samples, part, settings['batch_size']))
        changed += [name for content, name in contents.items() if content not in known[part]]
    changed = of_all_processes(changed)
    if changed:
        raise TimmAbnError(
            f'{folder} holds an evaluation of what {changed[0]} was before ({len(changed)} differ): '
            'choose a new folder.'
        )
    left = [part for part in own if part not in known]
    if not of_all_processes(left) and shown:
        ended = datetime.datetime.fromtimestamp(max(part.stat().st_mtime for part in known))
        _logger.warning(f'{folder} holds this evaluation, of {ended:%Y-%m-%d %H:%M}: it is shown again')
    return left


def _facts_of(part: Path) -> dict[str, Any] | None:
    """Return what a part says of its batch; None if it is not there, or damaged."""
    try:
        with safe_open(part, framework='pt') as file:
            return json.loads(file.metadata()['facts'])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _key_of(settings: Mapping[str, Any]) -> str | None:
    """Return what says that a part belongs to an evaluation; None where that cannot be known."""
    is_known = settings['network'] and all(settings['code'].values())
    return fingerprint(json.dumps(settings, sort_keys=True)) if is_known else None


def _read(samples: Sequence[Sample], part: Path, batch_size: int) -> tuple[list[Sample], list[str]]:
    """Return the samples of a part, and what was wrong with others."""
    problems: list[str] = []
    first = int(part.stem) * batch_size
    return read_samples(samples, range(first, min(first + batch_size, len(samples))), problems), problems


def _contents(samples: Sequence[Sample], problems: Sequence[str]) -> dict[str, str]:
    """Return a fingerprint of each sample -> its name; one that cannot be read stands for itself."""
    return {**{sample_fingerprint(sample): sample.name for sample in samples}, **dict(zip(problems, problems))}


def _evaluate_batch(
    model: nn.Module, samples: Sequence[Sample], methods: Mapping[str, Explainer], settings: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the curves and maps of a batch, and its rows and reliance."""
    device = next((parameter.device for parameter in model.parameters()), torch.device('cpu'))
    images = torch.stack([sample.image for sample in samples]).to(device)
    probabilities = predict(model, images, settings['batch_size'])
    predicted = probabilities.argmax(dim=1).tolist()
    given = [own if sample.target is None else sample.target for own, sample in zip(predicted, samples)]
    targets, explained = resolve_targets(probabilities, given)
    rows: list[dict[str, Any]] = []
    tensors = dict(probabilities=probabilities.float().cpu().contiguous())
    for method, explainer in methods.items():
        maps = explainer(images, targets).detach().float()
        options = (settings[name] for name in ('steps', 'baseline', 'patch_size', 'batch_size'))
        curves = replacement_curves(model, images, maps, targets, *options)
        tensors[f'{method}.maps'] = maps.cpu().contiguous()
        tensors[f'{method}.curves'] = torch.stack([curves.deleted, curves.inserted]).cpu()
        for index, scores in enumerate(_scores(maps, curves, samples)):
            sample = samples[index]
            row = dict(image=sample.name, method=method, label=sample.label, predicted=predicted[index])
            rows.append({**row, 'target': given[index], 'probability': float(explained[index]), **scores})
    given_targets = any(sample.target is not None for sample in samples)
    reliance = _reliance(model, images, samples, settings)
    return tensors, dict(rows=rows, reliance=reliance, given_targets=given_targets)


def _scores(maps: torch.Tensor, curves: ReplacementCurves, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Return the scores of each map of a batch, and what is wrong with it."""
    size = samples[0].image.shape[1:]
    columns = dict(zip(FAITHFULNESS, (curves.gain, curves.deletion, curves.insertion)))
    has_masks = any(sample.mask is not None for sample in samples)
    if has_masks:
        empty = torch.zeros(size, dtype=torch.bool)
        masks = torch.stack([empty if sample.mask is None else sample.mask for sample in samples])[:, None]
        for name, metric in zip(LOCALISATION, (pointing_game, energy, chance_corrected_energy, iou)):
            columns[name] = metric(maps, masks.to(maps.device))
    rows = []
    for index, (sample, problem) in enumerate(zip(samples, map_problems(maps))):
        if not problem and has_masks:
            problem = NO_MASK if sample.mask is None else '' if sample.mask.any() else 'empty mask'
        rows.append({**{name: values[index].item() for name, values in columns.items()}, 'problem': problem})
    return rows


def _reliance(
    model: nn.Module, images: torch.Tensor, samples: Sequence[Sample], settings: Mapping[str, Any]
) -> dict[str, dict[str, list[float]]]:
    """Return what replacements of the map change for each image: replacement -> effect -> values."""
    if not isinstance(model, AttentionBranchNet) or model.attention_branch is None:
        return {}
    # of several tasks an image may be there once for each
    indices: dict[str, int] = {}
    for index, sample in enumerate(samples):
        indices.setdefault(sample.name, index)
    first = list(indices.values())
    labels = None
    if are_exclusive(model):
        known = [samples[index].label for index in first]
        labels = torch.tensor([-1 if label is None else label for label in known], device=images.device)
    effects, _ = replacement_effects(model, images[first], labels, settings['batch_size'], settings['seed'])
    found: dict[str, dict[str, list[float]]] = {}
    for replacement, columns in effects.items():
        found[replacement] = {name: values.tolist() for name, values in columns._asdict().items() if values is not None}
        if labels is not None:
            changes = columns.accuracy_change.masked_fill(labels < 0, math.nan)  # type: ignore[union-attr]
            found[replacement]['accuracy_change'] = changes.tolist()
    return found
