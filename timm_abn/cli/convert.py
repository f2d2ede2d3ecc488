"""Convert a checkpoint of the authors' code to a folder that timm and the Hub load.

examples:
  timm-abn convert model_best.pth.tar --model abn_resnet152 --out weights/abn_resnet152/
  timm-abn convert model_best.pth.tar --out weights/from_the_authors/
  timm-abn convert celeba.model --mechanism residual --out weights/celeba/

Then, in Python: timm.create_model('local-dir:weights/abn_resnet152', pretrained=True). Without --model the model is
found from the names and shapes in the checkpoint. The number of classes comes from there as well, and so does the
kind of the attention map: the authors' SENets sum logarithms where the paper has a sigmoid.

The checkpoints are linked from https://github.com/machine-perception-robotics-group/attention_branch_network. Only
tensors and plain values are read from them; no code in them is run.
"""

import argparse
from pathlib import Path
from typing import Any, Mapping, Tuple

from ..networks.choices import MECHANISMS
from ..staging import check_new_folder
from .errors import CommandError

__all__ = ['add_arguments', 'run']

# how the authors' code prepares images of ImageNet, beside timm's mean and deviation; for CIFAR the models say the same
IMAGENET_PREPROCESSING = dict(input_size=(3, 224, 224), interpolation='bilinear', crop_pct=0.875)

SUMMARY = """\
Attention Branch Network, converted with `timm-abn convert` from a checkpoint of the code that the authors of the paper
published at https://github.com/machine-perception-robotics-group/attention_branch_network. That repository names no
licence: ask its authors before you publish weights that they have trained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('checkpoint', type=Path, help="the authors' file, such as model_best.pth.tar")
    parser.add_argument('--model', metavar='NAME', help='name of the model, see timm-abn list (default: found out)')
    parser.add_argument(
        '--mechanism',
        choices=MECHANISMS,
        help="of a multi-task checkpoint, which does not tell it (default: product, as in the authors' code)",
    )
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='a new folder')


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    import timm
    import torch
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from ..models.authors_checkpoints import convert_official_checkpoint, find_official_model, official_model_args
    from ..publish.folder import save_hub_folder
    from ..publish.model_card import model_card
    from ..publish.model_facts import facts_of

    try:
        check_new_folder(args.out)
        checkpoint = read_checkpoint(args.checkpoint)
        name = args.model or find_official_model(checkpoint)
        state_dict = convert_official_checkpoint(checkpoint, name)
        model_args = official_model_args(checkpoint)
        if args.mechanism:
            if not model_args.get('multi_task'):
                raise CommandError(f'{args.checkpoint} is not of a multi-task network: --mechanism is always residual')
            model_args['mechanism'] = args.mechanism
        model: Any = timm.create_model(name, device=torch.device('meta'), **model_args)
    except FileExistsError as error:
        raise CommandError(str(error)) from None
    except ValueError as error:
        raise CommandError(f'{args.checkpoint}: {str(error).rstrip(".")}') from None
    imagenet = dict(IMAGENET_PREPROCESSING, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    facts = recorded_facts(checkpoint)
    card = model_card(
        facts_of(model), name, SUMMARY, license='unknown', address=f'local-dir:{args.out}', more_facts=facts
    )
    model.load_state_dict(state_dict, assign=True)
    save_hub_folder(
        model,
        args.out,
        card,
        data_config=None if name.endswith('_cifar') else imagenet,
        pretrained_cfg=dict(license='unknown'),
    )
    for fact, value in (('Model', name), ('Classes', model.num_classes), *facts, ('Written to', args.out)):
        print(f'{fact}: {value}')
    return 0


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return what ``torch.save`` wrote to a file, without running code from it.

    Args:
        path: The file.

    Raises:
        CommandError: It is not there, damaged, or holds other things than tensors and plain values.
    """
    import torch

    from ..models.training_checkpoints import checkpoint_errors

    with checkpoint_errors(path):
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise CommandError(f'{path} is no checkpoint of a model: it holds a {type(checkpoint).__name__}')
    return checkpoint


def recorded_facts(checkpoint: Mapping[str, Any]) -> Tuple[Tuple[str, str], ...]:
    """Return what the authors' training script wrote beside the weights, as names and values.

    Args:
        checkpoint: The whole checkpoint; older ones hold tensors where newer ones hold numbers.
    """
    import torch

    facts = []
    for key, name, form in (
        ('epoch', 'Epochs, as recorded in the checkpoint', '{:.0f}'),
        ('best_acc', 'Top-1 accuracy (%), as recorded in the checkpoint', '{:.2f}'),
    ):
        value = checkpoint.get(key)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, (int, float)):
            facts.append((name, form.format(value)))
    return tuple(facts)
