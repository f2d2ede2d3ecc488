"""Text on pictures, in the font that comes with Pillow: sizes and colours, and a pen whose words fit."""

import functools
import re
import unicodedata
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

__all__ = ['GREY', 'HEADING', 'INK', 'LINE', 'NOTE', 'RED', 'TEXT', 'TITLE', 'Pen', 'line_height', 'shortened']

TITLE, HEADING, TEXT, NOTE = 24, 18, 15, 13  # sizes of the font
INK, GREY, RED, LINE = '#1c1c1c', '#6a6a6a', '#b3261e', '#d8d8d8'
LEADING = 1.45  # from one line of text to the next, in sizes of the font
ARROWS, ARROW = '\u2191\u2193', 0.7  # up and down, which the font does not have, and their width in sizes of it


def line_height(size: int) -> int:
    """Return how far it is from one line of text of a size to the next, in pixels."""
    return round(LEADING * size)


class Pen:
    """Writes text that fits, in the font that comes with Pillow."""

    def __init__(self, sheet: Image.Image) -> None:
        self.sheet, self.draw = sheet, ImageDraw.Draw(sheet)

    def width(self, text: str, size: int) -> int:
        """Return the width of a text in pixels."""
        pieces = re.split(f'([{ARROWS}])', _printable(text))
        return round(sum(map(_font(size).getlength, pieces[::2])) + ARROW * size * len(pieces[1::2]))

    def text(self, place: tuple[int, int], text: str, size: int, room: int, color: str = INK) -> int:
        """Write a text, shortened in the middle where it is wider than ``room``, and return its width."""
        text = _printable(text)
        whole, most = text, len(text)
        while most > 2 and self.width(text, size) > room:
            most -= 1
            text = shortened(whole, most)
        for match in re.finditer(f'[{ARROWS}]|[^{ARROWS}]+', text):
            left, piece = place[0] + self.width(text[: match.start()], size), match.group()
            if piece in ARROWS:
                self._arrow((left, place[1]), size, color, points_up=piece == ARROWS[0])
            else:
                self.draw.text((left, place[1]), piece, fill=color, font=_font(size))
        return self.width(text, size)

    def _arrow(self, place: tuple[int, int], size: int, color: str, points_up: bool) -> None:
        """Draw an arrow as high as a capital letter."""
        middle, half = place[0] + round(ARROW * size / 2), round(0.22 * size)
        tip, end = place[1] + round(0.3 * size), place[1] + round(0.95 * size)
        if not points_up:
            tip, end = end, tip
        back = tip + half if points_up else tip - half
        self.draw.line([(middle, tip), (middle, end)], fill=color, width=max(round(size / 12), 1))
        self.draw.polygon([(middle, tip), (middle - half, back), (middle + half, back)], fill=color)

    def paragraphs(self, place: tuple[int, int], texts: Sequence[str], size: int, room: int, color: str = INK) -> int:
        """Write texts, each in as many lines as it takes, and return where they end."""
        left, top = place
        for text in texts:
            line = ''
            for word in [*text.split(), '']:
                longer = f'{line} {word}'.strip()
                if word and self.width(longer, size) <= room:
                    line = longer
                    continue
                self.text((left, top), line, size, room, color)
                top += line_height(size)
                line = word
        return top


def shortened(text: str, most: int) -> str:
    """Return a text in at most so many characters, with an ellipsis in its middle where it is longer."""
    kept = max(most, 2) - 1
    return text if len(text) <= most else f'{text[: kept - kept // 2]}\u2026{text[len(text) - kept // 2 :]}'


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _printable(text: str) -> str:
    """Return a text with what the font has: without accents, and '?' for what is no Latin."""
    plain: list[str] = []
    for character in text:
        options = (character, unicodedata.normalize('NFKD', character)[:1], '?')
        plain.append(next(option for option in options if option == '?' or _has(option)))
    return ''.join(plain)


@functools.cache
def _has(character: str) -> bool:
    if character in ARROWS:
        return True
    if not character.isprintable():
        return False
    return character == ' ' or bytes(_font(TEXT).getmask(character)) != bytes(_font(TEXT).getmask('\uffff'))
