"""The diagonal Gaussian posterior and the standard normal prior of the VAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.spatial import Halvings, sides

LOG_2PI = math.log(2 * math.pi)

Dim = Annotated[int, Field(ge=1, description="number of latent values; of a spatial code, at each position")]
Limit = Annotated[float, Field(gt=0, le=80, description="bound of the log-variance's magnitude")]


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; mean, exp(logvar)) of each value, in nats. Shapes: broadcast together."""
    squared = (z - mean).square() * (-logvar).exp()
    return -0.5 * (squared + logvar + LOG_2PI)


@dataclass(frozen=True)
class DiagonalGaussian:
    """q(z|x) = N(mean, diag(exp(logvar))). Shapes: mean, logvar `b d` or `b d h w`."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, the reparameterised sample. Shapes: noise like z, standard normal; returns z."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats. Shapes: z `b ...`; returns `b`."""
        return log_normal(z, self.mean, self.logvar).flatten(1).sum(1)

    def standard_kl(self) -> Tensor:
        """KL(q(z_d|x) || N(0, 1)) of each value of z in nats, shaped like z."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar)

    def kl(self, prior: Any, z: Tensor | None = None) -> Tensor:
        """KL(q(z|x) || p(z)) in nats, `b`: closed form for a standard normal prior, else the one-sample estimate at z.

        Source: Kingma & Welling 2013 (arXiv:1312.6114), appendix B.
        """
        if isinstance(prior, StandardNormal):
            return self.standard_kl().flatten(1).sum(1)
        if z is None:
            raise ValueError("the KL to this prior has no closed form here: it is estimated at a sample, pass `z`")
        return self.log_prob(z) - prior.log_prob(z)


@dataclass(frozen=True)
class StandardNormal:
    """p(z) = N(0, I) over vectors `b d` or maps `b d h w`."""

    def sample(self, noise: Tensor) -> Tensor:
        """The noise itself. Shapes: `b ...` -> `b ...`."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats. Shapes: z `b ...`; returns `b`."""
        return -0.5 * (z.square() + LOG_2PI).flatten(1).sum(1)


def diagonal_gaussian(code: Tensor, limit: float) -> DiagonalGaussian:
    """The posterior that a code (mean, log-variance) stands for, in float32. Shapes: code `b (2 d) ...`."""
    mean, logvar = rearrange(code.float(), "b (two d) ... -> two b d ...", two=2)
    return DiagonalGaussian(mean, torch.clamp(logvar, -limit, limit))


class Gaussian(nn.Module):
    """A diagonal Gaussian posterior with a standard normal prior: the latent of the VAE, and a GAN's noise.

    q(z|x) = N(mean, exp(logvar)), code = (mean, logvar); p(z) = N(0, I)

    The log-variance is clamped to [-`limit`, `limit`], since exp overflows float16 from 11 and float32 from 88 on; beyond
    the limit it gets no gradient.

    Shapes: code `b (2 d)`, z `b d`; with `halvings` code `b (2 d) h w`, z `b d h w`.
    Raises: ValueError for `halvings` of data that are no pictures, or too many.
    When: the default. With `halvings` reconstructions are sharper, but samples want a prior learned afterwards
        (Rombach 2112.10752); "gaussian-mixture" and "vamp" have richer priors.
    Healthy: log-variances in [-10, 1] that differ between dimensions. All near 0 with means near 0: the code says nothing
        (collapse). At -`limit`: the KL has no weight.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), section 3 and appendix B.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...] | None = None,
        *,
        dim: Dim = 16,
        halvings: Halvings = None,
        limit: Limit = 20.0,
    ) -> None:
        super().__init__()
        plane = sides(sample_shape, halvings, "gaussian")
        self.code_shape = (2 * dim, *plane)
        self.z_shape = (dim, *plane)
        self.limit = limit

    def posterior(self, code: Tensor) -> DiagonalGaussian:
        return diagonal_gaussian(code, self.limit)

    def prior(self) -> StandardNormal:
        return StandardNormal()
