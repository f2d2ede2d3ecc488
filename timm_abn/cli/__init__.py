"""The ``timm-abn`` command. Every subcommand is a module here, with ``add_arguments(parser)`` and ``run(args)``.

Wrong arguments that can be found without the models are reported by ``check(args)``, where a subcommand has one.
Parsing must take no longer than Python itself: modules here import torch, timm, and what needs them, inside ``run``.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from ..errors import TimmAbnError
from ..version import __version__
from . import app, attach, compare, convert, edit, evaluate, explain, export, list_models, publish, tsne
from .errors import CommandError

__all__ = ['CommandError', 'main']

COMMANDS = {
    'app': app,
    'attach': attach,
    'compare': compare,
    'convert': convert,
    'edit': edit,
    'evaluate': evaluate,
    'explain': explain,
    'export': export,
    'list': list_models,
    'publish': publish,
    'tsne': tsne,
}
WITHOUT_MODELS = ('export', 'list')  # export works in another process


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments like every other error."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f'{message}; see {self.prog} --help')


def main(argv: list[str] | None = None, load_package: Callable[[], object] = lambda: None) -> int:
    """Run the command line and return its exit code: 2 for wrong input, else what the subcommand says.

    Args:
        argv: Arguments without the name of the program; those of the process by default.
        load_package: Imports the models, if that has been put off; called before a subcommand that needs them.
    """
    try:
        args = create_parser().parse_args(argv)
        args.check(args)
        if args.command not in WITHOUT_MODELS:
            load_package()
        return args.run(args)
    except TimmAbnError as error:
        return _fail(str(error).rstrip('.'))
    except BrokenPipeError:  # the reader of the output, such as ``head``, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(f'{error.filename}: {error.strerror}' if error.filename else str(error))
    except KeyboardInterrupt:
        return 130


def _fail(message: str) -> int:
    print(f'timm-abn: error: {message}', file=sys.stderr)
    return 2


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; what it parses has functions ``check`` and ``run`` of the chosen one."""
    parser = _Parser(prog='timm-abn', description='Attention Branch Networks for timm: models that explain themselves.')
    parser.add_argument('--version', action='version', version=f'timm-abn {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='command', required=True)
    for name, module in COMMANDS.items():
        summary, _, details = (module.__doc__ or '').partition('\n')
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=details.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(check=getattr(module, 'check', lambda args: None), run=module.run)
    return parser
