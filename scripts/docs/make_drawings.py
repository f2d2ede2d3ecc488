"""Draw what an Attention Branch Network is, and what an attached model is: docs/abn.svg and docs/attached.svg.

The photo is one of the package; the map in both is what its example model says of it.

Example:
    pip install '.[photos]'
    python scripts/docs/make_drawings.py
"""

import base64
import html
import io
from pathlib import Path
from typing import Any

from PIL import Image

import timm_abn
from timm_abn.data.images import Preprocessing, draw_overlay
from timm_abn.data.reading import read_image
from timm_abn.examples import example_model, example_photos
from timm_abn.staging import staged_file

DOCS = Path(__file__).resolve().parents[2] / 'docs'
SIDE = 120  # pixels of the photo and of the map
WIDTH, ROW, BOX = 400, 96, 52  # of the drawing, from one row to the next, height of a box

STYLE = """\
text { font: 17px sans-serif; fill: #24292f; text-anchor: middle } .small { font-size: 14px }
.paper { fill: #ffffff } .frozen { fill: #eaeef2; stroke: #8c959f } .new { fill: #ddf4ff; stroke: #0969da }
.way { stroke: #57606a; stroke-width: 2; fill: none; marker-end: url(#tip) } .tip { fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .paper { fill: #0d1117 } .frozen { fill: #21262d; stroke: #8c959f }
  .new { fill: #0c2d6b; stroke: #58a6ff } .way { stroke: #8c959f } .tip { fill: #8c959f }
}"""


class Drawing:
    """Boxes, pictures and arrows, as SVG."""

    def __init__(self, title: str, height: int) -> None:
        size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        tip = '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{html.escape(title)}">',
            f'<style>{STYLE}</style><defs>{tip}<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>',
            '<rect class="paper" width="100%" height="100%"/>',
        ]

    def box(self, x: int, y: int, width: int, words: str, small: str = '', kind: str = 'frozen') -> None:
        """Draw a box around words, whose middle is at x."""
        self.parts.append(f'<rect class="{kind}" x="{x - width // 2}" y="{y}" width="{width}" height="{BOX}" rx="8"/>')
        self.words(x, y + (24 if small else 32), words)
        if small:
            self.words(x, y + 43, small, 'small')

    def words(self, x: int, y: int, words: str, kind: str = '') -> None:
        """Write words around x."""
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}">{html.escape(words)}</text>')

    def picture(self, x: int, y: int, picture: Image.Image) -> None:
        """Draw a picture whose middle is at x."""
        file = io.BytesIO()
        picture.resize((2 * SIDE, 2 * SIDE), Image.Resampling.LANCZOS).convert('RGB').save(file, 'JPEG', quality=80)
        data = base64.b64encode(file.getvalue()).decode()
        self.parts.append(
            f'<image x="{x - SIDE // 2}" y="{y}" width="{SIDE}" height="{SIDE}" href="data:image/jpeg;base64,{data}"/>'
        )

    def way(self, *points: tuple[int, int]) -> None:
        """Draw an arrow through points."""
        path = ' L'.join(f'{x} {y}' for x, y in points)
        self.parts.append(f'<path class="way" d="M{path}"/>')

    def text(self) -> str:
        """Return the SVG."""
        return '\n'.join([*self.parts, '</svg>', ''])


def draw_abn(photo: Image.Image, overlay: Image.Image) -> str:
    """Return the drawing of an Attention Branch Network."""
    d = Drawing('An Attention Branch Network: its attention map gates the features', 640)
    d.picture(110, 16, photo)
    d.way((110, 140), (110, 166))
    d.box(110, 170, 176, 'first half', 'of a timm backbone')
    d.way((110, 222), (110, 396))
    d.way((110, 300), (203, 300))
    d.words(60, 304, 'features', 'small')
    d.box(296, 274, 176, 'attention branch', 'trained with it', 'new')
    d.way((296, 274), (296, 222))
    d.words(340, 250, 'map', 'small')
    d.picture(296, 90, overlay)
    d.words(296, 82, 'attention map', 'small')
    d.way((296, 326), (296, 426), (203, 426))
    d.words(330, 380, 'gates', 'small')
    d.box(110, 400, 176, 'gate', 'features x (1 + map)', 'new')
    d.way((110, 452), (110, 490))
    d.box(110, 494, 176, 'second half', 'of the backbone')
    d.way((110, 546), (110, 590))
    d.words(110, 616, 'logits')
    d.way((296, 426), (296, 590))
    d.words(296, 616, 'class maps, attention logits', 'small')
    return d.text()


def draw_attached(photo: Image.Image, overlay: Image.Image) -> str:
    """Return the drawing of an attached model."""
    d = Drawing('An attached model: its own head, applied to each place, says where the evidence lies', 640)
    d.picture(110, 16, photo)
    d.way((110, 140), (110, 166))
    d.box(110, 170, 176, 'your model', 'frozen')
    d.way((110, 222), (110, 296))
    d.words(178, 262, 'last features', 'small')
    d.box(110, 300, 176, 'its head', 'pooling, classifier')
    d.way((110, 352), (110, 590))
    d.words(110, 616, 'logits, bit for bit')
    d.way((110, 240), (296, 240), (296, 296))
    d.box(296, 300, 176, 'the same head', 'at each position', 'new')
    d.way((296, 352), (296, 396))
    d.words(296, 416, 'evidence for any class', 'small')
    d.picture(296, 424, overlay)
    d.words(296, 570, 'refinement: optional,', 'small')
    d.words(296, 590, 'trained on your photos', 'small')
    return d.text()


def main() -> None:
    """Write the drawings."""
    model: Any = timm_abn.attach(example_model())
    photo = read_image(example_photos()['camera']).convert('RGB')
    x, box = Preprocessing(model)(photo)
    overlay = draw_overlay(photo, model.explain(x[None]).heatmap(), box).crop(box)
    for name, draw in (('abn', draw_abn), ('attached', draw_attached)):
        with staged_file(DOCS / f'{name}.svg') as staged:
            staged.write_text(draw(photo.crop(box), overlay), encoding='utf-8')


if __name__ == '__main__':
    main()
