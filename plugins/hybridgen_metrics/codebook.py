"""How much of a codebook is in use."""

from __future__ import annotations

import math

from torch import Tensor

from hybridgen_latents.quantised import perplexity


class Codebook:
    """Which codes of a quantised latent held-out data choose: `perplexity` in codes, `usage` as a share; higher is better.

    perplexity = exp(-sum_k p_k log p_k), p_k how often code k is chosen over all samples and positions: 1 where one code
    does everything, K where all are chosen alike. usage = share of the K codes that are chosen at all.

    Few held-out positions bound both: n positions choose at most n codes.

    Shapes: code_counts `b k`.
    When: with "vector-quantised" and "finite-scalar", beside the `perplexity` and `usage` that the report gives of training.
    Healthy: usage above 0.9, perplexity a good part of K. Perplexity of a few codes: the codebook collapsed.
    Source: van den Oord et al. 2017 (arXiv:1711.00937), section 4; Mentzer et al. 2023 (arXiv:2309.15505), figure 3.
    """

    unit = "codes, share"
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.counts: Tensor | None = None

    def update(self, code_counts: Tensor) -> None:
        counts = code_counts.double().sum(0)
        self.counts = counts if self.counts is None else self.counts + counts

    def compute(self) -> dict[str, float]:
        if self.counts is None:
            return {"perplexity": math.nan, "usage": math.nan}
        return {"perplexity": float(perplexity(self.counts)), "usage": float((self.counts > 0).double().mean())}
