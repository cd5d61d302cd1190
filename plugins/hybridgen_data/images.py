"""A folder of pictures: any formats that pillow reads, any sizes; decoded once, then mapped from a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import PIL
import torch
from einops import rearrange
from PIL import Image, ImageOps
from pydantic import Field

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError
from hybridgen.files import cache_folder, write_atomically

GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
LOOKED_AT = 256
CACHED = 1 << 24
"""Bytes of decoded pictures from which they are kept in the cache: less is decoded again in a moment."""
NAMED = 5
Side = Annotated[int, Field(ge=1, le=4096)]


class Images:
    """Every picture below a folder, brought to one size and kept as bytes, in memory or in a file.

    `fit` says how another aspect is met: "crop" fills the frame and cuts evenly what stands over, "pad" shows the whole
    picture on `background`, "stretch" ignores the aspect. Cameras' EXIF orientation is obeyed, transparency is laid on
    `background`, of animations the first frame is taken, 16-bit pictures are brought to 8 bits. Class sub-folders become
    labels where every picture lies in one and there are at least two. Hidden files and other kinds of files are passed over.

    Sets from 16 MiB on are kept in hybridgen's cache (`pictures/` below $HYBRIDGEN_CACHE, else ~/.cache/hybridgen), under a
    name that changes with files, their times and these options: the next run maps that file and decodes nothing, runs beside
    each other share it, and a set may be larger than memory. What lies there can be deleted at any time.

    Raises: DataError for a folder without pictures, pictures that can't be read (unless `broken = "skip"`), and sets that
    fit neither into memory nor onto the cache's disk.
    """

    def __init__(
        self,
        *,
        path: Annotated[Path, Field(description="the folder, with its sub-folders: data.path=~/pictures")],
        size: Annotated[Side | tuple[Side, Side], Field(description="pixels: one number, or [height, width]")] = 64,
        fit: Annotated[Literal["crop", "pad", "stretch"], Field(description="how another aspect is met")] = "crop",
        colour: Annotated[Literal["auto", "grey", "rgb"], Field(description="auto: grey where the pictures are")] = "auto",
        background: Annotated[int, Field(ge=0, le=255, description="grey level under transparency and around `pad`")] = 255,
        labels: Annotated[Literal["auto", "folders", "none"], Field(description="whether sub-folders are classes")] = "auto",
        broken: Annotated[Literal["error", "skip"], Field(description="what a picture that can't be read does")] = "error",
    ) -> None:
        self.path = path
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.fit, self.colour, self.background = fit, colour, background
        self.labels, self.broken = labels, broken
        self.notes: list[str] = []

    def describe(self) -> SampleSpec:
        """From names and headers; the pictures themselves are read by `load`."""
        return SampleSpec(
            kind="image",
            shape=(self._channels, *self.size),
            count=len(self._files),
            low=0.0,
            high=255.0,
            levels=256,
            activation="tanh",
            classes=self._classes(),
        )

    def load(self) -> dict[str, Arrays]:
        files, channels, classes = self._files, self._channels, self._classes()
        shape = (len(files), channels, *self.size)
        if math.prod(shape) < CACHED:
            pixels, good = self._decoded(np.empty(shape, np.uint8))
        else:
            pixels, good = self._kept(shape)
        label = None
        if classes:
            place = {name: i for i, name in enumerate(classes)}
            label = torch.tensor([place[self._folder(files[i])] for i in good])
        return {"train": Arrays(torch.from_numpy(pixels), label)}

    def _decoded(self, pixels: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """The pictures that can be read, moved together at the start of `pixels`, and which these are."""
        files = self._files
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:  # pillow decodes without the interpreter's lock
            causes = list(pool.map(lambda i: self._read(files[i], pixels[i]), range(len(files))))
        bad = [(file, cause) for file, cause in zip(files, causes, strict=True) if cause]
        if bad:
            self._tell(bad, len(files))
        good = [i for i, cause in enumerate(causes) if not cause]
        if not good:
            raise DataError(f"none of the {len(files)} pictures below {self.path} can be read")
        for to, i in enumerate(good):
            if to != i:
                pixels[to] = pixels[i]
        return pixels[: len(good)], good

    # -- the cache -------------------------------------------------------------------------------------------------------

    def _kept(self, shape: tuple[int, ...]) -> tuple[np.ndarray, list[int]]:
        """As `_decoded`, from the file of an earlier run where there is one; else decoded into it.

        A reader sees a whole file or none: it gets its name when it is complete. Two runs that decode the same folder at
        once write the same bytes twice.
        """
        folder = cache_folder() / "pictures"
        file, about = folder / f"{self._key()}.bytes", folder / f"{self._key()}.json"
        with contextlib.suppress(OSError, ValueError, KeyError):
            told = json.loads(about.read_text(encoding="utf-8"))
            self.notes = [*told["notes"], f"pictures are read from {file}"]
            return _mapped(file, (len(told["good"]), *shape[1:])), told["good"]
        part = folder / f".{file.name}.{os.getpid()}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _reserve(part, math.prod(shape))
        except OSError as error:
            part.unlink(missing_ok=True)
            _fits_memory(math.prod(shape), self.path, error)
            pixels, good = self._decoded(np.empty(shape, np.uint8))
            self.notes.append(f"pictures are not kept for the next run: {error.strerror or error} ({folder})")
            return pixels, good
        try:
            pixels, good = self._decoded(_mapped(part, shape))
            os.truncate(part, pixels.nbytes)
            part.replace(file)
            write_atomically(about, json.dumps({"good": good, "notes": self.notes}).encode())
        finally:
            part.unlink(missing_ok=True)
        self.notes.append(f"pictures are kept in {file}, {pixels.nbytes / 2**20:,.0f} MiB, for the next run")
        return pixels, good

    def _key(self) -> str:
        """What the decoded bytes depend on: every file's name, size and time, the options, and pillow."""
        stats = [(file.relative_to(self.path).as_posix(), file.stat()) for file in self._files]
        about = [
            *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats),
            (*self.size, self.fit, self._channels, self.background, self.broken, PIL.__version__),
        ]
        return hashlib.blake2b(repr(about).encode(), digest_size=16).hexdigest()

    # -- files -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _files(self) -> list[Path]:
        """The pictures in a fixed order, whatever the file system's; looked for once."""
        if not self.path.is_dir():
            raise DataError(f"data.path = '{self.path}' is no folder; give one that holds pictures: data.path=~/pictures")
        known = {ending for ending, name in Image.registered_extensions().items() if name in Image.OPEN}
        found, others = [], set()
        for folder, folders, names in os.walk(self.path, followlinks=True):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
            for name in names:
                if Path(name).suffix.lower() in known and not name.startswith("."):
                    found.append(Path(folder, name))
                elif not name.startswith("."):
                    others.add(Path(name).suffix or name)
        if not found:
            told = f"; it holds files that end in {', '.join(sorted(others)[:NAMED])}" if others else ", it is empty"
            raise DataError(f"there is no picture below {self.path}{told}. Pictures end in .png, .jpg, .webp and the like")
        return sorted(found, key=lambda file: file.relative_to(self.path).as_posix())

    def _folder(self, file: Path) -> str:
        parts = file.relative_to(self.path).parts
        return parts[0] if len(parts) > 1 else ""

    def _classes(self) -> tuple[str, ...]:
        if self.labels == "none":
            return ()
        folders = sorted({self._folder(file) for file in self._files})
        if self.labels == "auto":
            return tuple(folders) if len(folders) > 1 and "" not in folders else ()
        if "" in folders:
            loose = next(file for file in self._files if not self._folder(file))
            raise DataError(f'labels = "folders", but {loose.name} lies in no sub-folder of {self.path}')
        return tuple(folders)

    @cached_property
    def _channels(self) -> int:
        if self.colour != "auto":
            return 1 if self.colour == "grey" else 3
        for file in self._files[:: max(len(self._files) // LOOKED_AT, 1)]:
            try:
                with Image.open(file) as image:
                    if image.mode not in GREY:
                        return 3
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                continue  # told by load, which reads every picture
        return 1

    # -- one picture -----------------------------------------------------------------------------------------------------

    def _read(self, file: Path, into: np.ndarray) -> str:
        """Read one picture into its place; returns why it can't be read, "" where it can."""
        try:
            with Image.open(file) as image:
                prepared = self._prepared(image, "L" if len(into) == 1 else "RGB")
            into[:] = rearrange(np.asarray(prepared).reshape(*self.size, len(into)), "h w c -> c h w")
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            return str(error).replace(str(file), file.name) or type(error).__name__
        return ""

    def _prepared(self, image: Image.Image, mode: str) -> Image.Image:
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = _eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (self.background,) * 3 + (255,)), image)
        image = image.convert(mode)
        height, width = self.size
        if self.fit == "stretch":
            return image.resize((width, height), Image.Resampling.LANCZOS)
        if self.fit == "pad":
            colour = self.background if mode == "L" else (self.background,) * 3
            return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color=colour)
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)

    def _tell(self, bad: Sequence[tuple[Path, str]], count: int) -> None:
        named = "; ".join(f"{file.relative_to(self.path)} ({cause})" for file, cause in bad[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        if self.broken == "error":
            raise DataError(
                f"{len(bad)} of {count} pictures below {self.path} can't be read: {named}{more}. Mend or remove them, or go on "
                'without them: data.broken = "skip"'
            )
        self.notes = [f"{len(bad)} of {count} pictures can't be read and were skipped: {named}{more}"]


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit greys (and floats from 0 to 1) as eight bits; pillow itself would clip them to white."""
    values = np.asarray(image)
    values = values * 255.0 if values.dtype.kind == "f" and values.max(initial=0) <= 1 else values / 257.0
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


def _reserve(file: Path, size: int) -> None:
    """A file of `size` bytes that are really there: writing to a map of one that isn't would end the process."""
    with file.open("wb") as opened:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        else:
            for start in range(0, size, 1 << 24):
                opened.write(bytes(min(1 << 24, size - start)))


def _mapped(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    if file.stat().st_size < math.prod(shape):
        raise ValueError(f"{file} is shorter than {math.prod(shape)} bytes")
    return np.memmap(file, np.uint8, "r+", shape=shape)


def _fits_memory(size: int, path: Path, error: OSError) -> None:
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if size > 0.6 * whole:
        raise DataError(
            f"the pictures below {path} take {size / 2**30:.1f} GiB at this size, this machine has {whole / 2**30:.1f} GiB of "
            f"memory, and the cache can't take them: {error.strerror or error}; write a smaller data.size, or name a folder "
            "with more room in HYBRIDGEN_CACHE"
        )
