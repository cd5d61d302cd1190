"""Adaptive discriminator augmentation: random changes, as likely as the critic overfits.

Geometry is one map a sample. A 3 x 3 matrix, homogeneous, says for each pixel of the result where in the picture it comes
from, in pixels from the middle (x to the right, y down). Transforms follow each other by multiplication from the right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen_providers.diffaugment import cutout, each, picture_shape, pixels

Group = Literal["blit", "geometry", "colour", "noise", "cutout"]
POLICY: tuple[Group, ...] = ("blit", "geometry", "colour")
TARGET, SPEED = 0.6, 500.0

# the spreads of the paper's appendix B
SHIFT = 0.125  # whole pixels, at most this share of a side; fractional ones, the standard deviation
SCALE = 0.2  # standard deviation of log2 of the scale and of the stretch
BRIGHTNESS = 0.2  # standard deviation
CONTRAST = 0.5  # standard deviation of log2 of the factor
SATURATION = 1.0  # likewise
NOISE = 0.1  # standard deviation of the noise's standard deviation
HOLE = 0.5  # share of a side

COLOURS = ("brightness", "contrast", "luma", "hue", "saturation")
COINS = (
    *("flip", "turn", "shift"),
    *("scale", "rotation", "stretch", "rotation_after", "move"),
    *COLOURS,
    *("noise", "cutout"),
)
UNIFORMS = ("flip", "turn", "shift_x", "shift_y", "rotation", "rotation_after", "luma", "hue", "cutout_x", "cutout_y")
NORMALS = ("scale", "stretch", "move_x", "move_y", "brightness", "contrast", "saturation", "noise")

Named = Mapping[str, Tensor]
"""A column of draws by the name of what it decides, each `b`."""


def matrix(rows: Sequence[Sequence[Tensor | float]]) -> Tensor:
    """Numbers and one tensor entry a sample, `b`, as a matrix a sample. Shapes: `b n n`."""
    like = next(entry for row in rows for entry in row if isinstance(entry, Tensor))
    full = [[entry if isinstance(entry, Tensor) else torch.full_like(like, entry) for entry in row] for row in rows]
    return torch.stack([torch.stack(row, -1) for row in full], -2)


def scaled(x: Tensor, y: Tensor | float) -> Tensor:
    """Where a picture comes from that was made x times as wide and y times as high. Shapes: `b` -> `b 3 3`."""
    return matrix([[1 / x, 0, 0], [0, 1 / y, 0], [0, 0, 1]])


def rotated(angle: Tensor) -> Tensor:
    """Where a picture comes from that was turned counter-clockwise, in radians. Shapes: `b` -> `b 3 3`."""
    cos, sin = angle.cos(), angle.sin()
    return matrix([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def moved(x: Tensor, y: Tensor) -> Tensor:
    """Where a picture comes from that was moved right and down, in pixels. Shapes: `b` -> `b 3 3`."""
    return matrix([[1, 0, -x], [0, 1, -y], [0, 0, 1]])


def follow(first: Tensor, then: Tensor) -> Tensor:
    """One map for two, the first's result changed by the second. Shapes: `b 3 3`."""
    # no matrix product: under TF32 it would place pixels a tenth of a pixel off
    return (first[:, :, :, None] * then[:, None, :, :]).sum(2)


def warp(x: Tensor, source: Tensor) -> Tensor:
    """Every pixel from where `source` says, bilinear between pixels, mirrored outside. Shapes: x `b c h w`, source `b 3 3`."""
    h, w = x.shape[-2:]
    right = torch.arange(w, device=x.device) - (w - 1) / 2  # w
    down = (torch.arange(h, device=x.device) - (h - 1) / 2)[:, None]  # h 1
    a = source[:, :, :, None, None]
    places = [(a[:, i, 0] * right + a[:, i, 1] * down + a[:, i, 2]) * (2 / side) for i, side in enumerate((w, h))]
    grid = torch.stack(places, -1).to(x.dtype)  # b h w 2, in [-1, 1] inside
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def blit(on: Named, uniforms: Named, sides: tuple[int, int]) -> Tensor:
    """Mirror, turn and move without blending pixels. Shapes: `b 3 3`."""
    h, w = sides
    turns = 4 if h == w else 2
    flip = torch.where(on["flip"], 1 - 2 * (2 * uniforms["flip"]).floor(), 1.0)
    turn = torch.where(on["turn"], (turns * uniforms["turn"]).floor() * (2 * math.pi / turns), 0.0)
    right = torch.where(on["shift"], ((2 * uniforms["shift_x"] - 1) * SHIFT * w).round(), 0.0)
    down = torch.where(on["shift"], ((2 * uniforms["shift_y"] - 1) * SHIFT * h).round(), 0.0)
    return follow(follow(scaled(flip, 1.0), rotated(turn)), moved(right, down))


def geometry(on: Named, uniforms: Named, normals: Named, sides: tuple[int, int]) -> Tensor:
    """Scale, rotate, stretch, rotate again, move. Shapes: `b 3 3`."""
    h, w = sides
    scale = torch.where(on["scale"], (SCALE * normals["scale"]).exp2(), 1.0)
    before = torch.where(on["rotation"], (2 * uniforms["rotation"] - 1) * math.pi, 0.0)
    stretch = torch.where(on["stretch"], (SCALE * normals["stretch"]).exp2(), 1.0)
    after = torch.where(on["rotation_after"], (2 * uniforms["rotation_after"] - 1) * math.pi, 0.0)
    right = torch.where(on["move"], SHIFT * w * normals["move_x"], 0.0)
    down = torch.where(on["move"], SHIFT * h * normals["move_y"], 0.0)
    turned = follow(follow(scaled(scale, scale), rotated(before)), scaled(stretch, 1 / stretch))
    return follow(follow(turned, rotated(after)), moved(right, down))


def colour(x: Tensor, on: Named, uniforms: Named, normals: Named) -> Tensor:
    """Brightness, contrast, luma flip, hue and saturation, in this order: the grey part and the rest go ways of their own.

    grey -> sign * contrast * (grey + brightness)
    x - grey -> contrast * saturation * (x - grey, turned by hue)     0 where there is one channel
    """
    bright = torch.where(on["brightness"], BRIGHTNESS * normals["brightness"], 0.0)
    factor = torch.where(on["contrast"], (CONTRAST * normals["contrast"]).exp2(), 1.0)
    if x.shape[1] not in (1, 3):
        return each(factor) * (x + each(bright))
    sign = torch.where(on["luma"], 1 - 2 * (2 * uniforms["luma"]).floor(), 1.0)
    angle = torch.where(on["hue"], (2 * uniforms["hue"] - 1) * math.pi, 0.0)
    strength = torch.where(on["saturation"], (SATURATION * normals["saturation"]).exp2(), 1.0)
    grey = x.mean(1, keepdim=True)
    turned = turn_hue(x - grey, angle)
    return each(sign * factor) * (grey + each(bright)) + each(factor * strength) * turned


def turn_hue(chroma: Tensor, angle: Tensor) -> Tensor:
    """Rotate red, green and blue about the grey axis, for values whose mean is 0. Shapes: chroma `b 3 h w`, angle `b`."""
    across = (chroma.roll(1, 1) - chroma.roll(-1, 1)) / math.sqrt(3)  # the axis (1, 1, 1) / sqrt(3), times chroma
    return each(angle.cos()) * chroma + each(angle.sin()) * across


class ADA(nn.Module):
    """Every picture that a critic judges is changed at random; how often follows from how far the critic overfits.

    `[discriminator] augment = { use = "ada" }`

    r_t = batch mean of sign(D(real))     1: it is sure of every real sample, 0: it knows nothing
    p  <- p + batch_size / (1000 speed) * sign(r_t - target), kept in [0, 1], once an update of the critic

    Each transform applies to each sample with probability p (each of the two rotations with 1 - sqrt(1 - p)):
    blit      mirrored; turned by a multiple of 90 degrees (180 where the sides differ); moved by whole pixels, <= 1/8
    geometry  scale 2^N(0, 0.2^2); rotation; stretch x by s, y by 1/s, log2 s ~ N(0, 0.2^2); rotation; move N(0, (side/8)^2)
    colour    + N(0, 0.2^2); * 2^N(0, 0.5^2); luma flip (grey negated); hue rotation; saturation * 2^N(0, 1), for three
              channels. One channel: no hue and saturation. Other counts: the first two
    noise     + |N(0, 0.1^2)| * noise
    cutout    a rectangle, half of each side, set to 0

    Blit and geometry are one bilinear resampling, mirrored at the borders. Its backward pass on CUDA is not deterministic, so
    torch refuses it under `train.deterministic`. In evaluation nothing is changed.

    Shapes: x `b c h w`; returns `b c h w`. Reports p and r_t.
    Raises: ValueError for data that are no pictures, a group named twice, or `target` and `speed` beside a fixed p.
    When: few examples and long runs (millions of pictures seen), where `diffaugment` is too strong or too weak.
    Healthy: p rises and settles where r_t meets the target. 0: the critic doesn't overfit, augmentation costs and does
        nothing. Above 0.8: the data are too few, and the augmentation leaks into the samples (turned, discoloured).
    Source: Karras et al. 2020 (arXiv:2006.06676), section 3 and appendix B; its wavelet filters are bilinear here.
    """

    reports = ("p", "r_t")

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        batch_size: int,
        *,
        p: Annotated[
            Literal["adaptive"] | Annotated[float, Field(ge=0, le=1)],
            Field(description="probability of each transform, 0 to 1, or found from r_t"),
        ] = "adaptive",
        target: Annotated[float, Field(gt=-1, lt=1, description="r_t at which p stays")] = TARGET,
        speed: Annotated[float, Field(gt=0, description="thousand pictures in which p can go from 0 to 1")] = SPEED,
        policy: Annotated[tuple[Group, ...], Field(min_length=1, description="groups of transforms")] = POLICY,
    ) -> None:
        super().__init__()
        self.sides = picture_shape(judged_shape, "ada")
        if len(set(policy)) < len(policy):
            raise ValueError(f"ada: policy names a group twice ({', '.join(policy)}); write each once")
        if p != "adaptive" and (target, speed) != (TARGET, SPEED):
            raise ValueError(f'ada: with p = {p:g} nothing is adapted; remove target and speed, or write p = "adaptive"')
        self.policy = policy
        self.adaptive = p == "adaptive"
        self.target = target
        self.hole = tuple(pixels(side, HOLE) for side in self.sides)
        self.change = batch_size / (1000 * speed)
        self.draws = {
            "coins": ("uniform", (len(COINS),)),
            "uniforms": ("uniform", (len(UNIFORMS),)),
            "normals": ("normal", (len(NORMALS),)),
            "grain": ("normal", judged_shape if "noise" in policy else ()),
        }
        self.p: Tensor
        self.r_t: Tensor
        self.register_buffer("p", torch.tensor(0.0 if p == "adaptive" else p))
        self.register_buffer("r_t", torch.tensor(0.0))

    def update(self, real_logits: Tensor) -> None:
        self.r_t.copy_(real_logits.float().sign().mean())
        if self.adaptive:
            self.p.copy_((self.p + self.change * (self.r_t - self.target).sign()).clamp(0, 1))

    def forward(self, x: Tensor, coins: Tensor, uniforms: Tensor, normals: Tensor, grain: Tensor) -> Tensor:
        if not self.training:
            return x
        on = self._chosen(coins)
        u = dict(zip(UNIFORMS, uniforms.unbind(1), strict=True))
        n = dict(zip(NORMALS, normals.unbind(1), strict=True))
        maps = [blit(on, u, self.sides)] if "blit" in self.policy else []
        maps += [geometry(on, u, n, self.sides)] if "geometry" in self.policy else []
        if maps:
            source = maps[0] if len(maps) == 1 else follow(*maps)
            same = (source == torch.eye(3, device=x.device)).all(2).all(1)
            x = torch.where(each(same), x, warp(x, source))
        if "colour" in self.policy:
            some = torch.stack([on[name] for name in COLOURS]).any(0)
            x = torch.where(each(some), colour(x, on, u, n), x)
        if "noise" in self.policy:
            sigma = torch.where(on["noise"], NOISE * n["noise"].abs(), 0.0)
            x = x + each(sigma) * grain
        if "cutout" in self.policy:
            x = torch.where(each(on["cutout"]), cutout(x, self._centres(u), self.hole), x)
        return x

    def _chosen(self, coins: Tensor) -> dict[str, Tensor]:
        """Which transforms each sample gets: two rotations in a row count as one, so that p means the same for all."""
        on = dict(zip(COINS, (coins < self.p).unbind(1), strict=True))
        either = coins < 1 - (1 - self.p).sqrt()
        return on | {name: either[:, COINS.index(name)] for name in ("rotation", "rotation_after")}

    def _centres(self, uniforms: Named) -> Tensor:
        h, w = self.sides
        return torch.stack([(uniforms["cutout_y"] * h).round(), (uniforms["cutout_x"] * w).round()], 1)
