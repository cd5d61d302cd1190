"""Data: what one example is, held-out examples, and batches on the device in a reproducible order.

Sets are kept as they are stored (uint8 stays uint8) on the device; a batch is indexed and brought to model space there.
What doesn't fit there, or lies in a file, is read by a thread while the step before computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from hybridgen import randomness
from hybridgen.errors import DataError
from hybridgen.recipe import Data


@dataclass(frozen=True)
class SampleSpec:
    """What one example is.

    kind: "image" (shape c h w), "vector" (d), "sequence" (l c) or "tokens" (l v: positions and vocabulary).
    low, high: the stored values that become -1 and 1 in model space; -1 and 1 themselves leave values as they are.
    levels: number of distinct stored values, None for continuous data.
    activation: what brings a decoder's raw values to model space: "tanh", "identity", or "softmax" for tokens.
    classes: names of the labels; empty without labels.
    factors: names of the known factors of variation; empty where they aren't known.
    split: whether the data bring validation examples of their own beside the `count` for training.
    vocabulary, padding: what the tokens are called, and the index that fills sequences up, for data of the kind tokens.

    Tokens are stored as indices, `l`; their model space is one-hot, `l v`, so that every network and critic takes them.
    """

    kind: str
    shape: tuple[int, ...]
    count: int
    low: float = -1.0
    high: float = 1.0
    levels: int | None = None
    activation: str = "identity"
    classes: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    padding: int | None = None
    factors: tuple[str, ...] = ()
    split: bool = False

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one example as it is stored: that of model space, but for tokens."""
        return self.shape[:1] if self.kind == "tokens" else self.shape

    def batch(self, stored: Tensor) -> dict[str, Tensor]:
        """The quantities that stored examples give: `x` in model space, and for tokens `tokens` and `mask`."""
        x = self.to_model(stored)
        return {"x": x, **self._tokens(stored.long())} if self.kind == "tokens" else {"x": x}

    def quantities(self, x: Tensor) -> dict[str, Tensor]:
        """The same from examples in model space."""
        return {"x": x, **self._tokens(self.to_stored(x))} if self.kind == "tokens" else {"x": x}

    def _tokens(self, tokens: Tensor) -> dict[str, Tensor]:
        mask = torch.ones_like(tokens, dtype=torch.bool) if self.padding is None else tokens != self.padding
        return {"tokens": tokens, "mask": mask}

    def to_model(self, stored: Tensor) -> Tensor:
        """Stored values in model space, float32. Shapes: `b ...` -> `b ...`; tokens `b l` -> `b l v`."""
        if self.kind == "tokens":
            # torch's one_hot looks at the values, which on some devices means waiting for them
            return (stored.unsqueeze(-1) == torch.arange(self.shape[1], device=stored.device)).float()
        values = stored.float()
        if (self.low, self.high) == (-1.0, 1.0):
            return values
        above = values - self.low if self.low else values
        return above.mul(2.0 / (self.high - self.low)).sub_(1.0)

    def to_stored(self, x: Tensor) -> Tensor:
        """Model space as it would be stored, rounded and clamped to the levels where there are any; the likeliest token."""
        if self.kind == "tokens":
            return x.argmax(-1)
        values = (x + 1.0) * ((self.high - self.low) / 2.0) + self.low
        if self.levels is None:
            return values
        return values.round().clamp(self.low, self.high)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleSpec:
        lists = {name: tuple(values[name]) for name in ("shape", "classes", "vocabulary", "factors") if name in values}
        return cls(**{**values, **lists})


LARGE = 1 << 30
"""Bytes from which a part of a set is a view of the whole, not a copy."""


class Rows:
    """Some examples of a large tensor, read when they are asked for: the tensor may be a mapped file."""

    def __init__(self, whole: Tensor, rows: Tensor) -> None:
        self.whole, self.rows = whole, rows

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self.whole.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        return self.whole.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Tensor:
        return self.whole[self.rows[index]]

    def is_floating_point(self) -> bool:
        return self.whole.is_floating_point()

    def to(self, device: torch.device) -> Tensor | Rows:
        return self if device.type == "cpu" else self[:].to(device)


@dataclass
class Arrays:
    """Examples as stored, `n ...`; their class indices, `n` int64, where there are labels; and the values of their known
    factors of variation, `n f` int64, where there are any."""

    x: Tensor | Rows
    label: Tensor | None = None
    factors: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def tensor(self) -> Tensor:
        """All of x, in memory."""
        return self.x if isinstance(self.x, Tensor) else self.x[:]

    def subset(self, index: Tensor) -> Arrays:
        x = Rows(self.x, index) if isinstance(self.x, Tensor) and _bytes(self.x) >= LARGE else self.x[index]
        return Arrays(x, *(None if t is None else t[index] for t in (self.label, self.factors)))

    def beside(self, index: Any, spec: SampleSpec, device: torch.device) -> dict[str, Tensor]:
        """The quantities that are known of some examples beside their values: `label`, `factors`."""
        known = {"label": self.label if spec.classes else None, "factors": self.factors if spec.factors else None}
        return {name: tensor[index].to(device) for name, tensor in known.items() if tensor is not None}


def taken(x: Tensor | Rows, chosen: Tensor) -> Tensor:
    """The chosen of some examples. `index_select` copies each as a whole, where x[chosen] looks up value by value."""
    return x.index_select(0, chosen) if isinstance(x, Tensor) else x.whole.index_select(0, x.rows[chosen])


def _bytes(x: Tensor | Rows) -> int:
    return x.shape.numel() * x.dtype.itemsize


class Dataset(Protocol):
    """What a data component offers."""

    def describe(self) -> SampleSpec:
        """What one example is, from headers only."""

    def load(self) -> Mapping[str, Arrays]:
        """The examples: "train", and "validation" where the data bring a split of their own."""


def open_data(source: Dataset, options: Data) -> dict[str, Arrays]:
    """Load, check and split: "train" and "validation" (absent with `validation = 0`).

    Raises DataError for values that are not finite, shapes or labels that are not as described, and too few examples.
    """
    spec = source.describe()
    splits = dict(source.load())
    for name, arrays in splits.items():
        _verify(arrays, spec, name)
    if "validation" not in splits and options.validation > 0:
        splits |= _split(splits["train"], options.validation, options.split_seed)
    size = len(splits["train"])
    if size < options.batch_size:
        raise DataError(
            f"data.batch_size = {options.batch_size}, but there are only {size} training examples; "
            f"write a batch_size of at most {size}"
        )
    return splits


def _verify(arrays: Arrays, spec: SampleSpec, name: str) -> None:
    if tuple(arrays.x.shape[1:]) != spec.stored_shape:
        raise DataError(f"the {name} examples have the shape {tuple(arrays.x.shape[1:])}, expected {spec.stored_shape}")
    if spec.kind == "tokens" and (arrays.x.is_floating_point() or arrays.x.dtype == torch.bool):
        raise DataError(f"the {name} tokens are {arrays.x.dtype}, expected whole numbers (an integer type)")
    if spec.kind == "tokens" and len(arrays):
        low, high = int(arrays.tensor().min()), int(arrays.tensor().max())
        if low < 0 or high >= spec.shape[1]:
            raise DataError(f"{name} tokens run from {low} to {high}, expected 0 to {spec.shape[1] - 1}")
    if arrays.x.is_floating_point():
        bad = ~torch.isfinite(arrays.tensor()).flatten(1).all(1)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise DataError(f"{int(bad.sum())} {name} examples hold NaN or infinite values; the first is number {first}")
    if spec.factors and (arrays.factors is None or tuple(arrays.factors.shape) != (len(arrays), len(spec.factors))):
        got = "none" if arrays.factors is None else f"the shape {tuple(arrays.factors.shape)}"
        raise DataError(f"the {name} factors: expected {len(arrays)} rows of {', '.join(spec.factors)}; found {got}")
    if spec.classes:
        if arrays.label is None or len(arrays.label) != len(arrays):
            got = "none" if arrays.label is None else str(len(arrays.label))
            raise DataError(f"there are {len(arrays)} {name} examples but {got} labels")
        low, high = (int(arrays.label.min()), int(arrays.label.max())) if len(arrays) else (0, 0)
        if low < 0 or high >= len(spec.classes):
            raise DataError(f"{name} labels run from {low} to {high}, expected 0 to {len(spec.classes) - 1}")


def _split(arrays: Arrays, share: float, seed: int) -> dict[str, Arrays]:
    count = len(arrays)
    held_out = max(1, round(count * share))
    if held_out >= count:
        raise DataError(f"{count} examples are too few to hold {share:.0%} of them out; write data.validation = 0")
    order = torch.randperm(count, generator=randomness.generator(torch.device("cpu"), seed, "split"))
    return {
        "train": arrays.subset(order[held_out:].sort().values),
        "validation": arrays.subset(order[:held_out].sort().values),
    }


class Batches:
    """Training batches: number i is a function of the seed and i alone, so a resumed run reads on where it stopped.

    Each epoch is a permutation of its own; what does not fill a last batch waits for another epoch.
    """

    def __init__(
        self,
        arrays: Arrays,
        spec: SampleSpec,
        batch_size: int,
        seed: int,
        device: torch.device,
        *,
        flip: bool = False,
        channels_last: bool = False,
    ) -> None:
        if flip and spec.kind != "image":
            raise DataError(f"data.flip mirrors pictures; these data are of the kind '{spec.kind}'")
        self.resident = _bytes(arrays.x) < _room(device)
        self.x = arrays.x.to(device) if self.resident else arrays.x
        self.beside = arrays.beside(slice(None), spec, device)
        self.spec, self.batch_size, self.seed, self.device, self.flip = spec, batch_size, seed, device, flip
        self.count = len(arrays)
        self.per_epoch = self.count // batch_size
        self._order = lru_cache(2)(self._order)  # type: ignore[method-assign]
        self._ahead = None if self.resident else Ahead(self._read)
        self.lay_out(channels_last)

    def lay_out(self, channels_last: bool) -> None:
        """Pictures come as `b h w c` in memory from now on, or as they are stored."""
        self.last = channels_last and self.spec.kind == "image"

    def batch(self, index: int) -> dict[str, Tensor]:
        """Batch `index` (from 0): `x` in model space, `label` and `factors` where the data have them.

        These few operations are not compiled: calling a compiled function costs more than they do (0.22 ms against 0.07 for
        128 pictures of 28x28 on a CPU).
        """
        chosen = self._chosen(index)
        stored = taken(self.x, chosen) if self._ahead is None else self._ahead(index).to(self.device, non_blocking=True)
        made = self.spec.batch(stored)
        if self.flip:
            x = made["x"]
            coin = randomness.uniform((len(x), 1, 1, 1), self.device, self.seed, "flip", index)
            made["x"] = torch.where(coin < 0.5, x.flip(-1), x)
        if self.last:
            made["x"] = made["x"].contiguous(memory_format=torch.channels_last)
        return made | {name: tensor[chosen] for name, tensor in self.beside.items()}

    def of_step(self, step: int, count: int) -> list[dict[str, Tensor]]:
        """The batches of step `step` (from 1), one for each of its `count` critic updates."""
        return [self.batch(i) for i in range((step - 1) * count, step * count)]

    def _chosen(self, index: int) -> Tensor:
        epoch, position = divmod(index, self.per_epoch)
        return self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]

    def _order(self, epoch: int) -> Tensor:
        generator = randomness.generator(torch.device("cpu"), self.seed, "order", epoch)
        return torch.randperm(self.count, generator=generator).to(self.device)

    def _read(self, index: int) -> Tensor:
        """The stored examples of a batch on the host, where a device can fetch them while it computes."""
        stored = taken(self.x, self._chosen(index).cpu())
        return stored.pin_memory() if self.device.type == "cuda" else stored


class Ahead:
    """Reads the next batches in a thread: `read(index)` of the one asked for, and a few after it meanwhile."""

    def __init__(self, read: Callable[[int], Tensor], depth: int = 2) -> None:
        self.read, self.depth = read, depth
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="hybridgen-data")
        self.coming: dict[int, Future[Tensor]] = {}

    def __call__(self, index: int) -> Tensor:
        self.coming = {i: future for i, future in self.coming.items() if i >= index}
        for i in range(index, index + 1 + self.depth):
            if i not in self.coming:
                self.coming[i] = self.pool.submit(self.read, i)
        return self.coming.pop(index).result()


def _room(device: torch.device) -> int:
    """Bytes that a set may take on a device: a third of what is free on a GPU, for the model wants the rest."""
    return torch.cuda.mem_get_info(device)[0] // 3 if device.type == "cuda" else LARGE


def batches_in_order(arrays: Arrays, spec: SampleSpec, batch_size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Every example once, in order; the last batch may be short."""
    for start in range(0, len(arrays), batch_size):
        piece = slice(start, start + batch_size)
        yield spec.batch(arrays.x[piece].to(device)) | arrays.beside(piece, spec, device)
