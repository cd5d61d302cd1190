"""Strided convolutions after DCGAN, for pictures of any height, width and channel count.

A convolution at full resolution, then stages that each halve both sides (an odd side rounds up) and double the
channels. The decoder mirrors the encoder's sizes exactly: it doubles and cuts an odd side's surplus row.

Source: Radford et al. 2015 (arXiv:1511.06434), with group norm in place of batch norm, which would couple samples.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

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
    initialise,
    initialise_dcgan,
    norm,
    normalise_spectrally,
    stagewise,
)
from hybridgen_nets.minibatch import Minibatch, mixing
from hybridgen_nets.sizes import between, read_in, read_out, sizes

Init = Annotated[
    Literal["he", "dcgan"],
    Field(description="initial weights: he keeps the scale of activations (He 2015), dcgan is N(0, 0.02) (Radford 2015)"),
]


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
    """A picture to the code by strided convolutions: cheap, and right for most pictures up to 64 pixels.

    A spatial code (c, h, w) is read off by a 1x1 convolution; its sides say how often to halve.

    Shapes: x `b c h w`; returns `b *code_shape`.
    Raises: ValueError for data that are no pictures, too many halvings, or a spatial code whose sides don't fit.
    When: pictures; "residual" is stronger and several times the cost, "mlp" takes anything but knows no neighbourhood.
    Healthy: reconstructions sharpen within the first tenth of a run; if not, more `width` before more `depth`.
    Source: Radford et al. 2015 (arXiv:1511.06434), the discriminator's body, with group norm.
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
        init: Init = "he",
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "conv encoder", code_shape)
        stages = len(sides) - 1
        self.code_shape = code_shape
        self.body = nn.Sequential(*_downward(sample_shape[0], width, stages, activation, norm, dropout, first_norm=True))
        self.to_code = read_out(width * 2**stages, sides[-1], code_shape)
        if init == "dcgan":
            initialise_dcgan(self)

    def forward(self, x: Tensor) -> Tensor:
        return between(self.to_code, self.body(x), self.code_shape)


class _Up(nn.Module):
    """Double both sides, halve the channels, cut to the size that the encoder had there."""

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, :, : self.size[0], : self.size[1]]


class ConvDecoder(nn.Module):
    """A latent to the raw values of a picture by transposed convolutions: DCGAN's generator, for any size.

    A spatial latent (c, h, w) enters through a 3x3 convolution; its sides say how often to double.

    Shapes: z `b *z_shape`; returns `b c h w`, before the output activation.
    Raises: ValueError for data that are no pictures, too many halvings, or a spatial latent whose sides don't fit.
    When: pictures; "residual" where samples lack detail and time is there, "r3gan" for a GAN without normalisation.
    Healthy: samples show shapes after some hundred steps; a checkerboard that stays asks for "residual" (no strides there).
    Source: Radford et al. 2015 (arXiv:1511.06434), section 3, with group norm.
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
        init: Init = "he",
    ) -> None:
        super().__init__()
        sides = sizes(sample_shape, depth, "conv decoder", z_shape)
        stages = len(sides) - 1
        channels = width * 2**stages
        self.start = (channels, *sides[-1])
        self.from_z = read_in(z_shape, channels, sides[-1])
        self.enter = _after(activation, norm, dropout, channels)
        ups = []
        for i in range(stages):
            channels //= 2
            ups.append(nn.Sequential(_Up(channels * 2, channels, sides[-2 - i]), _after(activation, norm, dropout, channels)))
        self.body = nn.Sequential(*ups)
        initialise(self)
        self.to_raw = nn.Conv2d(channels, sample_shape[0], 3, padding=1)
        if init == "dcgan":
            initialise_dcgan(self)

    def forward(self, z: Tensor) -> Tensor:
        h = self.enter(between(self.from_z, z, self.start))
        return self.to_raw(self.body(h))


def _after(act: str, normalisation: str, drop: float, channels: int) -> nn.Sequential:
    return nn.Sequential(*norm(normalisation, channels, spatial=True), activation(act), *dropout(drop, spatial=True))


class ConvDiscriminator(nn.Module):
    """A picture to one logit by strided convolutions: DCGAN's discriminator, for any size.

    Shapes: x `b c h w`; returns the logits `b` and the stages' activations, each `b c h w`.
    Raises: ValueError for data that are no pictures, or too many halvings.
    When: pictures as a whole; "patch" judges texture only and leaves the layout to a reconstruction term.
    Healthy: accuracy on real and on generated between 0.55 and 0.9; at 1 it has won: less `width`, spectral_norm or a penalty.
    Source: Radford et al. 2015 (arXiv:1511.06434), section 3, without normalisation unless asked for.
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
        minibatch: Minibatch = "none",
        init: Init = "he",
    ) -> None:
        super().__init__()
        sides = sizes(judged_shape, depth, "conv discriminator")
        stages = len(sides) - 1
        # no normalisation of the first layer: it would hide contrast and brightness from the critic (DCGAN, section 3)
        layers = _downward(judged_shape[0], width, stages, activation, norm, dropout, first_norm=False)
        self.layers = nn.ModuleList(layers)
        last = (width * 2**stages, *sides[-1])
        self.mix = mixing(minibatch, last, activation, initialise)
        self.to_logit = nn.Linear(math.prod(last), 1)
        if init == "dcgan":
            initialise_dcgan(self)
        if spectral_norm:
            normalise_spectrally(self)

    def represent(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the logit is a linear function of, `b d`, and the stages' activations."""
        features = stagewise(self.layers, x)
        return self.mix(features[-1]).flatten(1), features

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        phi, features = self.represent(x)
        return self.to_logit(phi).squeeze(1), features
