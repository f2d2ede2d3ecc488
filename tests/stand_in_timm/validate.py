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
for flag in ('num-classes', 'img-size'):
    parser.add_argument(f'--{flag}', type=int)
parser.add_argument('--crop-mode')
parser.add_argument('--task', default='classification', choices=('classification', 'multilabel'))
parser.add_argument('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs)


def main():
    args = parser.parse_args()
    model = create_model(args.model, num_classes=args.num_classes, checkpoint_path=args.checkpoint, **args.model_kwargs)
    data_config = resolve_data_config(vars(args), model=model)
    multi_label = args.task == 'multilabel'
    dataset = create_dataset(
        root=args.data_dir,
        name=args.dataset,
        split=args.split,
        target_transform=MultiLabelTarget(args.num_classes) if multi_label else None,
    )
    loader = create_loader(
        dataset,
        input_size=data_config['input_size'],
        batch_size=32,
        num_workers=0,
        device=torch.device('cpu'),
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
