"""Differentiable augmentation: what a critic sees, changed alike for real and generated pictures.

The functions are pure: a picture and an amount a sample in, the changed picture out. None loops over samples, and each lets
the gradient through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

# the strengths of the paper's appendix, for pictures in [-1, 1]
BRIGHTNESS, SATURATION, CONTRAST, TRANSLATION, CUTOUT = 0.5, 1.0, 0.5, 0.125, 0.5


def flip(x: Tensor, flipped: Tensor) -> Tensor:
    """Mirror left and right where `flipped`. Shapes: x `b c h w`, flipped `b` bool; returns `b c h w`."""
    return torch.where(each(flipped), x.flip(-1), x)


def translate(x: Tensor, shift: Tensor) -> Tensor:
    """Move by whole pixels; what comes in from outside is 0, mid-grey in [-1, 1].

    Shapes: x `b c h w`, shift `b 2` (pixels down, pixels right; int64); returns `b c h w`.
    """
    h, w = x.shape[-2:]
    rows = torch.arange(h, device=x.device) - shift[:, :1]  # b h, where each row comes from
    columns = torch.arange(w, device=x.device) - shift[:, 1:]  # b w
    inside = _within(rows, h)[:, None, :, None] & _within(columns, w)[:, None, None, :]  # b 1 h w
    moved = x.gather(2, rows.clamp(0, h - 1)[:, None, :, None].expand_as(x))
    moved = moved.gather(3, columns.clamp(0, w - 1)[:, None, None, :].expand_as(x))
    return torch.where(inside, moved, 0.0)


def cutout(x: Tensor, centre: Tensor, size: Sequence[int]) -> Tensor:
    """Set a rectangle of `size` (rows, columns) to 0; where it reaches over the border, it is cut there.

    It covers the rows from centre - size // 2 on, size in number, and the columns likewise.

    Shapes: x `b c h w`, centre `b 2` (row, column); returns `b c h w`.
    """
    h, w = x.shape[-2:]
    rows = _within(torch.arange(h, device=x.device) - centre[:, :1] + size[0] // 2, size[0])  # b h
    columns = _within(torch.arange(w, device=x.device) - centre[:, 1:] + size[1] // 2, size[1])  # b w
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0.0, x)


def brightness(x: Tensor, amount: Tensor) -> Tensor:
    """x + amount. Shapes: x `b c h w`, amount `b`."""
    return x + each(amount)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale each pixel's distance from its mean over the channels: 0 leaves grey. Shapes: x `b c h w`, factor `b`."""
    grey = x.mean(1, keepdim=True)
    return grey + each(factor) * (x - grey)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance from the picture's mean. Shapes: x `b c h w`, factor `b`."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + each(factor) * (x - mean)


def whole_shifts(uniform: Tensor, most: Sequence[int]) -> Tensor:
    """Shifts for `translate`, each whole number from -most to most alike. Shapes: uniform `b 2` in [0, 1); int64 `b 2`."""
    columns = [(uniform[:, i] * (2 * reach + 1)).floor().long() - reach for i, reach in enumerate(most)]
    return torch.stack(columns, 1)


def each(amount: Tensor) -> Tensor:
    """One amount a sample, ready to meet `b c h w`."""
    return amount[:, None, None, None]


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


def pixels(side: int, ratio: float) -> int:
    """A ratio of a side in whole pixels, halves up."""
    return int(side * ratio + 0.5)


def picture_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Height and width of what is judged. Raises ValueError where it is no picture."""
    if len(shape) != 3:
        raise ValueError(
            f"{name} changes pictures (c, h, w), this discriminator judges the shape {shape}; "
            'write augment = { use = "instance-noise" }, or remove augment'
        )
    return shape[1], shape[2]


class DiffAugment(nn.Module):
    """Every picture that a critic judges is changed at random, so that it can't learn the few real ones by heart.

    `[discriminator] augment = { use = "diffaugment" }`

    colour       x + b; then grey + s (x - grey), grey the mean over channels; then mean + c (x - mean), of the picture
    translation  moved by whole pixels, up to the ratio of each side; 0 comes in
    cutout       a rectangle, the ratio of each side, set to 0

    b, s, c, shift and centre are drawn anew for every sample, uniformly; every group of `policy` applies to every
    sample, in its order. Saturation does nothing to one channel. In evaluation nothing is changed.

    Shapes: x `b c h w`; returns `b c h w`.
    Raises: ValueError for data that are no pictures, strengths of a group that isn't in `policy`, ratios below one pixel.
    When: with few examples (hundreds to some ten thousand), where a critic that tells its training set apart still
        rejects held-out data; `ada` finds the strength by itself but wants longer runs.
    Healthy: the critic's accuracy falls by some points and stays there; samples with grey borders or holes mean that
        the augmentation leaks: take the group that they come from out of `policy`.
    Source: Zhao et al. 2020 (arXiv:2006.10738), section 3; strengths of its appendix, for values in [-1, 1].
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        policy: Annotated[
            tuple[Literal["colour", "translation", "cutout"], ...],
            Field(min_length=1, description="groups to apply, in this order"),
        ] = ("colour", "translation", "cutout"),
        brightness: Annotated[float, Field(ge=0, description="added to every value, at most +-this")] = BRIGHTNESS,
        saturation: Annotated[float, Field(ge=0, le=1, description="the factor is 1 +- at most this")] = SATURATION,
        contrast: Annotated[float, Field(ge=0, le=1, description="the factor is 1 +- at most this")] = CONTRAST,
        translation: Annotated[float, Field(gt=0, le=1, description="shift at most, as a ratio of each side")] = TRANSLATION,
        cutout: Annotated[float, Field(gt=0, le=1, description="side of the hole, as a ratio of each side")] = CUTOUT,
    ) -> None:
        super().__init__()
        sides = picture_shape(judged_shape, "diffaugment")
        if len(set(policy)) < len(policy):
            raise ValueError(f"diffaugment: policy names a group twice ({', '.join(policy)}); write each once")
        idle = {
            "colour": (brightness, saturation, contrast) != (BRIGHTNESS, SATURATION, CONTRAST),
            "translation": translation != TRANSLATION,
            "cutout": cutout != CUTOUT,
        }
        for group, is_set in idle.items():
            if is_set and group not in policy:
                raise ValueError(f'diffaugment: a strength of "{group}" is set, but policy lacks it; add "{group}" to policy')
        self.policy = policy
        self.sides = sides
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast
        self.shift = tuple(pixels(side, translation) for side in sides)
        self.hole = tuple(pixels(side, cutout) for side in sides)
        if "translation" in policy and not any(self.shift):
            raise ValueError(f"diffaugment: translation = {translation:g} moves {sides} by less than a pixel; write more")
        if "cutout" in policy and not all(self.hole):
            raise ValueError(f"diffaugment: cutout = {cutout:g} cuts less than a pixel out of {sides}; write more")
        self.draws = {"chances": ("uniform", (7,))}  # one for each amount, whatever the policy: it shifts no stream

    def forward(self, x: Tensor, chances: Tensor) -> Tensor:
        if not self.training:
            return x
        for group in self.policy:
            if group == "colour":
                x = self._coloured(x, chances[:, :3])
            elif group == "translation":
                x = translate(x, whole_shifts(chances[:, 3:5], self.shift))
            else:
                x = cutout(x, self._centres(chances[:, 5:]), self.hole)
        return x

    def _coloured(self, x: Tensor, chances: Tensor) -> Tensor:
        spread = 2 * chances - 1  # b 3, in [-1, 1)
        x = brightness(x, self.brightness * spread[:, 0])
        x = saturation(x, 1 + self.saturation * spread[:, 1])
        return contrast(x, 1 + self.contrast * spread[:, 2])

    def _centres(self, chances: Tensor) -> Tensor:
        """Uniform over the picture: over its pixels for a hole of odd size, over the lines between them for an even one."""
        sides = zip(self.sides, self.hole, strict=True)
        places = [(chances[:, i] * (side + 1 - hole % 2)).floor().long() for i, (side, hole) in enumerate(sides)]
        return torch.stack(places, 1)
