"""What a run takes, against what is counted by hand; rounds, medians, ratios and the ceiling."""

import pytest
import timm
import torch
import torch.nn as nn
from own_scripts import load_script
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device('cpu')


@pytest.fixture
def script(monkeypatch):
    module = load_script('scripts/timing')
    for name, value in dict(SIDES=dict(cpu=16), BATCHES=dict(cpu=1), PLACES=2, SECONDS_OF_A_SAMPLE=0).items():
        monkeypatch.setattr(module, name, value)
    return module


def predict(model, images):
    return lambda: model(images)


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
    assert script.count_macs(Tiny(), images, predict) == 2 * (CONV + FC)
    # backward: the products with the weights of each layer, and with its input where that has a gradient
    training = lambda model, images: lambda: model(images).sum().backward()  # noqa: E731
    assert script.count_macs(Tiny(), images, training) == 2 * (2 * CONV + 3 * FC)


def test_attention_is_counted(script):
    model = timm.create_model('test_vit', img_size=32, num_classes=0, depth=1).eval()
    block, tokens, width = model.blocks[0], 2 * 2 + 1, model.embed_dim
    projections = tokens * (3 * width + width) * width + 2 * tokens * width * block.mlp.fc1.out_features
    attention = 2 * tokens * tokens * width
    patches = 2 * 2 * 3 * 16 * 16 * width
    found = script.count_macs(model, torch.randn(1, 3, 32, 32), predict)
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
    # the second round of a machine that was twice as slow, but for its ceiling
    slow, fast = (
        script.Case(name, None, 2, num_macs, 2**20, seconds, [100.0, 200.0, 100.0])
        for name, num_macs, seconds in (('abn', 60, [2, 4, 2]), ('plain', 40, [1, 2, 1]))
    )
    assert slow.rates == [60, 30, 60] and slow.share_of_ceiling == pytest.approx(60 / 100)
    assert slow.time_beside(fast) == 2
    assert slow.time_beside(fast, per_mac=True) == pytest.approx(2 * 40 / 60)


def test_every_case_runs_once_a_round_which_begins_elsewhere(script):
    order = []
    cases = [script.Case(name, lambda name=name: order.append(name), 1, 1, 1) for name in 'abc']
    script.measure(cases, CPU, rounds=3)
    assert ''.join(order[6:]) == 'abc' + 'bca' + 'cab'  # the first prepare, and tell how often to repeat
    assert all(len(case.seconds) == len(case.ceilings) == 3 for case in cases)


def test_ceiling_is_the_best_of_the_round(script, monkeypatch):
    seconds = iter([1, 1, 1] + [1, 4, 2] + [1, 2, 8])  # of the case, and of two that do 8 and 12 multiply-accumulates
    monkeypatch.setattr(script, 'timed', lambda *_: next(seconds))
    machine = [script.Case(name, lambda: None, 1, macs, 0) for name, macs in (('product', 8), ('convolution', 12))]
    monkeypatch.setattr(script, 'machine_cases', lambda *_: machine)
    case = script.Case('case', lambda: None, 1, 3, 0)
    best = script.measure([case], CPU, rounds=2)
    assert case.ceilings == [6, 4] and case.share_of_ceiling == (3 / 6 + 3 / 4) / 2
    assert best.name == 'convolution'  # 6 and 1.5 against 2 and 4: medians of 3.75 and 3


def test_arithmetic_of_the_ceiling_is_counted(script):
    for case in script.machine_cases(CPU, torch.float32):
        with FlopCounterMode(display=False) as counter:
            case.run()
        assert counter.get_total_flops() // 2 == case.num_macs * case.images, case.name


def test_what_waits_is_seen(script):
    x = torch.arange(3)
    for run, name in (
        (lambda: x[0].item(), 'aten::item'),
        (lambda: bool((x > 1).all()), 'aten::is_nonzero'),
        (lambda: x[x > 1], 'aten::nonzero'),
        (lambda: torch.equal(x, x), 'aten::equal'),
    ):
        assert name in script.waits(run, CPU)
