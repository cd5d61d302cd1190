"""Critics of joint samples: a datum and a latent judged together, as BiGAN and ALI want it."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.conv import ConvDiscriminator, Init
from hybridgen_nets.layers import Activation, Depth, Dropout, Layers, Norm, SpectralNorm, Units, Width, normalise_spectrally
from hybridgen_nets.minibatch import Minibatch
from hybridgen_nets.mlp import MLPDiscriminator


class JointMLP(nn.Module):
    """A pair (x, z) to one logit: "mlp" on both, laid end to end and flattened.

    `real = { x = "x", z = "z" }` and `fake = { x = "fake", z = "z_prior" }` judge the encoder's pairs against the decoder's.

    Shapes: x `b ...`, z `b ...`; returns the logits `b` and the hidden layers' activations, each `b width`.
    When: BiGAN and ALI on vectors and small pictures, with the loss "adversarial-inference" beside "adversarial".
    Healthy: as "mlp"; accuracy on either pair 0.55 to 0.9. At 1 for long, encoder and decoder learn nothing of each other.
    Source: Donahue et al. 2016 (arXiv:1605.09782), section 3; Dumoulin et al. 2016 (arXiv:1606.00704), section 2.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        z_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        self.body = MLPDiscriminator(
            (math.prod(judged_shape) + math.prod(z_shape),),
            width=width,
            depth=depth,
            activation=activation,
            norm=norm,
            dropout=dropout,
            spectral_norm=spectral_norm,
            minibatch=minibatch,
        )

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.body(torch.cat([x.flatten(1), z.flatten(1)], 1))


class JointConv(nn.Module):
    """A picture and a latent to one logit: "conv" reads the picture, two layers read its activations and z together.

    Shapes: x `b c h w`, z `b ...`; returns the logits `b` and the activations of the stages and of the first joint layer.
    Raises: ValueError for data that are no pictures, or too many halvings.
    When: BiGAN and ALI on pictures, with the loss "adversarial-inference" beside "adversarial".
    Healthy: as "conv"; accuracy on either pair 0.55 to 0.9. At 1 for long, encoder and decoder learn nothing of each other.
    Source: Donahue et al. 2016 (arXiv:1605.09782), section 3; Dumoulin et al. 2016 (arXiv:1606.00704), appendix A.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        z_shape: tuple[int, ...],
        *,
        width: Width = 32,
        depth: Depth = None,
        units: Annotated[int, Field(ge=1, description="units of the layer that reads picture and latent together")] = 256,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
        init: Init = "he",
    ) -> None:
        super().__init__()
        self.picture = ConvDiscriminator(
            judged_shape, width=width, depth=depth, activation=activation, norm=norm, dropout=dropout, init=init
        )
        seen = self.picture.to_logit.in_features
        del self.picture.to_logit  # the picture by itself gets no logit
        self.pair = MLPDiscriminator((seen + math.prod(z_shape),), width=units, depth=1, activation=activation)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor, z: Tensor) -> tuple[Tensor, list[Tensor]]:
        phi, features = self.picture.represent(x)
        logits, joint = self.pair(torch.cat([phi, z.flatten(1).to(phi.dtype)], 1))
        return logits, [*features, *joint]
