"""The classes of folders of images: counted, named in checkpoints, and refused where they contradict the rest."""

import shutil
from pathlib import Path

import pytest
import timm.data
import torch
from timm.data.dataset_factory import create_dataset as create_timm
from timm_scripts import MODEL, SMALL

import timm_abn
from timm_abn.data.datasets import create_dataset
from timm_abn.data.photos import find_photos
from timm_abn.training.data.loader import extend_timm_loader
from timm_abn.training.errors import TrainingError
from timm_abn_cli import main as timm_abn_main

RUN = [*MODEL, *SMALL[: SMALL.index('--num-classes')], *SMALL[SMALL.index('--num-classes') + 2 :]]


def error_of(capfd):
    (error,) = (line for line in capfd.readouterr().err.splitlines() if 'error' in line)
    return error


@pytest.fixture
def images(image_folder, tmp_path):
    """A copy to change."""
    return shutil.copytree(image_folder, tmp_path / 'images')


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp('trained')


@pytest.fixture
def trained(launch, image_folder, run_folder):
    """A checkpoint, trained once for all tests here."""
    path = run_folder / 'run' / 'last.pth.tar'
    if not path.exists():
        assert launch('train.py', *RUN, '--data-dir', image_folder, '--output', run_folder) == 0
    return path


def test_number_and_names_of_the_folder(trained, image_folder, tmp_path, capsys):
    args = torch.load(trained, weights_only=False)['args']
    assert args.num_classes == 3 and args.label_names == ['class0', 'class1', 'class2']
    assert args.probabilities == 'softmax'
    model = timm_abn.load_model('abn', checkpoint=trained)
    assert timm_abn.class_names(model) == ['class0', 'class1', 'class2']
    photo = image_folder / 'validation' / 'class1' / '0.png'
    command = ['explain', str(photo), '--model', 'abn', '--checkpoint', str(trained), '--out', str(tmp_path / 'out')]
    assert timm_abn_main(command) == 0
    assert 'class2' in capsys.readouterr().out
    (tmp_path / 'names.txt').write_text('red\ngreen\nblue\n')
    assert timm_abn_main([*command, '--label-names', str(tmp_path / 'names.txt')]) == 0
    shown = capsys.readouterr().out
    assert 'green' in shown and 'class2' not in shown


@pytest.mark.slow
def test_exported_names(trained, tmp_path, capsys):
    out = tmp_path / 'model.pt2'
    command = ['export', 'torch-export', '--model', 'abn', '--checkpoint', str(trained), '--out', str(out)]
    assert timm_abn_main(command) == 0
    assert 'Classes: 3: class0, class1, class2\n' in capsys.readouterr().out
    (tmp_path / 'names.txt').write_text('red\ngreen\nblue\n')
    assert timm_abn_main([*command, '--label-names', str(tmp_path / 'names.txt')]) == 0
    assert 'Classes: 3: red, green, blue\n' in capsys.readouterr().out
    files = {'metadata.json': ''}
    torch.export.load(out, extra_files=files)
    assert '"red"' in files['metadata.json']


def test_a_class_map_names_and_numbers_them(launch, images, tmp_path, shown):
    (tmp_path / 'map.txt').write_text('class2\nclass0\nclass1\nanother\n')
    arguments, _ = shown(*RUN, '--data-dir', images, '--class-map', tmp_path / 'map.txt')
    assert arguments[arguments.index('--num-classes') + 1] == '4'


@pytest.mark.parametrize(
    ('change', 'said', 'message'),
    [
        (None, ['--num-classes', 5], '{train} has 3 classes (class0, class1, class2): leave it out'),
        ('one class', [], "{train} has only one class, 'class0'."),
        ('none', [], 'in it a folder for each class in {train}'),
        ('outside', [], '{train} holds images beside folders (class0, class1, class2): each must be in a folder'),
        ('other validation', [], '{validation} has classes that {train} lacks: class7.'),
        (None, ['--batch-size', 25], '24 images are fewer than a batch of 25: pass --batch-size 24 or less.'),
        (None, ['--class-map', 'nowhere.txt'], '--class-map nowhere.txt cannot be read'),
    ],
)
def test_what_contradicts_is_one_line(launch, images, tmp_path, capfd, change, said, message):
    train, validation = images / 'train', images / 'validation'
    if change in ('one class', 'none'):
        for name in ('class2', 'class1', 'class0')[: 2 if change == 'one class' else 3]:
            shutil.rmtree(train / name)
    if change == 'outside':
        shutil.copy(train / 'class0' / '0.png', train)
    if change == 'other validation':
        (validation / 'class1').rename(validation / 'class7')
    assert launch('train.py', *RUN, '--data-dir', images, '--output', tmp_path, *said) == 2
    assert message.format(train=train, validation=validation) in error_of(capfd)
    assert not (tmp_path / 'run').exists()


def test_a_split_without_some_classes_keeps_its_labels(launch, trained, images, capfd):
    shutil.rmtree(images / 'validation' / 'class0')
    (dataset,) = files_of(launch, 'validate.py', '--checkpoint', trained, '--data-dir', images)
    assert set(dataset.values()) == {1, 2}
    (images / 'validation' / 'class1').rename(images / 'validation' / 'class9')
    assert launch('validate.py', '--checkpoint', trained, '--data-dir', images) == 2
    assert error_of(capfd).endswith(f'{images / "validation"} has classes that {trained} lacks: class9.')


def test_without_names_the_number_must_fit(launch, trained, images, tmp_path, capfd):
    checkpoint = torch.load(trained, weights_only=False)
    del checkpoint['args'].label_names  # as before there were any
    torch.save(checkpoint, tmp_path / 'old.pth.tar')
    assert launch('validate.py', '--checkpoint', tmp_path / 'old.pth.tar', '--data-dir', images) == 0
    shutil.rmtree(images / 'validation' / 'class0')
    assert launch('validate.py', '--checkpoint', tmp_path / 'old.pth.tar', '--data-dir', images) == 2
    assert 'has 2 classes (class1, class2), but' in error_of(capfd)


def test_a_resumed_run_goes_on_with_its_classes(launch, trained, images, tmp_path, capfd):
    for split in ('train', 'validation'):
        (images / split / 'class1').rename(images / split / 'ant')
    again = [*SMALL[SMALL.index('--batch-size') :], '--epochs', 2, '--output', tmp_path]
    assert launch('train.py', '--resume', trained, *again, '--data-dir', images) == 2
    said = f'has the classes ant, class0, class2, but {trained} was trained on class0, class1, class2'
    assert said in error_of(capfd)


@pytest.mark.parametrize(('broken', 'code'), [(1, 0), (99, 2)])
def test_broken_images_are_a_line_each(launch, images, tmp_path, capfd, broken, code):
    files = sorted((images / 'train').rglob('*.png'))[:broken]
    for file in files:
        file.write_bytes(b'no image')
    assert launch('train.py', *RUN, '--data-dir', images, '--output', tmp_path) == code
    error = capfd.readouterr().err
    assert all(f'{file} is not an image' in error for file in files) and 'Traceback' not in error
    assert f'{len(files)} of 24 images cannot be read and are left out.' in error
    if code:
        assert error.splitlines()[-1].endswith(f'none of the images in {images / "train"} can be read.')


def test_names_give_labels(image_folder):
    indices = dict(class2=0, class0=1, class1=2)
    dataset = create_dataset(timm.data.create_dataset, '', str(image_folder), 'train', indices)
    labels = {filename.split('/')[0]: dataset[index][1] for index, filename in enumerate(dataset.filenames())}
    assert labels == indices


def test_each_process_needs_a_batch(monkeypatch, launch):
    monkeypatch.setenv('WORLD_SIZE', '4')
    extend_timm_loader(seed=0)
    dataset = torch.utils.data.TensorDataset(torch.arange(10))
    with pytest.raises(TrainingError, match='10 images, 3 in each of 4 processes, are fewer than a batch of 5'):
        timm.data.create_loader(dataset, input_size=(3, 8, 8), batch_size=5, is_training=True, distributed=True)


def files_of(launch, *arguments):
    """Return the files, and their labels, of the data sets that a script makes."""
    datasets = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            timm.data, 'create_dataset', lambda *a, **k: datasets.append(create_timm(*a, **k)) or datasets[-1]
        )
        assert launch(*arguments) == 0
    return [dict(dataset.reader.samples) for dataset in datasets]


def test_without_a_split_the_fifth_of_attach_is_held_out(launch, images, tmp_path, capfd):
    folder = images / 'train'  # as if it were all
    run = [*RUN, '--data-dir', folder, '--output', tmp_path]
    training, validation = files_of(launch, 'train.py', *run)
    found = find_photos(folder)
    assert list(map(len, (training, validation))) == [18, 6]
    assert set(training) == set(map(str, found.training))
    assert set(validation) == set(map(str, found.validation))
    assert (
        f'{folder} has no folder validation: a fifth of the images of each class of {folder}' in capfd.readouterr().err
    )
    (every,) = files_of(launch, 'validate.py', '--checkpoint', tmp_path / 'run' / 'last.pth.tar', '--data-dir', folder)
    assert every == {**training, **validation} and 'this counts images that' in capfd.readouterr().err


def test_the_order_is_that_of_the_names_where_timm_leaves_it_open(launch, images, tmp_path):
    for split in ('train', 'validation'):
        for number, name in enumerate(('a', 'A', 'b')):
            (images / split / f'class{number}').rename(images / split / name)
    for dataset in files_of(launch, 'train.py', *RUN, '--data-dir', images, '--output', tmp_path):
        assert {Path(file).parent.name: label for file, label in dataset.items()} == dict(A=0, a=1, b=2)
    assert torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['args'].label_names == ['A', 'a', 'b']


def test_timm_counts_no_accuracy_of_one_logit(launch, images, tmp_path, capfd):
    torch.save(timm.create_model('test_resnet', num_classes=1).state_dict(), tmp_path / 'weights.pth')
    command = ['validate.py', '--model', 'test_resnet', '--num-classes', 1, '--checkpoint', tmp_path / 'weights.pth']
    assert launch(*command, '--data-dir', images) == 2
    assert 'has one logit, for which timm computes no accuracy: use timm-abn evaluate' in error_of(capfd)


def test_some_classes_of_imagenet_are_found_by_name(launch, images, tmp_path, capfd):
    torch.save(timm.create_model('test_resnet').state_dict(), tmp_path / 'weights.pth')
    command = ['validate.py', '--model', 'test_resnet', '--checkpoint', tmp_path / 'weights.pth', '--data-dir', images]
    assert launch(*command) == 2
    assert 'has 3 classes (class0, class1, class2), but' in error_of(capfd)
    labels = {'n01440764': 0, 'goldfish': 1, 'n02102040': 217}
    for number, name in enumerate(labels):
        (images / 'validation' / f'class{number}').rename(images / 'validation' / name)
    (dataset,) = files_of(launch, *command)
    assert {Path(file).parent.name: label for file, label in dataset.items()} == labels
