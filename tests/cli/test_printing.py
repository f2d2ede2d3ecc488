"""What is printed: visible, in any encoding, and one line of what went wrong."""

import io
import sys

import pytest
from command_line import refusal

from timm_abn_cli import list_models, main
from timm_abn_cli.printing import visible, visible_output
from timm_abn_cli.table import format_table, write_csv

HOSTILE = 'a\x1b[31m\x9b1m\u202eb\udce9\x00'
SHOWN = r'a\x1b[31m\x9b1m\u202eb\udce9\x00'


@pytest.mark.parametrize('text', ['plain', 'größer', '猫', '👩\u200d🔬', 'نمی\u200cخواهم'])
def test_what_prints_stays(text):
    assert visible(text) == text


def test_what_a_terminal_obeys_is_shown(capsys):
    assert visible(HOSTILE + '\n') == SHOWN + r'\n'
    with visible_output():
        print(HOSTILE, end='\r\n')
        print(HOSTILE, file=sys.stderr)
    assert capsys.readouterr() == (SHOWN + '\r\n', SHOWN + '\n')
    assert format_table(['class'], [[HOSTILE + '\n']]).splitlines()[2] == SHOWN + r'\n'
    assert SHOWN[:-4] + r'\r\n' in refusal(capsys, 'explain', HOSTILE[:-1] + '\r\n', '--model', 'x')


def test_any_encoding_will_do(monkeypatch, tmp_path):
    stream = io.TextIOWrapper(io.BytesIO(), 'ascii')
    monkeypatch.setattr(sys, 'stdout', stream)
    with visible_output():
        print('größer 猫 ↓↑')
    stream.flush()
    assert stream.buffer.getvalue() == rb'gr\xf6\xdfer \u732b v^' + b'\n'
    write_csv(tmp_path / 'a.csv', ['image'], [dict(image='größer\udce9')])
    assert (tmp_path / 'a.csv').read_text(encoding='utf-8').splitlines() == ['image', r'größer\udce9']


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (MemoryError(), 'out of memory; try smaller batches or images'),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            'out of memory; try smaller',
        ),
        (RuntimeError('could not create a primitive'), 'out of memory; try smaller'),
        (OSError(28, 'No space left on device', 'out'), 'out: No space left on device'),
        (OSError(28, 'No space left on device'), 'No space left on device'),
    ],
)
def test_what_the_machine_lacks_is_one_line(capsys, monkeypatch, error, said):
    def fail(args):
        raise error

    monkeypatch.setattr(list_models, 'run', fail)
    assert refusal(capsys, 'list').startswith(said)
    error = RuntimeError('a mistake of ours')
    with pytest.raises(RuntimeError, match='ours'):
        main(['list'])


def test_an_output_that_is_full_is_one_line(monkeypatch, capsys):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr(sys, 'stdout', full)
        assert main(['list']) == 2
        assert capsys.readouterr().err == 'timm-abn: error: No space left on device\n'
