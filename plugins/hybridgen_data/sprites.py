"""Small pictures whose factors of variation are known: what a code is to take apart."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hybridgen import randomness
from hybridgen.data import Arrays, SampleSpec

SHAPES = ("square", "disc", "triangle")


class Sprites:
    """One white shape on black, drawn in code: grey pictures 1 `size` `size` of four independent factors.

    shape     square, disc or triangle, of equal area; it is the label as well
    scale     `scales` sizes; the disc's radius is 0.09 to 0.16 of the side
    x, y      `positions` places across and down, all so far from the edge that no shape is cut off

    Each combination once, in order, or `count` of them drawn evenly with `seed`. A pixel is as bright as the shape covers it.

    Source: after dSprites, Matthey et al. 2017 (github.com/google-deepmind/dsprites-dataset); nothing is downloaded.
    """

    def __init__(
        self,
        *,
        size: Annotated[int, Field(ge=8, le=256, description="pixels a side")] = 16,
        scales: Annotated[int, Field(ge=1, description="different sizes of a shape")] = 5,
        positions: Annotated[int, Field(ge=1, description="places along each axis")] = 16,
        count: Annotated[int | None, Field(ge=1, description="pictures drawn; by default each combination once")] = None,
        seed: Annotated[int, Field(ge=0, description="which are drawn, with `count`")] = 0,
    ) -> None:
        self.size, self.count, self.seed = size, count, seed
        self.values = (len(SHAPES), scales, positions, positions)

    def describe(self) -> SampleSpec:
        """A picture of bytes, with the names of its factors and shapes."""
        return SampleSpec(
            kind="image",
            shape=(1, self.size, self.size),
            count=self.count or math.prod(self.values),
            low=0.0,
            high=255.0,
            levels=256,
            activation="tanh",
            classes=SHAPES,
            factors=("shape", "scale", "x", "y"),
        )

    def load(self) -> dict[str, Arrays]:
        factors = torch.cartesian_prod(*(torch.arange(n) for n in self.values))  # n 4
        if self.count is not None:
            place = randomness.uniform((self.count,), torch.device("cpu"), self.seed, "sprites")
            factors = factors[(place.double() * len(factors)).long()]
        x = torch.cat([self.draw(piece) for piece in factors.split(4096)])
        return {"train": Arrays(x, factors[:, 0].contiguous(), factors)}

    def draw(self, factors: Tensor) -> Tensor:
        """The pictures of some combinations. Shapes: `n 4` -> `n 1 h w`, uint8."""
        shape, scale, across, down = factors.unbind(1)
        radius = self.size * _spread(scale, self.values[1], 0.09, 0.16)
        centre = torch.stack([self.size * _spread(i, self.values[2], 0.29, 0.71) for i in (across, down)], 1)  # n 2
        pixel = torch.arange(self.size) + 0.5
        u = (pixel - centre[:, :1])[:, None, :]  # n 1 w
        v = (pixel - centre[:, 1:])[:, :, None]  # n h 1, downwards
        r = radius[:, None, None]
        inside = math.sqrt(math.pi / (3 * math.sqrt(3)))  # the triangle's inner radius at the disc's area, in its radii
        lean = math.sqrt(3) / 2
        outlines = torch.stack(
            [
                torch.maximum(u.abs(), v.abs()) - r * math.sqrt(math.pi) / 2,
                (u.square() + v.square()).sqrt() - r,
                torch.maximum(v.expand_as(u + v), u.abs() * lean - v / 2) - r * inside,
            ]
        )  # distance from the outline in pixels, negative inside: shape n h w
        distance = outlines[shape, torch.arange(len(shape))]
        return (255 * (0.5 - distance).clamp(0, 1)).round().to(torch.uint8).unsqueeze(1)


def _spread(index: Tensor, count: int, low: float, high: float) -> Tensor:
    """`count` values evenly from low to high, by index; the middle where there is one."""
    return low + (high - low) * (index / (count - 1)) if count > 1 else torch.full(index.shape, (low + high) / 2)
