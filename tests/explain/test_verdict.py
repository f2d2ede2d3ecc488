"""Verdicts on made-up scores: each row of the table, and what is too little to be said."""

import pytest

from timm_abn.explain.statistics import Interval
from timm_abn.explain.verdict import FEWEST_IMAGES, RULES, Evidence, verdict

ABOVE, BELOW, NONE = Interval(0.06, 0.04, 0.08, 50), Interval(-0.06, -0.08, -0.04, 50), Interval(0.01, -0.01, 0.03, 50)
FEW, EMPTY = ABOVE._replace(number=FEWEST_IMAGES - 1), Interval(float('nan'), float('nan'), float('nan'), 0)
RIVAL = dict(rival='Grad-CAM')

# number of the rule, what is known beside the gain, the verdict
ROWS = [
    (0, FEW, {}, 'too few to say: 9 images with a map, 10 or more are needed'),
    (0, EMPTY, dict(above_mean_map=EMPTY), 'too few to say: 0 images with a map, 10 or more are needed'),
    (1, BELOW, {}, 'below random, SRG -0.06 [-0.08, -0.04]: it points away from what the prediction depends on'),
    (2, NONE, {}, 'not above random, SRG 0.01 [-0.01, 0.03]: it does not show what the prediction depends on'),
    (3, ABOVE, dict(above_mean_map=NONE, above_rival=ABOVE, **RIVAL), 'above random, not above the mean map of its '),
    (
        4,
        ABOVE,
        dict(above_mean_map=ABOVE, one_class='cat', above_rival=ABOVE, **RIVAL),
        'above the mean map of its class for cat alone, not for other classes',
    ),
    (5, ABOVE, dict(above_rival=ABOVE, **RIVAL), 'above random, more faithful than Grad-CAM by 0.06 [0.04, 0.08] SRG'),
    (
        5,
        ABOVE,
        dict(above_mean_map=ABOVE, above_rival=ABOVE, **RIVAL),
        'above the mean map of its class, more faithful',
    ),
    (6, ABOVE, dict(above_rival=BELOW, **RIVAL), 'above random, less faithful than Grad-CAM by 0.06 [0.04, 0.08] SRG'),
    (7, ABOVE, dict(above_rival=NONE, **RIVAL), 'above random, not told apart from Grad-CAM: 0.01 [-0.01, 0.03] SRG b'),
    (8, ABOVE, dict(above_mean_map=ABOVE), 'above the mean map of its class by 0.06 [0.04, 0.08] SRG: it is of this i'),
    (9, ABOVE, {}, 'above random, SRG 0.06 [0.04, 0.08]; not compared with the mean map of its class'),
    # too few of a comparison count as none
    (
        9,
        ABOVE,
        dict(above_mean_map=FEW, above_rival=EMPTY, one_class='cat', **RIVAL),
        'above random, SRG 0.06 [0.04, 0',
    ),
    (
        8,
        ABOVE,
        dict(above_mean_map=ABOVE, above_rival=FEW, **RIVAL),
        'above the mean map of its class by 0.06 [0.04, 0',
    ),
]


@pytest.mark.parametrize('number, gain, known, words', ROWS)
def test_rules_in_the_order_of_the_table(number, gain, known, words):
    evidence = Evidence(gain, **known)
    assert next(index for index, rule in enumerate(RULES) if rule.applies(evidence)) == number
    assert verdict(evidence).startswith(words) and '\n' not in verdict(evidence)


def test_every_rule_has_a_row():
    assert {row[0] for row in ROWS} == set(range(len(RULES)))


def test_maps_that_are_the_same_for_two_classes():
    alike, words = Interval(0.97, 0.95, 0.99, 50), '; it is the same for the two most probable classes'
    assert verdict(Evidence(ABOVE, classes_alike=alike)).endswith(words)
    others = (Interval(0.6, 0.5, 0.7, 50), alike._replace(number=3), None)
    assert not any(verdict(Evidence(ABOVE, classes_alike=other)).endswith(words) for other in others)
    assert 'same' not in verdict(Evidence(FEW, classes_alike=alike))
