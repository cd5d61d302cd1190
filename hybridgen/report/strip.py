"""A picture in half blocks: two pixels a character, for terminals."""

from __future__ import annotations

from pathlib import Path

from rich.style import Style
from rich.text import Text


def strip(path: Path, width: int, rows: int) -> Text | None:
    """The top of a picture in at most `width` columns and `rows` lines; None when it can't be read.

    Grids of small pictures are shown pixel by pixel as far as they fit; larger pictures are scaled down.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError):
        return None
    scale = min((width - 2) / image.width, 1.0)
    if image.height * scale > rows * 2:
        scale = max(rows * 2 / image.height, 0.25 * scale)
    size = (max(int(image.width * scale), 1), max(int(image.height * scale), 2))
    image = image.resize(size, Image.Resampling.BOX)
    image = image.crop((0, 0, image.width, min(image.height - image.height % 2, rows * 2)))
    pixels = image.load()
    text = Text(no_wrap=True)
    if pixels is None:
        return None
    for y in range(0, image.height - 1, 2):
        for x in range(image.width):
            above, below = pixels[x, y], pixels[x, y + 1]
            text.append("▀", Style(color=_hex(above), bgcolor=_hex(below)))
        text.append("\n")
    return text


def _hex(pixel: object) -> str:
    assert isinstance(pixel, tuple)
    r, g, b = pixel[:3]
    return f"#{r:02x}{g:02x}{b:02x}"
