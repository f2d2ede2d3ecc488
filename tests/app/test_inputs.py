"""What the page takes from a browser: strokes as small images, files that were uploaded, and nothing in any number."""

import asyncio
import io
import os

import pytest
from PIL import Image

gr = pytest.importorskip('gradio', reason="the page needs gradio: pip install 'timm-abn[app]'")
from gradio.components.image_editor import AcceptBlobs, EditorData  # noqa: E402
from gradio.data_classes import FileData  # noqa: E402

from timm_abn.app.inputs import MOST  # noqa: E402
from timm_abn.app.layout import Parts  # noqa: E402


@pytest.fixture(scope='module')
def parts(served):
    with gr.Blocks():
        return Parts(['a model'], served)


def png(*size):
    content = io.BytesIO()
    Image.new('RGBA', size, (255, 0, 0, 100)).save(content, 'PNG')
    return content.getvalue()


def send(parts, content, name='set', kind='layer', index=0):
    data = dict(type=kind, index=str(index), file=b'', id=name)  # as a form sends it
    parts.canvas.accept_blobs(AcceptBlobs.model_construct(data=data, files=[('file', content)]))


def test_strokes_that_were_sent_ahead(parts):
    send(parts, png(8, 4))
    (layer,) = parts.canvas.preprocess(EditorData(background=None, layers=[], composite=None, id='set'))['layers']
    assert layer.mode == 'RGBA' and layer.size == (8, 4) and layer.getpixel((0, 0)) == (255, 0, 0, 100)
    assert not parts.canvas.blob_storage


@pytest.mark.parametrize('place', ['background', 'layers', 'composite'])
def test_strokes_start_no_program(parts, tmp_path, monkeypatch, place):
    (tmp_path / 'gs').write_text(f'#!/bin/sh\ntouch {tmp_path}/started\n')
    (tmp_path / 'gs').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
    (tmp_path / 'photo.png').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    file = FileData(path=str(tmp_path / 'photo.png'), orig_name='photo.png')
    sent = dict(dict(background=None, layers=[], composite=None), **{place: [file] if place == 'layers' else file})
    try:
        assert not parts.canvas.preprocess(EditorData(**sent))['layers']
    except gr.Error as error:
        assert 'is not an image in a supported format' in error.message and not error.print_exception
    assert not (tmp_path / 'started').exists()


def test_strokes_are_few_and_small(parts):
    send(parts, png(4096, 4096))
    with pytest.raises(gr.Error, match='a layer of 4096 x 4096 pixels is larger than the canvas'):
        parts.canvas.preprocess(EditorData(background=None, layers=[], composite=None, id='set'))
    for index in range(MOST['waiting'] + 5):
        send(parts, b'stroke', f'set {index}')
    assert len(parts.canvas.blob_storage) == MOST['waiting'] and 'set 104' in parts.canvas.blob_storage
    for refused in (
        dict(index=10**9),
        dict(index=-1),
        dict(content=bytes(MOST['bytes'] + 1)),
        dict(kind='background'),
        dict(name='x' * 65),
    ):
        send(parts, **dict(dict(content=b'stroke', name='refused'), **refused))
    assert 'refused' not in parts.canvas.blob_storage and 'x' * 65 not in parts.canvas.blob_storage


def test_no_address_is_fetched(parts):
    for component in (parts.upload, parts.canvas):
        with pytest.raises(gr.Error, match='files are uploaded here, not fetched from elsewhere'):
            asyncio.run(component.async_move_resource_to_block_cache('http://192.0.2.1/photo.png'))


def test_a_photo_of_two_visitors_is_there_for_both(tmp_path, monkeypatch):
    from timm_abn.app import page

    shown = page._Page.__new__(page._Page)
    shown.uploads, photo = [], tmp_path / 'photo.png'
    photo.touch()
    shown._forget(photo)
    assert photo.exists()  # the other may just have sent it, too
    os.utime(photo, (0, 0))
    shown._forget(tmp_path / 'another.png')
    assert not photo.exists() and not shown.uploads
