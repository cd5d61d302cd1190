"""The values themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Raw(nn.Module):
    """The values of a sample, flattened: no network at all.

    Shapes: x `b ...` -> embedding `b d`, d the number of values; no logits.

    When: vectors and points of the plane, where distances between values mean something; a check on what a network ignores.
    Healthy: on pictures, distances are ruled by brightness and position: a shift by a pixel is as far as another object.
    Source: none; it is the identity.
    """

    classes = 0

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = sample_shape

    def describe(self) -> dict[str, Any]:
        """What these features are, for the protocol."""
        size = 1
        for side in self.shape:
            size *= side
        return {"dim": size}

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x.float().flatten(1), None
