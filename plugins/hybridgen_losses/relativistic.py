"""The game in which a sample is judged against the other kind, not by itself."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn


class Relativistic(nn.Module):
    """The discriminator says how much more real a real sample is than generated ones; the generator reverses it.

    pairing  D: softplus(-(real - fake)), G: softplus(real - fake), for the i-th real and the i-th generated sample
    average  D: softplus(-(real - mean fake)) + softplus(fake - mean real)
             G: softplus(-(fake - mean real)) + softplus(real - mean fake)

    Only differences of logits count, so D has no absolute level to run away to, and the generator's gradient
    depends on the real samples: D is told that half of what it sees is real. In the pairing game every generated sample
    is held against a real one, so dropping a mode is no local optimum; it diverges without R1 and R2.
    The average game takes its means over the batch (and the patches), which couples the samples of a batch.

    Shapes: logits `b ...`, real and generated alike; patches are paired by place; returns a scalar.
    When: pairing with "r1-r2" in place of the nonsaturating game with R1, when modes are lost; average without penalties.
    Healthy: near the equilibrium both sides are at log 2 = 0.693 (pairing) or 2 log 2 = 1.386 (average). D's near 0
        means that it wins; raise gamma. A logit's sign alone says nothing here, so the report has no accuracies.
    Source: Jolicoeur-Martineau 2018 (arXiv:1807.00734), section 4; Huang et al. 2025 (arXiv:2501.05441), equations
        2 and 3.
    """

    decision = None

    def __init__(
        self,
        *,
        formulation: Annotated[
            Literal["pairing", "average"], Field(description="each against a partner, or against the mean of the other kind")
        ] = "pairing",
    ) -> None:
        super().__init__()
        self.formulation = formulation
        self.couples_batch = formulation == "average"

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self._game(real_logits.float(), fake_logits.float())

    def generator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return self._game(fake_logits.float(), real_logits.float())

    def _game(self, upper: Tensor, lower: Tensor) -> Tensor:
        """What it costs that `upper` is not far above `lower`."""
        if self.formulation == "pairing":
            return F.softplus(lower - upper).mean()
        return F.softplus(lower.mean() - upper).mean() + F.softplus(lower - upper.mean()).mean()
