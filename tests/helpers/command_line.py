"""The command line, run in this process."""

from timm_abn_cli import main

PREFIX = 'timm-abn: error: '


def refusal(capsys, *args):
    """Return why a command line is refused: one line, and nothing is printed besides."""
    capsys.readouterr()  # what was said before
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(PREFIX) and captured.err.count('\n') == 1 and captured.out == '', captured
    return captured.err.removeprefix(PREFIX).strip()
