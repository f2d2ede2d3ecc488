"""Names of modes, and what devices have no fast path for."""

import pytest
import torch

from timm_abn.benchmark.modes import BenchmarkError, Mode, parse_mode, why_not


@pytest.mark.parametrize(
    'name, mode',
    [
        ('eager', Mode()),
        ('channels_last', Mode('channels_last', channels_last=True)),
        ('bf16+compile', Mode('bf16+compile', precision='bfloat16', compiler='default')),
        ('tf32+max_autotune', Mode('tf32+max_autotune', precision='tf32', compiler='max-autotune')),
    ],
)
def test_names(name, mode):
    assert parse_mode(name) == mode


@pytest.mark.parametrize(
    'name, message',
    [
        ('fast', "no mode is called 'fast'; there are eager, channels_last, "),
        ('channel_last', 'did you mean channels_last'),
        ('eager+bf16', "no mode is called 'eager'"),
        ('bf16+tf32', 'bf16 and tf32 exclude each other'),
        ('', "no mode is called ''"),
    ],
)
def test_what_is_no_mode(name, message):
    with pytest.raises(BenchmarkError, match=message.replace('+', r'\+')):
        parse_mode(name)


def test_what_a_cpu_has_no_fast_path_for(monkeypatch):
    cpu = torch.device('cpu')
    for is_fast in (True, False):
        monkeypatch.setattr('timm_abn.training.precision.cpu_is_fast_in', lambda dtype, is_fast=is_fast: is_fast)
        assert bool(why_not(parse_mode('channels_last+bf16'), cpu)) != is_fast
    assert why_not(parse_mode('tf32'), cpu).startswith('TF32 takes a GPU')
    assert not why_not(parse_mode('channels_last+compile'), cpu)
