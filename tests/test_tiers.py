"""Each test is of one tier: those of ``make test`` have no mark, the others one."""

import pytest
from tiers import fast_and_slow


@pytest.mark.parametrize(
    'slow, expected', [(None, [None, 'slow', 'slow']), ('b', [None, 'slow', 'nightly']), ('', [None] + 2 * ['nightly'])]
)
def test_cases_are_marked(slow, expected):
    cases = fast_and_slow('abc', 'a', slow)
    marks = [None if case == 'a' else case.marks[0].name for case in cases]
    assert marks == expected


def test_a_case_that_is_none_of_the_cases_is_caught():
    with pytest.raises(AssertionError, match='d'):
        fast_and_slow('abc', 'a', 'd')
