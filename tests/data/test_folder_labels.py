"""Which classes of a model folders are, and when their order is doubted."""

import os
import random
import types

import pytest
import timm.data
from timm.data import ImageNetInfo

from timm_abn.data.class_names import class_order, class_spellings
from timm_abn.data.folder_labels import better_order, folder_classes, folder_labels
from timm_abn.data.sources import find_sources

NAMES = ['ant', 'bee', 'cat']
SYNSETS = ImageNetInfo().label_names()
WORDS = class_spellings(1000)[0]
NUMBERS = [str(number) for number in range(1, 13)]


def model_of(names):
    """Return what stands for a model: with names of its classes, or their number alone."""
    if isinstance(names, int):
        return types.SimpleNamespace(num_classes=names, pretrained_cfg={})
    return types.SimpleNamespace(num_classes=len(names), pretrained_cfg=dict(label_names=names))


def labelled(folder, *files, named=()):
    for file in (*files, *named):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return find_sources([folder, *(folder / file for file in named)] if files else [folder / file for file in named])


@pytest.mark.filterwarnings('ignore:the folders of')
@pytest.mark.parametrize(
    ('files', 'names', 'labels'),
    [
        (['Bee/1.png', 'ant/deep/1.png', 'ant/2.png', 'x.png'], NAMES, [1, None, 0, None]),
        (['a/1.png', 'b/1.png', 'c/1.png'], NAMES, [None, None, None]),  # as many, but of other names
        (['bee/1.png', 'ant/1.png'], ['Bee', 'bee', 'ant'], [1, 2]),
        (['BEE/1.png', 'ant/1.png'], ['Bee', 'bee', 'ant'], [None, 2]),  # which bee?
        (['n1/1.png', 'n10/1.png', 'n2/1.png'], 3, [0, 2, 1]),  # timm's natural order
        (['a/1.png', 'b/1.png'], 3, [None, None]),
        (['a/1.png', 'b/1.png', 'x.png'], 2, [None, None, None]),
        (['a/1.png', 'b/1.png', 'x.png'], 3, [None, None, None]),
        (['n01440764/1.png', 'n02102040/1.png'], 1000, [0, 217]),
        (['n01440764/1.png', 'n02102040/1.png'], SYNSETS, [0, 217]),
        (['n01440764/1.png', 'English_springer/1.png'], WORDS, [0, 217]),  # as attach records them
        (['tench/1.png', 'English_springer/1.png', 'mine/1.png'], 1000, [0, 217, None]),
        (['crane/1.png', 'n02012849/1.png'], 1000, [None, 134]),  # a bird, or a machine
        (['0/1.png', '0217/1.png'], 1000, [0, 217]),
        (['0/1.png', '1000/1.png'], 1000, [None, None]),
        (['1/1.png', '0/1.png'], ['ant', 'bee', 'cat'], [1, 0]),
        (['1/1.png', '2/1.png'], ['2', '1'], [1, 0]),  # a name comes before a number
        (['cafe\u0301/1.png', os.fsdecode(b'\xff') + '/1.png'], ['caf\xe9', '\\udcff'], [0, 1]),
    ],
)
def test_folders_that_are_classes(tmp_path, files, names, labels):
    sources = labelled(tmp_path, *files)
    of_model = folder_labels(sources, model_of(names))
    found = dict(zip([str(source.path.relative_to(tmp_path)) for source in sources], of_model))
    assert [found[file] for file in files] == labels


def test_labels_in_order_are_those_of_timms_image_folder(tmp_path):
    files = ['cls10/a.png', 'cls9/b.png', 'Cls1/c.png', 'more/cls2/d.png']
    sources = labelled(tmp_path, *files)
    reader = timm.data.readers.reader_image_folder.ReaderImageFolder(tmp_path)
    expected = {path: label for path, label in reader.samples}
    with pytest.warns(UserWarning, match=r'for classes in natural order \(Cls1 = 0, cls2 = 1, cls9 = 2, ...\)'):
        labels = folder_labels(sources, model_of(4))
    assert labels == [expected[str(source.path)] for source in sources]


def test_a_file_that_was_named_is_in_no_data_set(tmp_path):
    assert folder_labels(labelled(tmp_path, named=['ant/1.png']), model_of(NAMES)) == [None]


def test_the_order_is_natural_and_total():
    expected = ['01', '1', '2', '10', 'A', 'a', 'B', 'b']
    for seed in range(8):
        assert class_order(random.Random(seed).sample(expected, len(expected))) == expected
    assert folder_classes(['2', '1', '0'], 3).known_by == 'order' and folder_classes(['2', '0'], 3).known_by == 'number'
    assert folder_classes(expected, 8).indices == {name: index for index, name in enumerate(expected)}


@pytest.mark.parametrize(
    ('folders', 'of_model', 'text'),
    [
        (NUMBERS, sorted(NUMBERS), 'in the order of their names as plain text'),
        (['A', 'B', 'a', 'b'], ['A', 'a', 'B', 'b'], 'in alphabetical order'),
        (['ant', 'bee'], ['bee', 'ant'], 'others (ant = 1, bee = 0)'),
    ],
)
def test_an_order_that_fits_far_better_is_told(folders, of_model, text):
    taken = {folder: index for index, folder in enumerate(folders)}
    answers = [(folder, taken[folder], of_model.index(folder)) for folder in folders for _ in range(8)]
    right = sum(label == predicted for _, label, predicted in answers)
    told = better_order(answers, len(folders))
    assert told.startswith(f'the model is correct on {right} of {len(answers)} images') and told.endswith(
        f'on {len(answers)} if they are {text}'
    )
    assert better_order([(folder, taken[folder], taken[folder]) for folder, _, _ in answers], len(folders)) == ''
    assert better_order(answers[:1], len(folders)) == ''  # of one image nothing can be told
    assert better_order(answers, len(folders), of_model).endswith('called as the model records') == (text[:2] == 'ot')
