"""Refine the maps of a trained timm model on a folder of unlabelled photos.

examples:
  timm-abn attach --model convnext_tiny --data-dir photos --out attached
  timm-abn attach --checkpoint plain/model_best.pth.tar --data-dir photos --out attached
  timm-abn explain new_photos --checkpoint attached/last.pth.tar

Any timm model can be explained without this command: its own head is applied at each position (timm_abn.attach). A
refinement makes that map finer, and more faithful on similar photos. The model is frozen, and its predictions do not
change. The map is trained to rank positions: from those where it is greatest (a random share for each photo) the model
must predict what it predicts from the whole photo, and from the rest it must not.

The folder may contain photos and folders of any kind; a fifth of the photos is held out, always the same ones. If there
are sub-folders train and validation, these are used instead. A checkpoint of timm's training script records its model,
the model's arguments, and how images are prepared; for weights alone, use --img-size, --mean, --std and --crop-pct.
Photos that cannot be read are named and left out.

After every 60 steps, up to 50 held-out photos decide by the symmetric relevance gain (SRG) of the map. The best
refinement is kept, or the evidence that it started from if none is better; training stops after three rounds without a
gain. OUT then contains last.pth.tar, which every command takes, and summary.csv; only --resume needs continue.pth.tar.
At the end, up to 50 other held-out photos give a verdict: SRG (0 for a map of noise), and how far it is above the mean
map of the predicted class over other photos, above Grad-CAM, and above the unrefined evidence. --resume with the same
arguments ends with the weights of an uninterrupted run; with more --steps, it continues. Under torchrun, each process
has its own batch: torchrun --nproc_per_node 2 --no-python timm-abn attach ...

To train a network whose map gates on your own photos, use timm-abn-train --recipe finetune.
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
    add('--out', type=Path, required=True, metavar='FOLDER', help='folder to write')
    add('--resume', action='store_true', help='continue after the last round in --out')
    add('--steps', type=positive, default=480, metavar='N', help='training steps (default: 480)')
    add('--batch-size', type=positive, default=32, metavar='B', help='photos per step and process (default: 32)')
    add('--lr', type=positive_number, default=1e-3, help='learning rate (default: 0.001)')
    add('--seed', type=seed, default=0, help='seed of order, flips, shares and backgrounds (default: 0)')
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
