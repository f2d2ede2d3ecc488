"""The command line, run in this process; photos for it, and the tables that it writes."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from timm_abn_cli import main

PREFIX = 'timm-abn: error: '


def write_photos(sizes):
    """Write colour noise: files by their names, of (width, height) pixels."""
    drawn = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(name)


def rows_of(path):
    """Return the rows of a table."""
    with Path(path).open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def refusal(capsys, *args):
    """Return why a command line is refused: one line, and nothing is printed besides."""
    capsys.readouterr()  # what was said before
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    said = without_warnings(captured.err)
    assert said.startswith(PREFIX) and said.count('\n') == 1 and captured.out == '', captured
    return said.removeprefix(PREFIX).strip()


def without_warnings(said):
    """Return standard error without the warning that weights alone do not say how images were prepared."""
    lines = said.splitlines(keepends=True)
    return ''.join(line for line in lines if 'does not record how images were prepared' not in line)
