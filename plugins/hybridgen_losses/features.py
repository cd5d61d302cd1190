"""Distances in what a discriminator has learned to see."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

Layers = Annotated[
    tuple[int, ...],
    Field(min_length=1, description="which of the discriminator's features, counted from 0; -1 is the last"),
]


def chosen(features: list[Tensor], layers: tuple[int, ...], name: str) -> list[Tensor]:
    """The features at `layers`. Raises ValueError for a number that the discriminator has no features for."""
    count = len(features)
    for layer in layers:
        if not -count <= layer < count:
            raise ValueError(
                f"{name}: layers = {list(layers)}, but this discriminator gives {count} features; "
                + (f"write numbers from {-count} to {count - 1}" if count else "use a discriminator that returns some")
            )
    return [features[layer].float() for layer in layers]


class FeatureReconstruction(nn.Module):
    """How far the reconstruction is from its original in the discriminator's layers: Larsen's learned similarity.

    loss = sum over layers of 0.5 * |D_l(x) - D_l(recon)|^2, summed over each sample: -log N(D_l(x); D_l(recon), 1) without its
    constant, in nats. D_l(x) is a constant target and the discriminator is not trained by it: the gradient goes through the
    reconstruction alone. The default is the last layer, for equation 7 has one, and several would count an error several times.

    Shapes: real_features, recon_features lists of `b ...`; returns a scalar in nats per sample.
    Raises: ValueError for a layer that the discriminator doesn't have.

    When: VAE/GAN, in the place of "reconstruction", whose pixels punish a shifted edge. Earlier layers ([0]) keep colours and
        positions, later ones what the picture shows. Larsen trains the decoder by it a little
        (`trains = { encoder = 1.0, decoder = 1e-6 }`) and keeps the adversarial term from the encoder.
    Healthy: not comparable between steps, for the discriminator moves: it often rises while pictures get better. Judge
        reconstructions by a metric ("psnr"). At 0: the discriminator's features are dead; growing without end: it wins.
    Source: Larsen et al. 2015 (arXiv:1512.09300), equations 7 and 8.
    """

    def __init__(self, *, layers: Layers = (-1,)) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, real_features: list[Tensor], recon_features: list[Tensor]) -> Tensor:
        targets = chosen(real_features, self.layers, "feature-reconstruction")
        found = chosen(recon_features, self.layers, "feature-reconstruction")
        distances = [(b - a.detach()).square().flatten(1).sum(1) for a, b in zip(targets, found, strict=True)]  # b
        return 0.5 * sum(distances[1:], distances[0]).mean()


class FeatureMatching(nn.Module):
    """Squared distance of the mean features of real and of generated samples: match statistics, don't fool the critic.

    loss = sum over layers of |mean_b D_l(x) - mean_b D_l(fake)|^2; the mean over real samples is a constant.

    The means are those of the batch, so its samples are coupled (`couples_batch`): two micro-batches are not one batch.

    Shapes: real_features, fake_features lists of `b ...`; returns a scalar.
    Raises: ValueError for a layer that the discriminator doesn't have.

    When: a GAN whose generator's own term is unstable, or collapses: as its replacement or beside it. Batches of 64 and
        more, for the error of the means is part of the value (about 2 / b of the features' variance).
    Healthy: falls to that floor and stays; far above it for long, generated samples lack something that real ones have.
    Source: Salimans et al. 2016 (arXiv:1606.03498), section 3.1.
    """

    couples_batch = True

    def __init__(self, *, layers: Layers = (-1,)) -> None:
        super().__init__()
        self.layers = layers

    def generator(self, real_features: list[Tensor], fake_features: list[Tensor]) -> Tensor:
        real = chosen(real_features, self.layers, "feature-matching")
        fake = chosen(fake_features, self.layers, "feature-matching")
        distances = [(b.mean(0) - a.detach().mean(0)).square().sum() for a, b in zip(real, fake, strict=True)]
        return sum(distances[1:], distances[0])
