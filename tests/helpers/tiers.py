"""Which cases of a test run with ``make test``, with ``make test-all`` and, each night, with ``make test-nightly``."""

import pytest


def fast_and_slow(cases, fast, slow=None):
    """Return the cases of a parametrized test, marked by the tier that they belong to.

    Args:
        cases: Values of its parameter.
        fast: Those that run with ``make test``.
        slow: Those that run with ``make test-all``; the others are nightly. By default all others are slow.
    """
    cases, fast = list(cases), list(fast)
    slow = [case for case in cases if case not in fast] if slow is None else list(slow)
    assert all(case in cases for case in [*fast, *slow]), [*fast, *slow]

    def marked(case):
        values = case if isinstance(case, tuple) else (case,)
        return pytest.param(*values, marks=pytest.mark.slow if case in slow else pytest.mark.nightly)

    return [case if case in fast else marked(case) for case in cases]
