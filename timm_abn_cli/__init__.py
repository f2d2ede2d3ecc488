"""The ``timm-abn`` command. Every subcommand is a module here, with ``add_arguments(parser)`` and ``run(args)``.

It lies beside the library, since importing ``timm_abn``, or any module in it, imports torch and timm, which takes
seconds: parsing must take no longer than Python itself. Modules here import the library, and what needs it, inside
``run``, after whatever is wrong with the arguments alone; and they are imported when the process can end by signals.
"""

import argparse
import importlib
import os
import sys
import warnings
from typing import NoReturn

from .errors import CommandError, reason_of
from .heap import keep_freed_memory
from .printing import visible, visible_output
from .signals import ending_on_signals

__all__ = ['CommandError', 'create_parser', 'entry_point', 'main']

# command -> its module
COMMANDS = {
    **{name: name for name in ('app', 'attach', 'compare', 'convert', 'evaluate', 'explain', 'export')},
    'list': 'list_models',
    **{name: name for name in ('publish', 'tsne')},
}


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments like every other error."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f'{message}; see {self.prog} --help')


class _Version(argparse.Action):
    """Prints the version; to look it up takes as long as all parsing, so it is done on demand."""

    def __call__(self, *_: object, **__: object) -> NoReturn:
        from importlib.metadata import version

        print(f'timm-abn {version("timm-abn")}')
        sys.exit()


def entry_point() -> int:
    """Run the command line of the process."""
    keep_freed_memory()
    with ending_on_signals():
        return main()


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 2 for wrong input, else what the subcommand says."""
    with visible_output():
        try:
            args = create_parser().parse_args(argv)
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning  # type: ignore[assignment]
                code = args.run(args)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of the output, such as ``head``, has seen enough
            _print_no_more()
            return 0
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            message = reason_of(error)
            if message is None:
                raise
        print(f'timm-abn: error: {visible(message.rstrip("."))}', file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:  # what was printed before does not go anywhere either
            _print_no_more()
        return 2


def _show_warning(message: Warning | str, category: type[Warning], *where: object) -> None:
    if issubclass(category, UserWarning) and os.environ.get('RANK', '0') == '0':
        print(f'timm-abn: warning: {" ".join(str(message).split())}', file=sys.stderr)


def _print_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of all subcommands; ``run`` of what it parses is that of the chosen one."""
    parser = _Parser(prog='timm-abn', description='Attention Branch Networks for timm: models that explain themselves.')
    parser.add_argument('--version', action=_Version, nargs=0, help='show the version and exit')
    subparsers = parser.add_subparsers(dest='command', metavar='command', required=True)
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f'.{module_name}', __name__)
        summary, _, details = (module.__doc__ or '').partition('\n')
        layout = argparse.RawDescriptionHelpFormatter
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=details.strip(),
            formatter_class=layout,
            allow_abbrev=False,  # --model would be --model-kwargs where there is no --model
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    return parser
