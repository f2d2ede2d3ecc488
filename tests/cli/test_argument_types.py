import argparse

import pytest
import torch
from timm.utils import ParseKwargs

from timm_abn_cli.argument_types import (
    KeyValues,
    device,
    existing,
    existing_file,
    existing_folder,
    output_file,
    positive,
    positive_number,
    seed,
    whole,
    zero_or_more,
)


@pytest.mark.parametrize(
    'read, text, value',
    [(positive, '1', 1), (whole, '0', 0), (positive_number, '2e-3', 0.002), (zero_or_more, '0', 0.0)],
)
def test_numbers(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize(
    'read, text, message',
    [
        (positive, '0', "must be a whole number of 1 or more, got '0'"),
        (whole, '-1', "must be a whole number of 0 or more, got '-1'"),
        (whole, '9' * 5000, 'must be a whole number of 0 or more'),
        (seed, str(2**32), "must be a whole number of 0 to 4294967295, got '4294967296'"),
        (whole, '\u00b2', 'must be a whole number of 0 or more'),
        (positive_number, '0.0', "must be above 0, got '0.0'"),
        (positive_number, 'nan', "must be a finite number of 0 or more, got 'nan'"),
        (zero_or_more, 'inf', 'must be a finite number'),
        (zero_or_more, '-1e-9', 'must be a finite number of 0 or more'),
        (zero_or_more, 'much', "must be a finite number of 0 or more, got 'much'"),
        (device, 'foo', "cannot compute on 'foo'"),
        (existing, 'none', 'there is no file or folder none'),
        (existing_file, '/', 'there is no file /'),
        (existing_folder, __file__, 'there is no folder '),
        (output_file, '/', '/ is a folder, not a file to write'),
    ],
)
def test_other_words(read, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        read(text)


def test_device():
    assert device('cpu') == torch.device('cpu')


@pytest.mark.parametrize(
    'words',
    [
        [],
        ['a=1', 'b=x', 'c=True', 'd=None', 'e=(1, 2)', "f='x'", 'g=', 'h=1=2', 'i=[1', 'j={"k": 1.5}', 'a=2', 'l=-3'],
        ['', 'name=convnext_tiny', 'é=ü', ' m = 1', 'n=1 + 1', 'o=b"x"'],
    ],
)
def test_key_values_are_read_as_timm_reads_them(words):
    read = []
    for action in (KeyValues, ParseKwargs):
        parser = argparse.ArgumentParser()
        parser.add_argument('--model-kwargs', nargs='*', default={}, action=action)
        read.append(parser.parse_args(['--model-kwargs', *words]).model_kwargs)
    assert read[0] == read[1]
