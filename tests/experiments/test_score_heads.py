"""The script that scores the evidence of plain classifiers on scenes."""

import csv
import json

import pytest
import torch
from own_scripts import load_script
from small_scenes import BOXES, OBJECTS

import timm_abn
from timm_abn.explain.metrics import pointing_game, symmetric_relevance_gain
from timm_abn.maps.operations import less_mean
from timm_abn.records import Record, set_record

NAMES = ('ViT, class token', 'Swin')


@pytest.fixture
def script():
    return load_script('experiments/score_heads')


@pytest.mark.slow
def test_rows_are_scores_of_evidence(run, script, scenes, tmp_path, monkeypatch):
    out, networks = tmp_path / 'out', {}
    out.mkdir()
    for seed, name in ((0, NAMES[0]), (0, NAMES[1]), (1, NAMES[0]), (1, NAMES[1])):
        torch.manual_seed(seed + 7)
        networks[name, seed] = network = script.NETWORKS[name][0](2).eval()
        torch.save(dict(state_dict=network.state_dict()), out / f'{name}-seed{seed}.pth.tar')
        network.pretrained_cfg = dict(input_size=(3, 64, 64))
        set_record(network, Record('sigmoid'))
    arguments = ['--data-dir', scenes, '--out', out, '--networks', *NAMES, '--seeds', 0, 1, '--steps', 2]
    assert run(script, *arguments, '--walked-scenes', 2) == 0
    rows = list(csv.DictReader((out / 'scores.csv').open()))
    assert len(rows) == 4 * (1 + 8 * len(OBJECTS))
    data, _ = script.load(scenes, 'test')
    images = script.normalize(data.tensors[0])
    for (name, seed), network in networks.items():
        attached = timm_abn.attach(network)
        assert attached.is_traced == (name == NAMES[0])
        own = [r for r in rows if (r['network'], r['seed'], r['map']) == (name, str(seed), script.EVIDENCE)]
        for row, (scene, label) in zip(own, OBJECTS, strict=True):
            image, classes = images[scene : scene + 1], torch.tensor([label])
            found = less_mean(attached.explain(image).class_map(classes))
            left, top, right, bottom = BOXES[scene][label]
            mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
            mask[..., top:bottom, left:right] = True
            assert float(row['pointing game']) == pointing_game(found, mask).item()
            expected = symmetric_relevance_gain(network, image, found, classes, steps=2).item()
            assert row['SRG'] == '' if scene == 2 else float(row['SRG']) == pytest.approx(expected, abs=1e-4)
    result = json.loads((out / 'results.json').read_text())
    assert [line[:2] for line in result['tables'][0]['rows']] == [[name, '2'] for name in NAMES]
    assert len(result['claims']) == 4


def test_networks_are_trained_and_kept(run, script, scenes, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(script, 'fit', lambda task, *args: trained.append(args[2:]))
    text = (scenes / 'list_eval_partition.txt').read_text()
    (scenes / 'list_eval_partition.txt').write_text(text.replace('0.png 2', '0.png 0').replace('1.png 2', '1.png 1'))
    arguments = ['--data-dir', scenes, '--out', tmp_path / 'out', '--networks', NAMES[0], '--seeds', 3]
    assert run(script, *arguments, '--walked-scenes', 1, '--steps', 2) == 0
    assert trained == [(5, 64, 1e-3, 0.05, 3)] and (tmp_path / 'out' / f'{NAMES[0]}-seed3.pth.tar').is_file()
