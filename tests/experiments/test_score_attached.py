"""The scores of the script that compares attached networks, against pairs and lists counted by hand."""

import pytest
import torch
from own_scripts import load_script


def test_scores_of_two_classes():
    script = load_script('experiments/score_attached')
    scores, labels = torch.tensor([0.9, 0.8, 0.8, 0.1]), torch.tensor([1, 0, 1, 0])
    # of the four pairs three are in order, and one is a tie
    assert script.area_under_roc(scores, labels) == pytest.approx(3.5 / 4)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.1])
    assert script.average_precision(scores, labels) == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_the_split_is_of_each_class_and_kind_and_always_the_same(tmp_path, monkeypatch):
    script = load_script('experiments/score_attached')
    lines = [f'images/{index}.png {(0.0, 1.0)[index % 2]} {("mono", "poly")[index % 4 // 2]}' for index in range(32)]
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'labels.csv').write_text('\n'.join(lines))
    monkeypatch.setattr(script, 'package_folder', lambda name: tmp_path)
    training, held_out = script.find_cells(0)
    assert len(training) == 24 and len(held_out) == 8 and sum(label for _, label in held_out) == 4
    assert sum(int(path.stem) % 4 // 2 for path, _ in held_out) == 4
    assert (training, held_out) == script.find_cells(0)


def test_differences_are_of_the_same_photo_and_seed():
    script = load_script('experiments/score_attached')
    rows = [
        dict(seed=seed, network=network, map=name, image=image, deletion=deletion, insertion=0.5)
        for seed, network, name, deletions in (
            (0, 'plain', 'Grad-CAM at the cut', [0.1, 0.5]),
            (0, 'attached', 'attention', [0.0, 0.4]),
            (1, 'plain', 'Grad-CAM at the cut', [0.9, 0.3]),
            (1, 'attached', 'attention', [0.8, 0.2]),
            (2, 'plain', 'Grad-CAM at the cut', [0.0, 0.0]),  # no attached one yet
        )
        for image, deletion in enumerate(deletions)
    ]
    rows.append(dict(seed=0, network='plain', map='Grad-CAM at the cut', accuracy=0.9))
    _, (at_cut, at_last) = script.differences(rows)
    assert at_cut == ['Grad-CAM at the cut', '-0.100 [-0.100, -0.100]', '0.000 [0.000, 0.000]']
    assert at_last == ['Grad-CAM at the last stage', '', '']
