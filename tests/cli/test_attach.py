"""timm-abn attach, on a folder of small photos and a backbone that was trained for them, whatever to."""

import argparse
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import rows_of
from PIL import Image

import timm_abn.training.attaching
from timm_abn import load_model
from timm_abn.data.images import Preprocessing
from timm_abn.data.photos import find_photos
from timm_abn.data.reading import read_image
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion
from timm_abn.training.attaching import LAST, SUMMARY
from timm_abn_cli import main

BACKBONE = 'resnet20_cifar'


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of twenty photos of two classes, bright and dark, and a checkpoint as timm's train.py writes it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(20):
        label = ('bright', 'dark')[index % 2]
        path = tmp_path / 'photos' / label / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((rng.integers(0, 128, (20, 24, 3)) + 127 * (label == 'bright')).astype(np.uint8)).save(path)
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, num_classes=2)
    images = dict(input_size=[3, 16, 16], mean=[0.5] * 3, std=[0.25] * 3, crop_pct=1.0)
    settings = argparse.Namespace(model=BACKBONE, num_classes=2, **images)
    torch.save(dict(arch=BACKBONE, state_dict=backbone.state_dict(), args=settings), 'plain.pth.tar')
    return tmp_path / 'photos'


def attach(*arguments, data='photos', checkpoint='plain.pth.tar', out='out', epochs=2, batch=8):
    fixed = ['--model', BACKBONE, '--checkpoint', checkpoint, '--data-dir', data, '--out', out]
    return main(['attach', *fixed, '--epochs', str(epochs), '--batch-size', str(batch), '--device', 'cpu', *arguments])


def plain():
    backbone = timm.create_model(BACKBONE, num_classes=2)
    backbone.load_state_dict(torch.load('plain.pth.tar', weights_only=False)['state_dict'])
    return backbone.eval()


@pytest.mark.parametrize('labels', ['labelled', 'unlabelled'])
def test_the_model_stays_as_it_is_and_is_explained(photos, capsys, labels):
    assert attach(*([] if labels == 'labelled' else ['--unlabelled'])) == 0
    said = capsys.readouterr().out
    assert 'the map explains, and does not gate' in said
    model = load_model('attached', f'out/{LAST}')
    images = torch.randn(4, 3, 16, 16)
    explanation = model.explain(images)
    assert torch.equal(explanation.logits, plain()(images)) and torch.equal(model(images), explanation.logits)
    assert not explanation.map_gates and model.pretrained_cfg['input_size'] == (3, 16, 16)
    rows = rows_of('out/summary.csv')
    assert {'eval_kept', 'eval_removed', 'train_masked', 'train_complement'} <= rows[0].keys() and len(rows) == 2
    assert ('eval_top1' in rows[0]) == (labels == 'labelled')
    for epoch in (1, 2):
        with Image.open(f'out/sheets/epoch-00{epoch}.png') as sheet:
            assert sheet.width > 4 * 208
    assert main(['explain', 'photos', '--model', 'attached', '--checkpoint', f'out/{LAST}', '--out', 'shown']) == 0
    published = ['publish', f'out/{LAST}', '--repo', 'me/attached', '--dry-run', '--out', 'hub']
    assert main(published) == 0
    card = Path('hub/README.md').read_text().splitlines()
    kept, removed = float(rows[-1]['eval_kept']), float(rows[-1]['eval_removed'])
    pair = f'the map keeps {kept:.2f} of the predictions, the rest keeps {removed:.2f}'
    assert pair in said and any(pair in line for line in card), card
    verdict = 'too few to say: 4 images with a map, 10 or more are needed'
    assert rows[0]['verdict'] == '' and rows[-1]['verdict'] == verdict and rows[-1]['judged'] == '4'
    assert f'verdict of 4 held-out photos: {verdict}' in said and any(verdict in line for line in card)
    # by hand: the area between the curves of one photo at a time, less that of Grad-CAM
    seen = Preprocessing(model)
    held_out = torch.stack(
        [seen(read_image(path))[0] for path, _ in find_photos(photos, labels == 'labelled').validation]
    )
    maps = model.explain(held_out).attention_map, create_explainer('grad_cam', model)(held_out)
    own, rival = (
        insertion(model, held_out, each, steps=32) - deletion(model, held_out, each, steps=32) for each in maps
    )
    assert float(rows[-1]['srg']) == pytest.approx(own.mean().item(), abs=1e-5)
    assert float(rows[-1]['above_grad_cam']) == pytest.approx((own - rival).mean().item(), abs=1e-5)
    assert any(f'| {own.mean():.3f} [' in line for line in card)
    again = timm.create_model('local-dir:hub', pretrained=True).eval()
    assert again.config == model.config and torch.equal(again.explain(images).attention_map, explanation.attention_map)


def test_a_resumed_run_ends_as_the_run_would_have(photos, monkeypatch, capsys):
    assert attach('--resume') == 2
    assert 'to continue from; leave out --resume' in capsys.readouterr().err
    assert attach(epochs=2) == 0

    def evaluate_once(run, found=[]):  # noqa: B006  counts the calls
        found.append(run)
        if len(found) == 2:
            raise KeyboardInterrupt
        return evaluate(run)

    evaluate = timm_abn.training.attaching._Run.evaluate
    monkeypatch.setattr(timm_abn.training.attaching._Run, 'evaluate', evaluate_once)
    assert attach(out='stopped', epochs=2) == 130
    assert load_model('attached', f'stopped/{LAST}') and len(rows_of('stopped/summary.csv')) == 1
    monkeypatch.setattr(timm_abn.training.attaching._Run, 'evaluate', evaluate)
    folder = photos.parent
    where = dict(out=str(folder / 'stopped'), data=str(photos), checkpoint=str(folder / 'plain.pth.tar'))
    assert attach('--resume', **where) == 0
    first, second = (load_model('attached', folder / name / LAST).state_dict() for name in ('out', 'stopped'))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert attach('--resume', '--lr', '0.1', **where) == 2
    assert f'{where["out"]}/{LAST} is of a run with lr=0.001: resume with the same' in capsys.readouterr().err
    # killed between the checkpoint and what is made of it
    table, sheet = folder / 'stopped' / SUMMARY, folder / 'stopped' / 'sheets' / 'epoch-002.png'
    expected = table.read_bytes(), sheet.read_bytes()
    table.unlink(), sheet.unlink()
    assert attach('--resume', **where) == 0 and (table.read_bytes(), sheet.read_bytes()) == expected


def test_a_resumed_run_has_the_same_photos_and_backbone(photos, capsys):
    assert attach(epochs=1) == 0
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    checkpoint['state_dict']['conv1.weight'] += 1
    torch.save(checkpoint, 'other.pth.tar')
    assert attach('--resume', epochs=1, checkpoint='other.pth.tar') == 2
    assert f'out/{LAST} is of a run with backbone_sha256=' in capsys.readouterr().err
    Image.new('RGB', (24, 20)).save(photos / 'dark' / '1.png')
    assert attach('--resume', epochs=1) == 2
    assert f'out/{LAST} is of a run with photos_sha256=' in capsys.readouterr().err


# ends itself outright at one of the changes that are made in the folder "out"
KILLED = """
import os, signal, sys
left = int(sys.argv.pop(1))

def count(event, args):
    global left
    if event in ('open', 'os.mkdir', 'os.rename') and any('/out/' in os.fsdecode(arg) for arg in args[:2] if isinstance(
        arg, (str, bytes, os.PathLike))):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
from timm_abn_cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize('changes', [1, 8, 12, 16, 26])
def test_a_run_that_is_killed_starts_again_or_goes_on(photos, changes):
    assert attach(out='whole') == 0
    out, command = photos.parent / 'out', ['attach', '--model', BACKBONE, '--checkpoint', 'plain.pth.tar']
    command += ['--data-dir', 'photos', '--epochs', '2', '--batch-size', '8', '--device', 'cpu', '--out', str(out)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, '-c', KILLED, str(changes), *command], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert main([*command, *(['--resume'] if (out / LAST).exists() else [])]) == 0
    first, second = (load_model('attached', folder / LAST).state_dict() for folder in (photos.parent / 'whole', out))
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    names = [LAST, 'sheets', 'sheets/epoch-001.png', 'sheets/epoch-002.png', SUMMARY]
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob('*')) == names
    assert [row['epoch'] for row in rows_of(out / SUMMARY)] == ['0', '1']


def test_a_model_that_predicts_nan_is_named(photos, capsys):
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    checkpoint['state_dict']['fc.bias'][0] = math.nan
    torch.save(checkpoint, 'nan.pth.tar')
    assert attach(checkpoint='nan.pth.tar') == 2
    assert 'the model predicts NaN or infinity for 8 of 8 images' in capsys.readouterr().err


def test_the_weights_of_the_backbone_stay(photos):
    assert attach(epochs=1) == 0
    before, after = plain().state_dict(), load_model('attached', f'out/{LAST}').state_dict()
    halves = {name: tensor for name, tensor in after.items() if name.startswith(('feature_extractor', 'perception'))}
    assert halves and all(torch.equal(before[name.partition('.')[2]], tensor) for name, tensor in halves.items())


@pytest.mark.parametrize('workers', ['0', pytest.param('2', marks=pytest.mark.slow)])
def test_damaged_photos_are_left_out_before_training_and_replaced_in_it(photos, monkeypatch, caplog, workers):
    (photos / 'dark' / '._1.png').write_bytes(b'no photo')  # nobody speaks of those
    (photos / 'dark' / '1.png').write_bytes(b'no photo')
    found = find_photos(photos, labelled=True)
    assert len(found.training) + len(found.validation) == 19
    named, counted = caplog.messages
    assert str(photos / 'dark' / '1.png') in named and counted.startswith('1 of 20 images are left out')
    found.training[3][0].write_bytes(b'no photo')  # after the check
    monkeypatch.setattr('timm_abn.data.photos.find_photos', lambda *args, **kwargs: found)
    assert attach('--workers', workers, epochs=1, batch=15) == 0
    if workers == '0':
        assert f'{found.training[3][0]} is not an image' in caplog.text and 'image 4 takes its place' in caplog.text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(batch=17), 'there are 16 photos to train on, fewer than a batch of 17: pass a smaller --batch-size'),
        (dict(data='nowhere'), 'there is no folder nowhere'),
        (dict(data='photos/dark'), 'lies in no folder of a class'),
        (dict(checkpoint='nothing.pth'), 'there is no checkpoint nothing.pth'),
        (dict(checkpoint='other.pth.tar'), 'other.pth.tar is a checkpoint of resnet18, not of resnet20_cifar'),
        (dict(checkpoint='junk.pth.tar'), 'junk.pth.tar is no checkpoint, or damaged'),
        (
            dict(checkpoint='three.pth.tar'),
            'the model has 3 classes (class 0, class 1, class 2), the photos have 2 (bright, dark)',
        ),
        (dict(data='one'), "one holds one class alone, 'dark'"),
        (dict(out='photos'), 'photos is not empty; choose a new folder'),
    ],
)
def test_what_cannot_be_attached_is_one_line(photos, capsys, arguments, message):
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    torch.save(dict(checkpoint, args=argparse.Namespace(model='resnet18')), 'other.pth.tar')
    torch.save(timm.create_model(BACKBONE, num_classes=3).state_dict(), 'three.pth.tar')
    (photos.parent / 'junk.pth.tar').write_bytes(b'junk')
    (photos.parent / 'one').mkdir()
    (photos.parent / 'one' / 'dark').symlink_to(photos / 'dark')
    if arguments.get('data') == 'one':
        (photos.parent / 'one' / 'dark').unlink()
        (photos / 'dark').rename(photos.parent / 'one' / 'dark')
    assert attach(**arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('timm-abn: error: ') and message in error
    assert not (photos.parent / 'out').exists()


@pytest.mark.parametrize(('num_classes', 'kind'), [(1, None), (3, 'sigmoid')])
def test_one_logit_and_labels_are_attached_to(photos, capsys, num_classes, kind):
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, num_classes=num_classes)
    torch.save(backbone.state_dict(), 'plain.pth.tar')
    told = [
        '--img-size',
        '16',
        '--mean',
        '0.5',
        '--std',
        '0.25',
        '--crop-pct',
        '1',
        *(['--probabilities', kind] if kind else []),
    ]
    if kind:
        assert attach(*told) == 2 and '--unlabelled' in capsys.readouterr().err
    assert attach(*told, *(['--unlabelled'] if kind else []), epochs=1) == 0
    # that the folders are no and yes is a guess, and all that there is to say
    assert capsys.readouterr().err.count('warning') == (0 if kind else 1)
    model, images = load_model(checkpoint=f'out/{LAST}'), torch.randn(4, 3, 16, 16)
    p = backbone.eval()(images).sigmoid()
    expected = p if kind else torch.cat([1 - p, p], dim=1)
    torch.testing.assert_close(model.explain(images).probabilities, expected)
    assert model.pretrained_cfg['input_size'] == (3, 16, 16) and model.pretrained_cfg['std'] == (0.25,) * 3
    (row,) = rows_of('out/summary.csv')
    assert 0 <= float(row['eval_kept']) <= 1 and 0 < float(row['train_loss']) < 100
    assert main(['explain', 'photos', '--checkpoint', f'out/{LAST}', '--out', 'shown', '--csv', 'shown.csv']) == 0
    said = rows_of('shown.csv')
    assert {entry['class'] for entry in said} == ({f'class {i}' for i in range(3)} if kind else {'bright', 'dark'})


def knows_brightness(order):
    """Write a checkpoint of a model that is right, of photos in folders whose classes have this order."""
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    backbone = timm.create_model(BACKBONE, num_classes=2)
    for parameter in backbone.parameters():
        torch.nn.init.constant_(parameter, 1e-2)  # brighter photos have greater features
    checkpoint['args'].num_classes = len(order)
    weight = torch.zeros(len(order), 64)
    weight[order.index('bright')] = 1e3
    bias = torch.full((len(order),), -1e6)
    bias[[order.index('bright'), order.index('dark')]] = 0.0
    state_dict = backbone.eval().state_dict()
    image = torch.zeros(1, 3, 16, 16)  # grey
    bias[order.index('bright')] = -1e3 * backbone.forward_head(backbone.forward_features(image), True).sum().item()
    torch.save(dict(checkpoint, state_dict={**state_dict, 'fc.weight': weight, 'fc.bias': bias}), 'plain.pth.tar')


def recorded_and_right():
    (row,) = rows_of('out/summary.csv')
    return load_model('attached', f'out/{LAST}').pretrained_cfg['label_names'], float(row['eval_top1'])


@pytest.mark.parametrize('said', ['--label-names', '--class-map'])
def test_an_order_that_is_not_that_of_the_model_is_told_before_training(photos, capsys, said):
    knows_brightness(['dark', 'bright'])
    assert attach(epochs=1) == 2
    error = capsys.readouterr().err
    assert 'right on 0 of 20 images' in error and 'but on 20 if they are others (bright = 1, dark = 0): pass' in error
    (photos.parent / 'names.txt').write_bytes('\ufeffdark\r\nbright\r\n\r\n'.encode())
    assert attach(said, 'names.txt', epochs=1) == 0
    assert recorded_and_right() == (['dark', 'bright'], 1.0) and 'warning' not in capsys.readouterr().err


def test_folders_are_found_among_the_names_that_the_checkpoint_records(photos, capsys):
    names = ['dark', 'middle', 'bright']
    knows_brightness(names)
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    checkpoint['args'].label_names = names
    torch.save(checkpoint, 'plain.pth.tar')
    (photos.parent / 'names.txt').write_text('bright\nmiddle\ndark\n')
    assert attach('--label-names', 'names.txt', batch=99) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert 'warning: the model is right on 0 of 20 images' in warning and 'fewer than a batch' in error
    for index in (1, 3, 5, 7, 9):
        (photos / 'dark' / f'{index}.png').unlink()  # ten and five are left, two and one held out: uneven
    assert attach(epochs=1) == 0
    assert recorded_and_right() == (names, 1.0)
    (row,) = rows_of('out/summary.csv')
    assert float(row['eval_balanced_accuracy']) == float(row['eval_area_under_roc']) == 1.0
    assert {'eval_attention_balanced_accuracy', 'eval_attention_area_under_roc'} <= row.keys()
