"""Codes that lie in the plane: one vector a position of a map whose sides are the picture's, halved."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

Halvings = Annotated[
    int | None,
    Field(ge=0, description="a spatial code: a map with the picture's sides halved so often; without it, one vector a sample"),
]


def sides(sample_shape: tuple[int, ...] | None, halvings: int | None, name: str) -> tuple[int, ...]:
    """The sides of the map: those of the picture, each halved `halvings` times (an odd one rounds up); () without a map.

    Raises ValueError for data that are no pictures, and for more halvings than the longer side has.
    """
    if halvings is None:
        return ()
    if sample_shape is None or len(sample_shape) != 3:
        shape = "none" if sample_shape is None else str(sample_shape)
        raise ValueError(f"{name}: `halvings` wants pictures (c, h, w), these data have the shape {shape}; leave it out")
    h, w = sample_shape[1:]
    every = halved(h, w)
    most = len(every) - 1
    if halvings > most:
        raise ValueError(f"{name}: halvings = {halvings} halves {h}x{w} further than one pixel; write at most {most}")
    return every[halvings]


def halved(h: int, w: int) -> list[tuple[int, int]]:
    """The sides of a picture down to one pixel, each halving rounding up: what latents promise and networks keep."""
    found = [(h, w)]
    while (h, w) != (1, 1):
        h, w = math.ceil(h / 2), math.ceil(w / 2)
        found.append((h, w))
    return found
