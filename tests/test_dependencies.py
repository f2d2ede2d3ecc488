"""The oldest versions that the workflow tests with are those that pyproject.toml allows."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_oldest_versions_are_the_lower_bounds():
    tomllib = pytest.importorskip('tomllib')  # of Python 3.11 and newer
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
    bounds = dict(requirement.split('>=') for requirement in project['dependencies'])
    pins = (ROOT / '.github' / 'oldest.txt').read_text(encoding='utf-8')
    pinned = dict(re.findall(r'^([\w-]+)==([\d.]+)(?:; python_version < "3.13")?$', pins, re.MULTILINE))
    assert {name: version.removesuffix('.0') for name, version in pinned.items()} == bounds
