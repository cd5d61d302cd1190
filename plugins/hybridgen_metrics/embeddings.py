"""What metrics of two sets of embeddings share: where they count, and what they refuse."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.reservoir import Reservoir


def exact_device(x: Tensor) -> torch.device:
    """Where float64 sums of `x` are made: its own device, or the CPU where that one (mps) has no float64."""
    return torch.device("cpu") if x.device.type == "mps" else x.device


class Sides:
    """Real and generated rows of a stream, at most `most` of each; `device` is where what is computed of them belongs."""

    def __init__(self, most: int, seed: int) -> None:
        self.real, self.fake = Reservoir(most, seed), Reservoir(most, seed)
        self.device = torch.device("cpu")

    def add_real(self, rows: Tensor) -> None:
        self.real.add(rows)
        self.device = exact_device(rows)

    def add_fake(self, rows: Tensor) -> None:
        self.fake.add(rows)

    def rows(self, *, least: int, why: str) -> tuple[Tensor, Tensor]:
        """What is kept of both, `n ...` and `m ...` on the CPU. Raises Unmeasurable where a side saw fewer than `least`."""
        refuse_few(self.real.seen, self.fake.seen, least=least, why=why)
        return self.real.rows()[0], self.fake.rows()[0]


def refuse_few(real: int, other: int, *, least: int, why: str, name: str = "generated") -> None:
    """Raises Unmeasurable where a side has fewer samples than the metric needs."""
    if min(real, other) < least:
        raise Unmeasurable(
            f"{real} real and {other} {name} samples, but {why} needs at least {least} of each; measure more samples"
        )


def refuse_constant(variance: Tensor, second_moment: Tensor) -> None:
    """Raises Unmeasurable where real features never vary (to the rounding of float32): they tell nothing apart.

    Generated samples whose features never vary are no such case: that is a collapse, and has a number.
    """
    if not bool((variance > 1e-12 * second_moment).any()):
        raise Unmeasurable(
            "every feature has the same value for all real examples, so the features tell nothing apart; "
            "use another feature network, or data that vary"
        )
