"""How likely the data are under what the decoder drew, in nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen.quantities import activate

LOG_2PI = math.log(2 * math.pi)
LOG_2 = math.log(2.0)
LOG_SCALE_LIMIT = 7.0
"""A learned log-scale stays within [-7, 7]: scales from 0.0009 to 1,100 cover any data in model space."""


@dataclass(frozen=True)
class LikelihoodAt:
    """log p(x|z) of one batch as a function of z: `b ...` -> `b`, in nats.

    values: what x is under p(x|z). "continuous": p is a density, whose nats depend on the unit of x; "binary": p is a
    probability where x has two values, and neither density nor probability elsewhere; "tokens": p is a probability.
    """

    function: Callable[[Tensor], Tensor]
    values: Literal["continuous", "binary", "tokens"]

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z)


class Reconstruction(nn.Module):
    """-log p(x|z), summed over each sample and averaged over the batch, in nats: with the KL, the negative ELBO.

    gaussian   0.5 * ((x - recon) / scale)^2 + log(scale) + 0.5 * log(2 pi), for every value of a sample
    laplace    |x - recon| / scale + log(2 * scale)
    bernoulli  cross-entropy of (x + 1) / 2 with logits 2 * recon_raw, for tanh(l) = 2 * sigmoid(2 l) - 1

    With `learn_scale` one log-scale is learned along (sigma-VAE): no constant to tune, and the KL keeps its weight of 1.
    Densities of continuous data may exceed 1, so the gaussian and laplace values can be negative.

    Shapes: x, recon, recon_raw `b ...`; returns a scalar in nats per sample.
    Raises: ValueError for bernoulli on data whose output activation isn't tanh.

    When: always in a VAE, for with the KL it is the bound itself; for tokens use "cross-entropy". gaussian with `learn_scale`
        is the safe choice; bernoulli suits nearly binary pictures; laplace forgives outliers and gives sharper edges.
    Healthy: falls fast, then slowly, never below what the noise in the data permits. Flat from the start while the KL is
        near 0: the decoder ignores z. A learned scale that keeps shrinking: training data are being memorised.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), appendix C; learned scale: Rybkin et al. 2020 (arXiv:2006.13202).
    """

    quantities = ("log_likelihood", "log_likelihood_at")

    def __init__(
        self,
        output_activation: str,
        *,
        likelihood: Annotated[
            Literal["gaussian", "bernoulli", "laplace"], Field(description="distribution of x around recon")
        ] = "gaussian",
        scale: Annotated[float, Field(gt=0, description="standard deviation (gaussian) or width (laplace), model space")] = 1.0,
        learn_scale: Annotated[bool, Field(description="learn one scale for all values, starting from `scale`")] = False,
    ) -> None:
        super().__init__()
        if likelihood == "bernoulli":
            if output_activation != "tanh":
                raise ValueError(
                    f"a bernoulli likelihood wants data in [-1, 1] (output activation tanh), these have "
                    f"'{output_activation}'; use likelihood = \"gaussian\""
                )
            if learn_scale:
                raise ValueError("a bernoulli likelihood has no scale to learn; remove learn_scale")
        self.output_activation = output_activation
        self.likelihood = likelihood
        log_scale = torch.tensor(math.log(scale))
        self.log_scale: Tensor
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def log_likelihood(self, x: Tensor, recon: Tensor, recon_raw: Tensor) -> Tensor:
        """log p(x|z) of each sample in nats. Shapes: `b ...` -> `b`."""
        if self.likelihood == "bernoulli":
            target, logits = (x.float() + 1) / 2, 2 * recon_raw.float()
            values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            return -values.flatten(1).sum(1)
        log_scale = self.log_scale.clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        size = math.prod(x.shape[1:])
        # summed before it is scaled: one pass over the sample forward and one backward, where `exp` a value takes four
        if self.likelihood == "gaussian":
            squared = F.mse_loss(recon.float(), x.float(), reduction="none").flatten(1).sum(1)
            return -0.5 * squared * torch.exp(-2 * log_scale) - size * (log_scale + 0.5 * LOG_2PI)
        absolute = F.l1_loss(recon.float(), x.float(), reduction="none").flatten(1).sum(1)
        return -absolute * torch.exp(-log_scale) - size * (log_scale + LOG_2)

    def log_likelihood_at(self, x: Tensor, decode: Callable[..., Tensor]) -> LikelihoodAt:
        """The same at any z, for whoever draws z anew."""

        def at(z: Tensor) -> Tensor:
            raw = decode(z=z)
            return self.log_likelihood(x, activate(raw, kind=self.output_activation), raw)

        return LikelihoodAt(at, "binary" if self.likelihood == "bernoulli" else "continuous")

    def forward(self, x: Tensor, recon: Tensor, recon_raw: Tensor) -> Tensor:
        return -self.log_likelihood(x, recon, recon_raw).mean()
