"""Mixed precision on CPUs: left out by the launcher where it is slower than float32."""

import json

import pytest
import torch
import yaml

from timm_abn.training import precision
from timm_abn.training.precision import cpu_is_fast_in

SHOWS = """
import json, sys
config = sys.argv[sys.argv.index('--config') + 1] if '--config' in sys.argv else None
print(json.dumps([sys.argv[1:], open(config).read() if config else '']))
"""


@pytest.mark.parametrize(
    ('capabilities', 'bfloat16', 'float16'),
    [
        ({'avx2': True, 'avx512_bf16': False, 'amx_bf16': False}, False, False),
        ({'avx512_bf16': True}, True, False),
        ({'amx_bf16': True, 'amx_fp16': True}, True, True),
        ({'neon': True, 'bf16': True, 'fp16': False}, True, False),
    ],
)
def test_what_the_cpu_says(monkeypatch, capabilities, bfloat16, float16):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    assert cpu_is_fast_in(torch.bfloat16) == bfloat16 and cpu_is_fast_in(torch.float16) == float16


@pytest.mark.parametrize(('seconds', 'fast'), [((1.0, 2.0), True), ((2.0, 1.0), False)])
def test_a_cpu_that_says_nothing_is_timed(monkeypatch, seconds, fast):
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    times = dict(zip((torch.bfloat16, torch.float32), seconds))
    monkeypatch.setattr(precision, '_seconds_of_a_product', times.get)
    assert cpu_is_fast_in(torch.bfloat16) == fast


def test_a_product_is_timed_by_its_quickest_run():
    ticks = iter([0, 9, 10, 12, 20, 21, 30, 33, 40, 44])
    assert precision._seconds_of_a_product(torch.float32, clock=lambda: next(ticks)) == 1


@pytest.fixture
def shown(launch, tmp_path, capfd, monkeypatch):
    """Return what timm's script would be given, and what the launcher said."""
    for name in ('train.py', 'validate.py'):
        (tmp_path / name).write_text(SHOWS)

    def shown(*flags, script='train.py', slow=True):
        monkeypatch.setattr('timm_abn.training.command.cpu_is_fast_in', lambda dtype: not slow)
        assert launch(script, *flags, '--checkpoint', 'x', scripts=tmp_path) == 0
        out, err = capfd.readouterr()
        arguments, config = json.loads(out.splitlines()[-1])
        return arguments, yaml.safe_load(config) or {}, [line for line in err.splitlines() if '--amp' in line]

    return shown


def test_a_recipe_is_left_without_amp(shown):
    arguments, config, said = shown('--recipe', 'fashion_mnist')
    assert 'amp' not in config and config['channels_last'] and '--amp' not in arguments
    message = 'this CPU computes in bfloat16 slower than in float32: --amp is left out (--force-amp keeps it).'
    assert said == [f'timm-abn-train: {message}']
    _, config, said = shown('--recipe', 'fashion_mnist', '--force-amp')
    assert config['amp'] and config['amp_dtype'] == 'bfloat16' and not said
    _, config, said = shown('--recipe', 'fashion_mnist', slow=False)
    assert config['amp'] and not said
    _, config, said = shown('--recipe', 'fashion_mnist', '--device', 'cuda')
    assert config['amp'] and not said


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_a_flag_is_left_out(shown, script):
    flags = ['--model', 'test_resnet', '--amp', '--device', 'cpu']
    arguments, _, said = shown(*flags, script=script)
    assert '--amp' not in arguments and len(said) == 1 and 'float16 slower than in float32' in said[0]
    arguments, _, said = shown(*flags, '--force-amp', script=script)
    assert '--amp' in arguments and '--force-amp' not in arguments and not said


def test_what_the_command_line_says_goes_before_the_recipe(shown):
    arguments, config, _ = shown('--recipe', 'cifar100', '--model', 'abn_wrn28_4_cifar', '--lr', '0.3')
    assert config['model'] == 'abn_wrn28_4_cifar' and config['weight_decay'] == 5e-4
    assert 'by_model' not in config and arguments[arguments.index('--lr') + 1] == '0.3'
    arguments, config, _ = shown('--recipe', 'cifar10', '--model', 'abn_resnet20_cifar')
    assert config['model'] == arguments[-1] == 'abn_resnet20_cifar.untrained' and arguments[-2] == '--model'
