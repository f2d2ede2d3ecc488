"""Attach an attention branch to a trained timm model, and train its map on a folder of photos.

examples:
  timm-abn attach --checkpoint plain/model_best.pth.tar --data-dir photos --out attached
  timm-abn attach --model convnext_tiny --data-dir photos --unlabelled --out attached
  timm-abn explain photos --checkpoint attached/last.pth.tar

The model stays as it is, to the last bit of its predictions: the map explains, and does not gate. It is trained to be
faithful to that model: from the places where the map is greatest (how many is drawn for each photo), the
model must predict what it predicts from the whole photo, and from the rest it must not. The labels (the folders that
photos lie in) train the attention branch's own prediction; with --unlabelled the predictions of the model take their
place.

The folder has sub-folders train and validation, each with one folder per class, as timm's scripts expect; or just one
folder per class, of which a fifth is held out, always the same one. A checkpoint of timm's training script records
its model, the arguments of this, and how images are prepared; --img-size, --mean, --std and --crop-pct say so of
weights alone. Photos that cannot be read are named and left out.

Which class a folder is, is told by the names that the model records, those of ImageNet, or --label-names; by numbers
of classes; or by --class-map. Folders may be some of the classes. If a model has no names, and as many classes as there
are folders, these are taken in natural order (1, 2, ... 10), as timm takes them; torchvision sorts as plain text (1,
10, 2). Before training the model predicts photos: if another order fits far better, that is an error, or, where names
said the order, a warning.

After each epoch OUT holds last.pth.tar, summary.csv, and a sheet of overlays of the same few held-out photos. eval_kept
is the share of held-out photos for which the model predicts the same from the half of the photo where the map is
greatest; eval_removed, from everything else: low is good, and the two belong together. At the end at most 50 held-out
photos give a verdict on the map, from its symmetric relevance gain (SRG; a map of noise has 0), what that is above the
mean map of the predicted class over other photos, and above Grad-CAM. The last row of the summary has it, and the card
that timm-abn publish writes. After an interruption the last epoch can be used; --resume
with the same arguments continues, and ends with the weights of an uninterrupted run.

To train a network whose map gates on photos of your own: timm-abn-train --recipe finetune.
"""

import argparse
import sys
from pathlib import Path

from .argument_types import existing_file, existing_folder, positive, positive_number, seed, whole
from .arguments import add_computing_arguments, add_model_arguments, choose_device, given_model_kwargs
from .errors import CommandError
from .table import format_table

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add_model_arguments(parser)
    add('--data-dir', type=existing_folder, required=True, metavar='FOLDER', help='folder of the photos')
    add('--unlabelled', action='store_true', help='the folders of the photos are not their classes')
    classes = "which class each folder is, as timm's scripts take it (default: found by name)"
    add('--class-map', type=existing_file, metavar='FILE', help=classes)
    add('--out', type=Path, required=True, metavar='FOLDER', help='where to write')
    add('--resume', action='store_true', help='continue after the last epoch in --out')
    add('--epochs', type=positive, default=10, metavar='N', help='(default: 10)')
    add('--batch-size', type=positive, default=32, metavar='B', help='photos per step (default: 32)')
    add('--lr', type=positive_number, default=1e-3, help='learning rate (default: 0.001)')
    add('--seed', type=seed, default=0, help='of order, flips and backgrounds (default: 0)')
    add('--workers', type=whole, default=0, metavar='N', help='processes that read photos (default: 0)')
    add_computing_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    if args.resume and not (args.out / 'last.pth.tar').is_file():
        raise CommandError(f'there is no {args.out / "last.pth.tar"} to continue from; leave out --resume')

    model_kwargs = given_model_kwargs(args)

    import torch

    from timm_abn.data.class_names import name_classes
    from timm_abn.data.photos import find_photos
    from timm_abn.explain.verdict import shares_in_words
    from timm_abn.models.attaching import attach
    from timm_abn.staging import check_new_folder, check_output_folder
    from timm_abn.training.attaching import LAST, VERDICT, AttachSettings, train_attached
    from timm_abn.training.photo_classes import label_photos

    (check_output_folder if args.resume else check_new_folder)(args.out)
    place = choose_device(args)
    photos = find_photos(args.data_dir, labelled=not args.unlabelled)
    torch.manual_seed(args.seed)
    attached = attach(args.model, args.checkpoint, **model_kwargs)
    attached.model.to(place)
    if photos.classes:
        photos, warning = label_photos(photos, attached.model, args.class_map, args.label_names)
        if warning:
            print(f'timm-abn: warning: {warning}', file=sys.stderr)
    names = name_classes(attached.model, None if photos.classes else args.label_names)
    print(
        f'{len(photos.training)} photos to train on, {len(photos.validation)} held out; {attached.model.extra_repr()}'
    )
    settings = AttachSettings(args.epochs, args.batch_size, args.lr, args.seed, args.workers)
    try:
        rows = train_attached(attached, photos, settings, args.out, place, names, args.resume)
    except KeyboardInterrupt:
        if (args.out / LAST).is_file():
            print(f'\nStopped. {args.out / LAST} is of the last complete epoch; --resume continues.', file=sys.stderr)
        return 130
    columns = [name for name in rows[0] if name not in VERDICT]
    print(format_table(columns, [[str(row[name]) for name in columns] for row in rows]))
    print(f'\n{shares_in_words(rows[-1]["eval_kept"], rows[-1]["eval_removed"])}')
    print(f'verdict of {rows[-1]["judged"]} held-out photos: {rows[-1]["verdict"]}')
    print(f'\nExplain photos: timm-abn explain {args.data_dir} --checkpoint {args.out / LAST}')
    return 0
