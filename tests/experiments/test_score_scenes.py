"""The script that scores the maps of multi-task networks on scenes whose objects are known."""

import argparse
import csv
import json

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
    return load_script('experiments/score_scenes')


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
def score(run, script, scenes, tmp_path):
    return lambda *arguments: run(script, '--data-dir', scenes, '--out', tmp_path / 'out', '--steps', 4, *arguments)


def test_rows_are_scores_of_the_maps_of_the_tasks(score, runs, scenes, tmp_path, capfd):
    assert score('--runs', *runs, '--deletion-scenes', 2) == 0
    rows = list(csv.DictReader((tmp_path / 'out' / 'scores.csv').open()))
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
    _, lines = script.total_table(rows)
    found = {method: line for metric, method, *line in lines if metric == 'IoU'}
    # scenes have values (0, 1) and (1, 1): drawing one of them twice gives the ends; runs 0.5 and 1
    assert found['attention'] == ['0.750 [0.500, 1.000]', f'{0.125**0.5:.3f}', '', '4']
    assert found['grad_cam'][0].startswith('0.667 [') and found['grad_cam'][3] == '3'
    assert found['grad_cam'][2].startswith(f'{(1 + 0 - 1) / 3:.3f} [')  # of the three that both have
    header, lines = script.attribute_table(rows)
    assert [line[2].partition(' ')[0] for line in lines if line[0] == 'IoU'] == ['0.500', '1.000', '0.750']
    assert lines[2] == ['pointing game', 'mean of attributes', '0.750', '0.750', '0.500', '0.500']
    assert header == ('metric', 'attribute', *script.METHODS)


def test_files_beside_the_rows(score, runs, tmp_path):
    assert score('--runs', next(iter(runs)), '--limit', 2) == 0
    assert set(json.loads((tmp_path / 'out' / 'settings.json').read_text())) == {'versions', 'settings'}
    lines = (tmp_path / 'out' / 'table.md').read_text().splitlines()
    assert sum(line.startswith('|---|') for line in lines) == 2 and 'nan' not in '\n'.join(lines)
    (line,) = [line.split(' | ') for line in lines if line.startswith('| IoU | random |')]
    assert line[3] == '-' and line[5] == '3 |'  # no deviation of a single run; three objects


@pytest.mark.parametrize(
    'harm, message',
    [
        (lambda scenes, run: (run / 'last.pth.tar').unlink(), 'last.pth.tar'),
        (lambda scenes, run: (scenes / 'segmentation' / '1.png').unlink(), '1.png cannot be read: No such file'),
        (
            lambda scenes, run: Image.new('L', (8, 64)).save(scenes / 'segmentation' / '1.png'),
            '1.png must be grey, of 64x64 pixels, got (64, 8)',
        ),
        (
            lambda scenes, run: (scenes / 'list_attr_celeba.txt').write_text('3\nBag\n0.png 1\n1.png 1\n2.png 1\n'),
            'the scenes have 1 attributes, the network has 2 maps',
        ),
    ],
)
def test_what_cannot_be_scored(run_and_read_error, script, runs, scenes, tmp_path, harm, message):
    folder = next(iter(runs))
    harm(scenes, folder)
    arguments = ['--data-dir', scenes, '--runs', folder, '--out', tmp_path / 'out']
    assert message in run_and_read_error(script, *arguments)
    assert not (tmp_path / 'out').exists()
