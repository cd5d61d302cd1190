"""Strided convolutions after DCGAN, for pictures of any height, width and channel count.

A convolution at full resolution, then stages that each halve both sides (an odd side rounds up) and double the
channels. The decoder mirrors the encoder's sizes exactly: it doubles and cuts an odd side's surplus row.

Source: Radford et al. 2015 (arXiv:1511.06434), with group norm in place of batch norm, which would couple samples.
"""

from __future__ import annotations

import math

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
    initialise,
    norm,
    normalise_spectrally,
)

SMALLEST = 4
"""By default sides are halved until the shorter one is at most this long, as in DCGAN."""


def sizes(shape: tuple[int, ...], depth: int | None, name: str) -> list[tuple[int, int]]:
    """Height and width before the first stage and after each.

    Raises ValueError for data that are no pictures, and for more halvings than the longer side has.
    """
    if len(shape) != 3:
        raise ValueError(f'{name} wants pictures (c, h, w), these data have the shape {shape}; use "mlp"')
    h, w = shape[1:]
    if depth is None:
        depth = 0
        while min(h, w) / 2**depth > SMALLEST:
            depth += 1
        depth = max(depth, 1) if max(h, w) > 1 else 0
    most = math.ceil(math.log2(max(h, w))) if max(h, w) > 1 else 0
    if depth > most:
        raise ValueError(f"{name}: depth = {depth} halves {h}x{w} further than one pixel; write at most {most}")
    found = [(h, w)]
    for _ in range(depth):
        h, w = math.ceil(h / 2), math.ceil(w / 2)
        found.append((h, w))
    return found


def _downward(
    channels: int, width: int, stages: int, act: str, normalisation: str, drop: float, *, first_norm: bool
) -> list[nn.Sequential]:
    """The convolution at full resolution, then one stage a halving: conv - norm - activation - dropout."""
    layers = []
    inputs = channels
    for i in range(stages + 1):
        outputs = width * 2**i
        conv = nn.Conv2d(inputs, outputs, 3, padding=1) if i == 0 else nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        after = [*(norm(normalisation, outputs, spatial=True) if i or first_norm else []), activation(act)]
        layers.append(nn.Sequential(conv, *after, *dropout(drop, spatial=True)))
        initialise(layers[-1])
        inputs = outputs
    return layers


class ConvEncoder(nn.Module):
    """A picture to the code.

    Shapes: x `b c h w`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, or too many halvings.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "silu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "conv encoder")
        stages = len(sides) - 1
        self.code_shape = code_shape
        self.body = nn.Sequential(*_downward(sample_shape[0], width, stages, activation, norm, dropout, first_norm=True))
        self.to_code = nn.Linear(width * 2**stages * math.prod(sides[-1]), math.prod(code_shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_code(self.body(x).flatten(1)).unflatten(1, self.code_shape)


class _Up(nn.Module):
    """Double both sides, halve the channels, cut to the size that the encoder had there."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : self.size[0], : self.size[1]]


class ConvDecoder(nn.Module):
    """A latent to the raw values of a picture.

    Shapes: z `b *z_shape`; returns `b c h w`, before the output activation.
    Raises: ValueError for data that are no pictures, or too many halvings.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "silu",
        norm: Norm = "group",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "conv decoder")
        stages = len(sides) - 1
        channels = width * 2**stages
        self.start = (channels, *sides[-1])
        self.from_z = nn.Linear(math.prod(z_shape), math.prod(self.start))
        self.enter = _after(activation, norm, dropout, channels)
        ups = []
        for i in range(stages):
            channels //= 2
            ups.append(nn.Sequential(_Up(channels * 2, channels, sides[-2 - i]), _after(activation, norm, dropout, channels)))
        self.body = nn.Sequential(*ups)
        initialise(self)
        self.to_raw = nn.Conv2d(channels, sample_shape[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.enter(self.from_z(z.flatten(1)).unflatten(1, self.start))
        return self.to_raw(self.body(h))


def _after(act: str, normalisation: str, drop: float, channels: int) -> nn.Sequential:
    return nn.Sequential(*norm(normalisation, channels, spatial=True), activation(act), *dropout(drop, spatial=True))


class ConvDiscriminator(nn.Module):
    """A picture to one logit.

    Shapes: x `b c h w`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, or too many halvings.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
    ) -> None:
        super().__init__()
        sides = sizes(judged_shape, depth, "conv discriminator")
        stages = len(sides) - 1
        # no normalisation of the first layer: it would hide contrast and brightness from the critic (DCGAN, section 3)
        layers = _downward(judged_shape[0], width, stages, activation, norm, dropout, first_norm=False)
        self.layers = nn.ModuleList(layers)
        self.to_logit = nn.Linear(width * 2**stages * math.prod(sides[-1]), 1)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, features = x, []
        for layer in self.layers:
            h = layer(h)
            features.append(h)
        return self.to_logit(h.flatten(1)).squeeze(1), features
