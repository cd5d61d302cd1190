"""A picture in half blocks: two pixels a character, for terminals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.style import Style
from rich.text import Text

SHARE = 5
"""A cell of a grid is shown with its own pixels, or as wide as a fifth of the terminal where it has more."""


def strip(path: Path, width: int, rows: int, cells: Mapping[str, Any] | None = None) -> Text | None:
    """A picture in at most `width` columns and `rows` lines; None when it can't be read.

    cells: how a grid is laid out (`hybridgen.pictures.cells`); its first cells are then laid side by side as they fit.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError):
        return None
    if cells is not None:
        image = _relaid(image, cells, width - 2, 2 * rows)
    else:
        scale = min((width - 2) / image.width, 2 * rows / image.height, 1.0)
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 2))
        image = image.resize(size, Image.Resampling.BOX)
    return _half_blocks(image)


def _relaid(image: Image.Image, cells: Mapping[str, Any], width: int, height: int) -> Image.Image:
    """The first cells of a grid, small and side by side, with a pixel between them."""
    (w, h), pad, columns = cells["size"], cells["pad"], cells["columns"]
    native_w, native_h = cells["native"]
    shown_w = min(native_w, max(width // SHARE, 1))
    shown_h = min(max(round(native_h * shown_w / native_w), 1), height)
    across, down = max((width + 1) // (shown_w + 1), 1), max((height + 1) // (shown_h + 1), 1)
    count = min(cells["count"], across * down)
    across, down = min(across, count), -(-count // across)
    sheet = Image.new("RGB", (across * (shown_w + 1) - 1, down * (shown_h + 1) - 1))
    for index in range(count):
        row, column = divmod(index, columns)
        left, top = pad + column * (w + pad), pad + row * (h + pad)
        cell = image.crop((left, top, left + w, top + h)).resize((shown_w, shown_h), Image.Resampling.BOX)
        row, column = divmod(index, across)
        sheet.paste(cell, (column * (shown_w + 1), row * (shown_h + 1)))
    return sheet


def _half_blocks(image: Image.Image) -> Text:
    if image.height % 2:
        taller = Image.new("RGB", (image.width, image.height + 1))
        taller.paste(image)
        image = taller
    text = Text(no_wrap=True)
    for y in range(0, image.height, 2):
        for x in range(image.width):
            text.append("▀", Style(color=_hex(image.getpixel((x, y))), bgcolor=_hex(image.getpixel((x, y + 1)))))
        text.append("\n")
    return text


def _hex(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    r, g, b = pixel[:3]
    return f"#{r:02x}{g:02x}{b:02x}"
