"""Progress of long work: what is printed, with and without a terminal."""

import sys
import time

import pytest

from timm_abn import progress
from timm_abn.progress import Progress, every_minute


@pytest.fixture
def short_minutes(monkeypatch):
    monkeypatch.setattr(progress, 'MINUTE', 0.05)


def test_without_a_terminal_there_is_a_line_a_minute_whatever_an_item_takes(short_minutes, capsys):
    steps = Progress(['a', 'b'], 'evaluate', 'batch')
    found = []
    for item in steps:
        found.append(item)
        steps.note = f'loss {item}'
        time.sleep(0.28 * (item == 'b'))
    lines = capsys.readouterr().err.splitlines()
    assert found == ['a', 'b'] and set(lines) == {'evaluate: 1 of 2 batch, 0 min, loss b'} and 3 <= len(lines) <= 6
    time.sleep(0.1)
    assert not capsys.readouterr().err


def test_what_is_short_or_not_shown_says_nothing(short_minutes, capsys):
    for _ in Progress([1], 'explain', 'image', shown=False):
        time.sleep(0.1)
    assert list(Progress(range(3), 'explain', 'image')) == [0, 1, 2]
    with pytest.raises(KeyError), every_minute(lambda: print('never', file=sys.stderr)):
        raise KeyError
    assert capsys.readouterr().err == ''


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    for _ in Progress(range(3), 'explain', 'image'):
        pass
    written = capsys.readouterr().err
    assert '3/3' in written and '\r' in written
