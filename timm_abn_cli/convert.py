"""Convert a checkpoint of the authors' code to a folder that timm and the Hub load.

examples:
  timm-abn convert model_best.pth.tar --model abn_resnet152 --out weights/abn_resnet152/
  timm-abn convert model_best.pth.tar --out weights/from_the_authors/
  timm-abn convert celeba.model --mechanism residual --out weights/celeba/

Then, in Python: timm.create_model('local-dir:weights/abn_resnet152', pretrained=True). Without --model, the model is
identified from the names and shapes in the checkpoint. So are the number of classes and the kind of attention map: the
authors' SENets sum logarithms where the paper has a sigmoid.

The checkpoints are linked from https://github.com/machine-perception-robotics-group/attention_branch_network. Only
tensors and plain values are read from them; no code in them is run.
"""

import argparse
from pathlib import Path

from .argument_types import existing_file
from .choices import MECHANISMS
from .printing import visible

__all__ = ['add_arguments', 'run']

_CARD = """\
Attention Branch Network, converted with `timm-abn convert` from a checkpoint of the code that the authors of the paper
published at https://github.com/machine-perception-robotics-group/attention_branch_network. That repository names no
licence: ask its authors before you publish weights that they trained."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('checkpoint', type=existing_file, help="the authors' file, such as model_best.pth.tar")
    name = 'name of the model, see timm-abn list (default: identified from the file)'
    parser.add_argument('--model', metavar='NAME', help=name)
    mechanism = "mechanism of a multi-task checkpoint, not recorded in it (default: product, as in the authors' code)"
    parser.add_argument('--mechanism', choices=MECHANISMS, help=mechanism)
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='new folder to write')


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    import timm
    import torch
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    from timm_abn.checkpoint_files import CheckpointError, read_checkpoint_file
    from timm_abn.models.official_checkpoints import convert_official_checkpoint
    from timm_abn.publish.checkpoints import recorded_facts
    from timm_abn.publish.folder import save_hub_folder
    from timm_abn.publish.model_card import model_card
    from timm_abn.publish.model_facts import facts_of
    from timm_abn.staging import check_new_folder, staged_folder

    check_new_folder(args.out)
    checkpoint = read_checkpoint_file(args.checkpoint)
    try:
        name, model_args, state_dict = convert_official_checkpoint(checkpoint, args.model)
    except ValueError as error:
        raise CheckpointError(f'{args.checkpoint}: {error}') from None
    if args.mechanism and not model_args.get('multi_task'):
        raise CheckpointError(
            f'{args.checkpoint} is not from a multi-task network: its mechanism is residual, leave out --mechanism'
        )
    if args.mechanism:
        model_args['mechanism'] = args.mechanism
    model = timm.create_model(name, device=torch.device('meta'), **model_args)
    facts = recorded_facts(checkpoint)
    card = model_card(
        facts_of(model), name, _CARD, license='unknown', address=f'local-dir:{args.out}', more_facts=facts
    )
    model.load_state_dict(state_dict, assign=True)
    # how the authors' code prepares images of ImageNet; for CIFAR the models here say the same
    images = dict(input_size=(3, 224, 224), interpolation='bilinear', crop_pct=0.875)
    images.update(mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
    with staged_folder(args.out) as staging:
        save_hub_folder(model, staging, card, None if name.endswith('_cifar') else images, dict(license='unknown'))
    for fact, value in (('Model', name), ('Classes', model_args.get('num_classes')), *facts, ('Written to', args.out)):
        print(visible(f'{fact}: {value}'))
    return 0
