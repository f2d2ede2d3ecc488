import argparse
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from command_line import refusal, without_warnings, write_photos
from PIL import Image

from timm_abn.data.images import Preprocessing
from timm_abn.data.reading import FORMATS, read_image
from timm_abn.data.sources import find_sources
from timm_abn.explain.runs import task_stems
from timm_abn_cli import main

MODEL = 'abn_resnet20_cifar.fashion_mnist'
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('checkpoint') / 'model.safetensors'
    safetensors.torch.save_file(timm.create_model(MODEL).state_dict(), path)
    return path


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos({'photo.jpg': (60, 40), 'folder/1.png': (28, 28), 'folder/dogs/1.png': (50, 31)})
    write_photos({'folder/cats/1.JPEG': (1, 1), 'folder/cats/1.png': (30, 30)})
    Path('folder/notes.txt').write_text('not an image, and no concern of ours')
    return tmp_path


def explain(checkpoint, *args):
    return main(['explain', *args, '--model', MODEL, '--checkpoint', str(checkpoint)])


def written(folder='outputs'):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob('*') if path.is_file())


def test_explain_files_and_folders(checkpoint, photos, capsys):
    assert explain(checkpoint, 'photo.jpg', 'folder', '--top-k', '3') == 0
    names = ('1', 'cats/1-2', 'cats/1', 'dogs/1', 'photo')
    assert written() == [f'{name}.overlay.png' for name in names]
    with Image.open('outputs/photo.overlay.png') as overlay, Image.open('outputs/dogs/1.overlay.png') as other:
        assert overlay.size == (60, 40) and other.size == (50, 31)
    captured = capsys.readouterr()
    assert without_warnings(captured.err) == ''  # no progress bar where there is no terminal
    lines = captured.out.splitlines()
    assert len(lines) == 3 + 5 * 3 and lines[-1] == 'overlays: attention map, which gates'
    assert re.split(r'  +', lines[0]) == ['image', 'class', 'probability', 'map range', 'overlay']
    assert lines[2].startswith('photo.jpg') and lines[2].endswith('outputs/photo.overlay.png')
    assert [line for line in lines[2:] if 'cats' in line][1].endswith('outputs/cats/1-2.overlay.png')


def test_table_says_what_the_model_says(checkpoint, photos, capsys):
    assert explain(checkpoint, 'folder/1.png', '--top-k', '10') == 0
    rows = [re.split(r'  +', line.strip()) for line in capsys.readouterr().out.splitlines()[2:-1]]
    model = timm.create_model(MODEL, checkpoint_path=str(checkpoint)).eval()
    with Image.open('folder/1.png') as image:
        x = torch.from_numpy(np.asarray(image.convert('L')).copy())[None, None] / 255
    with torch.no_grad():
        expected = model((x - 0.2860) / 0.3530).softmax(dim=1)[0]
    cells = [rows[0][1:3], *rows[1:]]
    assert sorted(name for name, _ in cells) == sorted(model.pretrained_cfg['label_names'])
    for name, probability in cells:
        index = model.pretrained_cfg['label_names'].index(name)
        assert float(probability) == pytest.approx(expected[index].item(), abs=1e-4)
    assert [float(p) for _, p in cells] == sorted((float(p) for _, p in cells), reverse=True)


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
def test_maps(checkpoint, photos, interpolation):
    assert explain(checkpoint, 'photo.jpg', '--map', 'npy', '--interpolation', interpolation) == 0
    values = np.load('outputs/photo.map.npy')
    assert values.shape == (40, 60) and values.dtype == np.float32
    seen = values[:, 10:50]  # the square in the middle
    assert (values[:, :10] == 0).all() and (values[:, 50:] == 0).all() and (seen > 0).all() and (seen <= 1).all()
    assert explain(checkpoint, 'photo.jpg', '--map', 'png', '--interpolation', interpolation) == 0
    with Image.open('outputs/photo.map.png') as image:
        assert image.mode == 'L' and image.size == (60, 40)
        shown = np.asarray(image)[:, 10:50].astype(float)
    # the png stretches the map at its own resolution to [0, 255]: a straight line of the values
    slope, intercept = np.polyfit(seen.ravel(), shown.ravel(), 1)
    np.testing.assert_allclose(slope * seen + intercept, shown, atol=0.6)


def test_batches_change_nothing_but_colormaps_do(checkpoint, photos):
    assert explain(checkpoint, 'folder', '--batch-size', '1', '--out', 'one', '--map', 'npy') == 0
    other = ['--batch-size', '3', '--colormap', 'inferno']
    assert explain(checkpoint, 'folder', *other, '--out', 'three', '--map', 'npy') == 0
    assert Path('one/1.overlay.png').read_bytes() != Path('three/1.overlay.png').read_bytes()
    assert written('one') == written('three') and len(written('one')) == 8
    for name in written('one'):
        if name.endswith('.npy'):
            # kernels differ by batch, and the map of an untrained network is steep
            np.testing.assert_allclose(np.load(f'one/{name}'), np.load(f'three/{name}'), atol=1e-4)


def test_a_bad_image_does_not_lose_the_others(checkpoint, photos, capsys):
    Path('folder/bad.jpg').write_bytes(b'no image')
    Path('folder/cats/truncated.png').write_bytes(Path('folder/1.png').read_bytes()[:300])
    assert explain(checkpoint, 'folder') == 1
    assert len(written()) == 4
    errors = without_warnings(capsys.readouterr().err).splitlines()
    assert len(errors) == 2
    assert errors[0] == f'timm-abn: error: folder/bad.jpg is not an image in a supported format: {", ".join(FORMATS)}'
    assert errors[1].startswith('timm-abn: error: folder/cats/truncated.png cannot be read: ')
    assert explain(checkpoint, 'folder/bad.jpg', 'photo.jpg', '--out', 'named') == 2  # of one that was named
    assert written('named') == ['photo.overlay.png']
    assert (
        without_warnings(capsys.readouterr().err)
        == f'timm-abn: error: folder/bad.jpg is not an image in a supported format: {", ".join(FORMATS)}\n'
    )
    Image.new('1', (1, 200_000)).save('thin.png')
    said = refusal(capsys, 'explain', 'thin.png', '--model', MODEL, '--checkpoint', checkpoint)
    assert 'thin.png: an image of 1 x 200000 pixels is too long' in said


def test_output_among_the_images_is_not_explained_again(checkpoint, photos):
    for _ in range(2):
        assert explain(checkpoint, 'folder', '--out', 'folder', '--map', 'png') == 0
    assert len(list(Path('folder').rglob('*.overlay.png'))) == 4
    assert not list(Path('folder').rglob('*.overlay.overlay.png'))


def test_find_sources(photos):
    sources = find_sources([Path('photo.jpg'), Path('folder/dogs/1.png'), Path('folder'), Path('photo.jpg')])
    assert [(str(source.path), str(source.name), source.named) for source in sources] == [
        ('photo.jpg', 'photo', True),
        ('folder/dogs/1.png', '1', True),
        ('folder/1.png', '1-2', False),
        ('folder/cats/1.JPEG', 'cats/1', False),
        ('folder/cats/1.png', 'cats/1-2', False),
    ]


def test_checkpoint_of_training(photos, capsys):
    # as timm's train.py writes it: weights under a key, the averaged ones beside them, arguments, names of DDP
    torch.manual_seed(1)
    model = timm.create_model('abn', backbone='test_resnet', num_classes=7)
    averaged = {f'module.{name}': tensor for name, tensor in model.state_dict().items()}
    zeros = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    saved = dict(state_dict=zeros, state_dict_ema=averaged, args=argparse.Namespace(lr=0.1), epoch=3)
    torch.save(saved, 'model.pth.tar')
    args = ['explain', 'photo.jpg', '--model', 'abn', '--model-kwargs', 'backbone=test_resnet']
    assert main([*args, '--checkpoint', 'model.pth.tar', '--top-k', '7']) == 0
    lines = capsys.readouterr().out.splitlines()[2:-1]
    assert len(lines) == 7 and 'class ' in lines[0]
    assert len({line.split()[-2] for line in lines}) > 1  # zeros would make all classes equal


def recorded(**settings):
    """Write what timm's train.py leaves of a multi-task network in the authors' form, and return the network."""
    torch.manual_seed(1)
    model_kwargs = dict(backbone='test_resnet', multi_task=True, attention_map='raw', mechanism='product')
    model = timm.create_model('abn', num_classes=4, **model_kwargs).eval()
    args = argparse.Namespace(model='abn', model_kwargs=model_kwargs, num_classes=4, **settings)
    torch.save(dict(state_dict=model.state_dict(), args=args), 'recorded.pth.tar')
    return model


def probabilities_of(lines):
    return [float(re.findall(r' (\d\.\d{4})(?= |$)', line)[0]) for line in lines]


def test_checkpoint_of_training_says_what_model_it_is_of_and_how_images_were_prepared(photos, capsys):
    model = recorded(input_size=[3, 48, 48], mean=[0.2, 0.3, 0.4], std=[0.5, 0.6, 0.7], crop_pct=1.0)
    args = ['explain', 'photo.jpg', '--model', 'abn', '--checkpoint', 'recorded.pth.tar', '--top-k', '4']
    assert main(args) == 0
    found = probabilities_of(capsys.readouterr().out.splitlines()[2:-1])
    config = dict(input_size=(3, 48, 48), mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7), crop_pct=1.0)
    transform = timm.data.create_transform(**config, interpolation=model.pretrained_cfg['interpolation'])
    expected = model(transform(read_image(Path('photo.jpg'))).unsqueeze(0)).sigmoid()[0].sort(descending=True).values
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    # what the command line says comes first
    assert main([*args, '--model-kwargs', 'mechanism=residual']) == 0
    assert probabilities_of(capsys.readouterr().out.splitlines()[2:-1]) != found


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(input_size=5), 'records impossible image preparation: input_size=5'),
        (dict(mean=[1, 2]), 'records impossible image preparation: mean=[1, 2]'),
        (dict(crop_pct='a'), "crop_pct must be a number from 0.25 to 1, got 'a'"),
        (dict(input_size=[3, 10**6, 10**6]), 'input_size must be [channels, height, width], none above 2048'),
        (dict(in_chans='x'), "in_chans must be a whole number from 1 to 1024, got 'x'"),
        (
            dict(gp='nonsense'),
            "abn cannot be created with backbone='test_resnet', multi_task=True, attention_map='raw', "
            "mechanism='product', num_classes=4, global_pool='nonsense', gate='features': Invalid pool type: nonsense",
        ),
    ],
)
def test_settings_of_training_that_cannot_be(photos, capsys, settings, message):
    recorded(**settings)
    command = ['explain', 'photo.jpg', '--model', 'abn', '--checkpoint', 'recorded.pth.tar']
    assert message in refusal(capsys, *command)


def test_checkpoint_of_training_of_another_model(photos, capsys):
    recorded()
    command = ['explain', 'photo.jpg', '--model', 'abn_resnet18', '--checkpoint', 'recorded.pth.tar']
    assert 'recorded.pth.tar is a checkpoint of abn, not of abn_resnet18' in refusal(capsys, *command)
    assert not Path('outputs').exists()


def test_number_of_classes_among_the_model_kwargs(checkpoint, photos, capsys):
    assert explain(checkpoint, 'photo.jpg', '--model-kwargs', 'num_classes=10') == 0
    assert explain(checkpoint, 'photo.jpg', '--model-kwargs', 'num_classes=3') == 2
    assert 'instead of (3, 64, 1, 1)' in capsys.readouterr().err


def test_files_of_tasks_have_names_of_their_own():
    assert task_stems(['hat', 'no beard', '笑顔']) == ['hat', 'no_beard', '笑顔']
    assert task_stems(['a b', 'a-b', 'A_b', 'c', 'c', '?']) == ['a_b.0', 'a_b.1', 'A_b.2', 'c.3', 'c.4', '_']
    assert len(task_stems(['x' * 1000])[0]) == 40


OURS = ['--model', MODEL, '--checkpoint', 'MODEL']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ['--model', 'abn_resnet50'],
            "no weights are published for abn_resnet50: convert a checkpoint of the authors' code with timm-abn "
            'convert --model abn_resnet50, or train it with timm-abn-train --recipe imagenet --model abn_resnet50. Or '
            'pass your own weights as checkpoint (--checkpoint FILE), or use a model that has some '
            '(abn_resnet20_cifar.fashion_mnist, abn_resnet20_cifar.fashion_mnist_faithful)',
        ),
        (['--model', 'abn_resnet20'], 'abn_resnet20 is not a model; did you mean abn_resnet20_cifar'),
        (['--model', 'resnet5'], 'resnet5 is not a model; did you mean resnet50'),
        (['--model', 'xyz'], 'xyz is not a model; see timm.list_models()'),
        (['--model', 'abn_resnet20_cifar.cifar10'], "no weights 'cifar10'; there are abn_resnet20_cifar.fashion_mnist"),
        (['--model', 'abn_resnet18.in1k'], "abn_resnet18 has no weights 'in1k'; it has none"),
        (['--model', MODEL, '--num-classes', '3'], 'are for 10 classes, not 3'),
        (['--model', MODEL, '--checkpoint', 'missing.pth'], 'there is no checkpoint missing.pth'),
        (['--model', MODEL, '--checkpoint', 'photo.jpg'], 'photo.jpg is not a checkpoint, or is damaged: '),
        (['--model', 'abn', '--checkpoint', 'MODEL', '--model-kwargs', 'backbone=resnet5O'], 'Unknown backbone'),
        (['--model', 'abn_resnet32_cifar', '--checkpoint', 'MODEL'], 'missing (feature_extractor.layer1.3.'),
        ([*OURS, '--num-classes', '4'], 'class_conv.weight has shape (10, 64, 1, 1) instead of (4, 64, 1, 1)'),
        ([*OURS, '--model-kwargs', 'in_chans=4'], 'feature_extractor.conv1.weight has'),
        ([*OURS, '--model-kwargs', 'nonsense=4'], "argument 'nonsense'"),
        ([*OURS, '--model-kwargs', 'model_name=x'], "'model_name'"),
        (['--model', MODEL, '--model-kwargs', 'in_chans'], "--model-kwargs: must be KEY=VALUE, got 'in_chans'"),
        (['--model', MODEL, '--model-kwargs', 'checkpoint=x'], 'is not an argument of a model; use --checkpoint'),
        (['--model', MODEL, '--model-kwargs', '=3'], "--model-kwargs: must be KEY=VALUE, got '=3'"),
        ([*OURS, '--device', 'warp'], "--device: cannot compute on 'warp'"),
        ([*OURS, '--batch-size', '0'], '--batch-size: must be a whole number of'),
        ([*OURS, '--top-k', '-1'], '--top-k: must be a whole number of 1'),
        ([*OURS, '--colormap', 'jet'], "--colormap: invalid choice: 'jet'"),
        ([*OURS, '--out', 'photo.jpg'], 'photo.jpg'),
        (['--model', 'local-dir:missing'], 'local-dir:missing cannot be created: missing: there is no config.json'),
        ([], 'pass --model NAME, or --checkpoint FILE'),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(checkpoint, photos, capsys, args, message):
    args = [str(checkpoint) if arg == 'MODEL' else arg for arg in args]
    assert message in refusal(capsys, 'explain', 'photo.jpg', *args)
    assert not Path('outputs').exists()


def test_a_folder_without_images(photos, capsys):
    Path('empty').mkdir()
    assert 'there are no images in empty' in refusal(capsys, 'explain', 'empty', '--model', MODEL)


def test_a_checkpoint_cannot_run_code(photos, capsys):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (Path('touched'),))

    torch.save(dict(state_dict=Evil()), 'evil.pth')
    command = ['explain', 'photo.jpg', '--model', MODEL, '--checkpoint', 'evil.pth']
    assert 'evil.pth is not a checkpoint' in refusal(capsys, *command)
    assert not Path('touched').exists()


def test_samples_are_shipped_with_their_licence():
    samples = REPOSITORY / 'timm_abn' / 'samples'
    images = sorted(samples.glob('*.png'))
    assert [int(path.name[0]) for path in images] == [label for label in range(10) for _ in range(2)]
    names = timm.get_pretrained_cfg(MODEL).label_names
    for path in images:
        label, name, _ = path.stem.split('_')
        assert name == names[int(label)].replace('/', '-').replace(' ', '-')
        with Image.open(path) as image:
            assert image.mode == 'L' and image.size == (28, 28)
    assert 'Zalando' in (samples / 'LICENSE').read_text()


@pytest.mark.slow
def test_demo(checkpoint, tmp_path):
    out = tmp_path / 'new' / 'demo.png'
    done = subprocess.run(
        [sys.executable, REPOSITORY / 'scripts' / 'demo.py', '--out', out, '--checkpoint', checkpoint],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.endswith(('right', 'WRONG', 'no class of ImageNet'))]) == 8
    with Image.open(out) as picture:
        assert picture.width > 1000 and picture.height > 1000


def test_the_shipped_model_explains_the_shipped_images(tmp_path, capsys):
    samples = str(REPOSITORY / 'timm_abn' / 'samples')
    assert main(['explain', samples, '--model', MODEL, '--top-k', '1', '--out', str(tmp_path)]) == 0
    names = timm.get_pretrained_cfg(MODEL).label_names
    rows = [re.split(r'  +', line) for line in capsys.readouterr().out.splitlines()[2:-1]]
    right = [cells[1] == names[int(Path(cells[0]).name[0])] for cells in rows]
    assert len(right) == 20 and sum(right) >= 18
    assert len(list(tmp_path.iterdir())) == 20


def test_explain_draws_a_map_for_each_of_the_most_probable_tasks(photos, capsys):
    torch.manual_seed(0)
    model = timm.create_model('abn_resnet20_cifar', num_classes=4, multi_task=True).eval()
    safetensors.torch.save_file(model.state_dict(), 'tasks.safetensors')
    command = ['explain', 'photo.jpg', '--model', 'abn_resnet20_cifar', '--checkpoint', 'tasks.safetensors']
    assert main([*command, '--top-k', '2', '--map', 'npy']) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:-1]]
    x = torch.stack([Preprocessing(model)(read_image(Path('photo.jpg')))[0]])
    explanation = model.explain(x)
    probabilities, indices = explanation.top_k(2)
    tasks = indices[0].tolist()
    assert written() == sorted(f'photo.class_{task}.{kind}' for task in tasks for kind in ('map.npy', 'overlay.png'))
    for row, task, probability in zip(rows, tasks, probabilities[0].tolist(), strict=True):
        drawn = explanation.attention_map[0, task]
        shown_range = [f'{drawn.min().item():.3g}', 'to', f'{drawn.max().item():.3g}']
        overlay = f'outputs/photo.class_{task}.overlay.png'
        assert row[-7:] == ['class', str(task), f'{probability:.4f}', *shown_range, overlay]
        values = np.load(f'outputs/photo.class_{task}.map.npy')
        assert abs(values.max() - explanation.attention_map[0, task].max().item()) < 0.05


def test_explain_takes_a_cam_baseline(photos, capsys):
    torch.manual_seed(0)
    model = timm.create_model('cam_resnet110_cifar', num_blocks=1, num_classes=4).eval()
    torch.save(model.state_dict(), 'cam.pth')
    command = ['explain', 'photo.jpg', '--model', 'cam_resnet110_cifar', '--checkpoint', 'cam.pth', '--map', 'npy']
    assert main([*command, '--model-kwargs', 'num_blocks=1', '--top-k', '4']) == 0
    assert written() == ['photo.map.npy', 'photo.overlay.png']
    explanation = model.explain(Preprocessing(model)(read_image(Path('photo.jpg')))[0].unsqueeze(0))
    found = [float(re.findall(r'\d\.\d{4}', line)[0]) for line in capsys.readouterr().out.splitlines()[2:-1]]
    assert found == pytest.approx(explanation.top_k(4)[0][0].tolist(), abs=1e-4)
    with Image.open('outputs/photo.overlay.png') as overlay:
        assert overlay.size == (60, 40)
    assert np.load('outputs/photo.map.npy').shape == (40, 60)


def test_images_of_four_channels_are_told_in_one_line(photos, capsys):
    model = timm.create_model('abn', backbone='test_resnet', num_classes=4, in_chans=4)
    torch.save(model.state_dict(), 'four.pth')
    command = ['explain', 'photo.jpg', '--model', 'abn', '--checkpoint', 'four.pth']
    said = refusal(capsys, *command, '--model-kwargs', 'backbone=test_resnet', 'in_chans=4')
    assert said == 'images have 1 (grey) or 3 (colour) channels, the model takes 4'
