"""Heights and widths from stage to stage: the one place where networks for pictures reckon with sizes.

A halving rounds an odd side up. Decoders go the encoder's way back, so that every size mirrors exactly.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from hybridgen_latents.spatial import halved

SMALLEST = 4
"""By default sides are halved until the shorter one is at most this long, as in DCGAN."""

Sides = tuple[int, int]


def sizes(shape: tuple[int, ...], depth: int | None, name: str, code: tuple[int, ...] = ()) -> list[Sides]:
    """Height and width before the first halving and after each.

    code: the shape of the code or latent at the other end. A spatial one (c, h, w) implies the number of halvings.
    Raises ValueError for data that are no pictures, for more halvings than the longer side has, and for a spatial code
    whose sides no number of halvings (or not `depth` of them) gives.
    """
    if len(shape) != 3:
        raise ValueError(f'{name} wants pictures (c, h, w), these data have the shape {shape}; use "mlp"')
    every = halved(shape[1], shape[2])
    most = len(every) - 1
    if depth is not None and depth > most:
        raise ValueError(f"{name}: depth = {depth} halves {shape[1]}x{shape[2]} further than one pixel; write at most {most}")
    if spatial(code):
        implied = _implied(every, (code[1], code[2]), name)
        if depth is not None and depth != implied:
            raise ValueError(
                f"{name}: depth = {depth}, but a code of {code[1]}x{code[2]} is {implied} halvings of "
                f"{shape[1]}x{shape[2]}; leave `depth` out, the code's sides say it"
            )
        depth = implied
    elif depth is None:
        small = next(i for i, sides in enumerate(every) if min(sides) <= SMALLEST)
        depth = max(small, min(1, most))
    return every[: depth + 1]


def _implied(every: list[Sides], code: Sides, name: str) -> int:
    if code not in every:
        fitting = ", ".join(f"{h}x{w}" for h, w in every)
        (h, w), (sh, sw) = code, every[0]
        raise ValueError(f"{name}: halving {sh}x{sw} never gives a code of {h}x{w}; sides that would fit: {fitting}")
    return every.index(code)


def spatial(code: tuple[int, ...]) -> bool:
    """Whether a code or latent lies in the plane (c, h, w), so that a network need not flatten it."""
    return len(code) == 3


def read_out(channels: int, sides: Sides, code: tuple[int, ...]) -> nn.Conv2d | nn.Linear:
    """The last layer of an encoder: a 1x1 convolution to a spatial code, else a linear layer."""
    return nn.Conv2d(channels, code[0], 1) if spatial(code) else nn.Linear(channels * math.prod(sides), math.prod(code))


def read_in(z: tuple[int, ...], channels: int, sides: Sides) -> nn.Conv2d | nn.Linear:
    """The first layer of a decoder: a 3x3 convolution of a spatial latent, else a linear layer."""
    return nn.Conv2d(z[0], channels, 3, padding=1) if spatial(z) else nn.Linear(math.prod(z), channels * math.prod(sides))


def between(layer: nn.Conv2d | nn.Linear, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `read_out` and `read_in` made, applied: place by place, or to everything at once. Returns `b *shape`."""
    return layer(x) if isinstance(layer, nn.Conv2d) else layer(x.flatten(1)).unflatten(1, shape)
