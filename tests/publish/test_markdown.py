"""What others wrote, in Markdown."""

import pytest

from timm_abn.publish.markdown import plain


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
