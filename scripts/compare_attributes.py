"""Accuracy of each attribute, of a multi-task ABN and of its baseline, and which of them wins.

Example:
    python scripts/compare_attributes.py output/train/abn output/train/baseline --data-dir /data/celeba

The folders are those that timm's train.py wrote, under our launcher; ``args.yaml`` in them says what the model is, and
what its images are like. Compared are the weights after the last epoch, so that no epoch is picked by its result. The
table is printed, and written as CSV with one row for each attribute.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm.data
import torch
import yaml
from huggingface_hub.utils import tqdm

from timm_abn import TimmAbnError
from timm_abn.data.celeba import CelebA
from timm_abn.errors import one_line
from timm_abn.hub.state_dicts import CheckpointError, check_state_dict
from timm_abn.models.creating import ModelError, create_model
from timm_abn.models.training_checkpoints import read_checkpoint
from timm_abn.networks.network import AttentionBranchNet
from timm_abn.staging import check_output_folder, staged_files
from timm_abn.training.attribute_accuracy import attribute_accuracy
from timm_abn.training.errors import TrainingError
from timm_abn_cli.argument_types import device, positive, whole

CHECKPOINT = 'last.pth.tar'


def main() -> int:
    """Compare, print and write; returns the exit code."""
    args = parse_args()
    try:
        check_output(args.out)
        folders = (args.abn, args.baseline)
        runs = [read_run(folder) for folder in folders]
        datasets = [CelebA(str(args.data_dir), args.split, run['target_key']) for run in runs]
        for folder, run, dataset in zip(folders, runs, datasets):
            check_run(folder, run, dataset)
        if datasets[0].attributes != datasets[1].attributes:
            raise TrainingError(f'{args.abn} and {args.baseline} were trained on different attributes.')
        models = [load_model(folder, run) for folder, run in zip(folders, runs)]
        check_order(folders, runs, models)
        accuracies = [accuracy_of(*parts, args) for parts in zip(runs, models, datasets)]
    except (TimmAbnError, OSError) as error:
        print(f'{Path(__file__).name}: error: {error}', file=sys.stderr)
        return 2
    rows = table(datasets[0].attributes, *accuracies)
    print_table(rows)
    with staged_files(args.out.parent) as folder:
        with (folder / args.out.name).open('w', newline='') as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    print(f'Written to {args.out}.')
    return 0


def check_output(path: Path) -> None:
    """Raise OSError or TrainingError if a file cannot be written there."""
    if path.is_dir():
        raise TrainingError(f'--out {path} is a folder; name a file in it.')
    check_output_folder(path.parent)


def read_run(folder: Path) -> dict[str, Any]:
    """Return what a run was started with, and the path of its weights as 'checkpoint'."""
    path, checkpoint = folder / 'args.yaml', folder / CHECKPOINT
    if not path.is_file() or not checkpoint.is_file():
        raise TrainingError(f"{folder} must hold args.yaml and {CHECKPOINT}, as timm's train.py writes them.")
    try:
        run = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f'{path} is not YAML: {one_line(error)}.') from error
    run = dict(dict(target_key=None, model_kwargs={}), **run) if isinstance(run, dict) else {}
    for key, kind in dict(model=str, num_classes=int, model_kwargs=dict).items():
        if not isinstance(run.get(key), kind):
            raise TrainingError(f"{path} does not say {key} as timm's train.py does, got {run.get(key)!r}.")
    return dict(run, checkpoint=checkpoint)


def load_model(folder: Path, run: dict[str, Any]) -> torch.nn.Module:
    """Return the model of a run with its weights, in evaluation mode."""
    arguments = {key: value for key, value in run['model_kwargs'].items() if key != 'pretrained_backbone'}
    try:
        model = create_model(run['model'], dict(arguments, num_classes=run['num_classes']))
        weights, _ = read_checkpoint(run['checkpoint'])
        check_state_dict(weights, model.state_dict(), run['model'])
    except (CheckpointError, ModelError) as error:
        raise TrainingError(f'{folder}: {error}') from error
    model.load_state_dict(weights)
    return model.eval()


def check_run(folder: Path, run: dict[str, Any], dataset: CelebA) -> None:
    if run['num_classes'] != len(dataset.attributes):
        raise TrainingError(
            f'{folder}: the model has {run["num_classes"]} classes, but the data {len(dataset.attributes)} attributes.'
        )


def check_order(folders: Sequence[Path], runs: list[dict[str, Any]], models: list[torch.nn.Module]) -> None:
    for folder, run, model, is_abn in zip(folders, runs, models, (True, False)):
        if isinstance(model, AttentionBranchNet) != is_abn:
            raise TrainingError(
                f'{folder} holds {run["model"]}, which is {"no" if is_abn else "an"} Attention Branch Network; the run '
                'of the ABN comes first, then that of the baseline.'
            )


@torch.inference_mode()
def accuracy_of(run: dict[str, Any], model: torch.nn.Module, dataset: CelebA, args: argparse.Namespace) -> torch.Tensor:
    """Return the accuracy of each attribute in percent, (T,)."""
    model.to(args.device)
    config = timm.data.resolve_data_config(dict(run, crop_mode=args.crop_mode), model=model)
    loader = timm.data.create_loader(
        dataset,
        input_size=config['input_size'],
        batch_size=args.batch_size,
        interpolation=config['interpolation'],
        mean=config['mean'],
        std=config['std'],
        crop_pct=config['crop_pct'],
        crop_mode=config['crop_mode'],
        num_workers=args.workers,
        device=args.device,
    )
    logits = torch.cat([model(images).cpu() for images, _ in tqdm(loader, desc=run['model'])])
    return attribute_accuracy(logits, dataset.targets)


def table(attributes: list[str], abn: torch.Tensor, baseline: torch.Tensor) -> list[dict[str, Any]]:
    """Return a row for each attribute: its name, both accuracies in percent, and who wins."""
    return [
        dict(attribute=name, abn=round(first, 2), baseline=round(second, 2), winner=winner(first, second))
        for name, first, second in zip(attributes, abn.tolist(), baseline.tolist())
    ]


def winner(abn: float, baseline: float) -> str:
    if abn == baseline:
        return 'tie'
    return 'abn' if abn > baseline else 'baseline'


def print_table(rows: list[dict[str, Any]]) -> None:
    width = max(len(row['attribute']) for row in rows)
    print(f'{"attribute":{width}}  {"ABN":>6}  {"baseline":>8}  winner')
    for row in rows:
        print(f'{row["attribute"]:{width}}  {row["abn"]:6.2f}  {row["baseline"]:8.2f}  {row["winner"]}')
    means = [sum(row[name] for row in rows) / len(rows) for name in ('abn', 'baseline')]
    wins = [sum(row['winner'] == name for row in rows) for name in ('abn', 'baseline')]
    print(f'{"mean":{width}}  {means[0]:6.2f}  {means[1]:8.2f}')
    print(f'{"wins":{width}}  {wins[0]:6}  {wins[1]:8}  of {len(rows)}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('abn', type=Path, help='folder of the run of the ABN')
    parser.add_argument('baseline', type=Path, help='folder of the run of the baseline')
    parser.add_argument('--data-dir', type=Path, required=True, help='folder of CelebA')
    parser.add_argument('--split', default='test', help='default: %(default)s')
    parser.add_argument('--crop-mode', choices=('center', 'squash', 'border'), default='squash', help='of the recipe')
    parser.add_argument('--out', type=Path, default=Path('outputs/attributes.csv'), help='default: %(default)s')
    parser.add_argument('--batch-size', type=positive, default=64, help='default: %(default)s')
    parser.add_argument('--workers', type=whole, default=4, help='default: %(default)s')
    parser.add_argument(
        '--device',
        type=device,
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='default here: %(default)s',
    )
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
