"""Publish weights on the Hugging Face Hub: safetensors, config.json and a model card, in one commit.

examples:
  timm-abn publish output/train/abn_resnet50/model_best.pth.tar --repo me/abn_resnet50 --license apache-2.0
  timm-abn publish weights/abn_resnet152/ --repo me/abn_resnet152 --private
  timm-abn publish weights/abn_resnet152/ --repo me/abn_resnet152-page --space
  timm-abn publish model.safetensors --model abn_resnet18 --repo me/birds --label-names birds.txt --dry-run

Then, in Python: timm.create_model('hf-hub:me/abn_resnet50', pretrained=True).

The source is a folder that timm-abn convert wrote, or a checkpoint of timm-abn-train, which records its model and how
images were prepared. Averaged weights (--model-ema) are used if a checkpoint has them. For other checkpoints, --model
names the model. --dry-run writes the folder and publishes nothing.

--space publishes a Space instead of a model: the page of timm-abn app with these weights. Its folder contains app.py
and also runs on any machine: python app.py. The Space installs timm-abn from requirements.txt.

Publishing needs a token: log in with hf auth login, or set HF_TOKEN.
"""

import argparse
import tempfile
from pathlib import Path

from .argument_types import existing, existing_file
from .arguments import add_label_names_argument, add_model_kwargs, add_told_arguments, given_told
from .choices import EXPLAINED_BY
from .errors import CommandError

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add('source', type=existing, metavar='FOLDER|CHECKPOINT', help='what to publish')
    add('--repo', required=True, metavar='USER/NAME', help='repository; created if it does not exist')
    add('--private', action='store_true', help='only you may see the repository')
    add('--revision', metavar='BRANCH', help='branch; created if it does not exist (default: main)')
    add('--model', metavar='NAME', help='model of a checkpoint that does not record it')
    add_model_kwargs(parser)
    add_told_arguments(parser)
    add_label_names_argument(parser)
    scores = 'summary.json of timm-abn evaluate, for the card of a checkpoint'
    add('--scores', type=existing_file, metavar='FILE', help=scores)
    explains = 'map that was measured to explain best and is shown first, for a checkpoint'
    add('--explained-by', choices=EXPLAINED_BY, help=explains)
    add('--license', default='unknown', help='licence of the weights, as the Hub spells it, for a checkpoint')
    add('--space', action='store_true', help='publish a page that explains photos, as a Space')
    add('--dry-run', action='store_true', help='write the folder and publish nothing')
    where = 'where --dry-run writes (default: NAME in the current folder)'
    add('--out', type=Path, metavar='FOLDER', help=where)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.out and not args.dry_run:
        raise CommandError('--out says where --dry-run writes; add it, or leave out --out')
    given = args.model or args.model_kwargs or args.label_names or args.scores or args.license != 'unknown'
    given = given or given_told(args) or args.explained_by
    if args.source.is_dir() and given:
        raise CommandError(
            f'{args.source} is a folder, which already records what --model, --model-kwargs, --label-names, '
            '--scores, --explained-by and --license would say: leave them out'
        )

    from huggingface_hub import constants

    from timm_abn.publish.folder import check_repository_name, publish_folder
    from timm_abn.staging import staged_folder

    check_repository_name(args.repo)
    address = f'hf-hub:{args.repo}' + (f'@{args.revision}' if args.revision else '')
    if args.dry_run:
        out = args.out or Path(args.repo.rpartition('/')[2])
        with staged_folder(out) as folder:
            _write_folder(args, folder, address)
        print(f'Written to: {out}\nNothing was published.')
        return 0
    with tempfile.TemporaryDirectory(prefix='timm-abn-') as scratch:
        _write_folder(args, Path(scratch), address)
        commit = publish_folder(scratch, args.repo, args.private, args.revision, args.space)
    print(f'Published: {commit}')
    if args.space:
        print(f'Open it: {constants.ENDPOINT}/spaces/{args.repo}')
    else:
        print(f'Load it: timm.create_model({address!r}, pretrained=True)')
    return 0


def _write_folder(args: argparse.Namespace, folder: Path, address: str) -> None:
    """Write what will be published."""
    from timm_abn.models.told import Told
    from timm_abn.publish.checkpoints import save_checkpoint_folder
    from timm_abn.publish.folder import copy_hub_folder
    from timm_abn.publish.space import make_space

    title = args.repo.rpartition('/')[2]
    if args.source.is_dir():
        copy_hub_folder(args.source, folder, address)
    else:
        told = Told(**given_told(args), explained_by=args.explained_by)
        given = args.model, args.model_kwargs, args.label_names, args.license, args.scores, told
        save_checkpoint_folder(args.source, folder, title, address, *given)
    if args.space:
        make_space(folder, title)
