"""IDX, the file format of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST, ...), gzipped or not."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
FILE = re.compile(r"(?P<stem>.*?)(?P<what>images|labels)(?P<rest>[-._].*)?", re.IGNORECASE)


class Idx:
    """Pictures and labels from a folder of IDX files, as MNIST is published: no conversion, .gz or unpacked.

    The folder holds `train-images-idx3-ubyte`, and with it `train-labels-idx1-ubyte`, `t10k-images-...` and
    `t10k-labels-...` where there are any; names such as `emnist-letters-train-images-idx3-ubyte.gz` work as well. Pictures
    are `n h w` or `n c h w` of unsigned bytes. The test files (`t10k` or `test` in the name) are the validation split.

    Raises: DataError for a folder without training pictures, several sets in one folder, a file that is no IDX file or
    is truncated, and numbers of pictures and labels that differ.
    Source: the format's description at the end of Y. LeCun's MNIST page.
    """

    def __init__(
        self,
        *,
        path: Annotated[Path, Field(description="folder of the files")],
        prefix: Annotated[str, Field(description='only files whose names start so: "emnist-letters"')] = "",
        held_out: Annotated[
            Literal["test", "split"],
            Field(description="validate on the files' own test set, or on a part of the training set (data.validation)"),
        ] = "test",
    ) -> None:
        self.path, self.prefix, self.held_out = path, prefix, held_out

    def describe(self) -> SampleSpec:
        """From the headers; labels, a byte each, are read to count the classes."""
        files = self._files()
        shape = _header(files["train", "images"])
        label = self._label("train", files)
        classes = 0 if label is None else max(int(label.max()) + 1, 1)
        return SampleSpec(
            kind="image",
            shape=(1, *shape[1:]) if len(shape) == 3 else shape[1:],
            count=shape[0],
            low=0.0,
            high=255.0,
            levels=256,
            activation="tanh",
            classes=tuple(str(i) for i in range(classes)),
            split=self._brings_split(files),
        )

    def load(self) -> dict[str, Arrays]:
        files = self._files()
        splits = {"train": self._arrays("train", files)}
        if self._brings_split(files):  # published without one: split by the seed
            splits["validation"] = self._arrays("test", files)
        return splits

    def _brings_split(self, files: dict[tuple[str, str], Path]) -> bool:
        return self.held_out == "test" and ("test", "images") in files

    def _arrays(self, split: str, files: dict[tuple[str, str], Path]) -> Arrays:
        _header(files[split, "images"])
        pixels = _read(files[split, "images"])
        x = torch.from_numpy(pixels).unsqueeze(1) if pixels.ndim == 3 else torch.from_numpy(pixels)
        label = self._label(split, files)
        if label is not None and len(label) != len(x):
            raise DataError(
                f"{files[split, 'images']} holds {len(x)} pictures, but {files[split, 'labels'].name} {len(label)} labels; "
                "one of them belongs to another set"
            )
        return Arrays(x, label)

    def _label(self, split: str, files: dict[tuple[str, str], Path]) -> torch.Tensor | None:
        path = files.get((split, "labels"))
        if path is None:
            return None
        labels = _read(path)
        if labels.ndim != 1 or labels.size == 0:
            raise DataError(f"{path}: labels are a row of numbers, this file has the shape {labels.shape}")
        return torch.from_numpy(labels.astype(np.int64))

    def _files(self) -> dict[tuple[str, str], Path]:
        """(split, "images" or "labels") -> file."""
        if not self.path.is_dir():
            raise DataError(f"data.path = '{self.path}' is no folder; give the folder that holds the IDX files")
        found: dict[tuple[str, str], Path] = {}
        for path in sorted(self.path.iterdir()):
            match = FILE.fullmatch(path.name.removesuffix(".gz"))
            if match is None or not path.is_file() or not path.name.startswith(self.prefix):
                continue
            split = "test" if re.search(r"t10k|test", match["stem"], re.IGNORECASE) else "train"
            key = (split, match["what"].lower())
            other = found.setdefault(key, path)
            if other.name.removesuffix(".gz") != path.name.removesuffix(".gz"):
                raise DataError(
                    f"{self.path} holds several sets: {other.name} and {path.name}; say which with data.prefix, the start of "
                    "its names"
                )
        if ("train", "images") not in found:
            names = ", ".join(sorted(p.name for p in self.path.iterdir())[:5]) or "nothing"
            raise DataError(
                f"{self.path} holds no training pictures; expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz, "
                f"found: {names}"
            )
        return found


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _start(file: IO[bytes], path: Path) -> tuple[str, tuple[int, ...]]:
    """The type and shape that a file's first bytes state."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        hint = "; it is gzipped: add .gz to its name" if magic[:2] == b"\x1f\x8b" else ""
        raise DataError(f"{path} is no IDX file: it starts with {magic.hex(' ') or 'nothing'}, expected 00 00 08 03{hint}")
    sides = file.read(4 * magic[3])
    if len(sides) < 4 * magic[3]:
        raise DataError(f"{path} is truncated: it ends within its header")
    return TYPES[magic[2]], struct.unpack(f">{magic[3]}I", sides)


def _header(path: Path) -> tuple[int, ...]:
    """The shape of a file of pictures."""
    try:
        with _open(path) as file:
            kind, shape = _start(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if kind != ">u1" or len(shape) not in (3, 4) or 0 in shape:
        raise DataError(f"{path}: expected pictures of unsigned bytes, n h w or n c h w, found {kind[1:]} of shape {shape}")
    return shape


def _read(path: Path) -> np.ndarray:
    try:
        with _open(path) as file:
            kind, shape = _start(file, path)
            content = file.read()
    except EOFError as error:
        raise DataError(f"{path} is truncated: the gzip stream ends early; fetch it again") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    wanted = math.prod(shape) * np.dtype(kind).itemsize
    if len(content) != wanted:
        word = "truncated" if len(content) < wanted else "too long"
        raise DataError(
            f"{path} is {word}: its header announces {' x '.join(map(str, shape))} values, {wanted:,} bytes, it holds "
            f"{len(content):,}; fetch it again"
        )
    return np.frombuffer(bytearray(content), kind).reshape(shape)
