"""Pictures of samples and reconstructions: grids of images, scatters of points, PNG written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError, UserError
from hybridgen.files import write_atomically

SMALL = 48  # pictures are enlarged, pixel by pixel, until their longer side has at least this many pixels
PAD = 2
PAIRED = 9  # pairs of original and reconstruction in a row
PAPER, INK, ACCENT = (250, 250, 247), (190, 190, 190), (200, 60, 40)


def draw(
    model: Any, validation: Arrays | None, folder: Path, step: int, count: int
) -> Iterator[tuple[str, Path, dict[str, Any] | None]]:
    """The pictures that a model can offer after a step: "samples" and "reconstructions", path, layout of the grid.

    model: a GenerativeModel. Latents and examples are the same at every step, so that pictures compare.
    """
    from hybridgen.errors import UnavailableError

    points = model.spec.kind == "vector" and model.spec.shape == (2,)
    shown = 2000 if points else max(count // 2, 1)
    real = model.spec.to_model(validation.x[:shown]) if validation is not None else None
    with contextlib.suppress(UnavailableError):  # a model without a prior has no samples to draw
        path = folder / f"samples-{step:08d}.png"
        save_samples(path, model.sample(2000 if points else count, seed=0), model.spec, real if points else None)
        yield "samples", path, cells(model.spec, count)
    with contextlib.suppress(UnavailableError):  # one without an encoder no reconstructions
        if real is not None and len(real):
            path = folder / f"reconstructions-{step:08d}.png"
            label = None if validation is None or validation.label is None else validation.label[: len(real)]
            made = model.reconstruct(real, label=label if model.spec.classes else None)
            save_comparison(path, real, made.cpu(), model.spec)
            yield "reconstructions", path, cells(model.spec, len(real), pairs=True)


def cells(spec: SampleSpec, count: int, *, pairs: bool = False) -> dict[str, Any] | None:
    """How a grid of pictures is laid out, for whoever shows a part of it: pixels of a cell in the file and in the data.

    With `pairs` a cell is an original with its reconstruction below. None for what is no grid.
    """
    if spec.kind != "image":
        return None
    h, w = spec.shape[1:]
    factor = max(1, math.ceil(SMALL / max(w, h)))
    columns = min(count, PAIRED) if pairs else math.ceil(math.sqrt(count))
    tall = (2 * h * factor + PAD, 2 * h + 1) if pairs else (h * factor, h)
    size, native = (w * factor, tall[0]), (w, tall[1])
    return {"size": size, "native": native, "pad": PAD, "columns": columns, "count": count}


def save_samples(path: Path, x: Tensor, spec: SampleSpec, real: Tensor | None = None) -> None:
    """Samples, as the data are: a grid of pictures, a scatter of points (real ones in grey), text, rows of a heat map.

    A path that ends in .npy gets the values in model space instead, one in .txt the lines of a text. Shapes: x `n ...`.
    Raises: UserError for .txt where the data are no tokens.
    """
    x = x.detach().cpu()
    if path.suffix == ".npy":
        _write_npy(path, x)
    elif spec.kind == "tokens" or path.suffix == ".txt":
        save_lines(path, lines(x, spec))
    elif spec.kind == "image":
        _write(path, grid([picture(one) for one in x]))
    elif spec.shape == (2,):
        _write(path, scatter(x, real))
    else:
        _write(path, heat_map(x))


def save_comparison(path: Path, x: Tensor, recon: Tensor, spec: SampleSpec) -> None:
    """Originals above their reconstructions; points with a line to theirs. Shapes: `n ...` both."""
    if path.suffix == ".npy":
        _write_npy(path, torch.stack([x, recon]))
    elif spec.kind == "tokens" or path.suffix == ".txt":
        pairs = zip(lines(x, spec), lines(recon, spec), strict=True)
        save_lines(path, [line for pair in pairs for line in (*pair, "")])
    elif spec.kind == "image":
        columns = min(len(x), PAIRED)
        cells: list[Image.Image] = []
        for start in range(0, len(x), columns):
            for row in (x[start : start + columns], recon[start : start + columns]):
                made = [picture(one) for one in row]
                cells += made + [Image.new(made[0].mode, made[0].size, "white")] * (columns - len(made))
        _write(path, grid(cells, columns))
    elif spec.shape == (2,):
        _write(path, scatter(recon, x))
    else:
        _write(path, heat_map(rearrange([x, recon], "two n ... -> (n two) ...")))


def lines(x: Tensor, spec: SampleSpec) -> list[str]:
    """The likeliest token at each position, an example a line; line breaks as ⏎. Raises UserError for other data."""
    if spec.kind != "tokens":
        raise UserError(f"these data are no text (their kind is '{spec.kind}'): write to a .png or .npy file")
    names = [name.replace("\n", "⏎") for name in spec.vocabulary] or [f"{i} " for i in range(spec.shape[-1])]
    return ["".join(names[i] for i in row) for row in x.argmax(-1).tolist()]


def save_lines(path: Path, text: list[str]) -> None:
    """Lines as a text file, or as a picture of them."""
    if path.suffix == ".txt":
        _write_bytes(path, ("\n".join(text) + "\n").encode())
        return
    font = ImageFont.load_default(14)
    width = max(int(font.getlength(line)) for line in text) if text else 0
    image = Image.new("RGB", (width + 16, 18 * len(text) + 16), PAPER)
    canvas = ImageDraw.Draw(image)
    for i, line in enumerate(text):
        canvas.text((8, 8 + 18 * i), line, fill=(20, 20, 20), font=font)
    _write(path, image)


def picture(x: Tensor) -> Image.Image:
    """One picture `c h w` in [-1, 1]: 1 channel grey, 3 colour, 4 with alpha; of others the first is shown."""
    values = ((x.float().nan_to_num(0.0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    if values.shape[0] not in (1, 3, 4):
        values = values[:1]
    if values.shape[0] == 1:
        image = Image.fromarray(values[0].numpy())
    else:
        image = Image.fromarray(rearrange(values, "c h w -> h w c").contiguous().numpy())
    factor = max(1, math.ceil(SMALL / max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(cells: list[Image.Image], columns: int | None = None) -> Image.Image:
    """Pictures of one size in rows, near a square by default."""
    columns = columns or math.ceil(math.sqrt(len(cells)))
    w, h = cells[0].size
    rows = math.ceil(len(cells) / columns)
    mode = cells[0].mode
    sheet = Image.new(mode, (columns * (w + PAD) + PAD, rows * (h + PAD) + PAD), "white" if mode != "RGBA" else (0, 0, 0, 0))
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (PAD + column * (w + PAD), PAD + row * (h + PAD)))
    return sheet


def scatter(points: Tensor, real: Tensor | None = None, side: int = 400) -> Image.Image:
    """Points of the plane, `n 2`, within [-3, 3] or as far as the real ones reach; real points in grey below."""
    reach = 3.0 if real is None else max(float(real.abs().max()) * 1.2, 1e-3)
    image = Image.new("RGB", (side, side), PAPER)
    canvas = ImageDraw.Draw(image)
    for cloud, colour in ((real, INK), (points, ACCENT)):
        if cloud is not None:
            places = ((cloud.float().nan_to_num(0.0) / reach + 1) * side / 2).clamp(-8, side + 8).tolist()
            for a, b in places:
                canvas.ellipse((a - 1, side - b - 1, a + 1, side - b + 1), fill=colour)
    return image


def heat_map(x: Tensor) -> Image.Image:
    """Vectors or sequences as rows: blue for -1, white for 0, red for 1 and beyond."""
    values = x.flatten(1).float().nan_to_num(0.0).clamp(-1, 1)
    red, blue = 1 - (-values).clamp(min=0), 1 - values.clamp(min=0)
    colours = torch.stack([red, torch.minimum(red, blue), blue], -1)
    image = Image.fromarray((colours * 255).to(torch.uint8).numpy())
    return image.resize((image.width * 8, image.height * 8), Image.Resampling.NEAREST)


def read_picture(path: Path, spec: SampleSpec) -> Tensor:
    """A picture file brought to a model's size and channels, `c h w` in model space; what is transparent becomes white.

    Raises DataError naming the file.
    """
    if spec.kind != "image" or spec.shape[0] not in (1, 3, 4):
        raise DataError(f"this model's data are no pictures that a file could hold (shape {spec.shape})")
    c, h, w = spec.shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if c != 4 and image.has_transparency_data:  # laid on white, as `images` does by default
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert({1: "L", 3: "RGB", 4: "RGBA"}[c])
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} can't be read as a picture: {error}") from error
    image = ImageOps.fit(image, (w, h), Image.Resampling.LANCZOS)
    values = rearrange(torch.from_numpy(np.array(image, dtype=np.uint8).reshape(h, w, c)), "h w c -> c h w")
    return values.float() / 127.5 - 1


def _write(path: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    _write_bytes(path, buffer.getvalue())


def _write_npy(path: Path, x: Tensor) -> None:
    buffer = io.BytesIO()
    np.save(buffer, x.numpy())
    _write_bytes(path, buffer.getvalue())


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
