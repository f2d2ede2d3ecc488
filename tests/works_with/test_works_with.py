"""Every cell of the matrix is what it is declared to be, and the page of the docs says the same."""

import pytest

from tests.works_with.__main__ import PAGE
from tests.works_with.matrix import EXCEPTIONS, NOT_OF_BACKBONE, TOOLS, WORKS, error_of, make_page, outcome_of
from tests.works_with.subjects import BACKBONES, Subject, why_not_split


def marks_of(tool, column):
    return [] if column in tool.fast else pytest.mark.slow if column in tool.slow else pytest.mark.nightly


@pytest.mark.parametrize(
    'tool, column',
    [
        pytest.param(tool, column, id=f'{tool.title}-{column}', marks=marks_of(tool, column))
        for tool in TOOLS
        for column in BACKBONES
    ],
)
def test_cell(tool, column, tmp_path):
    refusal = why_not_split(column)
    if refusal:
        pytest.skip(refusal)
    outcome, _ = outcome_of(tool, column)
    error = error_of(tool, Subject(column), tmp_path)
    if outcome == WORKS:
        if error:
            raise error
    else:
        assert error, 'works now: take the exception away'
        of_backbone = error_of(tool, Subject(column, is_bare=True), tmp_path)
        assert (of_backbone is not None) == (outcome == NOT_OF_BACKBONE), of_backbone


def test_exceptions_are_of_the_matrix():
    assert {title for title, _ in EXCEPTIONS} <= {tool.title for tool in TOOLS}
    assert {column for _, column in EXCEPTIONS} <= set(BACKBONES)
    assert all({*tool.fast, *tool.slow} <= set(BACKBONES) for tool in TOOLS)


def test_page_is_up_to_date():
    assert PAGE.read_text(encoding='utf-8') == make_page(), 'run make works-with'
