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
    stagewise,
)
from hybridgen_nets.minibatch import Minibatch, mixing


def widths(width: Units, depth: Layers) -> tuple[int, ...]:
    """The units of each hidden layer. Raises ValueError where `depth` is another number than `width` lists."""
    if isinstance(width, int):
        return (width,) * (2 if depth is None else depth)
    if depth not in (None, len(width)):
        raise ValueError(f"width = {list(width)} lists {len(width)} hidden layers, depth = {depth}; remove depth")
    return width


def _hidden(inputs: int, sizes: tuple[int, ...], act: str, normalisation: str, drop: float) -> list[nn.Sequential]:
    """Hidden layers, each linear - norm - activation - dropout, initialised."""
    layers = []
    for before, size in zip((inputs, *sizes), sizes, strict=False):
        after = [*norm(normalisation, size, spatial=False), activation(act), *dropout(drop, spatial=False)]
        layers.append(nn.Sequential(nn.Linear(before, size), *after))
        initialise(layers[-1])
    return layers


class MLPEncoder(nn.Module):
    """A sample, flattened, to the code: a network for vectors, and the cheapest for small pictures.

    Shapes: x `b ...`; returns `b *code_shape`.
    Raises: ValueError where `width` lists another number of layers than `depth`.
    When: vectors and toy data; pictures above 32 pixels want "conv", whose weights are shared over places.
    Healthy: reconstructions better than PCA's of the same dimension soon; if not, more `width`.
    Source: He et al. 2015 (arXiv:1502.01852) for the initial weights.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        code_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.code_shape = code_shape
        sizes = widths(width, depth)
        self.body = nn.Sequential(*_hidden(math.prod(sample_shape), sizes, activation, norm, dropout))
        self.to_code = nn.Linear(sizes[-1], math.prod(code_shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.to_code(self.body(x.flatten(1))).unflatten(1, self.code_shape)


class MLPDecoder(nn.Module):
    """A latent to the raw values of a sample: a network for vectors, and the cheapest for small pictures.

    Shapes: z `b *z_shape`; returns `b *sample_shape`, before the output activation.
    Raises: ValueError where `width` lists another number of layers than `depth`.
    When: vectors and toy data; pictures above 32 pixels want "conv", whose samples are smooth by construction.
    Healthy: samples follow the data's large features first; grain that stays asks for "conv".
    Source: He et al. 2015 (arXiv:1502.01852) for the initial weights.
    """

    def __init__(
        self,
        z_shape: tuple[int, ...],
        sample_shape: tuple[int, ...],
        *,
        width: Units = 256,
        depth: Layers = None,
        activation: Activation = "silu",
        norm: Norm = "none",
        dropout: Dropout = 0.0,
    ) -> None:
        super().__init__()
        self.sample_shape = sample_shape
        sizes = widths(width, depth)
        self.body = nn.Sequential(*_hidden(math.prod(z_shape), sizes, activation, norm, dropout))
        self.to_raw = nn.Linear(sizes[-1], math.prod(sample_shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.to_raw(self.body(z.flatten(1))).unflatten(1, self.sample_shape)


class MLPDiscriminator(nn.Module):
    """A sample, flattened, to one logit: for vectors, latents, and small pictures.

    Shapes: x `b ...`; returns the logits `b` and the hidden layers' activations, each `b width`.
    Raises: ValueError where `width` lists another number of layers than `depth`.
    When: vectors, and latents (adversarial autoencoders); "conv" for pictures.
    Healthy: accuracy on real and on generated between 0.55 and 0.9; at 1 it has won: less `width`, spectral_norm or a penalty.
    Source: Goodfellow et al. 2014 (arXiv:1406.2661), section 5; He et al. 2015 (arXiv:1502.01852) for the initial weights.
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
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
        sizes = widths(width, depth)
        self.layers = nn.ModuleList(_hidden(math.prod(judged_shape), sizes, activation, norm, dropout))
        self.mix = mixing(minibatch, sizes[-1:], activation, initialise)
        self.to_logit = nn.Linear(sizes[-1], 1)
        if spectral_norm:
            normalise_spectrally(self)

    def represent(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the logit is a linear function of, `b width`, and the hidden layers' activations."""
        features = stagewise(self.layers, x.flatten(1))
        return self.mix(features[-1]), features

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        phi, features = self.represent(x)
        return self.to_logit(phi).squeeze(1), features
