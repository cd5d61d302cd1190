"""Multi-layer perceptrons for samples of any shape."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hybridgen_nets.layers import (
    Activation,
    Dropout,
    Layers,
    Norm,
    SpectralNorm,
    Units,
    activation,
    dropout,
    initialise,
    norm,
    normalise_spectrally,
)


def _hidden(inputs: int, width: int, depth: int, act: str, normalisation: str, drop: float) -> list[nn.Sequential]:
    """Hidden layers, each linear - norm - activation - dropout, initialised."""
    layers = []
    for i in range(depth):
        linear = nn.Linear(inputs if i == 0 else width, width)
        after = [*norm(normalisation, width, spatial=False), activation(act), *dropout(drop, spatial=False)]
        layers.append(nn.Sequential(linear, *after))
        initialise(layers[-1])
    return layers


class MLPEncoder(nn.Module):
    """A sample, flattened, to the code.

    Shapes: x `b ...`; returns `b *code_shape`.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = 2,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.body = nn.Sequential(*_hidden(math.prod(sample_shape), width, depth, activation, norm, dropout))
        self.to_code = nn.Linear(width, math.prod(code_shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_code(self.body(x.flatten(1))).unflatten(1, self.code_shape)


class MLPDecoder(nn.Module):
    """A latent to the raw values of a sample.

    Shapes: z `b *z_shape`; returns `b *sample_shape`, before the output activation.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = 2,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.sample_shape = sample_shape
        self.body = nn.Sequential(*_hidden(math.prod(z_shape), width, depth, activation, norm, dropout))
        self.to_raw = nn.Linear(width, math.prod(sample_shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.to_raw(self.body(z.flatten(1))).unflatten(1, self.sample_shape)


class MLPDiscriminator(nn.Module):
    """A sample, flattened, to one logit.

    Shapes: x `b ...`; returns the logits `b` and the hidden layers' activations, each `b width`.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = 2,
        activation: Activation = "leaky-relu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
        spectral_norm: SpectralNorm = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_hidden(math.prod(judged_shape), width, depth, activation, norm, dropout))
        self.to_logit = nn.Linear(width, 1)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        h, features = x.flatten(1), []
        for layer in self.layers:
            h = layer(h)
            features.append(h)
        return self.to_logit(h).squeeze(1), features
