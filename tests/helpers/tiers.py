"""Which cases of a test run with ``make test``; the others run with ``make test-all``."""

import pytest


def fast_and_slow(cases, fast):
    """Return the cases of a parametrized test, those that are not among the fast ones marked as slow.

    Args:
        cases: Values of its parameter.
        fast: Those that stay in the fast tests.
    """
    cases, fast = list(cases), list(fast)
    assert all(case in cases for case in fast), fast
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
