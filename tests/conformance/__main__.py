"""Run timm's own model tests over our models: ``python -m tests.conformance [pytest options]``."""

import sys

import pytest

from .timm_sdist import SdistUnavailable, timm_tests

UNAVAILABLE = 69  # by the convention of sysexits.h


def main(options: list[str]) -> int:
    """Return pytest's exit code for options such as ``-k abn_resnet50``, or 69 if timm's tests cannot be had."""
    try:
        timm = timm_tests()
    except SdistUnavailable as error:
        print(f'conformance: {error}', file=sys.stderr)
        return UNAVAILABLE
    own = ['-p', f'{__package__}.plugin', '-c', str(timm / 'pyproject.toml'), '--import-mode', 'importlib']
    return pytest.main([*own, str(timm / 'tests' / 'test_models.py'), *options])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
