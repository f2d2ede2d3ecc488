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

from .choices import MECHANISMS

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('checkpoint', type=Path, help="the authors' file, such as model_best.pth.tar")
    parser.add_argument(
        '--model', metavar='NAME', help='name of the model, see timm-abn list (default: found from the file)'
    )
    parser.add_argument(
        '--mechanism',
        choices=MECHANISMS,
        help="of a multi-task checkpoint, which does not tell it (default: product, as in the authors' code)",
    )
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='a new folder')


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from timm_abn.publish.checkpoints import convert_checkpoint
    from timm_abn.staging import check_new_folder

    check_new_folder(args.out)
    facts = convert_checkpoint(args.checkpoint, args.out, args.model, args.mechanism)
    for fact, value in (*facts, ('Written to', args.out)):
        print(f'{fact}: {value}')
    return 0
