"""Time: how long a run has trained, what is due when, and where the time between two rows goes."""

from __future__ import annotations

import time
from collections.abc import Callable


def quickest(function: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of some calls, after one that makes the kernels. Only for what doesn't run ahead, as on CPUs."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


class Clock:
    """Seconds of training so far, those of earlier processes included."""

    def __init__(self, before: float) -> None:
        self.before = before
        self.start = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + time.monotonic() - self.start


class Every:
    """Due every n steps, or every so many seconds ("30s")."""

    def __init__(self, interval: int | str) -> None:
        self.steps = interval if isinstance(interval, int) else 0
        self.wait = None if isinstance(interval, int) else float(interval.removesuffix("s"))
        self.last = time.monotonic()

    def due(self, step: int) -> bool:
        if self.steps:
            return step % self.steps == 0
        if self.wait is not None and time.monotonic() - self.last >= self.wait:
            self.last = time.monotonic()
            return True
        return False


class Meter:
    """Where the time between two rows goes: seconds waiting for data, and samples seen."""

    def __init__(self, samples_per_step: int) -> None:
        self.samples_per_step = samples_per_step
        self._reset()

    def _reset(self) -> None:
        self.waited = self.worked = 0.0
        self.steps = 0

    def begin(self) -> None:
        self._mark = time.perf_counter()

    def fetched(self) -> None:
        now = time.perf_counter()
        self.waited += now - self._mark
        self._mark = now

    def stepped(self) -> None:
        now = time.perf_counter()
        self.worked += now - self._mark
        self._mark = now
        self.steps += 1

    def synchronised(self) -> None:
        """The device has caught up (a row was read): the wait for it belongs to the steps before."""
        self.worked += time.perf_counter() - self._mark

    def read(self) -> dict[str, float]:
        total = self.waited + self.worked
        values = {}
        if total > 0 and self.steps:
            values = {
                "samples_per_second": self.steps * self.samples_per_step / total,
                "data_share": self.waited / total,
            }
        self._reset()
        return values
