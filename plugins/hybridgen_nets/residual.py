"""Residual networks for pictures of any height, width and channel count: SNGAN's blocks, BigGAN's doubling of channels.

One stage a resolution, `blocks` residual blocks a stage. The first block of every further stage resamples: by averaging
2x2 on the way down (what sticks out of an odd side is averaged alone), by repeating pixels on the way up (and cutting).

Source: Miyato et al. 2018 (arXiv:1802.05957), appendix B; Brock et al. 2018 (arXiv:1809.11096), appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.layers import (
    Activation,
    Depth,
    Dropout,
    Norm,
    SpectralNorm,
    Width,
    activation,
    dropout,
    initialise_xavier,
    norm,
    normalise_spectrally,
    stagewise,
)
from hybridgen_nets.minibatch import Minibatch, mixing
from hybridgen_nets.sizes import Sides, between, read_in, read_out, sizes

Blocks = Annotated[int, Field(ge=1, description="residual blocks a stage; there is a stage for each size, depth + 1 in all")]
AttentionAt = Annotated[
    int | None, Field(ge=1, description="self-attention in the stage whose longer side is this long, e.g. 16; none by default")
]


class Attention(nn.Module):
    """Every place looks at every other: y = x + gamma * v(sum_i a_ji h(x_i)), a_ji = softmax over i of f(x_i) . g(x_j).

    f, g, h map to an eighth of the channels, v maps back, all 1x1. gamma is learned and starts at 0: the identity.

    Shapes: `b c h w` -> `b c h w`; memory grows with (h w)^2.
    Source: Zhang et al. 2018 (arXiv:1805.08318), section 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.f, self.g, self.h = (nn.Conv2d(channels, inner, 1, bias=False) for _ in range(3))
        self.v = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        keys, queries, values = (rearrange(layer(x), "b c h w -> b c (h w)") for layer in (self.f, self.g, self.h))
        weights = (queries.transpose(1, 2) @ keys).softmax(2)  # b j i
        seen = values @ weights.transpose(1, 2)  # b c j
        return x + self.gamma * self.v(seen.unflatten(2, x.shape[2:]))


@dataclass(frozen=True)
class _Kind:
    """What all stages of a network share."""

    blocks: int
    activation: str
    norm: str
    dropout: float
    attention: int | None


class Block(nn.Module):
    """x to shortcut(x) + conv(act(norm(conv(act(norm(x)))))), either of them resampled alike.

    sides: before and after. On the way up pixels are repeated ahead of the first convolution; on the way down 2x2 are
    averaged after the second. The shortcut is a 1x1 convolution where channels change, else nothing.
    first: the block that sees the picture itself, which no norm or activation may touch.
    `condition`, if given, goes to the norms as well.

    Shapes: `b c h w` -> `b outputs *sides[1]`.
    """

    def __init__(self, inputs: int, outputs: int, sides: tuple[Sides, Sides], kind: _Kind, *, first: bool = False) -> None:
        super().__init__()
        self.up = sides[1] if sides[1] > sides[0] else None
        self.down = sides[1] < sides[0]
        self.first = first
        self.norm_in = nn.Identity() if first else _norm(kind.norm, inputs)
        self.norm_mid = _norm(kind.norm, outputs)
        self.act = activation(kind.activation)
        self.drop = nn.Sequential(*dropout(kind.dropout, spatial=True))
        self.conv_in = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1)
        initialise_xavier(self, math.sqrt(2))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        initialise_xavier(self.skip)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        h = x if self.first else self.act(self.norm_in(x, *condition))
        h = self.conv_in(self._doubled(h))
        h = self.conv_out(self.drop(self.act(self.norm_mid(h, *condition))))
        if self.down:
            x, h = _halved(x), _halved(h)
        return self._doubled(self.skip(x)) + h  # resampling commutes with a 1x1 convolution, which is cheaper on fewer pixels

    def _doubled(self, x: Tensor) -> Tensor:
        if self.up is None:
            return x
        return F.interpolate(x, scale_factor=2.0, mode="nearest")[:, :, : self.up[0], : self.up[1]]


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True)


def _norm(name: str, channels: int) -> nn.Module:
    return next(iter(norm(name, channels, spatial=True)), nn.Identity())


def _last(normalisation: str, channels: int, act: str) -> tuple[nn.Module, nn.Module]:
    """What ends a stack of pre-activated blocks."""
    return _norm(normalisation, channels), activation(act)


class Stage(nn.Module):
    """Blocks one after the other, the first of which changes channels and sides; then perhaps attention."""

    def __init__(
        self, channels: tuple[int, int], sides: tuple[Sides, Sides], kind: _Kind, *, first: bool, attend: bool
    ) -> None:
        super().__init__()
        made = [Block(*channels, sides, kind, first=first)]
        made += [Block(channels[1], channels[1], (sides[1], sides[1]), kind) for _ in range(kind.blocks - 1)]
        self.blocks = nn.ModuleList(made)
        self.attention = Attention(channels[1]) if attend else nn.Identity()
        initialise_xavier(self.attention)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, *condition)
        return self.attention(x)


def _stages(kind: _Kind, channels: list[int], sides: list[Sides], name: str, *, first: bool) -> list[Stage]:
    """A stage for each of `sides`; channels: what goes into the first, then what comes out of each."""
    longer = [max(side) for side in sides]
    if kind.attention is not None and kind.attention not in longer:
        fitting = ", ".join(map(str, longer))
        raise ValueError(
            f"{name}: attention = {kind.attention}, but no stage's longer side is that long; write one of {fitting}, "
            "or leave it out"
        )
    return [
        Stage(
            (channels[i], channels[i + 1]),
            (sides[max(i - 1, 0)], side),
            kind,
            first=first and i == 0,
            attend=longer[i] == kind.attention,
        )
        for i, side in enumerate(sides)
    ]


class ResidualEncoder(nn.Module):
    """A picture to the code by residual blocks: closer reconstructions than "conv" at about three times its cost.

    y = shortcut(x) + conv(act(norm(conv(act(norm(x)))))), sides halved by averaging; then norm, activation, and a linear
    layer to the code (a 1x1 convolution to a spatial one, whose sides say how often to halve).

    Shapes: x `b c h w`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, too many halvings, a spatial code whose sides don't fit, or attention
        at a size that no stage has.
    When: pictures of 32 pixels and more whose reconstructions lack detail with "conv".
    Healthy: falls as fast a step as with "conv" and ends lower; a loss that jumps wants `norm` or a lower learning rate.
    Source: Miyato et al. 2018 (arXiv:1802.05957), appendix B; attention: Zhang et al. 2018 (arXiv:1805.08318).
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "residual encoder", code_shape)
        widths = [width * 2**i for i in range(len(sides))]
        kind = _Kind(blocks, activation, norm, dropout, attention)
        stages = _stages(kind, [sample_shape[0], *widths], sides, "residual encoder", first=True)
        self.code_shape = code_shape
        self.body = nn.Sequential(*stages, *_last(norm, widths[-1], activation))
        self.to_code = read_out(widths[-1], sides[-1], code_shape)
        initialise_xavier(self.to_code)

    def forward(self, x: Tensor) -> Tensor:
        return between(self.to_code, self.body(x), self.code_shape)


class ResidualDecoder(nn.Module):
    """A latent to the raw values of a picture by residual blocks: SNGAN's generator, for any size.

    y = shortcut(up(x)) + conv(act(norm(conv(up(act(norm(x))))))), up repeats each pixel; at the end norm, activation and a
    3x3 convolution. z enters by a linear layer (a 3x3 convolution of a spatial one, whose sides say how often to double).

    Shapes: z `b *z_shape`; returns `b c h w`, before the output activation.
    Raises: ValueError for data that are no pictures, too many halvings, a spatial latent whose sides don't fit, or attention
        at a size that no stage has.
    When: pictures of 32 pixels and more whose samples lack detail with "conv", or show its checkerboard.
    Healthy: attention's gamma leaves 0 within some hundred steps; samples that flicker between updates want a lower rate.
    Source: Miyato et al. 2018 (arXiv:1802.05957), appendix B; attention: Zhang et al. 2018 (arXiv:1805.08318).
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "residual decoder", z_shape)[::-1]
        widths = [width * 2**i for i in range(len(sides))][::-1]
        self.start = (widths[0], *sides[0])
        self.from_z = read_in(z_shape, widths[0], sides[0])
        kind = _Kind(blocks, activation, norm, dropout, attention)
        stages = _stages(kind, [widths[0], *widths], sides, "residual decoder", first=False)
        self.body = nn.ModuleList(stages)
        self.norm_out, self.act = _last(norm, width, activation)
        self.to_raw = nn.Conv2d(width, sample_shape[0], 3, padding=1)
        initialise_xavier(self.from_z)
        initialise_xavier(self.to_raw)

    def decode(self, z: Tensor, *condition: Tensor) -> Tensor:
        """`condition`, if given, goes to every norm as well."""
        h = between(self.from_z, z, self.start)
        for stage in self.body:
            h = stage(h, *condition)
        return self.to_raw(self.act(self.norm_out(h, *condition)))

    def forward(self, z: Tensor) -> Tensor:
        return self.decode(z)


class ResidualDiscriminator(nn.Module):
    """A picture to one logit by residual blocks: SNGAN's discriminator, for any size.

    logit = w . sum over places of act(h) + bias, h the last stage's activations

    Shapes: x `b c h w`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, too many halvings, or attention at a size that no stage has.
    When: against "residual" decoders, with spectral_norm or a gradient penalty; "conv" is cheaper, "patch" judges texture only.
    Healthy: accuracy on real and on generated between 0.55 and 0.9; at 1 it has won: spectral_norm, a penalty, or less `width`.
    Source: Miyato et al. 2018 (arXiv:1802.05957), appendix B; attention: Zhang et al. 2018 (arXiv:1805.08318).
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 1,
        activation: Activation = "relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        attention: AttentionAt = None,
        spectral_norm: SpectralNorm = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        sides = sizes(judged_shape, depth, "residual discriminator")
        widths = [width * 2**i for i in range(len(sides))]
        kind = _Kind(blocks, activation, norm, dropout, attention)
        stages = _stages(kind, [judged_shape[0], *widths], sides, "residual discriminator", first=True)
        self.layers = nn.ModuleList(stages)
        self.last = nn.Sequential(*_last(norm, widths[-1], activation))
        self.mix = mixing(minibatch, (widths[-1], *sides[-1]), activation, initialise_xavier)
        self.to_logit = nn.Linear(widths[-1], 1)
        initialise_xavier(self.to_logit)
        if spectral_norm:
            normalise_spectrally(self)

    def represent(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the logit is a linear function of, `b channels`, and the stages' activations."""
        features = stagewise(self.layers, x)
        return self.mix(self.last(features[-1])).sum((2, 3)), features

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        phi, features = self.represent(x)
        return self.to_logit(phi).squeeze(1), features
