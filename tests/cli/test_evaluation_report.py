"""Reports: tables that say what was found, and the picture of the curves."""

import pytest
import torch
from PIL import Image

from timm_abn.explain.evaluation import Evaluation
from timm_abn.explain.evaluation.results import METRICS
from timm_abn.explain.statistics import Interval
from timm_abn_cli.evaluation_report import draw_curves, report

NAMES = ['ant', 'bee', 'cat']


def make_evaluation(**kwargs):
    rows = [
        dict(image=f'{index}', method=method, mean_map_of_all=index > 2, **dict.fromkeys(METRICS, 0.5))
        for method in ('attention', 'centre')
        for index in range(4)
    ]
    score = Interval(0.25, 0.125, 0.5, 4)
    scores = dict.fromkeys(METRICS, score) | dict(insertion=Interval(0.5, 0.4, 0.6, 4))
    gains = {name: score for name in METRICS[:2]}
    fields = dict(
        rows=rows,
        scores=dict(attention=scores, centre=scores),
        differences=dict(centre=dict(deletion=Interval(-0.01, -0.02, 0.03, 4), insertion=score)),
        accuracy=Interval(0.75, 0.5, 1.0, 4),
        position_bias=dict(attention=0.18, centre=float('nan')),
        by_class=dict(attention={1: gains, -1: gains}, centre={1: gains}),
        verdicts=dict(attention='too few to say'),
        settings=dict(layers=dict(attention='layer3', centre='')),
        **dict(targets={}, reliance={}, findings=[], problems={}, classes_without_examples=[]),
        curves={name: torch.linspace(1, 0, 9).expand(2, 3, 9) for name in ('attention', 'centre')},
    )
    return Evaluation(**{**fields, **kwargs})


def test_scores_and_differences():
    lines = report(make_evaluation(), NAMES).splitlines()
    assert lines[0] == 'Scores: mean and 95 % interval over 4 images, accuracy 0.750 [0.500, 1.000] on 4 with a label'
    assert lines[1].split('  ')[0] == 'method' and 'deletion ↓' in lines[1] and 'above the mean map ↑' in lines[1]
    quarter = '0.250 [0.125, 0.500]'
    assert lines[3].split() == f'attention layer3 {quarter} {quarter} {quarter} 0.500 [0.400, 0.600]'.split()
    assert lines[5].startswith('For 1 of 4 the mean map is over all other images')
    assert lines[10].split()[-1] == '0.18' and lines[11].split()[-1] == '-'
    assert lines[13].startswith('Paired differences to attention')
    assert lines[16].split() == 'centre -0.010 [-0.020, 0.030] 0.250 [0.125, 0.500]'.split()
    assert lines[-1] == 'attention: too few to say'


def test_of_how_many_the_accuracy_is():
    accuracy, uneven = Interval(0.5, 0.25, 1.0, 2), dict(balanced_accuracy=0.5, area_under_roc=0.75)
    text = report(make_evaluation(accuracy=accuracy, uneven=uneven), NAMES)
    assert text.startswith(
        'Scores: mean and 95 % interval over 4 images, accuracy 0.500 [0.250, 1.000] on 2 with a label\n'
    )
    assert 'Classes are uneven: balanced accuracy 0.500, area under ROC 0.750\n' in text
    unlabelled = report(make_evaluation(accuracy=Interval(float('nan'), float('nan'), float('nan'), 0)), NAMES)
    assert unlabelled.startswith('Scores: mean and 95 % interval over 4 images, none with a label\n')


def test_reliance_and_what_was_wrong():
    effect = Interval(0.02, 0.01, 0.03, 4)
    evaluation = make_evaluation(
        reliance=dict(mean=dict(effect=effect, probability_change=effect, changed_predictions=effect)),
        findings=['The prediction ignores the attention map.'],
        problems={'flat map': 2},
        classes_without_examples=[1, 2],
    )
    text = report(evaluation, NAMES)
    assert 'its own mean, everywhere' in text and 'accuracy changes by' not in text
    *_, finding, problem, missing, _, _ = text.splitlines()
    assert (finding, problem) == ('The prediction ignores the attention map.', '2 x flat map')
    assert missing == '2 of 3 classes without examples: bee, cat'


def test_each_task():
    scores = dict(deletion=Interval(0.25, 0.125, 0.5, 3), insertion=Interval(0.5, 0.4, 0.6, 3))
    text = report(make_evaluation(targets=dict(attention={2: scores}, centre={2: scores})), NAMES)
    rows = [line.split()[:3] for line in text.splitlines() if line.startswith('cat')]
    assert rows == [['cat', 'attention', '3'], ['cat', 'centre', '3']]
    lines = report(make_evaluation(), NAMES, by_class=True).splitlines()
    own = [line.split('  ')[0] for line in lines[lines.index('Each predicted class') + 3 :][:4]]
    assert own == ['bee', 'bee', 'all with fewer than 10 images', 'all with fewer than 10 images']


def test_curves(tmp_path):
    pytest.importorskip('matplotlib')
    draw_curves(tmp_path / 'curves.png', make_evaluation())
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.width > image.height > 400
        assert len(image.convert('RGB').getcolors(1 << 24)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ['curves.png']
