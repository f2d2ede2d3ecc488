"""What a run takes, against what is counted by hand; rounds, medians and ratios."""

import pytest
import timm
import torch
import torch.nn as nn
from own_scripts import load_script

CPU = torch.device('cpu')


@pytest.fixture
def script(monkeypatch):
    module = load_script('scripts/benchmark')
    monkeypatch.setattr(module, 'SIDES', dict(cpu=16))
    monkeypatch.setattr(module, 'SECONDS_OF_A_SAMPLE', 0)
    return module


class Tiny(nn.Module):
    """A strided convolution and a linear layer, whose work can be written down."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


CONV, FC = 4 * 4 * 4 * 3 * 3 * 3, 4 * 5  # places x out x in x kernel; in x out


def test_macs_are_those_counted_by_hand(script):
    images = torch.randn(2, 3, 8, 8)
    assert script.count_macs(Tiny(), images, script.predict) == 2 * (CONV + FC)
    # backward: the products with the weights of each layer, and with its input where that has a gradient
    cross_entropy = lambda loss: loss  # noqa: E731
    steps = lambda model, images: script.step(cross_entropy, model, images)  # noqa: E731
    assert script.count_macs(Tiny(), images, steps) == 2 * (2 * CONV + 3 * FC)


def test_attention_is_counted(script):
    model = timm.create_model('test_vit', img_size=32, num_classes=0, depth=1).eval()
    block, tokens, width = model.blocks[0], 2 * 2 + 1, model.embed_dim
    projections = tokens * (3 * width + width) * width + 2 * tokens * width * block.mlp.fc1.out_features
    attention = 2 * tokens * tokens * width
    patches = 2 * 2 * 3 * 16 * 16 * width
    found = script.count_macs(model, torch.randn(1, 3, 32, 32), script.predict)
    assert found == patches + projections + attention


def test_peak_is_what_is_there_at_once(script, capfd):
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(3000, dtype=torch.uint8)
        del first, second
        torch.empty(2000, dtype=torch.uint8)

    assert 4000 <= script.peak_memory(run, CPU) < 4500
    assert capfd.readouterr() == ('', '')


def test_figures_are_medians_of_what_a_round_holds(script):
    # the second round of a machine that was twice as slow, but for the matrix product
    slow, fast = (
        script.Case(name, None, 2, num_macs, 2**20, seconds, [100.0, 200.0, 100.0])
        for name, num_macs, seconds in (('abn', 60, [2, 4, 2]), ('plain', 40, [1, 2, 1]))
    )
    assert slow.share_of_product == pytest.approx(60 * 2 / 2 / 100)
    assert slow.time_beside(fast) == 2
    assert slow.time_beside(fast, per_mac=True) == pytest.approx(2 * 40 / 60)


def test_every_case_runs_once_a_round_which_begins_elsewhere(script):
    order = []
    cases = [script.Case(name, lambda name=name: order.append(name), 1, 1, 1) for name in 'abc']
    script.measure(cases, CPU, rounds=3)
    assert ''.join(order[6:]) == 'abc' + 'bca' + 'cab'  # the first prepare, and tell how often to repeat
    assert all(len(case.seconds) == len(case.rates) == 3 for case in cases)


@pytest.mark.parametrize(
    'section', ['explain', *(pytest.param(name, marks=pytest.mark.slow) for name in ('training', 'tasks'))]
)
def test_sections(script, monkeypatch, capsys, section):
    options = ['--model', 'abn_resnet20_cifar', '--tasks', '3', '--rounds', '1', '--batch-size', '2']
    monkeypatch.setattr('sys.argv', ['benchmark.py', section, *options])
    script.main()
    output = capsys.readouterr().out
    assert all(name in output for name in ('images/s', 'GMACs', 'of product', 'memory (MB)'))
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
