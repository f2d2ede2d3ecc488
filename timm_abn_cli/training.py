"""The commands ``timm-abn-train`` and ``timm-abn-validate``, and ``train_wrappers/run.py``: timm's scripts for ABNs."""

import sys

from .signals import ending_on_signals

__all__ = ['run', 'train', 'validate']


def train() -> int:
    """Run timm's ``train.py``; returns the exit code."""
    return _run('train.py')


def validate() -> int:
    """Run timm's ``validate.py``; returns the exit code."""
    return _run('validate.py')


def run() -> int:
    """Run the script of timm that the first argument names; returns the exit code."""
    return _run()


def _run(name: str = '') -> int:
    with ending_on_signals():
        from timm_abn.training.command import main, run

        return main(name, sys.argv[1:]) if name else run()
