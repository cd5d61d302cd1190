"""A uniform sample of a stream of any length, in bounded memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Reservoir:
    """Rows of one or several tensors, kept together: all of them up to `most`, then a uniform sample of those seen.

    Each row draws a number, and the rows with the smallest numbers stay. They are drawn one by one from `seed`, so how the
    stream is batched changes nothing. Kept on the CPU in float32 (whole numbers stay whole).

    seen: rows so far.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most = most
        self.seen = 0
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._keys = torch.zeros(0, dtype=torch.float64)
        self._rows: list[list[Tensor]] = []

    def add(self, *rows: Tensor) -> None:
        """One batch: tensors of `b ...`, each always in the same place."""
        keys = torch.from_numpy(self._random.random(len(rows[0])))
        self.seen += len(keys)
        self._keys = torch.cat([self._keys, keys])
        moved = [t.detach().to("cpu", torch.float32 if t.is_floating_point() else None, copy=True) for t in rows]
        self._rows.append(moved)
        if len(self._keys) > 2 * self.most:
            self._shrink()

    def rows(self) -> list[Tensor]:
        """What is kept, `n ...` for each place, in the order of the stream."""
        self._shrink()
        return self._rows[0] if self._rows else []

    def _shrink(self) -> None:
        if not self._rows:
            return
        whole = [torch.cat(column) for column in zip(*self._rows, strict=True)]
        if len(self._keys) > self.most:
            kept = torch.topk(self._keys, self.most, largest=False).indices.sort().values
            self._keys, whole = self._keys[kept], [column[kept] for column in whole]
        self._rows = [whole]
