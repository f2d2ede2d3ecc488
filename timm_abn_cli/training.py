"""The commands ``timm-abn-train`` and ``timm-abn-validate``, and ``train_wrappers/run.py``: timm's scripts for ABNs."""

import sys
from functools import partial

from .heap import keep_freed_memory
from .signals import ending_on_signals

__all__ = ['run', 'train', 'validate']


def run(name: str = '') -> int:
    """Run a script of timm, by default the one that the first argument names; returns the exit code."""
    keep_freed_memory()
    with ending_on_signals():
        from timm_abn.training import command

        return command.main(name, sys.argv[1:]) if name else command.run()


train, validate = partial(run, 'train.py'), partial(run, 'validate.py')
