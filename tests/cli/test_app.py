"""timm-abn app: what is refused before anything listens; the page itself is tested in tests/app."""

import sys

import pytest

from timm_abn_cli import main


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (
            ['--checkpoint', 'x.pth'],
            '--num-classes, --label-names and --model-kwargs are of one model; --model names 0',
        ),
        (['--model', 'abn_resnet18', 'abn_resnet34', '--num-classes', '3'], 'are of one model; --model names 2'),
        (['--port', '70000'], 'argument --port: ports are 1 to 65535, got 70000'),
        (['--port', 'http'], 'argument --port: must be a whole number of 1 or more'),
        (['--device', 'warp'], "argument --device: cannot compute on 'warp'"),
    ],
)
def test_what_is_refused(capsys, args, message):
    assert main(['app', *args]) == 2
    captured = capsys.readouterr()
    assert captured.err.count('\n') == 1 and message in captured.err and captured.out == ''


def test_without_gradio(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    for name in ('page', 'layout'):
        monkeypatch.delitem(sys.modules, f'timm_abn.app.{name}', raising=False)
    assert main(['app']) == 2
    assert "the page needs gradio: pip install 'timm-abn[app]'" in capsys.readouterr().err
