"""How far the codes of the data together are from the prior, without a density and without a critic."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_losses.disentangle import at_least_two


class MMD(nn.Module):
    """The squared maximum mean discrepancy between the codes of a batch and as many samples of the prior.

    loss = E k(z, z') + E k(p, p') - 2 E k(z, p), z, z' codes and p, p' samples of the prior, k summed over `scales` s:
    imq  k(a, b) = C / (C + |a - b|^2),   C = 2 d sigma^2 s: twice the prior's d sigma^2 is the expected |p - p'|^2
    rbf  k(a, b) = exp(-|a - b|^2 / C),   the same C: a bandwidth of sigma * sqrt(d s)
    unbiased  averages over pairs of different samples in the first two terms; may be negative
    biased    averages over all pairs; never negative, 0 where the two batches are equal

    Couples the batch. z_prior is the target and gets no gradient: a learned prior needs a term of its own (`kl`).

    Shapes: z, z_prior `b d` or `b d h w`; returns a scalar without unit, at most 2 * len(scales).
    Raises: ValueError for a batch of one.
    When: WAE: a deterministic latent with `prior = "normal"`, this in place of the KL, weight 10 to 100; against the critic
        of an adversarial autoencoder it is stable, but weak in many dimensions. InfoVAE: a gaussian latent, beside a weak KL.
    Healthy: falls to about 0 and, unbiased, wobbles around it. Well above 0 for long: samples of the prior decode to noise,
        raise the weight. imq has heavy tails and a gradient for far outliers, which rbf does not see.
    Source: Gretton et al. 2012 (JMLR 13), lemma 6, equations 3 and 5; imq and C: Tolstikhin et al. 2017 (arXiv:1711.01558),
        section 4; InfoVAE: Zhao et al. 2017 (arXiv:1706.02262).
    """

    couples_batch = True

    def __init__(
        self,
        latent_dim: int,
        *,
        kernel: Annotated[Literal["imq", "rbf"], Field(description="inverse multiquadratic or Gaussian")] = "imq",
        estimator: Annotated[
            Literal["unbiased", "biased"], Field(description="without or with each sample's pair with itself")
        ] = "unbiased",
        sigma: Annotated[float, Field(gt=0, description="standard deviation of the prior in each dimension")] = 1.0,
        scales: Annotated[
            tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, description="factors of C, one kernel each")
        ] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.estimator = estimator
        self.widths = [2 * latent_dim * sigma**2 * scale for scale in scales]

    def forward(self, z: Tensor, z_prior: Tensor) -> Tensor:
        b = at_least_two(z, "mmd")
        z, p = z.flatten(1), z_prior.flatten(1).detach()
        zz, pp, zp = self.similarity(z, z), self.similarity(p, p), self.similarity(z, p)  # b b
        if self.estimator == "biased":
            return zz.mean() + pp.mean() - 2 * zp.mean()
        # a sample is 1 to itself in every kernel
        within = zz.sum() + pp.sum() - 2 * b * len(self.widths)
        return within / (b * (b - 1)) - 2 * zp.mean()

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """k of every pair, summed over the scales. Shapes: `i d`, `j d`; returns `i j`."""
        # differences, not |a|^2 + |b|^2 - 2 a.b: far from the origin, or in TF32, that one loses the digits that matter
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        if self.kernel == "imq":
            kernels = [width / (width + squared) for width in self.widths]
        else:
            kernels = [torch.exp(-squared / width) for width in self.widths]
        return torch.stack(kernels).sum(0)
