"""How well a discriminator tells held-out data from generated samples."""

from __future__ import annotations

import math

from torch import Tensor


class DiscriminatorAccuracy:
    """Share of held-out real and of generated samples that the discriminator judges right.

    Neither is better as such, so this metric names no best checkpoint. Logits are counted above and below 0: in Wasserstein's
    and the relativistic game that says nothing, and least squares divides at one half.

    Shapes: real_logits, fake_logits `b ...`.
    When: beside the report's training accuracy, to see whether the discriminator generalises.
    Healthy: between 0.5 and 0.9 on both sides. Both near 1 for long: it has won, and the generator learns little. `real` far
        below the training accuracy: it has memorised the training set.
    Source: Goodfellow et al. 2014 (arXiv:1406.2661), proposition 1: one half on both sides at the optimum.
    """

    unit = "share"
    higher_is_better = None

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right: dict[str, Tensor | float] = {"real": 0.0, "fake": 0.0}
        self.count = {"real": 0, "fake": 0}

    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        for side, right in (("real", real_logits > 0), ("fake", fake_logits < 0)):
            self.right[side] = self.right[side] + right.double().sum()
            self.count[side] += right.numel()

    def compute(self) -> dict[str, float]:
        return {s: float(self.right[s]) / self.count[s] if self.count[s] else math.nan for s in ("real", "fake")}
