"""Contact sheets: rows of labelled spectrograms on one picture.

Owns fonts, sizes and the JPEG. Leaves out what is shown (`gallery_frames`, `gallery_tracks`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

QUALITY: Final = 78
MAX_BYTES: Final = 200_000
_MARGIN: Final = 16
_GAP: Final = 6
_LINE: Final = 20
_TITLE: Final = 18
_LABEL: Final = 15
_INK: Final = "#1b1b1b"
_FAINT: Final = "#5a5a5a"
_EDGE: Final = "#9a9a9a"
_MARK: Final = "#d1495b"


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture with words above it and, fainter, below it; red ticks at `marks`, in its own columns."""

    label: str
    picture: Image.Image
    note: str = ""
    marks: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Pictures side by side under a heading; `gap` pixels between them."""

    title: str
    cells: Sequence[Cell]
    gap: int = 14


def save_sheet(rows: Sequence[Row], scale: float, path: Path) -> None:
    """Write the rows as a JPEG; a picture's column is `scale` pixels wide. Raises ValueError above MAX_BYTES."""
    blocks = [_row(row, scale) for row in rows]
    width = max(block.width for block in blocks) + 2 * _MARGIN
    height = sum(block.height for block in blocks) + _MARGIN * (len(blocks) + 1)
    sheet = Image.new("RGB", (width, height), "white")
    top = _MARGIN
    for block in blocks:
        sheet.paste(block, (_MARGIN, top))
        top += block.height + _MARGIN
    sheet.save(path, "JPEG", quality=QUALITY, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} takes {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")


def _row(row: Row, scale: float) -> Image.Image:
    pictures = [_scaled(cell.picture, scale) for cell in row.cells]
    labels = [list(_wrapped(cell.label, one.width)) for cell, one in zip(row.cells, pictures, strict=True)]
    notes = [list(_wrapped(cell.note, one.width)) for cell, one in zip(row.cells, pictures, strict=True)]
    title = list(_wrapped(row.title, sum(one.width + row.gap for one in pictures), _TITLE))
    above = len(title) * (_LINE + _GAP) + max(map(len, labels)) * _LINE + _GAP
    tallest = max(one.height for one in pictures)
    size = (
        sum(one.width for one in pictures) + row.gap * (len(pictures) - 1),
        above + tallest + _GAP + max(map(len, notes)) * _LINE,
    )
    block = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(block)
    _write(draw, title, (0, 0), _TITLE, _INK)
    left = 0
    for cell, picture, label, note in zip(row.cells, pictures, labels, notes, strict=True):
        _write(draw, label, (left, above - _GAP - len(label) * _LINE), _LABEL, _INK)
        block.paste(picture, (left, above))
        draw.rectangle((left, above, left + picture.width - 1, above + picture.height - 1), outline=_EDGE)
        for mark in cell.marks:
            _tick(draw, left + round(mark * scale), above, above + picture.height)
        _write(draw, note, (left, above + tallest + _GAP), _LABEL, _FAINT)
        left += picture.width + row.gap
    return block


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _tick(draw: ImageDraw.ImageDraw, x: int, top: int, bottom: int) -> None:
    for start, stop in ((top, top + 10), (bottom - 10, bottom - 1)):
        draw.line((x, start, x, stop), fill=_MARK, width=3)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int], size: int, colour: str) -> None:
    for number, line in enumerate(lines):
        step = number * (_LINE + _GAP if size == _TITLE else _LINE)
        draw.text((place[0], place[1] + step), line, fill=colour, font=_font(size))


def _wrapped(text: str, width: int, size: int = _LABEL) -> Iterator[str]:
    """Lines no wider than `width` pixels, broken between words and at line ends; a word alone may be wider."""
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and _font(size).getlength(longer) > width:
                yield line
                longer = word
            line = longer
        yield line


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    name = "DejaVuSans-Bold.ttf" if size == _TITLE else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
