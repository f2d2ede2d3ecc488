"""What browsers send as files: photos, and strokes on the canvas; gradio by itself fetches and decodes anything.

Methods of single components are replaced: gradio writes a file beside the source of each class derived from one.
"""

import io
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData
from gradio.data_classes import FileData
from PIL import Image

from ..data.reading import ImageError, open_image
from ..errors import one_line

__all__ = ['MOST', 'only_strokes', 'only_uploads', 'read_layer']

MOST = dict(waiting=100, layers=4, letters=64, bytes=2**21, pixels=2**22)  # a canvas has 512 x 512 pixels


def only_uploads(component: Any) -> Any:
    """Let a component take files that were uploaded, but no addresses, which gradio would fetch for whoever asks."""
    keep = component.async_move_resource_to_block_cache

    async def keep_upload(path: str | None) -> str | None:
        if path is not None and '://' in path:
            raise _refusal('files are uploaded here, not fetched from elsewhere')
        return await keep(path)

    component.async_move_resource_to_block_cache = keep_upload
    return component


def only_strokes(editor: Any) -> Any:
    """Let an image editor take the layers that are painted: few and small ones, opened as all images are here."""
    accept, preprocess = editor.accept_blobs, editor.preprocess

    @server
    def accept_strokes(data: AcceptBlobs) -> None:
        """Keep what a browser sends ahead of the event that it belongs to; the picture below is known."""
        sent, content = data.data, data.files[0][1]
        index = str(sent['index'] or 0)
        if sent['type'] != 'layer' or len(sent['id']) > MOST['letters'] or len(content) > MOST['bytes']:
            return
        if index in map(str, range(MOST['layers'])):
            accept(data)
        for old in list(editor.blob_storage)[: -MOST['waiting']]:
            editor.blob_storage.pop(old, None)

    def strokes(payload: EditorData | None) -> Any:
        if payload is not None and payload.id is None:
            payload = EditorData(background=None, layers=payload.layers[: MOST['layers']], composite=None)
        try:
            return preprocess(payload)
        except ImageError as error:
            raise _refusal(one_line(error)) from None

    editor.accept_blobs, editor.preprocess, editor.convert_and_format_image = accept_strokes, strokes, read_layer
    return only_uploads(editor)


def read_layer(file: FileData | bytes | None, flatten_on_white: bool = False) -> Image.Image | None:
    """Return what was painted on one layer, as RGBA.

    Raises:
        ImageError: It is no image, or larger than any canvas.
    """
    if file is None:
        return None
    with open_image(io.BytesIO(Path(file.path).read_bytes() if isinstance(file, FileData) else file)) as image:
        if image.width * image.height > MOST['pixels']:
            raise ImageError(f'a layer of {image.width} x {image.height} pixels is larger than the canvas.')
        return image.convert('RGBA')


def _refusal(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)
