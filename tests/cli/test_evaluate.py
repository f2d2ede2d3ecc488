"""timm-abn evaluate, as from a shell: files, masks, baseline, several processes, kills, and wrong input."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import refusal, rows_of, write_photos
from PIL import Image

from timm_abn.data.reading import FORMATS
from timm_abn_cli import main

MODEL = 'abn_resnet20_cifar.fashion_mnist'
ROOT = Path(__file__).parents[2]
FAST = ('--steps', '7', '--batch-size', '4')
CODE = 'import sys; from timm_abn_cli import main; sys.exit(main())'


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos({f'photos/{label}/{number}.jpg': (36, 30) for label in ('Bag', 'Dress') for number in range(5)})
    return tmp_path


@pytest.fixture
def few_photos(photos):
    """Two of each class."""
    for path in Path('photos').glob('*/[234].jpg'):
        path.unlink()
    return photos


def evaluate(*args, data_dir='photos', model=MODEL):
    return main(['evaluate', '--model', model, '--data-dir', str(data_dir), *FAST, *map(str, args)])


def refused(capsys, *args, data_dir='photos'):
    return refusal(capsys, 'evaluate', '--model', MODEL, '--data-dir', data_dir, *FAST, *args)


def test_what_comes_out(few_photos, capsys):
    (few_photos / 'photos' / 'Dress' / 'broken.jpg').write_bytes(b'nothing')
    assert evaluate() == 0
    printed = capsys.readouterr().out
    for text in ('95 % interval over 4 images, accuracy', 'Paired differences to attention', 'Reliance'):
        assert text in printed
    assert f'1 x photos/Dress/broken.jpg is not an image in a supported format: {", ".join(FORMATS)}' in printed
    assert '8 of 10 classes without examples: t-shirt/top, ' in printed
    rows = rows_of('outputs/evaluate/scores.csv')
    methods = ['attention', 'class_map', 'grad_cam', 'recipro_cam', 'random', 'centre']
    assert [row['method'] for row in rows if row['image'] == 'Bag/1.jpg'] == methods
    assert {row['label'] for row in rows} == {'3', '8'} and len(rows) == 24
    summary = json.loads(Path('outputs/evaluate/summary.json').read_text())
    assert summary['settings']['seed'] == 0 and list(summary['scores']) == methods
    assert summary['versions']['timm'] == timm.__version__


def test_no_image_that_can_be_read(photos, capsys):
    Path('broken').mkdir()
    Path('broken/1.jpg').write_bytes(b'nothing')
    assert refused(capsys, data_dir='broken').startswith('no image can be scored: broken/1.jpg is not an image')


@pytest.mark.slow
def test_masks_and_reference(photos, capsys):
    for path in sorted(Path('photos').rglob('*.jpg'))[1:]:
        mask = Path('masks') / path.relative_to('photos').with_suffix('.png')
        mask.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((30, 36), dtype=np.uint8)
        values[:15] = 255
        Image.fromarray(values).save(mask)
    torch.manual_seed(0)
    plain = timm.create_model('resnet20_cifar', num_classes=10, in_chans=1)
    torch.save(plain.state_dict(), 'plain.pth')
    torch.save(timm.create_model('resnet20_cifar', num_classes=10).state_dict(), 'colour.pth')
    reference = ('--reference', 'resnet20_cifar', '--reference-checkpoint', 'colour.pth')
    assert evaluate('--masks', 'masks', '--methods', 'attention', 'grad_cam', 'centre', *reference) == 0
    printed = capsys.readouterr().out
    assert '4 x no mask' in printed and '3 x resnet20_cifar: no mask' in printed
    rows = rows_of('outputs/evaluate/scores.csv')
    methods = [
        'attention',
        'grad_cam',
        'centre',
        'random',
        *(f'resnet20_cifar: {name}' for name in ('grad_cam', 'random', 'centre')),
    ]
    assert [row['method'] for row in rows if row['image'] == 'Dress/1.jpg'] == methods
    # chance_corrected_energy of a Gaussian in the middle, whose upper half is marked, is that of chance
    found = [float(row['energy']) for row in rows if row['method'] == 'centre' and row['problem'] == '']
    assert len(found) == 9 and all(value == pytest.approx(0.5, abs=0.05) for value in found)
    summary = json.loads(Path('outputs/evaluate/summary.json').read_text())
    assert summary['settings']['reference']['methods'] == ['grad_cam', 'random', 'centre']
    assert 'resnet20_cifar: grad_cam' in summary['differences_to_the_first']


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--methods', 'attention', 'attention'], '--methods must not repeat a method, got attention attention'),
        (['--methods', 'rollout'], "'rollout' needs"),
        (['--methods', 'gradcam'], "argument --methods: there is no method 'gradcam'; did you mean grad_cam"),
        (['--masks', 'nowhere'], 'argument --masks: there is no file or folder nowhere'),
        (['--reference-checkpoint', 'x.pth'], 'there is no checkpoint x.pth'),
        (['--reference', 'resnet5'], 'resnet5 is not a model; did you mean resnet50'),
        (['--steps', '0'], 'argument --steps: must be a whole number of 1 or more'),
        (['--out', 'photos/Bag/0.jpg'], 'photos/Bag/0.jpg is a file, not a folder to write into'),
        (['--dataset', 'torch/fashion_mnist'], 'torch/fashion_mnist: expected FashionMNIST/raw in photos'),
        (['--baseline', 'white'], "argument --baseline: invalid choice: 'white'"),
        (['--grid', '1'], 'argument --grid: must be a whole number of 2 or more'),
    ],
)
def test_wrong_input(photos, capsys, args, message):
    assert message in refused(capsys, *args)
    assert not Path('outputs').exists() or not list(Path('outputs').rglob('scores.csv'))


def test_other_settings_need_another_folder(few_photos, capsys):
    assert evaluate('--methods', 'attention') == 0
    capsys.readouterr()
    before = Path('outputs/evaluate/scores.csv').read_bytes()
    said = refused(capsys, '--methods', 'attention', 'centre')
    assert "holds an evaluation with methods=['attention', 'random', 'centre'], not" in said
    assert Path('outputs/evaluate/scores.csv').read_bytes() == before


def command(*args):
    return ['evaluate', '--model', MODEL, '--data-dir', 'photos', *FAST, '--methods', 'attention', 'grad_cam', *args]


def environment():
    return dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_killed_and_started_again(photos, capsys):
    assert main(command('--out', 'whole')) == 0
    arguments = [sys.executable, '-c', CODE, *command('--out', 'killed')]
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(Path('killed').glob('maps/*.safetensors')) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in Path('killed').glob('maps/*.safetensors')}
    assert done and not Path('killed/scores.csv').exists()
    assert main(command('--out', 'killed')) == 0
    assert Path('killed/scores.csv').read_bytes() == Path('whole/scores.csv').read_bytes()
    assert all(path.stat().st_mtime_ns == time_of for path, time_of in done.items())


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason='PyTorch is built without distributed')
def test_two_processes(photos, capsys):
    assert main(command('--out', 'one')) == 0
    expected = capsys.readouterr().out
    (photos / 'run.py').write_text(CODE)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', 'run.py']
    done = subprocess.run(
        [*torchrun, *command('--out', 'two')], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace('two/', 'one/') == expected  # by one of them, once
    one, two = rows_of('one/scores.csv'), rows_of('two/scores.csv')
    assert [(row['image'], row['method']) for row in one] == [(row['image'], row['method']) for row in two]
    for name in ('deletion', 'insertion', 'probability'):
        assert [float(row[name]) for row in two] == pytest.approx([float(row[name]) for row in one], abs=1e-5)


CUT_IN_STAGE = dict(backbone='test_convnext', split='stages.2.blocks.0')
IGNORED = 'The prediction ignores the attention map: '
# model -> what must be said of its trained weights: only the class token is read; layer scales of 1e-6 before a norm
FINDINGS = {
    'class token': (dict(backbone='test_vit', split='blocks.5', gate='features', img_size=64), [IGNORED]),
    'layer scale': (dict(CUT_IN_STAGE, gate='features'), [IGNORED]),
    'flat map': (
        dict(backbone='test_resnet'),
        [f'({name}) has no' for name in ('mean', 'other', 'shuffled', 'inverse')],
    ),
    'nothing': (dict(CUT_IN_STAGE, gate='centred'), []),
}


@pytest.mark.parametrize('case', FINDINGS)
@pytest.mark.filterwarnings('ignore:The attention map has no effect')
def test_a_map_that_trained_weights_ignore_is_reported(few_photos, capsys, case):
    model_kwargs, expected = FINDINGS[case]
    torch.manual_seed(0)
    model = timm.create_model('abn', num_classes=3, **model_kwargs)
    if case == 'flat map':
        torch.nn.init.zeros_(model.attention_branch.map_norm.weight)
    settings = argparse.Namespace(model='abn', model_kwargs=model_kwargs, num_classes=3, input_size=[3, 64, 64])
    torch.save(dict(arch='abn', state_dict=model.state_dict(), args=settings, epoch=0), 'last.pth.tar')
    assert evaluate('--checkpoint', 'last.pth.tar', '--methods', 'attention', model='abn') == 0
    findings = json.loads(Path('outputs/evaluate/summary.json').read_text())['findings']
    printed = capsys.readouterr().out
    assert len(findings) == len(expected)
    assert all(words in finding and finding in printed for words, finding in zip(expected, findings))
    assert ('has no' in printed) == (case == 'flat map')
