"""Fingerprints: the same for the same, in any process, and others for whatever could change a map."""

import functools
import os
import random
import subprocess
import sys
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from tiny_models import tiny_backbone

from timm_abn.explain.evaluation.fingerprints import fingerprint
from timm_abn.explain.methods import create_explainer

SCALE = 1


class Scaled:
    known = frozenset({'a', 'b', 'c'})

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, images, targets):
        return images[:, :1] * self.scale


class Slotted:
    __slots__ = ('scale',)

    def __init__(self, scale):
        self.scale = scale


class Other(Scaled):
    def __call__(self, images, targets):
        return images[:, :1] + self.scale


def closure(value):
    return lambda images, targets: images * value


def default(images, targets, scale=1):
    return images * scale


def with_global():
    return SCALE


def known(seed=0):
    model = tiny_backbone('test_resnet').eval()
    return [
        closure(2),
        closure([1, {'a': torch.ones(2)}, {'b', 'c', 'd'}]),
        Scaled(2),
        Slotted(2),
        functools.partial(default, scale=2),
        Scaled(2).__call__,
        random.Random(seed).random,
        np.float64(2),
        np.arange(3),
        create_explainer('random', model, seed=seed),
        create_explainer('grad_cam', model),
        PurePosixPath('a'),
        torch.sum,
        model,
        closure(model),
    ]


def test_all_differ_and_are_known():
    found = list(map(fingerprint, known()))
    assert found == list(map(fingerprint, known())) and len(set(found)) == len(found) and None not in found


@pytest.mark.slow
def test_the_same_in_any_process():
    code = 'import test_fingerprints as t; print(*map(t.fingerprint, t.known()))'
    here = Path(__file__)
    places = os.pathsep.join(map(str, (here.parent, here.parents[2] / 'helpers', here.parents[3])))
    found = {
        subprocess.check_output([sys.executable, '-c', code], env=dict(PYTHONHASHSEED=seed, PYTHONPATH=places))
        for seed in '05'
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    ('first', 'second'),
    [
        (closure(2), closure(3)),
        (closure(torch.zeros(2)), closure(torch.ones(2))),
        (closure(Scaled(2)), closure(Scaled(3))),
        (closure(Scaled(2)), closure(Other(2))),
        (lambda images: images.mean(), lambda images: images.sum()),
        (lambda images: images[0], lambda images: images[1]),
        (default, functools.partial(default)),
        (functools.partial(default, scale=2), functools.partial(default, scale=3)),
        (Scaled(2).__call__, Scaled(3).__call__),
        (Slotted(2), Slotted(3)),
        (random.Random(0).random, random.Random(1).random),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(1, 2), torch.zeros(2, 1)),
        (torch.nn.ReLU(), torch.nn.GELU()),
        (torch.nn.Dropout(0.1), torch.nn.Dropout(0.1).eval()),
        ([1, 2], [12]),
    ],
)
def test_what_differs(first, second):
    found = fingerprint(first), fingerprint(second)
    assert None not in found and found[0] != found[1]


def test_globals_count(monkeypatch):
    before = fingerprint(with_global)
    monkeypatch.setattr(sys.modules[__name__], 'SCALE', 2)
    assert fingerprint(with_global) != before


@pytest.mark.parametrize('value', [closure(open(__file__)), closure(x for x in 'ab')])
def test_what_cannot_be_known(value):
    assert fingerprint(value) is None
