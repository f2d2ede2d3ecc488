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


def test_refined_maps_are_compared_in_each_predicted_class():
    script = load_script('experiments/score_attached')
    refined, control = script.REFINED, f'mean map of {script.REFINED}'
    # SRG of functional and of defective cells
    gains = {refined: (0.5, 0.2), control: (0.2, 0.2), **dict.fromkeys(script.OF_PLAIN, (0.4, 0.3)), 'random': (0, 0)}
    gains |= {f'mean map of {name}': (0.1, 0.1) for name in script.OF_PLAIN}
    walk = dict(deletion=0.3, insertion=0.5, seed=0)
    rows = [
        dict(walk, map=name, image=image, predicted=image % 2, SRG=both[image % 2] + 0.001 * image)
        for name, both in gains.items()
        for image in range(40)
    ]
    rows.append(dict(zip(script.NUMBERS, (1.0, 2.0, 0.9, 0.8)), seed=0))
    result = script.result_of(rows, 40, 1)
    table, paired, numbers = result['tables']
    found = {row[0]: dict(zip(table['columns'], row)) for row in table['rows']}
    assert found[refined]['SRG above its mean map'].mean == pytest.approx(0.15)
    assert found[refined]['in words'].startswith('above the mean map of its class for functional alone')
    differences = {tuple(row[:2]): round(row[2].mean, 9) for row in paired['rows']}
    for rival, expected in {control: (0.3, 0), **dict.fromkeys(script.OF_PLAIN, (0.1, -0.1))}.items():
        assert tuple(differences[rival, name] for name in script.CLASSES) == expected
    assert numbers['rows'] == [['1.000', '2.000', '0.900', '0.800']]
    # above its mean map alone
    assert [claim['holds'] for claim in result['claims']] == [False, False, False, True]
