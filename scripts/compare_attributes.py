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
from pathlib import Path
from typing import Any, Dict, List

import timm.data
import torch
import yaml
from huggingface_hub.utils import tqdm
from timm.models import load_checkpoint

import timm_abn  # noqa: F401  registers the models
from timm_abn.attribute_accuracy import attribute_accuracy
from timm_abn.staging import staged_files
from timm_abn.task import TrainingError
from timm_abn.training.celeba import CelebA

CHECKPOINTS = ('last.pth.tar', 'model.safetensors')


def main() -> int:
    """Compare, print and write; returns the exit code."""
    args = parse_args()
    try:
        runs = [read_run(folder) for folder in (args.abn, args.baseline)]
        datasets = [CelebA(str(args.data_dir), args.split, run['target_key']) for run in runs]
        for folder, run, dataset in zip((args.abn, args.baseline), runs, datasets):
            check_run(folder, run, dataset)
        if datasets[0].attributes != datasets[1].attributes:
            raise TrainingError(f'{args.abn} and {args.baseline} were trained on different attributes.')
        accuracies = [accuracy_of(run, dataset, args) for run, dataset in zip(runs, datasets)]
    except TrainingError as error:
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


def read_run(folder: Path) -> Dict[str, Any]:
    """Return what a run was started with, and the path of its weights as 'checkpoint'."""
    path = folder / 'args.yaml'
    checkpoints = [folder / name for name in CHECKPOINTS if (folder / name).is_file()]
    if not path.is_file() or not checkpoints:
        raise TrainingError(
            f"{folder} must hold args.yaml and {' or '.join(CHECKPOINTS)}, as timm's train.py writes them."
        )
    return dict(dict(target_key=None, model_kwargs={}), **yaml.safe_load(path.read_text()), checkpoint=checkpoints[0])


def check_run(folder: Path, run: Dict[str, Any], dataset: CelebA) -> None:
    if run['num_classes'] != len(dataset.attributes):
        raise TrainingError(
            f'{folder}: the model has {run["num_classes"]} classes, but the data {len(dataset.attributes)} attributes.'
        )


@torch.inference_mode()
def accuracy_of(run: Dict[str, Any], dataset: CelebA, args: argparse.Namespace) -> torch.Tensor:
    """Return the accuracy of each attribute in percent, (T,)."""
    device = torch.device(args.device)
    model = timm.create_model(run['model'], num_classes=run['num_classes'], **run['model_kwargs'])
    load_checkpoint(model, str(run['checkpoint']))
    model.eval().to(device)
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
        device=device,
    )
    logits = torch.cat([model(images).cpu() for images, _ in tqdm(loader, desc=run['model'])])
    return attribute_accuracy(logits, dataset.targets)


def table(attributes: List[str], abn: torch.Tensor, baseline: torch.Tensor) -> List[Dict[str, Any]]:
    """Return a row for each attribute: its name, both accuracies in percent, and who wins."""
    return [
        dict(attribute=name, abn=round(first, 2), baseline=round(second, 2), winner=winner(first, second))
        for name, first, second in zip(attributes, abn.tolist(), baseline.tolist())
    ]


def winner(abn: float, baseline: float) -> str:
    if abn == baseline:
        return 'tie'
    return 'abn' if abn > baseline else 'baseline'


def print_table(rows: List[Dict[str, Any]]) -> None:
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
    parser.add_argument('--batch-size', type=int, default=64, help='default: %(default)s')
    parser.add_argument('--workers', type=int, default=4, help='default: %(default)s')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='default: %(default)s')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
