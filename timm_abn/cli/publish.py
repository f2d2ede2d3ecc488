"""Publish weights on the Hugging Face Hub: safetensors, config.json and a model card, in one commit.

examples:
  timm-abn publish output/train/abn_resnet50/model_best.pth.tar --repo me/abn_resnet50 --license apache-2.0
  timm-abn publish weights/abn_resnet152/ --repo me/abn_resnet152 --private
  timm-abn publish model.safetensors --model abn_resnet18 --repo me/birds --label-names birds.txt --dry-run

Then, in Python: timm.create_model('hf-hub:me/abn_resnet50', pretrained=True).

What is published is a folder that timm-abn convert wrote, or a checkpoint of timm-abn-train, which says itself what
model it is of, and how its images were prepared. Averaged weights (--model-ema) are taken where there are some. Of
other checkpoints --model names the model. --dry-run writes the folder, and publishes nothing.

Publishing needs a token: log in with hf auth login, or set HF_TOKEN.
"""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, Tuple

from ..errors import one_line
from ..staging import check_new_folder
from .errors import CommandError
from .models import add_model_kwargs

if TYPE_CHECKING:
    import torch

__all__ = ['add_arguments', 'run']

SUMMARY = 'Attention Branch Network, trained with `timm-abn`: it explains its predictions by attention maps.'

# timm's name of a data set -> the Hub's
DATASETS = {
    'torch/cifar10': 'uoft-cs/cifar10',
    'torch/cifar100': 'uoft-cs/cifar100',
    'torch/fashion_mnist': 'zalando-datasets/fashion_mnist',
    'torch/imagenet': 'ILSVRC/imagenet-1k',
    'torch/svhn': 'ufldl-stanford/svhn',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('source', type=Path, metavar='FOLDER|CHECKPOINT', help='what to publish')
    parser.add_argument('--repo', required=True, metavar='USER/NAME', help='repository; made if it does not exist')
    parser.add_argument('--private', action='store_true', help='only you may see the repository')
    parser.add_argument('--revision', metavar='BRANCH', help='branch; made if it does not exist (default: main)')
    parser.add_argument('--model', metavar='NAME', help='model of a checkpoint that does not say so itself')
    add_model_kwargs(parser)
    parser.add_argument(
        '--label-names', type=Path, metavar='FILE', help='names of the classes of a checkpoint, one a line'
    )
    parser.add_argument(
        '--license', default='unknown', help='licence of the weights of a checkpoint, as the Hub says it'
    )
    parser.add_argument('--dry-run', action='store_true', help='write the folder, and publish nothing')
    parser.add_argument(
        '--out', type=Path, metavar='FOLDER', help='where --dry-run writes (default: NAME in the current folder)'
    )


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from ..hub.config import HubError
    from ..publish.folder import check_repository_name, publish_folder

    out = args.out or Path(args.repo.rpartition('/')[2])
    try:
        check_repository_name(args.repo)
        if args.out and not args.dry_run:
            raise CommandError('--out says where --dry-run writes; add it, or leave --out away')
        if args.dry_run:
            check_new_folder(out)
            write_folder(args, out)
            print(f'Written to: {out}\nNothing was published.')
            return 0
        with tempfile.TemporaryDirectory(prefix='timm-abn-') as scratch:
            write_folder(args, Path(scratch) / 'publish')
            commit = publish_folder(Path(scratch) / 'publish', args.repo, args.private, args.revision)
    except FileExistsError as error:
        raise CommandError(str(error)) from None
    except HubError as error:
        raise CommandError(str(error).rstrip('.')) from None
    print(f'Published: {commit}\nLoad it: timm.create_model({address(args)!r}, pretrained=True)')
    return 0


def address(args: argparse.Namespace) -> str:
    """Return what to pass to ``timm.create_model`` for what these arguments publish."""
    return f'hf-hub:{args.repo}' + (f'@{args.revision}' if args.revision else '')


def write_folder(args: argparse.Namespace, folder: Path) -> None:
    """Write what will be published.

    Args:
        args: Arguments of the command.
        folder: A new folder.

    Raises:
        CommandError: The source cannot be published.
        HubError: The source cannot be published.
    """
    from ..publish.folder import copy_hub_folder

    if args.source.is_dir():
        if args.model or args.model_kwargs or args.label_names or args.license != 'unknown':
            raise CommandError(
                f'{args.source} is a folder, which says itself what --model, --model-kwargs, --label-names and '
                '--license would: leave them away'
            )
        copy_hub_folder(args.source, folder, address(args))
    elif args.source.is_file():
        write_checkpoint(args, folder)
    else:
        raise CommandError(f'there is no folder or checkpoint {args.source}')


def write_checkpoint(args: argparse.Namespace, folder: Path) -> None:
    """Write the folder of a checkpoint.

    Args:
        args: Arguments of the command.
        folder: A new folder.

    Raises:
        CommandError: The checkpoint is damaged, or not one of the model.
        HubError: There is no such network.
    """
    from ..hub.state_dicts import CheckpointError, check_state_dict
    from ..models.training_checkpoints import data_config_of, model_arguments, read_checkpoint, training_settings
    from ..publish.folder import save_hub_folder
    from ..publish.model_card import model_card, result_table
    from ..publish.model_facts import facts_of

    weights, metadata = read_checkpoint(args.source)
    settings = training_settings(metadata)
    name = args.model or settings.get('model')
    if not name:
        raise CommandError(f'{args.source} does not say what model it is of; name it with --model')
    model = create_model(name, model_arguments(settings, args.model_kwargs, weights, args.source), args.source)
    facts = facts_of(model)
    try:
        check_state_dict(weights, model.state_dict(), name)
    except CheckpointError as error:
        raise CommandError(f'{args.source}: {one_line(error)}') from None
    data_config = data_config_of(settings, model, args.source) if settings else None
    # safetensors holds contiguous tensors only, and --channels-last makes others
    model.load_state_dict({key: tensor.contiguous() for key, tensor in weights.items()}, assign=True)
    shipped = is_shipped(name, weights)
    cfg = dict(num_classes=model.num_classes, tag=None, license=args.license)
    if args.label_names:
        cfg['label_names'] = read_label_names(args.label_names, model.num_classes)
    elif not shipped:
        cfg['label_names'] = None  # those of the model's own weights need not be those of the checkpoint
    card = model_card(
        facts,
        args.repo.rpartition('/')[2],
        SUMMARY,
        license=args.license,
        address=address(args),
        more_facts=recorded_facts(metadata, settings),
        datasets=[DATASETS[settings['dataset']]] if settings.get('dataset') in DATASETS else [],
        results=result_table(name, reported=False) if shipped else '',
    )
    save_hub_folder(model, folder, card, data_config, cfg)


def create_model(name: Any, arguments: Mapping[str, Any], path: Path) -> Any:
    """Return a network on the meta device.

    Args:
        name: Name of the model.
        arguments: Its arguments.
        path: The checkpoint that they come from, for messages.

    Raises:
        CommandError: It has no attention map.
        HubError: There is no such network.
    """
    import timm

    from ..hub.building import build_without_memory
    from ..hub.config import check_model_args
    from ..models.cam_models import ClassActivationMapping
    from ..networks.network import AttentionBranchNet

    check_model_args(arguments, str(path))
    model = build_without_memory(lambda **place: timm.create_model(name, **arguments, **place), str(path))
    if not isinstance(model, (AttentionBranchNet, ClassActivationMapping)):
        raise CommandError(f'{path}: {name} is not an Attention Branch Network, nor a CAM baseline; see timm-abn list')
    return model


def is_shipped(name: str, weights: Mapping[str, 'torch.Tensor']) -> bool:
    """Return whether weights are those that this package ships under the name of a model."""
    import timm
    import torch

    from ..publish.results import MEASURED_RESULTS

    if name not in MEASURED_RESULTS:
        return False
    shipped = timm.create_model(name, pretrained=True).state_dict()
    return all(name in weights and torch.equal(tensor, weights[name]) for name, tensor in shipped.items())


def read_label_names(path: Path, num_classes: int) -> List[str]:
    """Return the names of the classes.

    Args:
        path: File with one name a line.
        num_classes: How many there must be.

    Raises:
        CommandError: There are more, or fewer.
    """
    try:
        names = path.read_text(encoding='utf-8').splitlines()
    except UnicodeDecodeError:
        raise CommandError(f'--label-names {path} is not a text file in UTF-8') from None
    if len(names) != num_classes:
        raise CommandError(f'--label-names {path} has {len(names)} lines for {num_classes} classes')
    return names


def recorded_facts(metadata: Mapping[str, Any], settings: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """Return what timm's training script wrote beside the weights, as names and values.

    Args:
        metadata: What lies beside the weights.
        settings: Settings of timm's training script.
    """
    facts = []
    if isinstance(metadata.get('epoch'), int) and settings:
        facts.append(('Epochs, as recorded in the checkpoint', str(metadata['epoch'] + 1)))
    metric: Optional[Any] = metadata.get('metric')
    if isinstance(metric, (int, float)) and settings:
        facts.append((f'Validation {settings.get("eval_metric", "metric")}, as recorded', f'{metric:.2f}'))
    if isinstance(settings.get('dataset'), str) and settings['dataset']:
        facts.append(('Data set, as timm names it', settings['dataset']))
    return facts
