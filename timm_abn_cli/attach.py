"""Refine the maps of a trained timm model on a folder of photos, without labels.

examples:
  timm-abn attach --model convnext_tiny --data-dir photos --out attached
  timm-abn attach --checkpoint plain/model_best.pth.tar --data-dir photos --out attached
  timm-abn explain new_photos --checkpoint attached/last.pth.tar

Without this command any timm model explains itself: its own head is applied to each place (timm_abn.attach). A
refinement makes that map finer, and more faithful on photos of the same kind. The model stays as it is, to the last
bit of its predictions. From the places where the map is greatest (how many is drawn for each photo) the model
must predict what it predicts from the whole photo, and from the rest it must not.

The folder holds photos, in folders of any kind: a fifth is held out, always the same one; or it has sub-folders train
and validation. A checkpoint of timm's training script records its model, the arguments of this, and how images are
prepared; --img-size, --mean, --std and --crop-pct say so of weights alone. Photos that cannot be read are named and
left out.

After each 60 steps up to 50 held-out photos decide, by the symmetric relevance gain (SRG) of the map: the best
refinement is kept, or the evidence that it began from, where nothing is better; after three rounds without a gain
training stops. OUT then holds last.pth.tar, which every command takes, and summary.csv; continue.pth.tar is for
--resume alone. At the end up to 50 other held-out photos give a verdict: SRG (a map of noise has 0), and what it is
above the mean map of the predicted class over other photos, above Grad-CAM, and above the evidence without refinement.
--resume with the same arguments ends with the weights of an uninterrupted run; with more --steps it goes on. Under
torchrun each process has a batch of its own: torchrun --nproc_per_node 2 --no-python timm-abn attach ...

To train a network whose map gates on photos of your own: timm-abn-train --recipe finetune.
"""

import argparse
import sys
from pathlib import Path

from .argument_types import existing_folder, positive, positive_number, seed, whole
from .arguments import add_computing_arguments, add_model_arguments, choose_device, given_model_kwargs
from .errors import CommandError
from .table import format_table

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add_model_arguments(parser)
    add('--data-dir', type=existing_folder, required=True, metavar='FOLDER', help='folder of the photos')
    add('--out', type=Path, required=True, metavar='FOLDER', help='where to write')
    add('--resume', action='store_true', help='continue after the last round in --out')
    add('--steps', type=positive, default=480, metavar='N', help='(default: 480)')
    add('--batch-size', type=positive, default=32, metavar='B', help='photos per step and process (default: 32)')
    add('--lr', type=positive_number, default=1e-3, help='learning rate (default: 0.001)')
    add('--seed', type=seed, default=0, help='of order, flips, shares and backgrounds (default: 0)')
    add('--workers', type=whole, default=0, metavar='N', help='processes that read photos (default: 0)')
    add_computing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.resume and not (args.out / 'continue.pth.tar').is_file():
        raise CommandError(f'there is no {args.out / "continue.pth.tar"} to continue from; leave out --resume')

    model_kwargs = given_model_kwargs(args)

    import torch

    from timm_abn.data.class_names import name_classes
    from timm_abn.data.photos import find_photos
    from timm_abn.explain.processes import process_group, wait_for_all
    from timm_abn.models.attaching import attach_by_name
    from timm_abn.staging import check_new_folder, check_output_folder
    from timm_abn.training.attaching import LAST, STATE, AttachSettings, outcome_in_words, train_attached
    from timm_abn.training.held_out import VERDICT

    with process_group() as (rank, _):
        (check_output_folder if args.resume else check_new_folder)(args.out)
        place = choose_device(args)
        photos = find_photos(args.data_dir)
        torch.manual_seed(args.seed)
        attached = attach_by_name(args.model, args.checkpoint, **model_kwargs)
        name_classes(attached.model, args.label_names)
        settings = AttachSettings(args.steps, args.batch_size, args.lr, args.seed, args.workers)
        wait_for_all()  # before one of them writes
        if rank == 0:
            print(f'{len(photos.training)} photos to train on, {len(photos.validation)} held out; {attached.origin}')
        try:
            rows = train_attached(attached, photos, settings, args.out, place, args.resume)
        except KeyboardInterrupt:
            if rank == 0 and (args.out / STATE).is_file():
                print(f'\nStopped. {args.out / LAST} is of the best round so far; --resume continues.', file=sys.stderr)
            return 130
    if rank == 0:
        columns = [name for name in rows[-1] if name not in VERDICT]
        print(format_table(columns, [[str(row.get(name, '')) for name in columns] for row in rows]))
        print(f'\n{outcome_in_words(rows, args.steps)}')
        last = rows[-1]
        low_high = f'[{last["above_evidence_low"]:.2f}, {last["above_evidence_high"]:.2f}]'
        print(f'verdict of {last["judged"]} other held-out photos: {last["verdict"]}')
        print(f'above the evidence without refinement by {last["above_evidence"]:.2f} {low_high} SRG')
        print(f'\nExplain photos: timm-abn explain {args.data_dir} --checkpoint {args.out / LAST}')
    return 0
