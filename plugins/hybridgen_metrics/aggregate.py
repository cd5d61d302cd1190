"""How the codes of all data together compare with the prior, and what each dimension of them costs."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_latents.gaussian import StandardNormal
from hybridgen_losses.mmd import MMD
from hybridgen_metrics.embeddings import exact_device
from hybridgen_metrics.reservoir import Reservoir

ROWS = 256
"""Rows of the kernel matrix that are computed at once."""


class KLPerDimension:
    """What each latent dimension costs: its KL to N(0, 1) in nats, averaged over held-out data.

    KL_d = mean over x of KL(q(z_d|x) || N(0, 1)). `sum` is the KL term of the ELBO; `max`, `median` and `min` are over
    dimensions; `active` counts those above `threshold`. None has a better direction: a KL is a price and information both.

    Shapes: posterior over `b d` or `b d h w`, where each value of the map is a dimension.
    Raises: Unmeasurable for posteriors that aren't factorised Gaussians, and priors that aren't N(0, I).
    When: beside "active-units", to see by how much; to tell posterior collapse (all near 0) from a sparse code (some at 0).
    Healthy: some dimensions at 0.5 to 5 nats, the rest at 0. active = 0: collapse, warm the KL up or weigh it less. max above
        10: that dimension hardly varies under q, and samples of the prior rarely look like it.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), appendix B.
    """

    unit = "nats, dimensions"
    higher_is_better: ClassVar[dict[str, bool | None]] = {
        "sum": None, "max": None, "median": None, "min": None, "active": None,
    }  # fmt: skip

    def __init__(
        self, *, threshold: Annotated[float, Field(gt=0, description="nats that make a dimension active")] = 0.01
    ) -> None:
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, posterior: Any, prior: Any) -> None:
        if not isinstance(prior, StandardNormal) or not callable(getattr(posterior, "standard_kl", None)):
            raise Unmeasurable(
                f"the KL from a {type(posterior).__name__} to a {type(prior).__name__} is no sum over dimensions; "
                'write [latent] use = "gaussian", or measure "elbo"'
            )
        kl = posterior.standard_kl().flatten(1)  # b d
        self.total = self.total + kl.to(exact_device(kl), torch.float64).sum(0)
        self.count += len(kl)

    def compute(self) -> dict[str, float]:
        if not isinstance(self.total, Tensor):
            raise Unmeasurable("there are no held-out examples; measure more samples")
        kl = self.total / self.count
        return {
            "sum": float(kl.sum()),
            "max": float(kl.max()),
            "median": float(kl.quantile(0.5)),
            "min": float(kl.min()),
            "active": float((kl > self.threshold).sum()),
        }


class AggregateMismatch:
    """How far the codes of held-out data together are from the prior: `mmd`, squared, near 0 where they agree; lower is better.

    mmd = E k(z, z') + E k(p, p') - 2 E k(z, p), z and z' samples of the posteriors of different x, p and p' samples of the
    prior; the unbiased estimate, which may be negative, with the kernel of the loss "mmd" (inverse multiquadratic, summed over
    7 widths; at most 14). `p-value` is the share of `permutations` of the pooled samples with as large an mmd: below 0.01 the
    two differ for sure; above 0.05 so few samples show no difference.

    Shapes: z, z_prior `b d` or `b d h w`. At most `most` samples of each are kept, and their kernel matrix, (2 most)^2 values.
    Raises: Unmeasurable for fewer than 20 samples.
    When: samples of the prior look worse than reconstructions: is it that the decoder never saw such z? For adversarial and
        Wasserstein autoencoders the first number to read.
    Healthy: p-value above 0.05, or mmd below 0.01. mmd falls as the match improves; 0.1 and more: sampling from the
        prior misses the codes. With many samples a harmless difference has a small p-value too: then read mmd.
    Source: Gretton et al. 2012 (JMLR 13), lemma 6; permutation test: section 5 there.
    """

    unit = "squared MMD, probability"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"mmd": False, "p-value": None}

    def __init__(
        self,
        latent_dim: int,
        seed: int,
        *,
        most: Annotated[int, Field(ge=20, description="samples of each side that are kept, drawn evenly")] = 1000,
        permutations: Annotated[int, Field(ge=19, description="shuffles that the p-value counts")] = 499,
    ) -> None:
        self.kernel = MMD(latent_dim)
        self.seed, self.most, self.permutations = seed, most, permutations
        self.reset()

    def reset(self) -> None:
        self.samples = Reservoir(self.most, self.seed)

    def update(self, z: Tensor, z_prior: Tensor) -> None:
        self.samples.add(z.flatten(1), z_prior.flatten(1))

    def compute(self) -> dict[str, float]:
        if self.samples.seen < 20:
            raise Unmeasurable(f"{self.samples.seen} samples are too few to tell two distributions apart; measure 20 or more")
        z, p = self.samples.rows()
        pooled = torch.cat([z, p]).double()
        k = torch.cat([self.kernel.similarity(rows, pooled) for rows in pooled.split(ROWS)])  # 2n 2n
        k.fill_diagonal_(0.0)  # unbiased: no sample is paired with itself
        n = len(z)
        first = torch.zeros(2 * n, self.permutations + 1, dtype=torch.float64)
        first[:n, 0] = 1.0
        random = np.random.Generator(np.random.PCG64(self.seed))
        for i in range(1, self.permutations + 1):
            first[torch.from_numpy(random.permutation(2 * n)[:n]), i] = 1.0
        mmd = _unbiased(k, first)
        # what is equal to the rounding counts as equal
        larger = int((mmd[1:] >= mmd[0] - 1e-12).sum())
        return {"mmd": float(mmd[0]), "p-value": (1 + larger) / (1 + self.permutations)}


def _unbiased(k: Tensor, first: Tensor) -> Tensor:
    """Squared MMD of the two halves that each column of `first` (0 or 1) makes. Shapes: k `2n 2n`, 0 on the diagonal; `p`."""
    n = len(k) // 2
    within = (first * (k @ first)).sum(0)  # pairs within the first half, both orders
    across = (first * k.sum(1, keepdim=True)).sum(0) - within
    other = k.sum() - within - 2 * across
    return (within + other) / (n * (n - 1)) - 2 * across / n**2
