"""The diagonal Gaussian posterior and the standard normal prior of the VAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiagonalGaussian:
    """q(z|x) = N(mean, diag(exp(logvar))). Shapes: mean, logvar `b d`."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std * noise, the reparameterised sample. Shapes: noise `b d` standard normal; returns `b d`."""
        return self.mean + (0.5 * self.logvar).exp() * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z|x) in nats. Shapes: z `b d`; returns `b`."""
        squared = (z - self.mean).square() * (-self.logvar).exp()
        return -0.5 * (squared + self.logvar + LOG_2PI).flatten(1).sum(1)

    def kl(self, prior: Any, z: Tensor | None = None) -> Tensor:
        """KL(q(z|x) || p(z)) in nats, `b`: closed form for a standard normal prior, else the one-sample estimate at z.

        Source: Kingma & Welling 2013 (arXiv:1312.6114), appendix B.
        """
        if isinstance(prior, StandardNormal):
            terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
            return 0.5 * terms.flatten(1).sum(1)
        if z is None:
            raise ValueError("the KL to this prior has no closed form here: it is estimated at a sample, pass `z`")
        return self.log_prob(z) - prior.log_prob(z)


@dataclass(frozen=True)
class StandardNormal:
    """p(z) = N(0, I) over vectors `b d`."""

    def sample(self, noise: Tensor) -> Tensor:
        """The noise itself. Shapes: `b d` -> `b d`."""
        return noise

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats. Shapes: z `b d`; returns `b`."""
        return -0.5 * (z.square() + LOG_2PI).flatten(1).sum(1)


class Gaussian(nn.Module):
    """A diagonal Gaussian posterior with a standard normal prior: the latent of the VAE, and a GAN's noise.

    The code is (mean, log-variance). The log-variance is clamped to [-`limit`, `limit`], since exp overflows float16
    from 11 and float32 from 88 on; beyond the limit it gets no gradient. A healthy log-variance lies in [-10, 1].

    Shapes: code `b (2 d)`; z `b d`.
    Source: Kingma & Welling 2013 (arXiv:1312.6114).
    """

    def __init__(
        self,
        *,
        dim: Annotated[int, Field(ge=1, description="number of latent values")] = 16,
        limit: Annotated[float, Field(gt=0, le=80, description="bound of the log-variance's magnitude")] = 20.0,
    ) -> None:
        super().__init__()
        self.code_shape = (2 * dim,)
        self.z_shape = (dim,)
        self.limit = limit

    def posterior(self, code: Tensor) -> DiagonalGaussian:
        """The posterior that a code stands for, in float32."""
        mean, logvar = rearrange(code.float(), "b (two d) ... -> two b d ...", two=2)
        return DiagonalGaussian(mean, torch.clamp(logvar, -self.limit, self.limit))

    def prior(self) -> StandardNormal:
        return StandardNormal()
