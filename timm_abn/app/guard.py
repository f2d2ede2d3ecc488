"""What a page answers at all: requests for its own name, from its own pages, of a bounded size."""

import ipaddress
import os
import re
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .photos import MOST_BYTES

__all__ = ['Guard', 'allowed_names', 'is_allowed_host', 'is_own_origin']

# browsers ask nobody but this server, whatever the libraries of the page would like to load
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
# of a body; gradio itself refuses the file in it that is too large, and removes what has come
_MOST_BYTES = dict(upload=MOST_BYTES + 2**20, other=2**22)
_LOCAL = ('localhost', '127.0.0.1', '::1')


def allowed_names(host: str, more: Sequence[str] = ()) -> frozenset[str]:
    """Return the names by which a page may be asked for that listens on ``host``; '*' stands for any IP address.

    A page of a stranger that lets its own name lead to this machine asks for that name: it gets nothing. Addresses are
    no names. ``more`` is added, and on the Hub the name of the Space.
    """
    names = {*_LOCAL, host, *more, *os.environ.get('SPACE_HOST', '').split(',')}
    if space := os.environ.get('SPACE_ID'):
        names.add(f'{re.sub("[^a-zA-Z0-9]+", "-", space)}.hf.space')
    if host not in _LOCAL:
        names |= {'*', socket.gethostname(), socket.getfqdn()}
    return frozenset(name.strip('[]').lower() for name in names if name)


def is_allowed_host(header: str, names: frozenset[str]) -> bool:
    """Return whether a Host header, a name with or without a port, is one of ``allowed_names``."""
    name = _name(f'//{header}')
    return name in names or ('*' in names and _is_address(name))


def is_own_origin(origin: str, header: str, names: frozenset[str]) -> bool:
    """Return whether a request with a Host ``header`` comes from a page of the same place.

    Where something between browser and page changed that, it must come from a name that was allowed by itself.
    """
    place = origin.partition('://')[2].lower()
    return bool(place) and (place == header.lower() or _name(origin) in names - {'*', *_LOCAL})


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ''
    except ValueError:
        return ''


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware that refuses what is not meant for a page, and adds the policy where the page stands alone."""

    def __init__(self, app: Any, names: frozenset[str], policy: bool) -> None:
        self.app, self.names, self.policy = app, names, policy

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand on a request whose Host, Origin and length are allowed; others get 403 or 413."""
        if scope['type'] not in ('http', 'websocket'):
            await self.app(scope, receive, send)
            return
        headers: dict[str, list[str]] = {}
        for key, value in scope['headers']:
            headers.setdefault(key.decode('latin-1').lower(), []).append(value.decode('latin-1'))
        hosts, origins = headers.get('host', []), headers.get('origin', [])
        is_known = len(hosts) == 1 and is_allowed_host(hosts[0], self.names)
        # starts another program, and the page has no use for it
        is_foreign = scope['path'].rstrip('/').endswith('/process_recording')
        if not is_known or is_foreign or not all(is_own_origin(each, hosts[0], self.names) for each in origins):
            await _refuse(scope, send, 403, 'This page is not asked for by this name; see --allowed-host.')
            return
        most = _MOST_BYTES['upload' if scope['path'].rstrip('/').endswith('/upload') else 'other']
        if any(not each.isdecimal() or int(each) > most for each in headers.get('content-length', [])):
            await _refuse(scope, send, 413, f'At most {most} bytes are taken.')
            return
        await self._hand_on(scope, receive, send, most)

    async def _hand_on(self, scope: Any, receive: Any, send: Any, most: int) -> None:
        length, has_begun = 0, False

        async def receive_so_much() -> Any:
            nonlocal length
            event = await receive()
            length += len(event.get('body', b''))
            if length > most:  # who tells no length may go on for ever
                raise _TooLong
            return event

        async def send_with_policy(event: Any) -> None:
            nonlocal has_begun
            has_begun = True
            if event['type'] == 'http.response.start' and self.policy:
                event['headers'] = [*event.get('headers', []), (b'content-security-policy', _POLICY.encode())]
            await send(event)

        try:
            await self.app(scope, receive_so_much, send_with_policy)
        except _TooLong:
            if not has_begun:
                await _refuse(scope, send, 413, f'At most {most} bytes are taken.')


class _TooLong(Exception):
    pass


async def _refuse(scope: Any, send: Any, status: int, text: str) -> None:
    if scope['type'] == 'websocket':
        await send({'type': 'websocket.close', 'code': 1008})
        return
    headers = [(b'content-type', b'text/plain; charset=utf-8'), (b'connection', b'close')]
    await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    await send({'type': 'http.response.body', 'body': text.encode()})
