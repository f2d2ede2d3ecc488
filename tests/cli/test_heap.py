"""Freed memory stays with the process: allocating it again faults no pages in."""

import ctypes
import subprocess
import sys

import pytest

from timm_abn_cli.heap import keep_freed_memory

FAULTS = """
import resource
size, faults = 2**26, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
b'x' * size
before = faults()
for _ in range(10):
    b'x' * size
print(faults() - before)
"""


def faults_of(first):
    done = subprocess.run([sys.executable, '-c', first + FAULTS], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'mallopt'), reason='not glibc')
def test_freed_memory_is_kept():
    kept = faults_of('from timm_abn_cli.heap import keep_freed_memory; keep_freed_memory()')
    assert kept < 1000 < faults_of('')


def test_where_there_is_no_mallopt_nothing_happens(monkeypatch):
    monkeypatch.setattr(ctypes, 'CDLL', lambda name: object())
    keep_freed_memory()
