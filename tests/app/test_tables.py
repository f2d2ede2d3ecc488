"""What is said in HTML, of names that may hold anything."""

import torch

from timm_abn.app.curves import Curves
from timm_abn.app.tables import LINES, color_bar, curve_table, message, probability_table


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
    assert 'painted' in painted and 'painted' not in alone
    assert '>0.250<' in painted and '>0.500<' in painted and '>+0.250<' in painted


def test_the_colours_of_a_map_and_what_they_mean():
    bar = color_bar('viridis', ('0 or less', 'greatest'), 'class map of <b>')
    assert (
        'to right, rgb(68, 1, 84), ' in bar and bar.count('rgb(253, 231, 37))') == 1
    )  # Matplotlib's viridis(0), (255)
    assert '<span>0 or less</span><span>greatest</span>' in bar and 'class map of &lt;b&gt;' in bar
    bar = color_bar('coolwarm', ('against <i>', '0', 'for <i>'), '')
    assert 'rgb(59, 76, 192)' in bar and '<span>against &lt;i&gt;</span><span>0</span>' in bar


def test_the_scores_of_curves_are_their_legend():
    table = curve_table({'<i>': Curves([], [], [], 0.25, 0.75), 'grad_cam': Curves([], [], [], 0.5, 0.5)})
    first, second = table.split('</tr>')[1:3]
    assert '&lt;i&gt;' in first and first.index('>0.500<') < first.index(' 0.750<') < first.index(' 0.250<')
    assert [color in first for pair in LINES for color in pair] == [True, True, False, False]
    assert [color in second for pair in LINES for color in pair] == [False, False, True, True]
