"""What the commands say of a model's answers on images whose folders tell the class."""

import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.nn as nn

__all__ = ['print_right', 'warn_of_order']

Answer = tuple[PurePath, int | None, int]  # image, its label, the class that is predicted


def print_right(answers: Sequence[Answer], model: 'nn.Module') -> None:
    """Print how many predictions are right, of those images that have a label, if some have one."""
    known = [label == predicted for _, label, predicted in answers if label is not None]
    if not known:
        return
    others = len(answers) - len(known)
    without = f'; {others} of {len(answers)} images have no label' if others else ''
    print(f'correct: {sum(known)} of {len(known)} labelled images ({sum(known) / len(known):.1%}){without}')
    warn_of_order(answers, model)


def warn_of_order(answers: Sequence[Answer], model: 'nn.Module') -> None:
    """Say so if the answers fit another order of the folders far better."""
    from timm_abn.data.folder_labels import better_order
    from timm_abn.records import num_answers

    known = [
        (path.parent.name, label, predicted)
        for path, label, predicted in answers
        if label is not None and path.parent.name
    ]
    if better := better_order(known, num_answers(model)):
        print(f'timm-abn: warning: {better}; use --label-names FILE to name them', file=sys.stderr)
