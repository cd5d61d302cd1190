"""NumPy files: pictures or vectors that are already an array."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from einops import rearrange
from pydantic import Field

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError

X_NAMES = ("x", "data", "images", "imgs", "x_train", "train_images", "arr_0")
LABEL_NAMES = ("label", "labels", "y", "target", "y_train", "train_labels")
FACTOR_NAMES = ("factors", "latents_classes")


class ArrayFile:
    """One array of a `.npy` or `.npz` file, an example a row.

    `n d` are vectors, `n h w` grey pictures, `n c h w` or `n h w c` pictures. Unsigned bytes run from 0 to 255, truth values
    from 0 to 1; floating-point pictures are expected in [-1, 1] unless `low` and `high` say otherwise; vectors stay as
    they are unless both are given. In an .npz, `key` names the array, labels are found as label, labels, y or target, and known
    factors of variation as factors or latents_classes (dSprites).

    Raises: DataError for a file that can't be read, holds objects or has another shape; pictures outside their range.
    Nothing is ever unpickled.
    """

    def __init__(
        self,
        *,
        path: Annotated[Path, Field(description="the .npy or .npz file")],
        key: Annotated[
            str | None, Field(description="which array of an .npz; by default x, data, images or the only one")
        ] = None,
        label: Annotated[
            str | None, Field(description="which array of an .npz holds class indices; by default label, y, ...")
        ] = None,
        labels: Annotated[Path | None, Field(description="a .npy file of class indices")] = None,
        factors: Annotated[
            str | None, Field(description="which array of an .npz holds known factors of variation; by default factors, ...")
        ] = None,
        kind: Annotated[Literal["auto", "image", "vector"], Field(description="auto: two axes are vectors")] = "auto",
        layout: Annotated[Literal["auto", "chw", "hwc"], Field(description="order of a picture's axes")] = "auto",
        low: Annotated[float | None, Field(description="stored value that becomes -1")] = None,
        high: Annotated[float | None, Field(description="stored value that becomes 1")] = None,
    ) -> None:
        if (low is None) != (high is None) or (low is not None and high is not None and low >= high):
            raise ValueError("low and high belong together, low < high: write data.low = 0.0 and data.high = 255.0")
        self.path, self.key, self.label, self.labels, self.factors = path, key, label, labels, factors
        self.kind, self.layout, self.low, self.high = kind, layout, low, high

    def describe(self) -> SampleSpec:
        """From the array's header; labels and factors are read to count the classes and columns."""
        shape, dtype = self._header()
        kind, sample = self._shape(shape)
        low, high, levels = self._range(kind, dtype)
        mapped = kind == "image" or self.low is not None or levels is not None
        label = self._label()
        classes = tuple(str(i) for i in range(int(label.max()) + 1)) if label is not None else ()
        known = self._factors()
        names = tuple(str(i) for i in range(known.shape[1])) if known is not None else ()
        activation = "tanh" if mapped else "identity"
        return SampleSpec(kind, sample, shape[0], low, high, levels, activation, classes, factors=names)

    def load(self) -> dict[str, Arrays]:
        values = _load(self.path)
        if self.path.suffix == ".npz":
            values = values[self._name(list(values))]
        spec = self.describe()
        x = torch.from_numpy(_portable(values)).reshape(len(values), *self._stored_shape(values.shape))
        if self._is_last(values.shape):
            x = rearrange(x, "n h w c -> n c h w").contiguous()
        if spec.activation == "tanh" and x.is_floating_point():
            self._within(x, spec)
        return {"train": Arrays(x, self._label(), self._factors())}

    # -- shape and range -----------------------------------------------------------------------------------------------

    def _shape(self, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
        if len(shape) < 2 or 0 in shape:
            raise DataError(f"{self.path} has the shape {shape}; expected an example a row: n d, n h w, n c h w or n h w c")
        if self.kind == "vector" or (self.kind == "auto" and len(shape) == 2):
            return "vector", (int(np.prod(shape[1:])),)
        if len(shape) not in (3, 4):
            raise DataError(f"{self.path} has the shape {shape}; pictures are n h w, n c h w or n h w c")
        if self._is_last(shape):
            return "image", (shape[3], shape[1], shape[2])
        return "image", (1, *shape[1:]) if len(shape) == 3 else shape[1:]

    def _stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        kind, sample = self._shape(shape)
        return shape[1:] if kind == "image" and len(shape) == 4 else sample

    def _is_last(self, shape: tuple[int, ...]) -> bool:
        """Whether the channels come last: said by `layout`, or 1, 3 or 4 of them there and no likelier number in front."""
        if len(shape) != 4 or self.kind == "vector" or self.layout == "chw":
            return False
        likelier = (1, 3, 4) if shape[3] == 4 else (1, 3)
        return self.layout == "hwc" or (shape[3] in (1, 3, 4) and shape[1] not in likelier)

    def _range(self, kind: str, dtype: np.dtype[Any]) -> tuple[float, float, int | None]:
        if dtype.kind not in "fiub":
            raise DataError(f"{self.path} holds {dtype}, expected numbers")
        if self.low is not None and self.high is not None:
            whole = dtype.kind in "iub"
            return self.low, self.high, int(self.high - self.low) + 1 if whole else None
        if dtype == np.uint8:
            return 0.0, 255.0, 256
        if dtype == np.bool_:
            return 0.0, 1.0, 2
        if dtype.kind in "iu" and kind == "image":
            raise DataError(f"{self.path} holds {dtype}: say which values are black and white with data.low and data.high")
        return -1.0, 1.0, None

    def _within(self, x: torch.Tensor, spec: SampleSpec) -> None:
        least, most = float(x.min()), float(x.max())
        slack = 1e-3 * (spec.high - spec.low)
        if least < spec.low - slack or most > spec.high + slack:
            raise DataError(
                f"{self.path} holds values from {least:g} to {most:g}, expected {spec.low:g} to {spec.high:g}; say what they "
                f"run from and to with data.low and data.high"
            )

    # -- files ---------------------------------------------------------------------------------------------------------

    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        if self.path.suffix == ".npz":
            archive = _load(self.path)
            return _npz_header(self.path, self._name(list(archive)))
        array = _load(self.path, mmap_mode="r")
        return array.shape, array.dtype

    def _name(self, names: list[str]) -> str:
        if self.key is not None:
            if self.key not in names:
                raise DataError(f"{self.path} holds no array '{self.key}'; it holds: {', '.join(names)}")
            return self.key
        found = [name for name in names if name.lower() in X_NAMES] or (names if len(names) == 1 else [])
        if len(found) != 1:
            raise DataError(f"{self.path} holds {', '.join(names) or 'nothing'}; say which are the examples with data.key")
        return found[0]

    def _label(self) -> torch.Tensor | None:
        if self.labels is not None:
            values, source = _load(self.labels), str(self.labels)
        elif self.path.suffix == ".npz":
            archived = self._beside(self.label, LABEL_NAMES)
            if archived is None:
                return None
            values, source = archived
        else:
            return None
        if values.dtype.kind not in "iub" or values.size == 0 or values.ndim != 1:
            raise DataError(f"{source}: labels are a row of class indices from 0, found {values.dtype} of shape {values.shape}")
        return torch.from_numpy(values.astype(np.int64))

    def _factors(self) -> torch.Tensor | None:
        if self.path.suffix != ".npz":
            if self.factors is not None:
                raise DataError(f"{self.path} holds one array; factors are an array of their own in an .npz")
            return None
        archived = self._beside(self.factors, FACTOR_NAMES)
        if archived is None:
            return None
        values, source = archived
        if values.dtype.kind not in "iub" or values.size == 0 or values.ndim != 2:
            raise DataError(
                f"{source}: factors are whole numbers, a row an example and a column a factor, found {values.dtype} of shape "
                f"{values.shape}"
            )
        return torch.from_numpy(values.astype(np.int64))

    def _beside(self, wanted: str | None, usual: tuple[str, ...]) -> tuple[Any, str] | None:
        """Another array of the archive and where it stands: the one that is wanted, or one of a usual name."""
        archive = _load(self.path)
        name = wanted or next((n for n in archive if n.lower() in usual), None)
        if name is None:
            return None
        if name not in archive:
            raise DataError(f"{self.path} holds no array '{name}'; it holds: {', '.join(archive)}")
        return archive[name], f"{self.path}:{name}"


def _load(path: Path, *, mmap_mode: Literal["r"] | None = None) -> Any:
    if path.suffix not in (".npy", ".npz"):
        raise DataError(f"'{path}' is no NumPy file: expected a name that ends in .npy or .npz")
    if not path.is_file():
        raise DataError(f"there is no file '{path}'")
    try:
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error).lower() or "object" in str(error).lower():
            raise DataError(f"{path} holds Python objects (or is no array file); save numbers: np.save(path, array)") from error
        raise DataError(f"{path} can't be read: {error}") from error


def _npz_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of one array of an archive, without unpacking it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: '{name}' can't be read: {error}") from error
    return shape, dtype


def _portable(values: np.ndarray) -> np.ndarray:
    """As torch can hold it: bytes stay bytes, all else is float32."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values, dtype=np.float32)
