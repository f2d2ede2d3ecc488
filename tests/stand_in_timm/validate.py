"""A small validation script with the seams of timm's validate.py; see train.py beside it."""

import argparse
import json

import torch
from timm import utils
from timm.data import MultiLabelTarget, create_dataset, create_loader, resolve_data_config
from timm.models import create_model
from timm.task import MultiLabelClassificationEvaluator
from timm.utils import accuracy

parser = argparse.ArgumentParser()
for flag, default in dict(data_dir='', dataset='', split='validation', model='resnet50', checkpoint='').items():
    parser.add_argument(f'--{flag.replace("_", "-")}', default=default)
for flag, default in dict(class_map='', device='cuda', interpolation='').items():
    parser.add_argument(f'--{flag.replace("_", "-")}', default=default)
for flag in ('num-classes', 'img-size', 'in-chans'):
    parser.add_argument(f'--{flag}', type=int)
parser.add_argument('--input-size', nargs=3, type=int)
parser.add_argument('--crop-pct', type=float)
for flag in ('mean', 'std'):
    parser.add_argument(f'--{flag}', nargs='+', type=float)
for flag in ('crop-mode', 'gp'):
    parser.add_argument(f'--{flag}')
parser.add_argument('--channels-last', action='store_true')
parser.add_argument('--task', default='classification', choices=('classification', 'multilabel'))
parser.add_argument('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs)


def main():
    args = parser.parse_args()
    device = torch.device(args.device)
    model = create_model(
        args.model,
        num_classes=args.num_classes,
        in_chans=args.in_chans or 3,
        global_pool=args.gp,
        checkpoint_path=args.checkpoint,
        **args.model_kwargs,
    ).to(device)
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    data_config = resolve_data_config(vars(args), model=model)
    multi_label = args.task == 'multilabel'
    dataset = create_dataset(
        root=args.data_dir,
        name=args.dataset,
        split=args.split,
        class_map=args.class_map,
        target_transform=MultiLabelTarget(args.num_classes) if multi_label else None,
    )
    loader = create_loader(
        dataset,
        input_size=data_config['input_size'],
        batch_size=32,
        num_workers=0,
        device=device,
        mean=data_config['mean'],
        std=data_config['std'],
        crop_pct=data_config['crop_pct'],
        crop_mode=data_config['crop_mode'],
    )
    model.eval()
    evaluator = MultiLabelClassificationEvaluator()
    top1 = utils.AverageMeter()
    with torch.inference_mode():
        for images, target in loader:
            if multi_label:
                evaluator.update(model(images), target)
                continue
            top1.update(accuracy(model(images), target)[0].item(), len(images))
    metrics = evaluator.compute() if multi_label else dict(top1=top1.avg)
    print(f'--result\n{json.dumps(dict(metrics, model=args.model))}')


if __name__ == '__main__':
    main()
