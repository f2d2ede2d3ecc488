"""The script that scores the maps of multi-task networks on scenes whose objects are known."""

import argparse
import csv
import json

import pytest
import timm
import torch
from own_scripts import load_script
from PIL import Image
from small_scenes import BOXES, OBJECTS

from timm_abn.explain.metrics import energy, pointing_game, symmetric_relevance_gain

SETUP = dict(
    model='abn',
    model_kwargs=dict(backbone='test_resnet', split='layer1', multi_task=True),
    num_classes=2,
    input_size=[3, 64, 64],
    mean=[0.45] * 3,
    std=[0.25] * 3,
    crop_pct=1.0,
)


@pytest.fixture
def script():
    return load_script('experiments/score_scenes')


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


@pytest.mark.slow
def test_rows_are_scores_of_the_maps_of_the_tasks(run, script, runs, scenes, tmp_path):
    arguments = ['--data-dir', scenes, '--out', tmp_path / 'out', '--steps', 4, '--runs', *runs, '--walked-scenes', 2]
    assert run(script, *arguments) == 0
    rows = list(csv.DictReader((tmp_path / 'out' / 'scores.csv').open()))
    assert len(rows) == 2 * 8 * len(OBJECTS)  # three methods, their mean maps, and two controls
    for folder, network in runs.items():
        own = [row for row in rows if row['run'] == folder.as_posix() and row['map'] == script.ATTENTION]
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
            expected = symmetric_relevance_gain(network, image, one_map, torch.tensor([task]), steps=4).item()
            assert row['SRG'] == '' if scene == 2 else float(row['SRG']) == pytest.approx(expected, abs=1e-4)
    result = json.loads((tmp_path / 'out' / 'results.json').read_text())
    assert result['seeds'] == [0, 1] and set(result['versions']) == {'timm_abn', 'timm', 'torch'}
    (table,) = result['tables']
    pointing = table['rows'][0][table['columns'].index('pointing game')]
    own = [float(row['pointing game']) for row in rows if row['map'] == script.ATTENTION]
    assert table['rows'][0][0] == script.ATTENTION and pointing[0] == pytest.approx(sum(own) / len(own), abs=1e-4)
    before = (tmp_path / 'out' / 'scores.csv').read_text()
    script.make_maps = None  # nothing is done again
    assert run(script, *arguments) == 0 and (tmp_path / 'out' / 'scores.csv').read_text() == before


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
