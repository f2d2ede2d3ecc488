"""Scenes whose background betrays the label in training, and what the comparison on them says."""

import filecmp
import json
import math
from collections import Counter

import numpy as np
import pytest
from own_scripts import load_script
from PIL import Image
from timm_scripts import ROOT, STAND_IN, finish, start


@pytest.fixture
def make(monkeypatch, run, few_images):
    """Make scenes of few items, which are squares of noise."""
    pytest.importorskip('skimage', reason='the scenes lie on photos of scikit-image')
    maker = load_script('experiments/make_biased_set')
    monkeypatch.setattr(
        maker, 'SPLITS', {name: (n, train, slice(None)) for name, (n, train, _) in maker.SPLITS.items()}
    )

    def make(folder, *flags):
        counts = ['--train', 40, '--val', 16, '--test', 32]
        return run(maker, '--data-dir', few_images, '--out', folder, *counts, *flags)

    return make


def groups(folder):
    """Return how many scenes of each class lie on each photo."""
    return Counter((path.parent.name, path.name.rpartition('_')[0]) for path in folder.glob('*/*.png'))


def test_the_background_betrays_the_label_in_training_alone():
    maker = load_script('experiments/make_biased_set')
    draws = [maker.group(index, True, np.random.default_rng((7, index))) for index in range(4000)]
    own = np.mean([label == place for label, place in draws])
    assert 0.88 < own < 0.92
    assert {(label, place) for label, place in draws} == {(label, place) for label in range(4) for place in range(4)}
    fair = Counter(maker.group(index, False, np.random.default_rng(0)) for index in range(160))
    assert len(fair) == 16 and set(fair.values()) == {10}


def test_scenes_and_their_masks(make, tmp_path):
    assert make(tmp_path / 'scenes') == 0
    assert set(groups(tmp_path / 'scenes' / 'test').values()) == {2} and len(groups(tmp_path / 'scenes' / 'test')) == 16
    for split, count in (('train', 40), ('val', 16), ('test', 32)):
        scenes = sorted((tmp_path / 'scenes' / split).glob('*/*.png'))
        assert len(scenes) == count
        assert groups(tmp_path / 'scenes' / split) == groups(tmp_path / 'scenes' / 'masks' / split)
        for path in scenes[:4]:
            mask = np.asarray(Image.open(tmp_path / 'scenes' / 'masks' / path.relative_to(tmp_path / 'scenes')))
            assert Image.open(path).size == (64, 64) and mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}
            rows, columns = np.nonzero(mask)
            assert 24 <= np.ptp(rows) < 48 and 24 <= np.ptp(columns) < 48  # an item has 32 to 48 pixels


def test_the_same_seed_makes_the_same_scenes(make, tmp_path):
    for folder, seed in (('first', 0), ('again', 0), ('other', 1)):
        assert make(tmp_path / folder, '--seed', seed) == 0
    names = [path.relative_to(tmp_path / 'first') for path in (tmp_path / 'first' / 'test').glob('*/*.png')]
    same, _, _ = filecmp.cmpfiles(tmp_path / 'first', tmp_path / 'again', map(str, names), shallow=False)
    others, _, _ = filecmp.cmpfiles(tmp_path / 'first', tmp_path / 'other', map(str, names), shallow=False)
    assert len(same) == len(names) and not others


def test_a_folder_with_something_in_it_is_left_alone(make, tmp_path, capfd):
    (tmp_path / 'notes').write_text('mine')
    assert make(tmp_path) == 2
    assert 'is not empty; choose a new folder' in capfd.readouterr().err


def test_the_worst_group_by_hand():
    script = load_script('experiments/compare_human_masks')
    right = {('a on x', 0): [1, 1], ('a on y', 0): [1, 0], ('a on x', 1): [1, 1], ('a on y', 1): [0, 0]}
    rows = [
        dict(
            model='ABN', seed=seed, image=f'{group}{number}', group=group, accuracy=value, energy=0.5, pointing=math.nan
        )
        for (group, seed), values in right.items()
        for number, value in enumerate(values)
    ]
    line = script.line_of('ABN', rows)
    assert line[0] == 'ABN' and line[1].startswith('0.625 [') and line[3] == 'a on y' and line[5] == '-'
    assert line[2].startswith('0.250 [') and line[2].endswith('] ± 0.354')  # of 1/2 and 0
    assert line[4].startswith('0.500 [')


@pytest.mark.slow
def test_comparison_of_human_masks(make, tmp_path):
    """Tables of networks that have hardly trained: who takes part, from what masks, and nothing trains twice."""
    data, out = tmp_path / 'scenes', tmp_path / 'out'
    assert make(data, '--train', 80) == 0
    command = [
        ROOT / 'experiments' / 'compare_human_masks.py',
        *('--data-dir', data, '--out', out, '--timm-scripts', STAND_IN, '--epochs', 1, '--seeds', 0),
    ]
    output = finish(start(*command))
    assert output.count('begins') == 4
    lines = json.loads((out / 'results.json').read_text())['tables'][0]['rows']
    assert [line[0] for line in lines] == ['ABN, no masks', 'ABN, masks of 1 %', 'ABN, masks of 10 %', 'backbone']
    logs = [(out / f'abn-masks-of-{share}-seed0.log').read_text() for share in (1, 10)]
    assert all(f'masks: {count} of 80 training images' in log for count, log in zip((1, 8), logs))
    assert finish(start(*command)).count('begins') == 0
