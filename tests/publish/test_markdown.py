"""What others wrote, in Markdown."""

import pytest

from timm_abn.errors import TimmAbnError
from timm_abn.publish.markdown import plain, write_between


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('t-shirt/top, 猫', 't-shirt/top, 猫'),
        ('a | b\n\x1b[0m', r'a \| b \[0m'),
        ('<img src=x onerror="x">&', '&lt;img src=x onerror="x"&gt;&amp;'),
        ('![x](https://x.org)', r'!\[x\](https://x.org)'),
        ('`code`', r'\`code\`'),
        ('👩\u200d🔬\u202e', '👩\u200d🔬'),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


def test_what_stands_between_marks_is_replaced(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('end, begin: old end; end')
    write_between(page, 'begin', 'end', ': new ')
    assert page.read_text() == 'end, begin: new end; end'
    for text in ('end begin', 'end', 'begin', ''):
        page.write_text(text)
        with pytest.raises(TimmAbnError, match='page.md has no begin with a end behind it'):
            write_between(page, 'begin', 'end', 'new')
        assert page.read_text() == text
