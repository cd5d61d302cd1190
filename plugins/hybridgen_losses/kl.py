"""What a code costs, in nats."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class KL(nn.Module):
    """KL(q(z|x) || p(z)), summed over the latent and averaged over the batch, in nats per sample.

    With the reconstruction term at weight 1, their sum is the negative ELBO. A value near 0 means that the code says
    nothing about x (posterior collapse); `weight = { from = 0, to = 1, over = 0.1 }` warms it up.

    Shapes: posterior over `b d`; returns a scalar.
    Source: Kingma & Welling 2013 (arXiv:1312.6114), equation 10.
    """

    def forward(self, posterior: Any, prior: Any, z: Tensor) -> Tensor:
        return posterior.kl(prior, z).mean()
