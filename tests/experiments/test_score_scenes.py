"""The script that scores the maps of multi-task networks on scenes whose objects are known."""

import argparse
import csv
import json
import sys

import pytest
import timm
import torch
from own_scripts import load_script
from PIL import Image

from timm_abn.explain.metrics import deletion, energy, pointing_game

SETUP = dict(
    model='abn',
    model_kwargs=dict(backbone='test_resnet', split='layer1', multi_task=True),
    num_classes=2,
    input_size=[3, 64, 64],
    mean=[0.45] * 3,
    std=[0.25] * 3,
    crop_pct=1.0,
)
# objects of attributes 0 and 1 in each test scene, as boxes
BOXES = [{0: (0, 0, 32, 32), 1: (40, 40, 64, 64)}, {1: (8, 0, 24, 60)}, {0: (30, 30, 50, 50)}]
OBJECTS = [(scene, task) for scene, boxes in enumerate(BOXES) for task in boxes]


@pytest.fixture
def script():
    return load_script('score_scenes')


@pytest.fixture
def scenes(tmp_path):
    """The folder of three test scenes, which are noise."""
    folder = tmp_path / 'scenes'
    torch.manual_seed(0)
    for kind in ('img_align_celeba', 'segmentation'):
        (folder / kind).mkdir(parents=True)
    for scene, boxes in enumerate(BOXES):
        pixels = (torch.rand(64, 64, 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / 'img_align_celeba' / f'{scene}.png')
        shown = Image.new('L', (64, 64))
        for task, box in boxes.items():
            shown.paste(task + 1, box)
        shown.save(folder / 'segmentation' / f'{scene}.png')
    flags = [' '.join('1' if task in boxes else '-1' for task in (0, 1)) for boxes in BOXES]
    lines = ['3', 'Bag Shirt', *(f'{scene}.png {line}' for scene, line in enumerate(flags))]
    (folder / 'list_attr_celeba.txt').write_text('\n'.join(lines) + '\n')
    (folder / 'list_eval_partition.txt').write_text('0.png 2\n1.png 2\n2.png 2\n')
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two untrained networks, and the folders that the training script would leave of them."""
    networks = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = timm.create_model('abn', num_classes=2, **SETUP['model_kwargs']).eval()
        folder = tmp_path / f'abn-seed{seed}'
        folder.mkdir()
        settings = argparse.Namespace(**SETUP)
        torch.save(dict(arch='abn', state_dict=network.state_dict(), args=settings), folder / 'last.pth.tar')
        networks[folder] = network
    return networks


@pytest.fixture
def run(script, scenes, tmp_path, monkeypatch):
    def run(*arguments):
        flags = ['--data-dir', scenes, '--out', tmp_path / 'out', '--steps', 4, *arguments]
        monkeypatch.setattr(sys, 'argv', ['score_scenes.py', *map(str, flags)])
        return script.main()

    return run


def test_rows_are_scores_of_the_maps_of_the_tasks(run, runs, scenes, tmp_path, capfd):
    assert run('--runs', *runs, '--deletion-scenes', 2) == 0
    rows = list(csv.DictReader((tmp_path / 'out' / 'scenes.csv').open()))
    assert len(rows) == 2 * 4 * len(OBJECTS)
    for folder, network in runs.items():
        own = [row for row in rows if row['run'] == folder.as_posix() and row['method'] == 'attention']
        for row, (scene, task) in zip(own, OBJECTS, strict=True):
            assert (row['scene'], row['attribute']) == (f'{scene}.png', ('Bag', 'Shirt')[task])
            with Image.open(scenes / 'img_align_celeba' / f'{scene}.png') as file:
                pixels = torch.frombuffer(bytearray(file.tobytes()), dtype=torch.uint8).view(64, 64, 3)
            image = (pixels.permute(2, 0, 1)[None].float() / 255 - 0.45) / 0.25
            one_map = network.explain(image).attention_map[:, task : task + 1].detach()
            left, top, right, bottom = BOXES[scene][task]
            mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
            mask[..., top:bottom, left:right] = True
            assert float(row['pointing game']) == pointing_game(one_map, mask).item()
            assert float(row['energy']) == pytest.approx(energy(one_map, mask).item(), abs=1e-5)
            area = mask.float().mean().item()
            assert float(row['energy less chance']) == pytest.approx(
                (energy(one_map, mask).item() - area) / (1 - area), abs=1e-5
            )
            if scene < 2:
                expected = deletion(network, image, one_map, torch.tensor([task]), steps=4).item()
                assert float(row['deletion']) == pytest.approx(expected, abs=1e-4)
            else:
                assert row['deletion'] == 'nan'
    assert 'Written to: ' in capfd.readouterr().out


def test_means_differences_and_deviations_by_hand(script):
    scores = {('a', 'attention'): (0.0, 1.0), ('a', 'grad_cam'): (1.0, 1.0), ('b', 'attention'): (1.0, 1.0)}
    scores['b', 'grad_cam'] = (float('nan'), 0.0)
    rows = [
        dict(run=run, method=method, scene=scene, attribute=scene, **dict.fromkeys(script.METRICS, value))
        for method in script.METHODS
        for run in ('a', 'b')
        for scene, value in zip(('x', 'y'), scores.get((run, method), (0.5, 0.5)))
    ]
    found = script.summarise(rows)['IoU']
    assert found['attention']['runs'] == {'a': 0.5, 'b': 1.0}
    assert found['attention']['deviation'] == pytest.approx(0.125**0.5)
    assert found['attention']['score']['mean'] == 0.75 and found['attention']['score']['number'] == 4
    # scenes have values (0, 1) and (1, 1): drawing one of them twice gives the ends
    assert (found['attention']['score']['low'], found['attention']['score']['high']) == (0.5, 1.0)
    assert found['grad_cam']['score']['mean'] == pytest.approx(2 / 3) and found['grad_cam']['score']['number'] == 3
    assert found['grad_cam']['difference']['mean'] == pytest.approx((1 + 0 - 1) / 3)  # of the three that both have
    attributes = script.by_attribute(rows)['IoU']
    assert {name: methods['attention']['mean'] for name, methods in attributes.items()} == {'x': 0.5, 'y': 1.0}
    header, lines = script.attribute_table(script.by_attribute(rows))
    assert lines[2] == ['pointing game', 'mean of attributes', '0.750', '0.750', '0.500', '0.500']
    assert header == ['metric', 'attribute', *script.METHODS]


def test_files_beside_the_rows(run, runs, tmp_path):
    assert run('--runs', next(iter(runs)), '--limit', 2) == 0
    summary = json.loads((tmp_path / 'out' / 'scenes.json').read_text())
    assert set(summary) == {'versions', 'settings', 'scores', 'attributes'}
    assert summary['scores']['IoU']['attention']['deviation'] is None  # of a single run
    assert summary['scores']['IoU']['random']['score']['number'] == 3
    lines = (tmp_path / 'out' / 'scenes.md').read_text().splitlines()
    assert sum(line.startswith('|---|') for line in lines) == 2
    assert '| IoU | random |' in '\n'.join(lines) and 'nan' not in '\n'.join(lines)


@pytest.mark.parametrize(
    'harm, message',
    [
        (lambda scenes, run: (run / 'last.pth.tar').unlink(), 'last.pth.tar'),
        (lambda scenes, run: (scenes / 'segmentation' / '1.png').unlink(), '1.png cannot be read: No such file'),
        (
            lambda scenes, run: Image.new('L', (8, 64)).save(scenes / 'segmentation' / '1.png'),
            'masks of the scenes must have 64 x 64 pixels',
        ),
        (
            lambda scenes, run: (scenes / 'list_attr_celeba.txt').write_text('3\nBag\n0.png 1\n1.png 1\n2.png 1\n'),
            'the scenes have 1 attributes, the network has 2 maps',
        ),
    ],
)
def test_what_cannot_be_scored(run, runs, scenes, tmp_path, capfd, harm, message):
    folder = next(iter(runs))
    harm(scenes, folder)
    assert run('--runs', folder) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith('score_scenes.py: error: ') and message in error
    assert not (tmp_path / 'out').exists()
