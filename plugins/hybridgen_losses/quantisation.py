"""What keeps an encoder and a codebook together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn


class Quantisation(nn.Module):
    """Pulls the encoder's vectors to their codes (commitment) and, with a gradient codebook, the codes to the vectors.

    loss = sum |sg(code) - e|^2 + beta * sum |code - sg(e)|^2    (sg: no gradient; e: the code chosen at each position)

    With an averaged codebook ("ema") only the second term exists. Sums run over all values of a sample, as the
    reconstruction's do over its pixels, so that `weight` 1 keeps the two in proportion at any size of picture and code;
    the paper averages over the h w positions: `weight` = 1 / (h w).

    Shapes: code, quantised, nearest `b d ...`; returns a scalar, the batch's mean.
    When: always with the latent "vector-quantised"; "finite-scalar" wants none.
    Healthy: settles at a small part of the codes' own squared length. Growing without end: the encoder runs from its
        codes; raise `beta` or lower the learning rate. Near 0 at a `perplexity` near 1: everything is one code.
    Source: van den Oord et al. 2017 (arXiv:1711.00937), equation 3.
    """

    def __init__(
        self, *, beta: Annotated[float, Field(ge=0, description="weight of the commitment beside the codebook term")] = 0.25
    ) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, code: Tensor, quantised: Tensor, nearest: Tensor | None = None) -> Tensor:
        loss = self.beta * squared_distance(code, quantised.detach())
        return loss if nearest is None else loss + squared_distance(nearest, code.detach())


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance of each sample's values, averaged over the batch. Shapes: `b ...`."""
    return (a.float() - b.float()).square().flatten(1).sum(1).mean()
