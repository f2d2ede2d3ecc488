"""What the commands say of answers: of how many images, and when an order of classes is doubted."""

import types
from pathlib import PurePath

from timm_abn_cli.answers import print_right, warn_of_order

MODEL = types.SimpleNamespace(num_classes=12)


def test_of_how_many_images(capsys):
    answers = [(PurePath(f'data/7/{index}.png'), 7 if index < 18 else None, 7 if index else 0) for index in range(20)]
    print_right(answers, MODEL)
    captured = capsys.readouterr()
    assert (
        captured.out == 'correct: 17 of 18 labelled images (94.4%); 2 of 20 images have no label\n' and not captured.err
    )
    print_right([(path, None, predicted) for path, _, predicted in answers], MODEL)
    assert capsys.readouterr().out == ''


def test_another_order_of_the_folders(capsys):
    folders = [str(number) for number in range(1, 13)]
    answers = [
        (PurePath(folder, f'{index}.png'), label, sorted(folders).index(folder))
        for label, folder in enumerate(folders)
        for index in range(2)
    ]
    warn_of_order(answers, MODEL)
    error = capsys.readouterr().err
    assert 'warning: the model is correct on 2 of 24 images' in error and 'on 24 if they are in the order of' in error
    warn_of_order([(PurePath(path.name), label, predicted) for path, label, predicted in answers], MODEL)
    assert capsys.readouterr().err == ''  # images of a data set lie in no folder
