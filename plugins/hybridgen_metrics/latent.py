"""What a latent variable model is worth, and how much of its latent it uses."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor


class ELBO:
    """Evidence lower bound of held-out data in nats per sample: log p(x|z) - KL(q(z|x) || p(z)); higher is better.

    One sample of z for each x, under the likelihood (and scale) of the recipe's reconstruction loss. It is a density for
    continuous data, so it may be positive, and compares only between models of the same data and likelihood family.

    Shapes: log_likelihood `b`; z `b d`.
    When: VAEs, while they train; "importance-weighted" for a tighter bound afterwards.
    Healthy: rises, on held-out data too. Below the best decoder that ignores z: the code is not used.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), equation 3.
    """

    unit = "nats"
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, log_likelihood: Tensor, posterior: Any, prior: Any, z: Tensor) -> None:
        self.total = self.total + (log_likelihood - posterior.kl(prior, z)).double().sum()
        self.count += z.shape[0]

    def compute(self) -> float:
        return float(self.total) / self.count if self.count else math.nan


class ActiveUnits:
    """How many latent dimensions carry information: those whose posterior mean varies over the data; higher is better.

    A dimension d is active when Var_x(E[z_d | x]) > `threshold`.

    Shapes: posterior.mean `b d` or `b d h w`.
    When: VAEs; "kl-per-dimension" says how much each says.
    Healthy: most of the dimensions, or as many as the data need. 0: posterior collapse.

    Shapes: posterior.mean `b d`.
    Source: Burda et al. 2015 (arXiv:1509.00519), section 5.
    """

    unit = "dimensions"
    higher_is_better = True

    def __init__(
        self, *, threshold: Annotated[float, Field(gt=0, description="least variance of an active dimension's mean")] = 0.01
    ) -> None:
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        self.means: list[Tensor] = []

    def update(self, posterior: Any) -> None:
        self.means.append(posterior.mean.flatten(1))

    def compute(self) -> float:
        means = torch.cat(self.means).double()
        return float((means.var(0, correction=0) > self.threshold).sum())
