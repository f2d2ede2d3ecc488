"""Names that command lines offer are those that there are."""

import subprocess
import sys

from timm_abn.explain.choices import METHODS
from timm_abn.explain.methods import EXPLAINERS


def test_methods_are_the_explainers():
    assert METHODS == tuple(EXPLAINERS)


def test_names_come_without_torch():
    code = (
        'import sys, timm_abn_console\n'
        'sys.argv = ["timm-abn", "--version"]\n'
        'try:\n'
        '    timm_abn_console.main()\n'
        'except SystemExit:\n'
        '    pass\n'
        'from timm_abn.explain.choices import METHODS\n'
        'assert not {"torch", "timm", "numpy"} & set(sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
