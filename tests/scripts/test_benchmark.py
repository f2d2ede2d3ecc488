"""Tables of the benchmark, with tiny networks."""

import sys

import pytest
import timm
import torch
from own_scripts import load_script


@pytest.fixture
def script(monkeypatch):
    module = load_script('scripts/benchmark')
    for name, value in dict(SIDES=dict(cpu=16), BATCHES=dict(cpu=1), PLACES=2, SECONDS_OF_A_SAMPLE=0).items():
        monkeypatch.setattr(sys.modules['timing'], name, value)
    return module


@pytest.mark.parametrize(
    'section', ['explain', *(pytest.param(name, marks=pytest.mark.slow) for name in ('training', 'tasks'))]
)
def test_sections(script, monkeypatch, capsys, section):
    options = ['--model', 'abn_resnet20_cifar', '--tasks', '3', '--rounds', '1', '--batch-size', '2']
    monkeypatch.setattr('sys.argv', ['benchmark.py', section, *options])
    script.main()
    output = capsys.readouterr().out
    assert all(name in output for name in ('images/s', 'GMACs', 'of ceiling', 'ceiling: ', 'memory (MB)'))
    assert ('loop over the tasks' in output) == (section == 'tasks') and ('masked' in output) == (section == 'training')


def test_loop_and_chunks_agree(script):
    model = timm.create_model('abn', backbone='test_resnet', num_classes=3, multi_task=True).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(script.loop(model, images)(), script.in_chunks(2, model, images)())


def test_costs(script, monkeypatch, tmp_path):
    page = tmp_path / 'costs.md'
    page.write_text(f'before\n{script.START}\nold\n{script.END}\nafter\n')
    options = ['--backbones', 'test_resnet', '--rounds', '1', '--target', str(page)]
    monkeypatch.setattr('sys.argv', ['benchmark.py', 'costs', *options])
    script.main()
    text = page.read_text()
    assert text.startswith('before\n') and text.endswith('\nafter\n') and 'old' not in text
    (row,) = [line for line in text.splitlines() if line.startswith('| `test_resnet`')]
    assert len(row.split(' | ')) == 11 and row.count('x |') == 2


def test_unknown_section_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['benchmark.py', 'fast'])
    with pytest.raises(SystemExit):
        script.main()
    assert "there is no 'fast'; there are start, explain" in capsys.readouterr().err
