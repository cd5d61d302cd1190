"""Latent dimensions that are to be independent of each other, over the data as a whole."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.gaussian import log_normal
from hybridgen_losses.kl import gaussian_posterior, standard_prior


class TCDecomposition(nn.Module):
    """The KL in three parts with a price each: beta-TC-VAE. With all three prices at 1 their sum is the KL.

    loss = alpha * MI(x; z) + beta * TC(z) + gamma * dimension-wise KL, at one sample z_i of each x_i:
    MI    mean_i log q(z_i|x_i) - log q(z_i)                  what z says of x
    TC    mean_i log q(z_i) - sum_d log q(z_id)               how far the dimensions are from independent
    dwKL  mean_i sum_d log q(z_id) - log p(z_id)              how far each is from the prior

    q(z) = 1/N sum_n q(z|x_n) over the N training examples is estimated from the b examples of a batch, for each z_i:
    weighted    q(z_i) ~ 1/(N b) sum_j q(z_i|x_j); too low, by the factor N at b = N
    stratified  q(z_i) ~ 1/N q(z_i|x_i) + (N - 1)/(N (b - 1)) sum_{j != i} q(z_i|x_j); unbiased, exact at b = N
    and each q(z_id) alike. The logarithm of an unbiased estimate is still biased, the more the smaller the batch. Of the
    stratified sampling this is the average over which sample the paper singles out: the same expectation, less variance.

    Couples the batch. Memory and time grow as b^2 d. Every value of a spatial code is a dimension.

    Shapes: posterior.mean, posterior.logvar, z `b d` or `b d h w`; returns a scalar in nats per sample.
    Raises: ValueError for a posterior that is no diagonal Gaussian, another prior than the standard normal, fewer than 2
        examples in the data or a batch.
    When: in place of `kl` (both together count it twice), for independent dimensions without `factor`'s critic and without
        a beta on the whole KL, which would cost information about x. Batches of 64 and more.
    Healthy: stratified: rises from 0 as a KL does and stays near it; far above it the dimensions still depend on each other.
        weighted with beta above 1: the same on top of an offset of about (beta - 1) * (d - 1) * log N, so that only its
        changes mean something.
    Source: Chen et al. 2018 (arXiv:1802.04942), equations 2 and 4, estimators in section 4.1 and appendix C.
    """

    couples_batch = True

    def __init__(
        self,
        examples: int,
        *,
        alpha: Annotated[float, Field(ge=0, description="price of the mutual information; 0 leaves it free")] = 1.0,
        beta: Annotated[float, Field(gt=0, description="price of the total correlation")] = 6.0,
        gamma: Annotated[float, Field(ge=0, description="price of the dimension-wise KL")] = 1.0,
        estimator: Annotated[
            Literal["weighted", "stratified"], Field(description="how the codes of a batch stand for those of all data")
        ] = "stratified",
    ) -> None:
        super().__init__()
        if examples < 2:
            raise ValueError(f'tc-decomposition needs at least 2 training examples, there are {examples}; write use = "kl"')
        self.examples = examples
        self.alpha = alpha
        self.beta = beta
        self.gamma = gamma
        self.estimator = estimator

    def forward(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        gaussian = gaussian_posterior(posterior, "tc-decomposition", 'use = "kl"')
        standard_prior(prior, "tc-decomposition", 'use = "kl"')
        log_q_zx = gaussian.log_prob(z)  # b
        log_q_z, log_q_zd = self.aggregate(gaussian.mean, gaussian.logvar, z)  # b; b d
        information = log_q_zx - log_q_z
        correlation = log_q_z - log_q_zd.sum(1)
        dimensions = log_q_zd.sum(1) - prior.log_prob(z)
        return (self.alpha * information + self.beta * correlation + self.gamma * dimensions).mean()

    def aggregate(self, mean: Tensor, logvar: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) of each sample and of each of its dimensions. Shapes: `b ...`, three times; returns `b` and `b d`."""
        mean, logvar, z = mean.flatten(1), logvar.flatten(1), z.flatten(1)
        at_least_two(z, "tc-decomposition")
        log_q = log_normal(z.unsqueeze(1), mean, logvar)  # i j d: z_i under q(.|x_j)
        log_weights = self.log_weights(z)
        return (log_q.sum(2) + log_weights).logsumexp(1), (log_q + log_weights.unsqueeze(2)).logsumexp(1)

    def log_weights(self, z: Tensor) -> Tensor:
        """log of what example j of a batch counts in the estimate of q(z_i). Shapes: z `b d`; returns `i j`."""
        n, b = self.examples, z.shape[0]
        if self.estimator == "weighted":
            return z.new_full((b, b), -math.log(n * b))
        own = torch.eye(b, dtype=torch.bool, device=z.device)
        return z.new_full((b, b), math.log((n - 1) / (n * (b - 1)))).masked_fill(own, -math.log(n))


class Factor(nn.Module):
    """The total correlation of z as a critic sees it, which tells codes from codes whose dimensions were shuffled: FactorVAE.

    generator      E[log D(z) - log(1 - D(z))] = mean real_logits: TC(z) in nats where the critic is the best there is
    discriminator  -1/2 (E[log D(z)] + E[log(1 - D(z_permuted))]) = 1/2 (softplus(-real_logits) + softplus(fake_logits))

    It wants a critic of codes and the provider `permuted`, and comes on top of the KL:

        [quantity.z_permuted]
        use = "permuted"
        [discriminator.codes]
        use = "mlp"
        real = "z"
        fake = "z_permuted"

    The paper shuffles a second batch, this the same one.

    Shapes: logits `b ...` (averaged); both return a scalar in nats.
    When: for independent dimensions in small batches, at the price of a critic; `tc-decomposition` needs none.
    Healthy: a few tenths of a nat at most, the critic near log 2 = 0.693, its accuracies near one half. Nats, and a critic
        that wins: the dimensions still depend on each other. A critic that stays at one half from the first step to the last
        may also be too weak to see it: give it a higher rate.
    Source: Kim & Mnih 2018 (arXiv:1802.05983), equation 3 and algorithm 2.
    """

    def generator(self, real_logits: Tensor) -> Tensor:
        return real_logits.float().mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.5 * (F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean())


class DIP(nn.Module):
    """The covariance of the codes over the data is to be the identity: DIP-VAE.

    loss = lambda_od * sum_{i != j} C_ij^2 + lambda_d * sum_i (C_ii - 1)^2
    i   C = Cov_x(mean)                               the posterior means' covariance
    ii  C = Cov_x(mean) + E_x[diag(exp(logvar))]      the covariance of z itself

    The covariance is that of the batch, unbiased (over b - 1). That couples the batch. Every value of a spatial code is a
    dimension.

    Shapes: posterior.mean `b d` or `b d h w`, for ii posterior.logvar too; returns a scalar.
    Raises: ValueError for kind ii with a posterior that is no diagonal Gaussian, and for a batch of one.
    When: beside the KL, cheap and without a critic; only correlations are seen, other dependence is not. Kind ii where there
        are more dimensions than factors of variation: in i, each must vary, so spare ones carry noise.
    Healthy: falls towards 0, while `active-units` stays. Stuck near lambda_d * d: the means don't vary, the KL is too strong.
    Source: Kumar et al. 2017 (arXiv:1711.00848), equations 5 to 7.
    """

    couples_batch = True

    def __init__(
        self,
        *,
        kind: Annotated[Literal["i", "ii"], Field(description="covariance of the means (i) or of z itself (ii)")] = "i",
        lambda_od: Annotated[float, Field(gt=0, description="price of covariances between two dimensions")] = 10.0,
        lambda_d: Annotated[
            float | None, Field(ge=0, description="price of variances away from 1; by default 10 lambda_od (i), lambda_od (ii)")
        ] = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.lambda_od = lambda_od
        self.lambda_d = (10 if kind == "i" else 1) * lambda_od if lambda_d is None else lambda_d

    def forward(self, posterior: Any) -> Tensor:
        mean = posterior.mean.flatten(1)
        b = at_least_two(mean, "dip")
        centred = mean - mean.mean(0)
        covariance = centred.T @ centred / (b - 1)  # d d
        variance = covariance.diagonal()
        off_diagonal = covariance - torch.diag(variance)
        if self.kind == "ii":
            gaussian = gaussian_posterior(posterior, 'dip with kind = "ii"', 'kind = "i"')
            variance = variance + gaussian.logvar.flatten(1).exp().mean(0)
        return self.lambda_od * off_diagonal.square().sum() + self.lambda_d * (variance - 1).square().sum()


def at_least_two(values: Tensor, name: str) -> int:
    """The batch size. Raises ValueError for a batch of one, which says nothing of how samples relate."""
    b = values.shape[0]
    if b < 2:
        raise ValueError(f"{name} compares the samples of a batch, this one has {b}; raise batch_size or lower accumulate")
    return b
