"""What a code costs, in nats; and how much it is to cost."""

from __future__ import annotations

from typing import Annotated, Any

from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal


class KL(nn.Module):
    """KL(q(z|x) || p(z)), summed over the latent and averaged over the batch, in nats per sample.

    With the reconstruction term at weight 1, their sum is the negative ELBO. The recipe's `weight` is the beta of a
    beta-VAE (Higgins et al. 2017). `weight = { from = 0, to = 1, over = 0.1 }` warms it up;
    `weight = { to = 1.0, cycle = 0.25 }` anneals it four times a run, rising during the first half of each cycle (Fu et
    al. 2019, arXiv:1903.10145).

    Shapes: posterior over `b d` or `b d h w`; returns a scalar.
    Raises: ValueError for a posterior that has no KL (deterministic).
    When: every VAE. `free-bits` or a cycle where the code falls silent, `capacity` where its cost is to be a given number,
        `tc-decomposition` where the dimensions are to be independent.
    Healthy: rises from 0 in the first steps, then settles, on digits at 10 and more. Near 0 for long: the code says nothing
        about x (posterior collapse): warm it up or weigh it less. Hundreds: samples of the prior will look like noise.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), equation 10.
    """

    def forward(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        return posterior.kl(prior, z).mean()


class Capacity(nn.Module):
    """The distance of the KL from a target that grows during the run: the code is to cost that much, no more and no less.

    loss = |mean_b KL(q(z|x_b) || p(z)) - C|,  C = capacity * min(progress / over, 1)

    The paper's gamma is the recipe's `weight`. The target holds the batch mean, not each sample: one image may need more
    than another. That couples the batch.

    Shapes: posterior over `b d` or `b d h w`; returns a scalar in nats.
    Raises: ValueError for a posterior that has no KL (deterministic).
    When: in place of `kl`, to set the rate of a code rather than its price (beta); dimensions then open one after another.
    Healthy: near 0, a few tenths of a nat at most, while C rises: the KL follows it. If it grows along with C, `weight` is
        too small (the paper takes 1000), or the latent cannot hold that much.
    Source: Burgess et al. 2018 (arXiv:1804.03599), section 5.
    """

    couples_batch = True

    def __init__(
        self,
        *,
        capacity: Annotated[float, Field(gt=0, description="nats that the code may cost in the end")] = 25.0,
        over: Annotated[float, Field(gt=0, le=1, description="fraction of the run during which the target rises")] = 0.8,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.over = over

    def forward(self, posterior: Any, prior: Any, z: Tensor, progress: Tensor) -> Tensor:
        target = self.capacity * (progress / self.over).clamp(max=1.0)
        return (posterior.kl(prior, z).mean() - target).abs()


class FreeBits(nn.Module):
    """KL to N(0, I) with a floor: `free` nats in every latent dimension cost nothing more.

    loss = sum_d max(free, mean_b KL(q(z_d|x_b) || N(0, 1)))

    The floor holds the batch mean, not each sample: a dimension may be silent for one image and speak for another. That
    couples the batch. Under the floor a dimension receives no gradient, so nothing pushes it to collapse. In a spatial
    code a dimension is a channel, its KL summed over the positions: the paper groups what shares parameters.

    Shapes: posterior.mean, posterior.logvar `b d` or `b d h w`; returns a scalar in nats per sample, at least d * free.
    Raises: ValueError for a posterior that is no diagonal Gaussian, or another prior than the standard normal.
    When: in place of `kl`, where dimensions fall silent (`active-units` is low) though the decoder could use them.
    Healthy: above d * free. A run that ends there has a decoder that ignores z: give it fewer channels.
    Source: Kingma et al. 2016 (arXiv:1606.04934), "free bits".
    """

    couples_batch = True

    def __init__(self, *, free: Annotated[float, Field(ge=0, description="nats per dimension")] = 0.1) -> None:
        super().__init__()
        self.free = free

    def forward(self, posterior: Any, prior: Any) -> Tensor:
        gaussian = gaussian_posterior(posterior, "free-bits", 'use = "kl"')
        standard_prior(prior, "free-bits", 'use = "kl"')
        kl = rearrange(gaussian.standard_kl(), "b d ... -> b d (...)").sum(2)
        return kl.mean(0).clamp(min=self.free).sum()


def gaussian_posterior(posterior: Any, name: str, instead: str) -> DiagonalGaussian:
    """The posterior, if it is the diagonal Gaussian that a closed form needs. Raises ValueError otherwise."""
    if not isinstance(posterior, DiagonalGaussian):
        raise ValueError(
            f"{name} needs the mean and log-variance of a diagonal Gaussian posterior, this one is a "
            f'{type(posterior).__name__}; write [latent] use = "gaussian", or {instead}'
        )
    return posterior


def standard_prior(prior: Any, name: str, instead: str) -> None:
    """Raises ValueError for another prior than the standard normal."""
    if not isinstance(prior, StandardNormal):
        raise ValueError(
            f"{name} needs the standard normal prior, whose dimensions are independent; this one is a "
            f'{type(prior).__name__}; write [latent] use = "gaussian", or {instead}'
        )
