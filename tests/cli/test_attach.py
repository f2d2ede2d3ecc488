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

import timm_abn.training.attaching as training
from timm_abn import load_model
from timm_abn.data.images import Preprocessing
from timm_abn.data.photos import find_photos
from timm_abn.data.reading import read_image
from timm_abn.explain.methods import create_explainer
from timm_abn.explain.metrics import deletion, insertion
from timm_abn.training.attaching import LAST, STATE, SUMMARY
from timm_abn.training.held_out import VERDICT, judge, split_held_out
from timm_abn_cli import main

BACKBONE = 'resnet20_cifar'


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of twenty photos, a checkpoint as timm's train.py writes it, and rounds of two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, 'ROUND', 2)
    rng = np.random.default_rng(0)
    for index in range(20):
        path = tmp_path / 'photos' / ('a', 'b')[index % 2] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(path)
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, num_classes=3)
    images = dict(input_size=[3, 16, 16], mean=[0.5] * 3, std=[0.25] * 3, crop_pct=1.0)
    settings = argparse.Namespace(model=BACKBONE, num_classes=3, label_names=['x', 'y', 'z'], **images)
    torch.save(dict(arch=BACKBONE, state_dict=backbone.state_dict(), args=settings), 'plain.pth.tar')
    return tmp_path / 'photos'


def attach(*arguments, data='photos', checkpoint='plain.pth.tar', out='out', steps=4):
    fixed = ['--model', BACKBONE, '--checkpoint', checkpoint, '--data-dir', data, '--out', out, '--device', 'cpu']
    return main(['attach', *fixed, '--steps', str(steps), '--batch-size', '8', *map(str, arguments)])


@pytest.fixture
def quick_verdict(monkeypatch):
    """A verdict that costs nothing, and says nothing."""
    numbers = dict.fromkeys(VERDICT, 0.0)
    monkeypatch.setattr(training, 'judge', lambda *args: dict(numbers, verdict='none'))


def weights_of(folder):
    return torch.load(folder / LAST, weights_only=False)['state_dict']


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_the_model_stays_as_it_is_and_is_explained(photos, capsys):
    assert attach() == 0
    said = capsys.readouterr().out
    model, plain = load_model(checkpoint=f'out/{LAST}'), timm.create_model(BACKBONE, num_classes=3).eval()
    plain.load_state_dict(torch.load('plain.pth.tar', weights_only=False)['state_dict'])
    images = torch.randn(4, 3, 16, 16)
    explanation = model.explain(images)
    assert torch.equal(explanation.logits, plain(images)) and torch.equal(model(images), explanation.logits)
    assert same(model.backbone.state_dict(), plain.state_dict()) and not explanation.map_gates
    assert model.pretrained_cfg['input_size'] == (3, 16, 16) and model.pretrained_cfg['label_names'] == ['x', 'y', 'z']
    rows = rows_of('out/summary.csv')
    assert [row['step'] for row in rows] == ['0', '2', '4'] and float(rows[2]['train_loss']) > 0
    assert main(['explain', 'photos', '--checkpoint', f'out/{LAST}', '--out', 'shown']) == 0
    assert main(['publish', f'out/{LAST}', '--repo', 'me/attached', '--dry-run', '--out', 'hub']) == 0
    card = Path('hub/README.md').read_text().splitlines()
    verdict = 'too few to say: 2 images with a map, 10 or more are needed'
    assert f'verdict of 2 other held-out photos: {verdict}' in said and any(verdict in line for line in card)
    # by hand: the area between the curves, less that of others, of the photos that did not decide
    seen, held_out = Preprocessing(model), find_photos(photos).validation
    images = torch.stack([seen(read_image(path))[0] for path in held_out[1::2]])
    rivals = [create_explainer(method, model)(images) for method in ('grad_cam', 'class_map')]
    own, *others = (
        (insertion(model, images, maps) - deletion(model, images, maps)).mean().item()
        for maps in (model.explain(images).attention_map, *rivals)
    )
    for name, expected in zip(('srg', 'above_grad_cam', 'above_evidence'), (own, *(own - other for other in others))):
        assert float(rows[2][name]) == pytest.approx(expected, abs=2e-5)
    assert any(f'| {own:.3f} [' in line for line in card)
    again = timm.create_model('local-dir:hub', pretrained=True).eval()
    assert torch.equal(again.explain(images).attention_map, model.explain(images).attention_map)


def test_a_resumed_run_ends_as_the_run_would_have(photos, quick_verdict, monkeypatch, capsys):
    assert attach('--resume') == 2
    assert 'to continue from; leave out --resume' in capsys.readouterr().err
    assert attach(steps=6) == 0

    def stop(run):
        if run.step == 4:
            raise KeyboardInterrupt
        return train_round(run)

    train_round, folder = training._Run.train_round, photos.parent
    monkeypatch.setattr(training._Run, 'train_round', stop)
    where = dict(out=folder / 'stopped', data=photos, checkpoint=folder / 'plain.pth.tar')
    where = {name: str(path) for name, path in where.items()}
    assert attach(steps=6, **where) == 130 and [row['step'] for row in rows_of('stopped/summary.csv')] == [
        '0',
        '2',
        '4',
    ]
    monkeypatch.setattr(training._Run, 'train_round', train_round)
    assert attach('--resume', steps=6, **where) == 0
    whole = torch.load(folder / 'out' / STATE, weights_only=False)['state_dict']
    assert same(torch.load(folder / 'stopped' / STATE, weights_only=False)['state_dict'], whole)
    assert same(weights_of(folder / 'stopped'), weights_of(folder / 'out'))
    # killed between the state and what is made of it
    table, last = (folder / 'stopped' / name for name in (SUMMARY, LAST))
    expected = table.read_bytes(), weights_of(folder / 'stopped')
    table.unlink(), last.unlink()
    assert attach('--resume', steps=6, **where) == 0 and table.read_bytes() == expected[0]
    assert same(weights_of(folder / 'stopped'), expected[1])
    monkeypatch.setattr(training, 'PATIENCE', 99)
    assert attach('--resume', steps=8, **where) == 0 and rows_of(table)[-1]['step'] == '8'
    capsys.readouterr()
    assert attach('--resume', '--lr', '0.1', **where) == 2
    assert f'{where["out"]}/{STATE} is of a run with lr=0.001: resume with the same' in capsys.readouterr().err
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    checkpoint['state_dict']['conv1.weight'] += 1
    torch.save(checkpoint, 'other.pth.tar')
    assert attach('--resume', **dict(where, checkpoint='other.pth.tar')) == 2
    assert 'is of a run with backbone_sha256=' in capsys.readouterr().err
    Image.new('RGB', (24, 20)).save(photos / 'b' / '1.png')
    assert attach('--resume', **where) == 2 and 'is of a run with photos_sha256=' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('found', 'kept', 'end'), [((5, 4, 3, 2), 0, 6), ((5, 6, 7, 4, 3, 2), 4, 10), ((5, (9, 4), 3, 2, 1), 0, 8)]
)
def test_held_out_photos_decide(photos, quick_verdict, monkeypatch, capsys, found, kept, end):
    gains, weights = iter(found), {}

    def note(network, images, batch_size):
        assert len(images) == 2
        weights[len(weights)] = {name: tensor.clone() for name, tensor in network.refinement.state_dict().items()}
        found = next(gains)
        return list(found) if isinstance(found, tuple) else [found] * 2

    monkeypatch.setattr(training, 'gains', note)
    assert attach(steps=40) == 0
    said = capsys.readouterr().out
    assert f'stopped at step {end}, since nothing was gained for 3 rounds' in said
    words = f'the refinement of step {kept} is kept' if kept else 'no refinement is clearly better on held-out'
    assert words in said and [row['step'] for row in rows_of('out/summary.csv')][-1] == str(end)
    last = {name.partition('.')[2]: w for name, w in weights_of(Path('out')).items() if name.startswith('refinement')}
    assert same(last, weights[kept // 2]) and bool(last['out.weight'].any()) == bool(kept)


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
@pytest.mark.parametrize('changes', [1, 8, 16])
def test_a_run_that_is_killed_starts_again_or_goes_on(photos, changes):
    assert attach(out='whole', steps=2) == 0
    out, command = photos.parent / 'out', ['attach', '--model', BACKBONE, '--checkpoint', 'plain.pth.tar']
    command += ['--data-dir', 'photos', '--steps', '2', '--batch-size', '8', '--device', 'cpu', '--out', str(out)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, '-c', KILLED, str(changes), *command], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert main([*command, *(['--resume'] if (out / STATE).exists() else [])]) == 0
    assert same(weights_of(photos.parent / 'whole'), weights_of(out))
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob('*')) == [STATE, LAST, SUMMARY]


@pytest.mark.slow
def test_processes_train_together(photos):
    """Each has photos of its own, also of those that are held out: what these say is what they say to one process."""
    command = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', '--no-python', sys.executable, '-c']
    program = 'import sys; from timm_abn_cli import main; sys.exit(main())'
    arguments = ['attach', '--checkpoint', 'plain.pth.tar', '--data-dir', 'photos', '--steps', '2', '--out', 'both']
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, *command, program, *arguments, '--batch-size', '8', '--device', 'cpu'],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('verdict of 2 other held-out photos') == 1
    rows = rows_of('both/summary.csv')
    assert [row['step'] for row in rows] == ['0', '2']
    assert attach(out='one', steps=2) == 0
    assert rows[0]['srg_held_out'] == rows_of('one/summary.csv')[0]['srg_held_out']
    network, held_out = load_model(checkpoint=f'both/{LAST}'), find_photos(photos).validation
    judged = [Image.open(held_out[index]) for index in split_held_out(len(held_out))[1]]
    expected = judge(network, torch.stack([Preprocessing(network)(photo)[0] for photo in judged]), batch_size=8)
    assert rows[1]['judged'] == '2'
    for name in VERDICT[1:-1]:
        assert float(rows[1][name]) == pytest.approx(expected[name], abs=2e-5), name


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_damaged_photos_are_left_out_before_training_and_replaced_in_it(
    photos, quick_verdict, monkeypatch, caplog, workers
):
    (photos / 'b' / '._1.png').write_bytes(b'no photo')  # nobody speaks of those
    (photos / 'b' / '1.png').write_bytes(b'no photo')
    found = find_photos(photos)
    assert len(found.training) + len(found.validation) == 19
    named, counted = caplog.messages
    assert str(photos / 'b' / '1.png') in named and counted.startswith('1 of 20 images cannot be read and are left out')
    found.training[3].write_bytes(b'no photo')  # after the check
    monkeypatch.setattr('timm_abn.data.photos.find_photos', lambda *args: found)
    assert attach('--workers', workers, steps=2) == 0
    if not workers:
        assert f'{found.training[3]} is not an image' in caplog.text and 'image 4 takes its place' in caplog.text


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(data='nowhere'), 'there is no folder nowhere'),
        (dict(data='one'), 'no photo can be held out'),
        (dict(checkpoint='nothing.pth'), 'there is no checkpoint nothing.pth'),
        (dict(checkpoint='other.pth.tar'), 'other.pth.tar is a checkpoint of resnet18, not of resnet20_cifar'),
        (dict(checkpoint='junk.pth.tar'), 'junk.pth.tar is not a checkpoint, or is damaged'),
        (dict(checkpoint='nan.pth.tar'), 'the model predicts NaN or infinity for 2 of 2 images'),
        (dict(out='photos'), 'photos is not empty; choose a new folder'),
    ],
)
def test_what_cannot_be_attached_is_one_line(photos, capsys, arguments, message):
    checkpoint = torch.load('plain.pth.tar', weights_only=False)
    torch.save(dict(checkpoint, args=argparse.Namespace(model='resnet18')), 'other.pth.tar')
    checkpoint['state_dict']['fc.bias'][0] = math.nan
    torch.save(checkpoint, 'nan.pth.tar')
    Path('junk.pth.tar').write_bytes(b'junk')
    Path('one').mkdir()
    (photos / 'a' / '0.png').rename('one/0.png')
    assert attach(**arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('timm-abn: error: ') and message in error
    assert not Path('out').exists()


@pytest.mark.parametrize(('num_classes', 'kind'), [(1, None), (3, 'sigmoid')])
def test_one_logit_and_labels_are_attached_to(photos, quick_verdict, num_classes, kind):
    torch.manual_seed(0)
    backbone = timm.create_model(BACKBONE, num_classes=num_classes)
    torch.save(backbone.state_dict(), 'plain.pth.tar')
    told = ['--img-size', 16, '--mean', 0.5, '--std', 0.25, '--crop-pct', 1]
    assert attach(*told, *(['--probabilities', kind] if kind else []), steps=2) == 0
    model, images = load_model(checkpoint=f'out/{LAST}'), torch.randn(4, 3, 16, 16)
    p = backbone.eval()(images).sigmoid()
    torch.testing.assert_close(model.explain(images).probabilities, p if kind else torch.cat([1 - p, p], dim=1))
    assert model.pretrained_cfg['input_size'] == (3, 16, 16) and model.pretrained_cfg['std'] == (0.25,) * 3
