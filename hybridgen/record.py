"""Sums of named scalars, kept on the device between log points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Record:
    """Means of named scalars between two log points; nothing waits for the device until `mean`."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's detached scalars. Steps with the same names share one running sum."""
        if not values:
            return
        names = tuple(values)
        with torch.no_grad():
            stacked = torch.stack([value.float() for value in values.values()])
        total, count = self._sums.get(names, (torch.zeros_like(stacked), 0))
        self._sums[names] = (total + stacked, count + 1)

    def mean(self, *, keep: bool = False) -> dict[str, float]:
        """Name -> mean over the steps that had it; then start anew, unless `keep`. The one transfer from the device."""
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, (total, count) in self._sums.items():
            for name, value in zip(names, total.tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        if not keep:
            self._sums = {}
        return {name: totals[name] / counts[name] for name in totals}

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last log point, so that a resumed run's next row is the undisturbed run's."""
        return {
            "names": [list(names) for names in self._sums],
            "sums": [total for total, _ in self._sums.values()],
            "counts": [count for _, count in self._sums.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        entries = zip(state["names"], state["sums"], state["counts"], strict=True)
        self._sums = {tuple(names): (total.to(device), count) for names, total, count in entries}
