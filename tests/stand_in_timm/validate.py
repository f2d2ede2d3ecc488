"""A small validation script with the seams of timm's validate.py; see train.py beside it."""

import argparse
import json

import torch
from timm import utils
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model
from timm.utils import accuracy

parser = argparse.ArgumentParser()
for flag, default in dict(data_dir='', dataset='', split='validation', model='resnet50', checkpoint='').items():
    parser.add_argument(f'--{flag.replace("_", "-")}', default=default)
for flag in ('num-classes', 'img-size'):
    parser.add_argument(f'--{flag}', type=int)
parser.add_argument('--crop-mode')
parser.add_argument('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs)


def main():
    args = parser.parse_args()
    model = create_model(args.model, num_classes=args.num_classes, checkpoint_path=args.checkpoint, **args.model_kwargs)
    data_config = resolve_data_config(vars(args), model=model)
    dataset = create_dataset(root=args.data_dir, name=args.dataset, split=args.split)
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
    top1 = utils.AverageMeter()
    with torch.inference_mode():
        for images, target in loader:
            top1.update(accuracy(model(images), target)[0].item(), len(images))
    print(f'--result\n{json.dumps(dict(model=args.model, top1=top1.avg))}')


if __name__ == '__main__':
    main()
