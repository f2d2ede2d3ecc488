"""A small training script with the seams of timm's train.py, which the launcher is tested on where timm's is not there.

It takes the same names from timm in the same way, in the same order, and has a few of the flags.
"""

import argparse
import importlib
import os
from collections import OrderedDict

import torch
import torch.nn as nn
import yaml
from timm import utils
from timm.data import FastCollateMixup, MultiLabelTarget, create_dataset, create_loader, resolve_data_config
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import MultiStepLRScheduler
from timm.task import ClassificationTask, MultiLabelClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument('-c', '--config', default='')

parser = argparse.ArgumentParser()
TEXTS = 'data-dir initial-checkpoint resume train-crop-mode input-key target-key experiment class-map interpolation'
for flag in TEXTS.split():
    parser.add_argument(f'--{flag}', default='')
for flag, default in dict(
    dataset='',
    model='resnet50',
    train_split='train',
    val_split='validation',
    output='output',
    device='cuda',
    opt='momentum',
    train_interpolation='random',
).items():
    parser.add_argument(f'--{flag.replace("_", "-")}', default=default)
for flag in ('num-classes', 'img-size', 'in-chans'):
    parser.add_argument(f'--{flag}', type=int)
for flag, default in dict(
    batch_size=32, epochs=2, workers=0, seed=42, local_rank=0, warmup_epochs=0, val_interval=1
).items():
    parser.add_argument(f'--{flag.replace("_", "-")}', type=int, default=default)
for flag, default in dict(lr=0.05, weight_decay=1e-4, smoothing=0.0, color_jitter=0.4, mixup=0.0, reprob=0.0).items():
    parser.add_argument(f'--{flag.replace("_", "-")}', type=float, default=default)
for flag in ('model-ema', 'no-aug', 'pretrained', 'channels-last'):
    parser.add_argument(f'--{flag}', action='store_true')
parser.add_argument('--task', default='classification', choices=('classification', 'multilabel'))
parser.add_argument('--input-size', nargs=3, type=int)
parser.add_argument('--crop-pct', type=float)
parser.add_argument('--gp')
for flag in ('mean', 'std'):
    parser.add_argument(f'--{flag}', nargs='+', type=float)
parser.add_argument('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs)
parser.add_argument('--device-modules', nargs='+', default=[])
parser.add_argument('--decay-milestones', nargs='+', type=int, default=[90])


def main():
    utils.setup_default_logging()
    config, remaining = config_parser.parse_known_args()
    if config.config:
        with open(config.config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    args = parser.parse_args(remaining)
    for module in args.device_modules:
        importlib.import_module(module)
    device = utils.init_distributed_device(args)
    utils.random_seed(args.seed, args.rank)
    model = create_model(
        args.model,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.in_chans or 3,
        global_pool=args.gp,
        checkpoint_path=args.initial_checkpoint,
        **args.model_kwargs,
    )
    if args.channels_last:
        model.to(memory_format=torch.channels_last)
    data_config = resolve_data_config(vars(args), model=model)
    train_set, val_set = (
        create_dataset(
            args.dataset,
            root=args.data_dir,
            split=split,
            is_training=training,
            seed=args.seed,
            input_img_mode='RGB',
            target_key=args.target_key or None,
            class_map=args.class_map,
            target_transform=MultiLabelTarget(args.num_classes) if args.task == 'multilabel' else None,
        )
        for split, training in ((args.train_split, True), (args.val_split, False))
    )
    mixup = dict(mixup_alpha=args.mixup, num_classes=args.num_classes)
    common = dict(
        input_size=data_config['input_size'],
        batch_size=args.batch_size,
        mean=data_config['mean'],
        std=data_config['std'],
        num_workers=args.workers,
        distributed=args.distributed,
        device=device,
    )
    train_loader = create_loader(
        train_set,
        is_training=True,
        no_aug=args.no_aug,
        train_crop_mode=args.train_crop_mode or None,
        color_jitter=args.color_jitter,
        re_prob=args.reprob,
        interpolation=args.train_interpolation,
        collate_fn=FastCollateMixup(**mixup) if args.mixup else None,
        **common,
    )
    val_loader = create_loader(val_set, is_training=False, crop_pct=data_config['crop_pct'], **common)
    task_class = MultiLabelClassificationTask if args.task == 'multilabel' else ClassificationTask
    task = task_class(
        model,
        criterion_kwargs=dict(smoothing=args.smoothing, soft_targets=args.mixup > 0),
        device=device,
        verbose=utils.is_primary(args),
    )
    eval_model = task.get_eval_model()
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=args.weight_decay)
    start_epoch = resume_task_checkpoint(task, args.resume, optimizer=optimizer) if args.resume else 0
    if args.model_ema:
        task.setup_ema(decay=0.9)
        if args.resume:
            load_task_ema_checkpoint(task, args.resume)
    if args.distributed:
        task.prepare_distributed(device_ids=[device])
    saver = None
    if utils.is_primary(args):
        folder = utils.get_outdir(args.output, args.experiment or 'run')
        saver = utils.CheckpointSaver(
            model, optimizer, args=args, checkpoint_dir=folder, recovery_dir=folder, task=task, max_history=2
        )
    scheduler = MultiStepLRScheduler(optimizer, args.decay_milestones, decay_rate=0.1)
    scheduler.step(start_epoch)
    for epoch in range(start_epoch, args.epochs):
        for place in (train_loader.dataset, train_loader.sampler):
            if hasattr(place, 'set_epoch'):
                place.set_epoch(epoch)
        train_metrics = train_one_epoch(epoch, task, train_loader, optimizer)
        if args.distributed:
            utils.distribute_bn(task.get_trainable_module(), args.world_size, reduce=True)
        eval_metrics = validate(task, eval_model, val_loader)
        if task.has_ema():
            eval_metrics = validate(task, task.get_eval_model(ema=True), val_loader)
        if saver is not None:
            utils.update_summary(
                epoch, train_metrics, eval_metrics, os.path.join(folder, 'summary.csv'), write_header=epoch == 0
            )
            saver.save_checkpoint(epoch, metric=eval_metrics['map' if args.task == 'multilabel' else 'top1'])
        scheduler.step(epoch + 1)
    if args.distributed:
        torch.distributed.destroy_process_group()


def train_one_epoch(epoch, task, loader, optimizer):
    meter = utils.AverageMeter()
    task.get_trainable_module().train()
    updates = epoch * len(loader)
    for index, (images, target) in enumerate(loader):
        loss = task(images, target)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        task.update_ema(step=updates + index + 1)
        meter.update(loss.item(), len(images))
        print(f'Train: {epoch} [{index + 1}/{len(loader)}] Loss: {loss.item():.6f}', flush=True)
    return OrderedDict(loss=meter.avg)


def validate(task, model, loader):
    model.eval()
    evaluator = task.create_evaluator()
    losses, top1 = utils.AverageMeter(), utils.AverageMeter()
    with torch.inference_mode():
        for images, target in loader:
            output = model(images)
            if isinstance(output, (tuple, list)):
                output = output[0]
            if task.multi_label:
                evaluator.update(output, target)
                continue
            losses.update(nn.functional.cross_entropy(output, target).item(), len(images))
            top1.update(utils.accuracy(output, target, topk=(1, 5))[0].item(), len(images))
    return evaluator.compute() if task.multi_label else OrderedDict(loss=losses.avg, top1=top1.avg)


if __name__ == '__main__':
    main()
