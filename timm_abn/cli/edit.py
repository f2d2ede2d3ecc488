"""Edit the attention map of a photo, and see what the prediction makes of it: a sheet, and all numbers as JSON.

examples:
  timm-abn edit photo.jpg --mask mask.png --model abn_resnet20_cifar.fashion_mnist_faithful
  timm-abn edit face.jpg --mask mouth.png --task Smiling --model abn_resnet101 --checkpoint model_best.pth.tar

The mask is what the map becomes: a picture of the whole photo, in its proportions and of any size, black for 0 and
white for 1. Each place of the map is the mean of the mask over its pixels. Where a PNG is transparent the map of the
network stays; half transparent, half of it. Colours count by their luminance. A mask to begin with is the map itself:
timm-abn explain photo.jpg --map png --scale absolute ...

A multi-task network has a map per task: --task names the one that is replaced. The others keep theirs, and answer as
before.

The network gets the map as it is. How that acts depends on how it was inserted into its backbone:
  gating      the map is the gate, as the network's own is.
  neutral     the gate is relative to a map of 0.5: grey shows the backbone what it knows, white more, black less.
  explaining  the gate is relative to the network's own map: what is painted as it was changes nothing.
Hard attention (hard_attention=0.3) hides all but the greatest values of a map of the network's own; of a given one
nothing but what is 0 is hidden. A map that no training made is new to any network: probabilities of it say what this
network does, not what would be true.

Written are OUT/photo.edit.png, with both maps on one scale of [0, 1], and OUT/photo.edit.json: probabilities of all
classes and both maps, before and after.

exit code: 0 if all went well, 2 if a file cannot be read, or for wrong arguments.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console.argument_types import positive
from ..console.table import format_table
from ..data.sources import find_sources
from ..staging import check_output_folder, staged_files
from .devices import choose_device
from .errors import CommandError
from .models import add_model_arguments, given_model_kwargs

if TYPE_CHECKING:
    from ..explain.editing import Edit

__all__ = ['add_arguments', 'check', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument('image', type=Path, metavar='IMAGE', help='image file')
    parser.add_argument(
        '--mask', type=Path, required=True, metavar='FILE', help='what the map becomes: black is 0, white is 1'
    )
    add_model_arguments(parser)
    parser.add_argument('--task', metavar='NAME', help='name, or number, of the task whose map is replaced')
    parser.add_argument(
        '--top-k', type=positive, default=5, metavar='K', help='classes to tell of, before and after (default: 5)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('outputs/edit'),
        metavar='FOLDER',
        help='where to write the sheet and the JSON file (default: outputs/edit)',
    )
    parser.add_argument('--device', help='where to compute (default: cuda where torch finds it, else cpu)')


def check(args: argparse.Namespace) -> None:
    """See that the files are there, and that results can be written, before the models are imported."""
    for path in (args.image, args.mask):
        if path.is_dir():
            raise CommandError(f'{path} is a folder; timm-abn edit takes one image and one mask')
    (args.source,) = find_sources([args.image])
    if not args.mask.exists():
        raise CommandError(f'argument --mask: there is no file {args.mask}')
    check_output_folder(args.out)


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from .. import class_names
    from ..data.class_names import find_class
    from ..data.images import Preprocessing, read_image
    from ..explain.edit_sheets import changed_classes
    from ..explain.editing import check_editable, edit_prediction, read_painting
    from ..models.loading import load_classifier

    place = choose_device(args.device, 'edit')
    model: Any = load_classifier(args.model, args.checkpoint, **given_model_kwargs(args)).to(place)
    names = class_names(model)
    task = None if args.task is None else find_class(args.task, names)
    check_editable(model, task)
    photo = read_image(args.source.path)
    preprocessing = Preprocessing(model)
    x, box = preprocessing(photo)
    edit = edit_prediction(model, x[None].to(place), read_painting(args.mask, photo.size), box, task)
    _write(args, model, preprocessing.config, x, edit, names)
    print(_table(edit, changed_classes(edit, args.top_k), names))
    return 0


def _write(args: argparse.Namespace, model: Any, config: Any, x: Any, edit: 'Edit', names: Sequence[str]) -> None:
    from ..explain.edit_sheets import draw_edit_sheet
    from ..explain.sheets import input_picture

    picture = input_picture(x, config['mean'], config['std'])
    notes = [
        f'{args.model}, mask {args.mask.name}. Colours show both maps in [0, 1]; their ranges stand below. Bars: '
        'probability before (grey) and after (blue).'
    ]
    title = args.source.path.name if edit.task is None else f'{args.source.path.name}: {names[edit.task]}'
    sheet = draw_edit_sheet(picture, edit, names, title, notes, args.top_k)
    stem = args.source.name.name
    with staged_files(args.out) as staging:
        sheet.save(staging / f'{stem}.edit.png')
        content = _content(args, model, edit, names)
        (staging / f'{stem}.edit.json').write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding='utf-8')


def _content(args: argparse.Namespace, model: Any, edit: 'Edit', names: Sequence[str]) -> dict[str, Any]:
    before, after = edit.before.probabilities[0].tolist(), edit.probabilities.tolist()
    return dict(
        image=str(args.source.path),
        mask=str(args.mask),
        model=args.model,
        task=None if edit.task is None else names[edit.task],
        insertion=model.mechanism.insertion,
        predicted_before=names[before.index(max(before))],
        predicted_after=names[after.index(max(after))],
        probabilities=[
            {'class': name, 'before': first, 'after': last}
            for name, first, last in zip(names, before, after, strict=True)
        ],
        map_before=edit.predicted_map[0, 0].tolist(),
        map_after=edit.edited_map[0, 0].tolist(),
    )


def _table(edit: 'Edit', classes: Sequence[int], names: Sequence[str]) -> str:
    before, after = edit.before.probabilities[0].tolist(), edit.probabilities.tolist()
    rows: list[Sequence[str]] = [
        (names[index], f'{before[index]:.4f}', f'{after[index]:.4f}', f'{after[index] - before[index]:+.4f}')
        for index in classes
    ]
    columns = ('task' if edit.task is not None else 'class', 'before', 'after', 'change')
    return format_table(columns, rows, right=columns[1:])
