"""What browsers send as files: photos, and strokes on the canvas; gradio by itself fetches and decodes anything."""

import io
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData
from gradio.data_classes import FileData

from ..data.reading import ImageError, open_image
from ..errors import one_line

__all__ = ['MOST_SENT', 'Canvas', 'Upload']

MOST_SENT = dict(sets=100, layers=4, letters=64, bytes=2**21, pixels=2**22)  # a canvas has 512 x 512


def _refusal(message: str) -> gr.Error:
    return gr.Error(message, print_exception=False)


async def _uploaded_only(block: Block, path: str | None) -> str | None:
    """Refuse addresses, which gradio would fetch for whoever asks."""
    if path is not None and '://' in path:
        raise _refusal('files are uploaded here, not fetched from elsewhere')
    return await Block.async_move_resource_to_block_cache(block, path)


class Upload(gr.File):
    """Where a photo is dropped."""

    is_template = True  # for the browser it is gradio's own component
    async_move_resource_to_block_cache = _uploaded_only


class Canvas(gr.ImageEditor):
    """A picture to paint on, of which only the strokes come back: small images, opened as all images are here."""

    is_template = True
    async_move_resource_to_block_cache = _uploaded_only

    @server
    def accept_blobs(self, data: AcceptBlobs) -> None:
        """Keep strokes that a browser sends ahead of what it asks, as much as honest ones paint."""
        name, index, content = data.data['id'], data.data['index'], data.files[0][1]
        if data.data['type'] != 'layer' or len(name) > MOST_SENT['letters'] or len(content) > MOST_SENT['bytes']:
            return
        if index is None or str(index) in map(str, range(MOST_SENT['layers'])):
            super().accept_blobs(data)
        for old in list(self.blob_storage)[: -MOST_SENT['sets']]:
            self.blob_storage.pop(old, None)

    def preprocess(self, payload: EditorData | None) -> Any:
        """Return the layers; the picture below them is known."""
        if payload is not None and payload.id is None:
            payload = EditorData(background=None, layers=payload.layers[: MOST_SENT['layers']], composite=None)
        try:
            return super().preprocess(payload)
        except ImageError as error:
            raise _refusal(one_line(error)) from None

    def convert_and_format_image(self, file: FileData | bytes | None, flatten_on_white: bool = False) -> Any:
        """Return what was painted on one layer, as RGBA."""
        if file is None:
            return None
        content = Path(file.path).read_bytes() if isinstance(file, FileData) else file
        with open_image(io.BytesIO(content)) as image:
            if image.width * image.height > MOST_SENT['pixels']:
                raise ImageError(f'a layer of {image.width} x {image.height} pixels is larger than the canvas.')
            return image.convert('RGBA') if image.mode != 'RGBA' else image.copy()
