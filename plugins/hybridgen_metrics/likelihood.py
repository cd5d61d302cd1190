"""How likely held-out data are under the model: a bound that tightens with the samples it takes."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_losses.reconstruction import LikelihoodAt
from hybridgen_metrics.embeddings import exact_device


class ImportanceWeighted:
    """Bound of -log p(x) of held-out data from K samples of the posterior: `nll` in nats per sample, lower is better.

    nll = -log(1/K sum_k p(x|z_k) p(z_k) / q(z_k|x)),  z_1 ... z_K samples of q(z|x), K = `samples`, averaged over x

    K = 1 is the negative ELBO at one sample; it falls with K, on average, to -log p(x). p(x|z) is that of the recipe's
    reconstruction loss, its scale included. Sample k of an example is the same however the data are batched.

    `bits-per-dim` (lower is better) exists for data with levels. The probability of a stored value is taken to be the density
    there times the distance of two stored values, w = 2 / (levels - 1) in model space:
    bits-per-dim = (nll / D - log w) / log 2, D values a sample. Under a bernoulli likelihood of two-valued data the nats are
    those of a probability: nll / (D log 2). A bernoulli on grey values is neither, and tokens differ in number: nll alone.

    One sample of each x is decoded at a time, so memory does not grow with K.

    Shapes: x `b ...`, posterior over z_shape.
    Raises: Unmeasurable for a posterior without a density (deterministic, quantised), or without support under the prior.
    When: to compare density models, where "elbo" mixes up a poor model with a poor posterior. 64 samples while training, 5,000
        for a number to publish. It needs K decoder passes over the held-out data.
    Healthy: below the negative "elbo" by a few nats. Far below: the posterior is poor; equal: it is exact, or has collapsed.
        Negative nats are no fault, the density of narrow data exceeds 1; negative bits are one: the likelihood's scale is
        smaller than the distance of two levels, so that it memorises them.
    Source: Burda et al. 2015 (arXiv:1509.00519), equation 8; bits: Theis et al. 2015 (arXiv:1511.01844), section 3.1.
    """

    unit = "nats, bits"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"nll": False, "bits-per-dim": False}

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        z_shape: tuple[int, ...],
        seed: int,
        levels: int | None = None,
        *,
        samples: Annotated[int, Field(ge=1, le=100_000, description="K, samples of the posterior for each x")] = 64,
    ) -> None:
        self.dimensions, self.z_shape, self.seed, self.levels = math.prod(sample_shape), z_shape, seed, levels
        self.samples = samples
        self.reset()

    def reset(self) -> None:
        # one stream for each k, read in the order of the examples: neither batches nor larger K change what came before
        self.noise = [np.random.Generator(np.random.PCG64([self.seed, k])) for k in range(self.samples)]
        self.total: Tensor | float = 0.0
        self.effective: Tensor | float = 0.0
        self.count = 0
        self.values = ""
        self.remarks: list[str] = []

    def update(self, x: Tensor, posterior: Any, prior: Any, log_likelihood_at: LikelihoodAt) -> None:
        if not callable(getattr(posterior, "log_prob", None)):
            raise Unmeasurable(
                f"it needs the posterior's density, and a {type(posterior).__name__} has none; "
                'write [latent] use = "gaussian", or measure "reconstruction-error"'
            )
        b, device = len(x), exact_device(x)
        log_sum = torch.full((b,), -torch.inf, dtype=torch.float64, device=device)  # log sum_k w_k
        log_squares = log_sum.clone()  # log sum_k w_k^2
        for stream in self.noise:
            noise = stream.standard_normal((b, *self.z_shape), dtype=np.float32)
            z = posterior.sample(torch.from_numpy(noise).to(x.device))
            log_w = log_likelihood_at(z) + prior.log_prob(z) - posterior.log_prob(z)
            log_w = log_w.to(device, torch.float64)
            log_sum = torch.logaddexp(log_sum, log_w)
            log_squares = torch.logaddexp(log_squares, 2 * log_w)
        self.total = self.total + (log_sum - math.log(self.samples)).sum()
        self.effective = self.effective + (2 * log_sum - log_squares).exp().sum()
        self.count += b
        self.values = log_likelihood_at.values

    def compute(self) -> dict[str, float]:
        if not self.count:
            raise Unmeasurable("there are no held-out examples; measure more samples")
        nll = -float(self.total) / self.count
        if not math.isfinite(nll):
            raise Unmeasurable("the prior gives some samples of the posterior no density at all, so the bound is infinite")
        found = {"nll": nll}
        bits = self._bits(nll)
        if bits is not None:
            found["bits-per-dim"] = bits
        effective = float(self.effective) / self.count
        self.remarks = []
        if self.samples > 1 and effective < 2:
            self.remarks.append(
                f"{effective:.1f} of {self.samples} samples carry the weight on average: the bound is loose; raise samples"
            )
        if bits is not None and bits < 0:
            self.remarks.append(
                "below 0 bits: the likelihood is narrower than the distance of two stored values; bound its scale, or add noise"
            )
        return found

    def _bits(self, nll: float) -> float | None:
        """Bits per dimension, where the data have levels that p(x|z) speaks of."""
        if self.levels is None or self.levels < 2:
            return None
        if self.values == "continuous":
            return (nll / self.dimensions - math.log(2 / (self.levels - 1))) / math.log(2)
        if self.values == "binary" and self.levels == 2:
            return nll / (self.dimensions * math.log(2))
        return None
