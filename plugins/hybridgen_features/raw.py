"""No network: a sample's own values."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class Raw(nn.Module):
    """The values themselves, flattened: features that need no weights and know nothing of what a picture shows.

    embedding = the sample's values in model space, in order. There are no class probabilities.

    Shapes: x `b ...`; returns the embedding `b e`, e the number of values in a sample, and None.

    When: vectors and toy data, where the values are what one compares; pictures of a few dozen pixels without labels.
    Healthy: a picture and the same shifted by a pixel are far apart here, and a blurred one near: on pictures these
        distances tell colours and brightness, not whether anything can be recognised.
    Source: none; Frechet distances between raw values are those of the sets' first two moments.
    """

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = math.prod(sample_shape)
        self.classes = 0

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x.flatten(1).float(), None

    def describe(self) -> dict[str, Any]:
        """The protocol: what it is and how many numbers it gives."""
        return {"name": "raw", "dim": self.dim}
