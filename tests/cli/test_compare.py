"""timm-abn compare: sheets, the table and CSV, and what is refused before the work begins."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from command_line import refusal, rows_of, write_photos
from PIL import Image
from tiny_models import tiny_backbone

from timm_abn.data.images import Preprocessing
from timm_abn.data.reading import read_image
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion
from timm_abn_cli import main

MODEL = 'abn_resnet20_cifar.fashion_mnist'


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos({'photo.jpg': (60, 40), 'folder/1.png': (28, 28), 'folder/dogs/1.png': (50, 31)})
    return tmp_path


def compare(*args, model=MODEL):
    return main(['compare', *args, '--model', model, '--steps', '2'])


def test_sheets_of_files_and_folders(photos, capsys):
    methods = ['attention', 'class_map', 'grad_cam', 'recipro_cam']
    assert compare('photo.jpg', 'folder', '--csv', 'tables/scores.csv') == 0
    sheets = [f'outputs/compare/{name}.compare.png' for name in ('photo', '1', 'dogs/1')]
    assert sorted(sheets) == sorted(map(str, Path('outputs').rglob('*.*')))
    with Image.open(sheets[0]) as sheet:
        assert sheet.width > 5 * 224
    rows = rows_of('tables/scores.csv')
    assert [row['method'] for row in rows] == methods * 3  # by default those that apply
    assert [row['layer'] for row in rows] == ['layer2', 'layer2', 'layer3', 'layer2'] * 3
    assert [row['sheet'] for row in rows[::4]] == sheets
    captured = capsys.readouterr()
    assert captured.err == '' and len(captured.out.splitlines()) == 3 + 3 * 4
    assert captured.out.splitlines()[2].startswith('photo.jpg')
    assert 'deletion ↓  insertion ↑' in captured.out.splitlines()[0]
    # what was written lies among the images, and is none of them
    Path('shirt').mkdir()
    Path('photo.jpg').rename('shirt/photo.jpg')
    assert compare('.', '--methods', 'centre', '--csv', 'all.csv') == 0
    assert len(rows_of('all.csv')) == 3
    right = capsys.readouterr().out.splitlines()[-2]
    assert (
        right.startswith('correct: ') and '1 labelled images' in right and right.endswith('2 of 3 images have no label')
    )


def test_scores_are_those_of_the_class(photos):
    arguments = ['photo.jpg', '--methods', 'grad_cam', 'random', '--class', 'SHIRT', '--csv', 'scores.csv']
    assert compare(*arguments) == 0
    model = timm.create_model(MODEL, pretrained=True).eval()
    images = Preprocessing(model)(read_image('photo.jpg'))[0][None]
    shirt = torch.tensor([6])
    with torch.no_grad():
        probability = model(images).softmax(dim=1)[0]
    rows = rows_of('scores.csv')
    for row in rows:
        maps = create_explainer(row['method'], model)(images, shirt)
        assert row['class'] == 'shirt'
        assert row['predicted'] == model.pretrained_cfg['label_names'][probability.argmax()]
        assert float(row['probability']) == pytest.approx(probability[6].item(), abs=1e-5)
        assert float(row['least']) == pytest.approx(maps.min().item(), abs=1e-5)
        assert float(row['greatest']) == pytest.approx(maps.max().item(), abs=1e-5)
        expected = deletion(model, images, maps, shirt, steps=2).item()
        assert float(row['deletion']) == pytest.approx(expected, abs=1e-4)


def test_a_backbone_without_an_attention_branch(photos, capsys):
    safetensors.torch.save_file(tiny_backbone('test_resnet').state_dict(), 'plain.safetensors')
    plain = ['photo.jpg', '--checkpoint', 'plain.safetensors']
    assert compare(*plain, '--csv', 'scores.csv', model='test_resnet') == 0
    assert [row['method'] for row in rows_of('scores.csv')] == ['class_map', 'grad_cam', 'recipro_cam']
    capsys.readouterr()
    options = ['--model', 'test_resnet', '--methods', 'cam', 'attention', '--out', 'refused']
    assert refusal(capsys, 'compare', *plain, *options).startswith(
        "'attention' needs an Attention Branch Network, or a refined network (timm-abn attach), got ResNet; "
        'methods that apply: class_map, cam, grad_cam'
    )
    assert not Path('refused').exists()


def test_flat_maps_are_named(photos, capsys):
    model = timm.create_model('abn', backbone='test_resnet', num_classes=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('attention_branch'):
                parameter.zero_()
    safetensors.torch.save_file(model.state_dict(), 'flat.safetensors')
    arguments = ['photo.jpg', '--checkpoint', 'flat.safetensors', '--model-kwargs', 'backbone=test_resnet']
    assert compare(*arguments, '--methods', 'attention', '--csv', 'scores.csv', model='abn') == 0
    assert 'flat map' in capsys.readouterr().out
    (row,) = rows_of('scores.csv')
    assert (row['problem'], row['deletion']) == ('flat map', 'nan')


def test_images_that_cannot_be_read(photos, capsys):
    Path('folder/bad.png').write_text('no image')
    assert compare('folder', '--methods', 'centre') == 1
    assert 'folder/bad.png is not an image' in capsys.readouterr().err
    command = ['compare', 'folder/bad.png', '--model', MODEL, '--methods', 'centre', '--out', 'none']
    assert 'folder/bad.png is not an image' in refusal(capsys, *command)
    assert not Path('none').exists()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['missing.jpg'], 'there is no file or folder missing.jpg'),
        (
            ['photo.jpg', '--methods', 'gradcam'],
            "argument --methods: there is no method 'gradcam'; did you mean grad_cam",
        ),
        (
            ['photo.jpg', '--methods', 'cam:X'],
            'argument --methods: PACKAGE:METHOD works for pytorch_grad_cam, torchcam, ',
        ),
        (['photo.jpg', '--layer', 'layr3'], "has no module 'layr3'; did you mean layer3"),
        (['photo.jpg', '--methods', 'centre', '--layer', 'layer3'], "layer 'layer3' works for methods that take one ("),
        (['photo.jpg', '--methods'], 'argument --methods: expected at least one argument'),
        (['photo.jpg', '--class', 'shirts'], "there is no class 'shirts'; did you mean shirt"),
        (['photo.jpg', '--class', '10'], "there is no class '10'; the model has 't-shirt/top' (0) to "),
        (['photo.jpg', '--csv', 'folder'], 'argument --csv: folder is a folder, not a file to write'),
        (['photo.jpg', '--csv', 'photo.jpg/x.csv'], 'photo.jpg is a file, not a folder to write into'),
        (['photo.jpg', '--out', 'photo.jpg'], 'photo.jpg is a file, not a folder to write into'),
        (['photo.jpg', '--steps', '0'], 'argument --steps: must be a whole number of 1 or more'),
        (['photo.jpg', '--batch-size', '-1'], 'argument --batch-size: '),
        (['photo.jpg', '--device', 'warp'], "argument --device: cannot compute on 'warp'"),
        (['photo.jpg', '--checkpoint', 'missing.pth'], 'there is no checkpoint missing.pth'),
    ],
)
def test_what_is_refused(photos, capsys, args, message):
    assert message in refusal(capsys, 'compare', '--model', MODEL, *args)
    assert not Path('outputs').exists()
