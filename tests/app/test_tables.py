"""What is said in HTML, of names that may hold anything."""

import torch

from timm_abn.app.tables import message, probability_table


def test_messages():
    assert message('') == ''
    assert message('<b>.jpg is no image', is_problem=True) == (
        '<p class="message problem" role="status">&lt;b&gt;.jpg is no image</p>'
    )


def test_probabilities_before_and_after():
    names, before = ['ant', '<i>', 'bee'], torch.tensor([0.25, 0.5, 0.25])
    alone = probability_table(names, [1, 0], before)
    assert '<i>.' not in alone and '&lt;i&gt;' in alone and 'bee' not in alone
    assert alone.index('&lt;i&gt;') < alone.index('ant') and 'width:50.0%' in alone and '+' not in alone
    painted = probability_table(names, [0], before, torch.tensor([0.5, 0.25, 0.25]))
    assert '>0.250<' in painted and '>0.500<' in painted and '>+0.250<' in painted
