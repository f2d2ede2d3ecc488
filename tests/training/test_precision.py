"""Mixed precision on CPUs: left out by the launcher where it is slower than float32."""

import pytest
import torch

from timm_abn.training import precision
from timm_abn.training.precision import cpu_is_fast_in

X86 = dict(avx2=False, avx512_bf16=False, avx512_fp16=False, amx_bf16=False, amx_fp16=False)


@pytest.mark.parametrize(
    ('capabilities', 'bfloat16', 'float16'),
    [
        (dict(X86, avx2=True), False, False),
        (dict(X86, avx512_bf16=True), True, False),
        (dict(X86, amx_bf16=True, amx_fp16=True), True, True),
        (dict(neon=True, bf16=True, fp16_arith=False), True, False),
        (dict(neon=True, bf16=False, fp16_arith=True), False, True),
    ],
)
def test_what_the_cpu_says(monkeypatch, capabilities, bfloat16, float16):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    monkeypatch.setattr(precision, '_seconds_of_a_product', None)  # nothing is timed
    assert cpu_is_fast_in(torch.bfloat16) == bfloat16 and cpu_is_fast_in(torch.float16) == float16


@pytest.mark.parametrize(('seconds', 'fast'), [((1.0, 2.0), True), ((2.0, 1.0), False)])
@pytest.mark.parametrize('said', [None, {}, dict(architecture='ppc64le', num_sockets=1)])
def test_a_cpu_that_does_not_say_is_timed(monkeypatch, said, seconds, fast):
    if said is None:  # as in older PyTorch
        monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    else:
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: said, raising=False)
    times = dict(zip((torch.bfloat16, torch.float32), seconds))
    monkeypatch.setattr(precision, '_seconds_of_a_product', times.get)
    assert cpu_is_fast_in(torch.bfloat16) == fast


def test_a_product_is_timed_by_its_quickest_run():
    ticks = iter([0, 9, 10, 12, 20, 21, 30, 33, 40, 44])
    assert precision._seconds_of_a_product(torch.float32, clock=lambda: next(ticks)) == 1


def test_a_recipe_is_left_without_amp(shown, monkeypatch):
    arguments, config, said = shown('--recipe', 'fashion_mnist')
    assert 'amp' not in config and config['channels_last'] and '--amp' not in arguments
    message = 'this CPU computes in bfloat16 slower than in float32: --amp is left out (--force-amp keeps it).'
    assert said == [f'timm-abn-train: {message}']
    _, config, said = shown('--recipe', 'fashion_mnist', '--force-amp')
    assert config['amp'] and config['amp_dtype'] == 'bfloat16' and not said
    _, config, said = shown('--recipe', 'fashion_mnist', slow=False)
    assert config['amp'] and not said
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    _, config, said = shown('--recipe', 'fashion_mnist', '--device', 'cuda')
    assert config['amp'] and not said


@pytest.mark.parametrize('script', ['train.py', 'validate.py'])
def test_a_flag_is_left_out(shown, script):
    flags = ['--model', 'test_resnet', '--amp', '--device', 'cpu']
    arguments, _, said = shown(*flags, script=script)
    assert '--amp' not in arguments and len(said) == 1 and 'float16 slower than in float32' in said[0]
    arguments, _, said = shown(*flags, '--force-amp', script=script)
    assert '--amp' in arguments and '--force-amp' not in arguments and not said
