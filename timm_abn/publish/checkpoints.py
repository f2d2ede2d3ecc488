"""Folders for the Hub, made from checkpoints of timm's training script."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from ..checkpoint_files import read_checkpoint, training_settings
from ..data.class_names import read_class_names
from ..errors import shortened
from ..hub.building import build_without_memory
from ..hub.config import check_entries
from ..hub.state_dicts import check_state_dict
from ..models.attaching import MODEL, with_backbone
from ..models.creating import create_model
from ..models.loading import model_names
from ..models.told import Told
from ..models.training_checkpoints import (
    class_names_of,
    data_config_of,
    model_arguments,
    model_of,
    note_record,
    origin_of,
)
from ..records import explained_by
from .folder import save_hub_folder
from .markdown import plain
from .model_card import Row, model_card, result_table
from .model_facts import facts_of
from .results import MEASURED_RESULTS
from .scores import score_tables

__all__ = ['recorded_facts', 'save_checkpoint_folder']

_ATTACHED = 'An unmodified classifier, which `timm-abn` explains by maps of the evidence for each class.'
_TRAINED = 'Attention Branch Network, trained with `timm-abn`: it explains its predictions by attention maps.'
_NAMES_IN_CARD = 20  # the others stand in config.json

# timm's name of a data set -> the Hub's
_DATASETS = {
    'torch/cifar10': 'uoft-cs/cifar10',
    'torch/cifar100': 'uoft-cs/cifar100',
    'torch/fashion_mnist': 'zalando-datasets/fashion_mnist',
    'torch/imagenet': 'ILSVRC/imagenet-1k',
    'torch/svhn': 'ufldl-stanford/svhn',
}


def save_checkpoint_folder(
    path: Path,
    folder: str | Path,
    title: str,
    address: str,
    name: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    label_names: Path | None = None,
    license: str = 'unknown',
    scores: Path | None = None,
    told: Told | None = None,
) -> None:
    """Write what ``save_hub_folder`` writes of a checkpoint of timm's training script, or of weights alone.

    ``title`` and ``address`` (for ``timm.create_model``) are of the place where the folder will lie. What the
    checkpoint records of its model, its arguments and its classes holds where nothing else is given or ``told``.
    ``scores`` is the ``summary.json`` that ``timm-abn evaluate`` wrote of these weights.

    Raises:
        TimmAbnError: The checkpoint is damaged, or not one of the model, or there is no such model; or the scores are
            of other weights.
    """
    told = told or Told()
    weights, metadata = read_checkpoint(path)
    settings = training_settings(metadata)
    name = model_of(settings, name, path)
    arguments = model_arguments(name, settings, model_kwargs or {}, weights, path)
    if arguments.pop('pretrained_backbone', False):  # the checkpoint holds the branch alone, the Hub gets all
        network: Any = create_model(name, dict(arguments, pretrained_backbone=True))
        weights = with_backbone(weights, network, settings.get('backbone_sha256'), path)
    architecture = name
    if name.split('.')[0] not in model_names():
        arguments, name = dict(arguments, backbone=name), MODEL  # as load_model attaches to it
        weights = {f'backbone.{key}': tensor for key, tensor in weights.items()}
    model: Any = told.build(lambda arguments: _network_of(name, arguments, path), arguments)
    check_state_dict(weights, model.state_dict(), architecture, path)
    if settings:
        note_record(model, settings, path)
    told.note(model)
    told.warn(model, settings, path)
    data_config = {**(data_config_of(settings, model, path) if settings else {}), **told.data_config(model)} or None
    facts = facts_of(model, data_config['input_size'] if data_config else None)
    # safetensors holds contiguous tensors only, and --channels-last makes others
    model.load_state_dict({key: tensor.contiguous() for key, tensor in weights.items()}, assign=True)
    shipped = _is_shipped(name, weights)
    cfg: dict[str, Any] = dict(num_classes=model.num_classes, tag=None, license=license)
    recorded = class_names_of(settings, model.num_classes, path)
    names = read_class_names(label_names, model) if label_names else recorded
    if names or not shipped:  # those of the model's own weights need not be those of the checkpoint
        cfg['label_names'] = names
    if not shipped:  # the authors' repository is where the architecture comes from
        cfg['origin_url'] = None
    results = [
        result_table(name, reported=False) if shipped else '',
        score_tables(scores, model, data_config) if scores else '',
    ]
    named = [('Class names', shortened([*map(plain, names)], _NAMES_IN_CARD))] if names else []
    named.append(
        ('Shown first', f'{explained_by(model).replace("_", " ")}, as explanation.explaining_map() returns it')
    )
    card = model_card(
        facts,
        title,
        _ATTACHED if name == MODEL else _TRAINED,
        license=license,
        address=address,
        more_facts=[*named, *recorded_facts(metadata, settings)],
        datasets=[_DATASETS[settings['dataset']]] if settings.get('dataset') in _DATASETS else [],
        results='\n\n'.join(filter(None, results)),
    )
    save_hub_folder(model, folder, card, data_config, cfg)


def _network_of(name: str, arguments: Mapping[str, Any], path: Path) -> Any:
    """Return the network of a checkpoint, on the meta device."""
    check_entries({}, arguments, str(path))
    return build_without_memory(lambda **place: timm.create_model(name, **arguments, **place), str(path))


def _is_shipped(name: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """Return whether weights are those that this package ships under the name of a model."""
    if name not in MEASURED_RESULTS:
        return False
    shipped = timm.create_model(name, pretrained=True).state_dict()
    return all(key in weights and torch.equal(tensor, weights[key]) for key, tensor in shipped.items())


def _attached_facts(row: Mapping[str, Any]) -> list[Row]:
    """Return what ``timm-abn attach`` measured on held-out photos."""

    def numbers(*names: str) -> list[float]:
        return [float(row[name]) for name in names if isinstance(row.get(name), (int, float))]

    facts = [('Steps of refinement', f'{steps:.0f}') for steps in numbers('step')]
    titles = dict(srg='SRG ↑', above_mean_map='above the mean map of the class ↑', above_grad_cam='above Grad-CAM ↑')
    titles['above_evidence'] = 'above the evidence without refinement ↑'
    for name, title in titles.items():
        if len(found := numbers(name, f'{name}_low', f'{name}_high')) == 3:
            facts.append((f'Map, {title}', '{:.3f} [{:.3f}, {:.3f}]'.format(*found)))
    said = row.get('verdict')
    return [*facts, ('Verdict', plain(said))] if isinstance(said, str) and len(said) <= 500 else facts


def recorded_facts(checkpoint: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> list[Row]:
    """Return what a training script wrote beside the weights, as names and values.

    Without ``settings`` of timm's script it was the authors' script.
    """

    def number(key: str) -> float | None:
        value = checkpoint.get(key)  # older checkpoints hold tensors where newer ones hold numbers
        value = value.item() if isinstance(value, torch.Tensor) and value.numel() == 1 else value
        return value if isinstance(value, (int, float)) else None

    if settings is None:
        epochs, metric, named = number('epoch'), number('best_acc'), 'Top-1 accuracy (%), as recorded in the checkpoint'
    elif settings:
        epochs, metric = number('epoch'), number('metric')
        epochs = None if epochs is None else epochs + 1  # timm counts from 0
        named = f'Validation {plain(settings.get("eval_metric", "metric"))}, as recorded'
    else:
        return []
    facts = [] if epochs is None else [('Epochs, as recorded in the checkpoint', f'{epochs:.0f}')]
    facts += [] if metric is None else [(named, f'{metric:.2f}')]
    rows = checkpoint.get('rows')  # of timm-abn attach
    if isinstance(rows, list) and rows and isinstance(rows[-1], dict):
        facts += _attached_facts(rows[-1])
    origin = origin_of(settings or {})
    facts += [('Trained from', plain(origin))] if origin else []
    dataset = (settings or {}).get('dataset')
    return [*facts, ('Data set, as timm names it', plain(dataset))] if dataset and isinstance(dataset, str) else facts
