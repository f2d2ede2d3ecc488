"""What the page answers: its own names and origins, and bodies of a bounded size."""

import asyncio

import pytest

from timm_abn.app import guard
from timm_abn.app.guard import Guard, allowed_names, is_allowed_host, is_own_origin


@pytest.mark.parametrize(
    ('host', 'asked', 'allowed'),
    [
        ('127.0.0.1', 'localhost:7860', True),
        ('127.0.0.1', '127.0.0.1:7860', True),
        ('127.0.0.1', '[::1]:7860', True),
        ('127.0.0.1', 'stranger.example:7860', False),
        ('127.0.0.1', 'localhost.stranger.example', False),
        ('127.0.0.1', '192.168.0.7:7860', False),
        ('0.0.0.0', '192.168.0.7:7860', True),  # an address is nobody's name
        ('0.0.0.0', 'stranger.example', False),
        ('page.example', 'PAGE.example', True),
        ('127.0.0.1', 'added.example', True),
        ('127.0.0.1', 'me-birds.hf.space', True),
        ('127.0.0.1', 'me-my-birds.hf.space', True),
        ('127.0.0.1', 'you-birds.hf.space', False),
        ('127.0.0.1', '[', False),
        ('127.0.0.1', '', False),
    ],
)
def test_names_that_are_answered(monkeypatch, host, asked, allowed):
    monkeypatch.setenv('SPACE_HOST', 'me-birds.hf.space')
    monkeypatch.setenv('SPACE_ID', 'Me/my_birds')
    assert is_allowed_host(asked, allowed_names(host, ['added.example'])) == allowed


@pytest.mark.parametrize(
    ('origin', 'own'),
    [
        ('http://127.0.0.1:7860', True),
        ('http://127.0.0.1:3000', False),
        ('http://localhost:7860', False),
        ('https://stranger.example', False),
        ('https://added.example', True),
        ('null', False),
        ('', False),
    ],
)
def test_origins_that_are_answered(origin, own):
    assert is_own_origin(origin, '127.0.0.1:7860', allowed_names('127.0.0.1', ['added.example'])) == own


def ask(path='/', headers=(), chunks=(b'',), policy=True):
    """Return the status, headers and body of an answer, and how much of the request's body was read."""
    read, sent = [], []

    async def app(scope, receive, send):
        while (await receive())['more_body']:
            pass
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'page'})

    async def receive():
        read.append(chunks[len(read)])
        return {'type': 'http.request', 'body': read[-1], 'more_body': len(read) < len(chunks)}

    async def send(event):
        sent.append(event)

    given = [(name.encode(), value.encode()) for name, value in dict(dict(host='localhost'), **dict(headers)).items()]
    scope = dict(type='http', path=path, headers=given)
    asyncio.run(Guard(app, allowed_names('127.0.0.1'), policy)(scope, receive, send))
    start, body = sent
    return start['status'], dict(start['headers']), body['body'], sum(map(len, read))


def test_the_own_page():
    status, headers, body, _ = ask(headers=dict(origin='http://localhost'))
    assert status == 200 and body == b'page'
    assert headers[b'content-security-policy'].startswith(b"default-src 'self'")
    assert ask(policy=False)[1] == {}


@pytest.mark.parametrize(
    ('path', 'headers', 'status'),
    [
        ('/', dict(host='stranger.example'), 403),
        ('/upload', dict(origin='http://stranger.example'), 403),
        ('/gradio_api/process_recording', {}, 403),
        ('/upload', {'content-length': str(2**30)}, 413),
        ('/upload', {'content-length': '-1'}, 413),
    ],
)
def test_what_is_refused_unread(path, headers, status):
    assert ask(path, headers)[::3] == (status, 0)


def test_an_endless_body_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setitem(guard._MOST_BYTES, 'upload', 2500)
    chunks = [bytes(1000)] * 100
    status, _, body, length = ask('/gradio_api/upload', chunks=chunks)
    assert (status, length) == (413, 3000) and body == b'At most 2500 bytes are taken.'
    assert ask('/gradio_api/upload', chunks=chunks[:2])[0] == 200
