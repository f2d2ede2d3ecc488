"""The scores of the script that compares attached networks, against pairs and lists counted by hand."""

import pytest
import torch
from own_scripts import load_script


def test_scores_of_two_classes():
    script = load_script('experiments/score_attached')
    scores, labels = torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([1, 0, 1, 0])
    # of the four pairs three are in order, and one is a tie
    assert script.area_under_roc(scores, labels) == pytest.approx(3.5 / 4)


def test_the_split_is_of_each_class_and_kind_and_always_the_same(tmp_path, monkeypatch):
    script = load_script('experiments/score_attached')
    lines = [f'images/{index}.png {(0.0, 1.0)[index % 2]} {("mono", "poly")[index % 4 // 2]}' for index in range(32)]
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'labels.csv').write_text('\n'.join(lines))
    monkeypatch.setattr(script, 'package_folder', lambda name: tmp_path)
    training, held_out = script.find_cells()
    assert len(training) == 24 and len(held_out) == 8 and sum(label for _, label in held_out) == 4
    assert sum(int(path.stem) % 4 // 2 for path, _ in held_out) == 4
    assert (training, held_out) == script.find_cells()


def test_a_gain_of_one_class_alone_is_told():
    script = load_script('experiments/score_attached')
    gains = {'CAM': (0.5, 0.2), 'mean map of CAM': (0.2, 0.2), 'random': (0.0, 0.0)}
    walk = dict(deletion=0.3, insertion=0.5, network='plain', seed=0)
    others = {
        name: gains['random'] for name in ('Grad-CAM at the last stage', 'mean map of Grad-CAM at the last stage')
    }
    rows = [
        dict(walk, map=name, image=image, predicted=image % 2, SRG=both[image % 2] + 0.001 * image)
        for name, both in (gains | others).items()
        for image in range(40)
    ]
    rows.append(dict(network='plain', seed=0, minutes=1.0, accuracy=0.9, auc=0.8))
    result = script.result_of(rows, 40, 1)
    table = result['tables'][0]
    found = {row[0]: dict(zip(table['columns'], row)) for row in table['rows']}
    assert str(found['CAM']['SRG, functional']).startswith('0.519 [') and found['random']['in words'] == ''
    assert found['CAM']['SRG above its mean map'].mean == pytest.approx(0.15)
    assert found['CAM']['in words'].startswith('above the mean map of its class for functional alone')
    assert [point['control'] for point in result['charts'][0]['points']] == [False, False, True, True, True]
    # deletion and insertion are equal: more SRG alone is not enough
    assert [claim['holds'] for claim in result['claims']] == [False, False]
    assert script.claim('', *[[row for row in rows if row.get('map') == n] for n in ('CAM', 'random')], ['SRG'])[
        'holds'
    ]
