from timm_abn_cli.table import format_table


def test_format_table():
    table = format_table(('name', 'n'), [('a', '10'), ('bcdef', '7')], right=('n',))
    assert table == 'name    n\n-----  --\na      10\nbcdef   7'
