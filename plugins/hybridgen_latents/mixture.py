"""A mixture of Gaussians as the prior of a VAE, learned with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import DiagonalGaussian, Dim, Limit, diagonal_gaussian, log_normal

Components = Annotated[int, Field(ge=1, description="Gaussians that the prior is made of")]


@dataclass(frozen=True)
class Mixture:
    """p(z) = sum_k w_k N(z; mean_k, exp(logvar_k)). Shapes: mean, logvar `k d`; log_weights `k`, which sum to 1 as weights.

    Gradients: `log_prob` trains all three. A sample trains the mean and variance of the component that it came from; the
    choice of the component has no gradient, so samples never train the weights.
    """

    mean: Tensor
    logvar: Tensor
    log_weights: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean_k + std_k * noise, k chosen as often as its weight says. Shapes: noise `b d` standard normal; returns `b d`."""
        chosen, rest = split(noise, self.log_weights.detach().exp())
        return self.mean[chosen] + (0.5 * self.logvar[chosen]).exp() * rest

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats. Shapes: z `b d`; returns `b`."""
        within = log_normal(z.unsqueeze(1), self.mean, self.logvar).sum(2)  # b k
        return torch.logsumexp(self.log_weights + within, dim=1)


def split(noise: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """A component for each sample and normal noise independent of it, both from normal noise alone.

    u = Phi(noise_0) is uniform; u in [c_{k-1}, c_k) for the cumulated weights c chooses component k; there
    (u - c_{k-1}) / w_k is uniform again, whatever k, and Phi^-1 makes a standard normal of it. Float32 has 2^24 steps of u,
    so the tails of that one coordinate end at about 4 standard deviations where a weight is 1/1000.

    Shapes: noise `b d`, weights `k`; returns the index `b` and noise `b d`.
    """
    u = torch.special.ndtr(noise[:, 0])
    upper = weights.cumsum(0)
    chosen = (u.unsqueeze(1) >= upper[:-1]).sum(1)  # b; the last component takes what rounding leaves
    lower = torch.cat([torch.zeros_like(upper[:1]), upper[:-1]])[chosen]
    least = torch.finfo(noise.dtype).eps / 2
    again = ((u - lower) / weights[chosen].clamp(min=torch.finfo(noise.dtype).tiny)).clamp(least, 1 - least)
    return chosen, torch.cat([torch.special.ndtri(again).unsqueeze(1), noise[:, 1:]], 1)


class GaussianMixture(nn.Module):
    """A diagonal Gaussian posterior whose prior is a learned mixture of Gaussians: a latent space with clusters.

    p(z) = sum_k w_k N(z; mean_k, exp(logvar_k));  KL = E_q[log q(z|x) - log p(z)], estimated at one z a sample

    The KL trains the prior's means, variances and weights. Through samples (a GAN on `fake`) only means and variances
    learn: the weights stay equal, as in DeLiGAN (Gurumurthy et al. 2017, arXiv:1706.02071).

    Shapes: code `b (2 d)`; z `b d`.
    When: data with groups, or samples that look worse than reconstructions because N(0, I) fits the codes badly. It costs
        no pass of the encoder, which "vamp" does.
    Healthy: reconstruction and KL together end below those of "gaussian", and several weights stay alive. One weight near 1:
        fewer `components` do. The KL of a batch may be negative, being an estimate; its mean is not.
    Source: Tomczak & Welling 2017 (arXiv:1705.07120), the mixture of Gaussians that the VampPrior is compared with.
    """

    def __init__(
        self,
        *,
        dim: Dim = 16,
        components: Components = 10,
        spread: Annotated[float, Field(gt=0, description="standard deviation of the initial means")] = 1.0,
        limit: Limit = 20.0,
    ) -> None:
        super().__init__()
        self.code_shape = (2 * dim,)
        self.z_shape = (dim,)
        self.limit = limit
        self.mean = nn.Parameter(spread * torch.randn(components, dim))
        self.logvar = nn.Parameter(torch.zeros(components, dim))
        self.logits = nn.Parameter(torch.zeros(components))

    def posterior(self, code: Tensor) -> DiagonalGaussian:
        return diagonal_gaussian(code, self.limit)

    def prior(self) -> Mixture:
        return Mixture(self.mean, self.logvar.clamp(-self.limit, self.limit), self.logits.log_softmax(0))
