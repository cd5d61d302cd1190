"""InfoGAN's latent: noise, and codes that a second network reads back from what was generated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_latents.bounded import UniformCube
from hybridgen_latents.gaussian import LOG_2PI, Limit, log_normal


@dataclass(frozen=True)
class Parts:
    """How z = [noise, one one-hot code a category, continuous codes] is laid out."""

    noise: int
    categories: tuple[int, ...]
    continuous: int

    @property
    def size(self) -> int:
        return self.noise + sum(self.categories) + self.continuous

    def of(self, z: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The parts of z. Shapes: z `b d`; returns `b n`, one `b k` a category, `b c`."""
        noise, *codes, continuous = z.split([self.noise, *self.categories, self.continuous], 1)
        return noise, tuple(codes), continuous


@dataclass(frozen=True)
class InfoPrior:
    """Normal noise, each category alike, continuous codes uniform on [-1, 1]; all independent. Shapes: z `b d`."""

    parts: Parts

    def sample(self, noise: Tensor) -> Tensor:
        """z from normal noise of the same shape: the largest of k values names a category, 2 Phi - 1 makes a uniform code."""
        own, codes, continuous = self.parts.of(noise)
        return torch.cat([own, *(one_hot(c.argmax(1), c.shape[1]) for c in codes), UniformCube().sample(continuous)], 1)

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z) in nats: a density of noise and continuous codes, a probability of categories. Shapes: `b d` -> `b`."""
        own, codes, continuous = self.parts.of(z)
        valid = (continuous.abs() <= 1).all(1)
        for code in codes:
            valid = valid & ((code == 0) | (code == 1)).all(1) & (code.sum(1) == 1)
        density = -0.5 * (own.square() + LOG_2PI).sum(1) - entropy(self.parts)
        return torch.where(valid, density, -math.inf)


def entropy(parts: Parts) -> float:
    """H(c) of the codes under the prior, in nats: log k a category, log 2 a continuous code."""
    return sum(math.log(k) for k in parts.categories) + parts.continuous * math.log(2)


def one_hot(index: Tensor, classes: int) -> Tensor:
    """Shapes: `b` -> `b k`, float32."""
    return (index.unsqueeze(1) == torch.arange(classes, device=index.device)).float()


@dataclass(frozen=True)
class InfoPosterior:
    """What Q says of a sample: its codes; of the noise it says nothing. Shapes: mean `b d`."""

    mean: Tensor
    noise: int  # how many values of z no code is; they come first

    def sample(self, noise: Tensor) -> Tensor:
        """The codes at their mean (a category's is its probabilities), the rest fresh noise. Shapes: `b d` -> `b d`."""
        return torch.cat([noise[:, : self.noise], self.mean[:, self.noise :]], 1)

    def kl(self, prior: Any, z: Tensor | None = None) -> Tensor:
        """Undefined: Q is trained by the mutual information alone."""
        raise ValueError(
            "an info latent has no KL, its encoder being InfoGAN's Q; remove the KL loss, "
            'and write use = "mutual-information" in a loss of its own'
        )


class Info(nn.Module):
    """InfoGAN's latent: noise, categories and continuous codes, of which the last two must be readable from the sample.

    z = [noise, one-hot c_i, continuous c_j];  p: noise N(0, I), c_i uniform on its categories, c_j uniform on [-1, 1]
    log Q(c | G(z)) = sum_i log softmax(logits_i)[c_i] + sum_j log N(c_j; mean_j, exp(logvar_j))

    The [encoder] is Q: its code is (logits of each category, means, log-variances). log-variances are clamped to
    [-`limit`, `limit`]: the density of a continuous code has no bound otherwise. `encode` gives 0 for the noise.

    Shapes: z `b d` with d = noise + sum(categories) + continuous; code `b (sum(categories) + 2 continuous)`. Offers
        `code_log_prob` (log Q at the codes that made `fake`, `b`, nats) and `code_entropy` (H(c), `b`, nats).
    Raises: ValueError for no code at all, or a category of fewer than 2; from `kl`.
    When: a GAN whose factors of variation should have names, without labels; with the loss "mutual-information".
    Healthy: that loss falls to -log k for one category of k within the first part of the run.
    Source: Chen et al. 2016 (arXiv:1606.03657), sections 4 to 6 and appendix C.1 (the defaults).
    """

    quantities = ("code_log_prob", "code_entropy")

    def __init__(
        self,
        *,
        noise: Annotated[int, Field(ge=0, description="values of z that no code is")] = 62,
        categories: Annotated[tuple[int, ...], Field(description="the size of each categorical code, at least 2")] = (10,),
        continuous: Annotated[int, Field(ge=0, description="continuous codes")] = 2,
        limit: Limit = 6.0,
    ) -> None:
        super().__init__()
        if any(k < 2 for k in categories):
            raise ValueError(f"info: categories = {list(categories)}; a category has at least 2 values")
        if not categories and not continuous:
            raise ValueError("info: neither categories nor continuous codes, so there is nothing to read back; write some")
        self.parts = Parts(noise, categories, continuous)
        self.limit = limit
        self.z_shape = (self.parts.size,)
        self.code_shape = (sum(categories) + 2 * continuous,)

    def posterior(self, code: Tensor) -> InfoPosterior:
        logits, mean, _ = self._read(code)
        none = code.new_zeros(len(code), self.parts.noise, dtype=torch.float32)
        return InfoPosterior(torch.cat([none, *(one.softmax(1) for one in logits), mean], 1), self.parts.noise)

    def prior(self) -> InfoPrior:
        return InfoPrior(self.parts)

    def code_log_prob(self, fake_code: Tensor, z_prior: Tensor) -> Tensor:
        """log Q(c | G(z)) at the codes c in z, in nats, `b`."""
        logits, mean, logvar = self._read(fake_code)
        _, codes, continuous = self.parts.of(z_prior)
        total = log_normal(continuous, mean, logvar).sum(1)
        for one, code in zip(logits, codes, strict=True):
            total = total + (one.log_softmax(1) * code).sum(1)
        return total

    def code_entropy(self, z_prior: Tensor) -> Tensor:
        """H(c) of the prior's codes, in nats, `b`: a constant."""
        return z_prior.new_full((len(z_prior),), entropy(self.parts))

    def _read(self, code: Tensor) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Q's logits, means and log-variances, in float32."""
        continuous = self.parts.continuous
        *logits, mean, logvar = code.float().split([*self.parts.categories, continuous, continuous], 1)
        return tuple(logits), mean, logvar.clamp(-self.limit, self.limit)
