"""A modern residual backbone without normalisation, after the description of R3GAN: any height, width and channel count.

One stage a size. Between stages a transition: bilinear resampling and a 1x1 convolution to the new channels. In them residual
blocks: 1x1 to `expansion` times the channels, leaky ReLU, grouped 3x3, leaky ReLU, 1x1 back. What normalisation would do is
done by the initial weights (Fixup): the last layer of each branch is 0, so that a stage starts as the identity; the
others are He's times L^(-1/(2m - 2)), L branches in the network of m = 3 layers each.

Source: Huang et al. 2025 (arXiv:2501.05441), section 4; Zhang et al. 2019 (arXiv:1901.09321), section 3.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.layers import Depth, Width, initialise, stagewise
from hybridgen_nets.minibatch import Minibatch, mixing
from hybridgen_nets.sizes import Sides, between, read_in, read_out, sizes, spatial

SLOPE, LINEAR = 0.2, 1.0
GROUP = 16
"""Channels a group of the 3x3 convolutions (Huang et al. 2025)."""

Blocks = Annotated[int, Field(ge=1, description="residual blocks a stage; there is a stage for each size, depth + 1 in all")]
Group = Annotated[
    int | None,
    Field(ge=1, description="channels a group of the 3x3 convolutions; by default 16, or the most below that divide"),
]
Expansion = Annotated[
    float,
    Field(gt=0, description="channels within a block over those around it: above 1 an inverted bottleneck, below a plain"),
]


class R3Block(nn.Module):
    """x + 1x1(lrelu(grouped 3x3(lrelu(1x1(x))))); the identity at first, for the last layer starts at 0.

    branches: how many there are in the network, which scales the initial weights of the first two layers.

    Shapes: `b c h w` -> `b c h w`.
    Raises: ValueError when `group` does not divide the inner channels.
    """

    def __init__(self, channels: int, group: int | None, expansion: float, branches: int) -> None:
        super().__init__()
        inner = max(1, round(channels * expansion))
        size = math.gcd(inner, GROUP) if group is None else group
        if inner % size:
            raise ValueError(
                f"r3gan: group = {size} does not divide the {inner} channels within a block (width, doubled a stage, times "
                f"expansion); write group = {math.gcd(inner, size)}, or another width"
            )
        self.enter = nn.Conv2d(channels, inner, 1)
        self.middle = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // size)
        self.leave = nn.Conv2d(inner, channels, 1, bias=False)
        initialise(self)
        for layer in (self.enter, self.middle):
            layer.weight.data.mul_(branches**-0.25)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.enter(x), SLOPE)
        return x + self.leave(F.leaky_relu(self.middle(h), SLOPE))


class R3Transition(nn.Module):
    """Bilinear resampling from one size to the next, and a 1x1 convolution to other channels on the side with fewer pixels."""

    def __init__(self, inputs: int, outputs: int, sides: tuple[Sides, Sides]) -> None:
        super().__init__()
        self.size = sides[1]
        self.down = sides[1] < sides[0]
        self.convolve = nn.Conv2d(inputs, outputs, 1, bias=False)
        initialise(self.convolve, LINEAR)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(self._resampled(x)) if self.down else self._resampled(self.convolve(x))

    def _resampled(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=self.size, mode="bilinear", align_corners=False)


def _stages(channels: list[int], sides: list[Sides], blocks: int, group: int | None, expansion: float) -> list[nn.Sequential]:
    """A stage for each size; all but the first open with a transition."""
    branches = blocks * len(sides)
    made = []
    for i, side in enumerate(sides):
        change = [R3Transition(channels[i - 1], channels[i], (sides[i - 1], side))] if i else []
        made.append(nn.Sequential(*change, *(R3Block(channels[i], group, expansion, branches) for _ in range(blocks))))
    return made


def _widths(width: int, sides: list[Sides]) -> list[int]:
    return [width * 2**i for i in range(len(sides))]


class _Basis(nn.Module):
    """A latent to the smallest size: a learned picture for each channel, times what z says of the channel.

    A spatial latent goes through a 3x3 convolution instead. Shapes: `b *z_shape` -> `b c h w`.
    """

    def __init__(self, z_shape: tuple[int, ...], channels: int, sides: Sides) -> None:
        super().__init__()
        if spatial(z_shape):
            self.map: nn.Conv2d | nn.Linear = read_in(z_shape, channels, sides)
        else:
            self.map = nn.Linear(math.prod(z_shape), channels, bias=False)
            self.basis = nn.Parameter(torch.randn(channels, *sides))
        initialise(self.map, LINEAR)

    def forward(self, z: Tensor) -> Tensor:
        if isinstance(self.map, nn.Conv2d):
            return self.map(z)
        return self.map(z.flatten(1))[:, :, None, None] * self.basis


class _Head(nn.Module):
    """The smallest size to one value a channel: a depthwise convolution as large as the picture. `b c h w` -> `b c`."""

    def __init__(self, channels: int, sides: Sides) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, sides, stride=sides, groups=channels, bias=False)
        initialise(self.conv, LINEAR)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)


class R3Encoder(nn.Module):
    """A picture to the code by R3GAN's residual blocks without normalisation.

    y = x + 1x1(lrelu(grouped 3x3(lrelu(1x1(x))))); at the end a depthwise convolution as large as the picture, then a linear
    layer (a 1x1 convolution to a spatial code, whose sides say how often to halve).

    Shapes: x `b c h w`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, too many halvings, a spatial code whose sides don't fit, or a `group`
        that does not divide the channels.
    When: where samples must not see each other or their own statistics; "residual" with group norm is easier to train.
    Healthy: starts linear (every block the identity), then falls as with "residual"; if it does not, raise the learning rate.
    Source: Huang et al. 2025 (arXiv:2501.05441), section 4; Zhang et al. 2019 (arXiv:1901.09321), section 3.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 2,
        group: Group = None,
        expansion: Expansion = 2.0,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "r3gan encoder", code_shape)
        widths = _widths(width, sides)
        self.code_shape = code_shape
        self.from_picture = nn.Conv2d(sample_shape[0], width, 1)
        self.layers = nn.Sequential(*_stages(widths, sides, blocks, group, expansion))
        self.head = nn.Identity() if spatial(code_shape) else _Head(widths[-1], sides[-1])
        self.to_code = read_out(widths[-1], (1, 1), code_shape)
        initialise(self.from_picture, LINEAR)
        initialise(self.to_code, LINEAR)

    def forward(self, x: Tensor) -> Tensor:
        return between(self.to_code, self.head(self.layers(self.from_picture(x))), self.code_shape)


class R3Decoder(nn.Module):
    """A latent to the raw values of a picture by R3GAN's residual blocks without normalisation: its generator.

    h = basis * linear(z), a learned picture for each channel at the smallest size; y = x + 1x1(lrelu(grouped 3x3(lrelu(
    1x1(x))))); bilinear upsampling; at the end a 1x1 convolution. A spatial z enters by a 3x3 one in place of the basis.

    Shapes: z `b *z_shape`; returns `b c h w`, before the output activation.
    Raises: ValueError for data that are no pictures, too many halvings, a spatial latent whose sides don't fit, or a `group`
        that does not divide the channels.
    When: GANs with the relativistic pairing loss and R1 + R2 (the paper's recipe); "residual" in VAEs, where norms do no harm.
    Healthy: first samples are smooth blobs, bilinear from the basis; details follow as the blocks leave the identity.
    Source: Huang et al. 2025 (arXiv:2501.05441), section 4; Zhang et al. 2019 (arXiv:1901.09321), section 3.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 2,
        group: Group = None,
        expansion: Expansion = 2.0,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "r3gan decoder", z_shape)[::-1]
        widths = _widths(width, sides)[::-1]
        self.basis = _Basis(z_shape, widths[0], sides[0])
        self.layers = nn.Sequential(*_stages(widths, sides, blocks, group, expansion))
        self.to_raw = nn.Conv2d(width, sample_shape[0], 1)
        initialise(self.to_raw, LINEAR)

    def forward(self, z: Tensor) -> Tensor:
        return self.to_raw(self.layers(self.basis(z)))


class R3Discriminator(nn.Module):
    """A picture to one logit by R3GAN's residual blocks without normalisation: the decoder's mirror.

    y = x + 1x1(lrelu(grouped 3x3(lrelu(1x1(x))))); bilinear downsampling; at the end a depthwise convolution as large as the
    picture, then a linear layer.

    Shapes: x `b c h w`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, too many halvings, or a `group` that does not divide the channels.
    When: with "r3gan" as decoder, the relativistic pairing loss and R1 + R2 penalties, which it needs: nothing else bounds it.
    Healthy: starts linear; penalties settle within some hundred steps. Logits that grow without end want a larger gamma.
    Source: Huang et al. 2025 (arXiv:2501.05441), section 4; Zhang et al. 2019 (arXiv:1901.09321), section 3.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        blocks: Blocks = 2,
        group: Group = None,
        expansion: Expansion = 2.0,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        sides = sizes(judged_shape, depth, "r3gan discriminator")
        widths = _widths(width, sides)
        self.from_picture = nn.Conv2d(judged_shape[0], width, 1)
        self.layers = nn.ModuleList(_stages(widths, sides, blocks, group, expansion))
        self.mix = mixing(minibatch, (widths[-1], *sides[-1]), "leaky-relu", initialise)
        self.head = _Head(widths[-1], sides[-1])
        self.to_logit = nn.Linear(widths[-1], 1)
        initialise(self.from_picture, LINEAR)
        initialise(self.to_logit, LINEAR)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = stagewise(self.layers, self.from_picture(x))
        return self.to_logit(self.head(self.mix(features[-1]))).squeeze(1), features
