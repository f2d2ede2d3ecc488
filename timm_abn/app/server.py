"""The page behind an address: where it listens, what it keeps, and what it does not tell anybody."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import TimmAbnError
from .guard import Guard, allowed_names
from .models import OfferedModels
from .photos import MOST_BYTES

__all__ = ['running_page', 'serve_folder']

VISITORS = 100  # whose photos are kept, some 5 MB each; who comes when there are more takes the place of the oldest


@contextlib.contextmanager
def running_page(
    offered: OfferedModels,
    host: str | None,
    port: int | None = None,
    own_frame: bool = True,
    allowed_hosts: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the page until the block ends, and yield its address.

    All files of visitors lie in one temporary folder, which is removed at the end. gradio's telemetry and its history
    of runs are off.

    Args:
        offered: The models to choose from.
        host: Where to listen; None for what gradio's own environment variables say, as on the Hub.
        port: Where to listen; None for the first that is free from 7860 on.
        own_frame: Whether the page stands alone, and may therefore forbid browsers to ask other servers for anything.
            On the Hub it stands in the frame of another page, which it has to talk to.
        allowed_hosts: Names by which browsers may ask for the page, besides those of ``host``; see ``allowed_names``.

    Raises:
        TimmAbnError: gradio is not installed, the models cannot be offered, or the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix='timm-abn-app-') as folder, _environment(folder):
        build_page = _import_page()
        from starlette.middleware import Middleware

        from .layout import STYLE, theme

        page = build_page(offered)
        names = allowed_names(host or os.environ.get('GRADIO_SERVER_NAME', '127.0.0.1'), allowed_hosts)
        shown: dict[str, Any] = dict(theme=theme(), css=STYLE, footer_links=[], quiet=True)
        taken: dict[str, Any] = dict(max_file_size=MOST_BYTES, state_session_capacity=VISITORS)
        taken['app_kwargs'] = dict(middleware=[Middleware(Guard, names=names, policy=own_frame)])
        place: dict[str, Any] = dict(server_name=host, server_port=port, share=False, ssr_mode=False)
        try:
            _, address, _ = page.launch(prevent_thread_lock=True, **place, **shown, **taken)
        except OSError:
            raise TimmAbnError(f'port {port} of {host} is taken, or not to be had; choose another --port.') from None
        try:
            yield address.rstrip('/')
        finally:
            page.close(verbose=False)


def serve_folder(folder: Path) -> None:
    """Serve the model of a folder until the process ends: what ``app.py`` of a Space does."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what visitors left is removed
    with running_page(OfferedModels([f'local-dir:{folder.resolve()}']), host=None, own_frame=False) as address:
        print(f'The page is at {address}', flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    wanted = dict(
        GRADIO_TEMP_DIR=folder,
        GRADIO_EXAMPLES_CACHE=folder,
        GRADIO_ANALYTICS_ENABLED='False',
        GRADIO_RUN_HISTORY='False',
        GRADIO_MCP_SERVER='False',
    )
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _import_page() -> Any:
    try:
        from .page import build_page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split('.')[0] not in ('gradio', 'pandas'):
            raise
        raise TimmAbnError(f"the page needs {error.name}: pip install 'timm-abn[app]'.") from None
    return build_page
