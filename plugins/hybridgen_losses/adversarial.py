"""The game of two players."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn


class Adversarial(nn.Module):
    """The GAN losses of Goodfellow et al., on logits; D(x) = sigmoid(logits).

    discriminator  -log D(real) - log(1 - D(fake))   = softplus(-real_logits) + softplus(fake_logits)
    nonsaturating  -log D(fake)                       = softplus(-fake_logits)
    minimax        log(1 - D(fake))                   = -softplus(fake_logits)

    At equilibrium D = 1/2: the discriminator's term is 2 log 2 = 1.386, the generator's log 2 = 0.693 (minimax: -0.693).
    Minimax has almost no gradient while the discriminator wins, which is why non-saturating is the default.

    Shapes: logits `b ...` (patches are averaged); returns a scalar.
    Source: Goodfellow et al. 2014 (arXiv:1406.2661), equation 1 and section 3.
    """

    def __init__(
        self,
        *,
        formulation: Annotated[
            Literal["nonsaturating", "minimax"], Field(description="what the generator descends")
        ] = "nonsaturating",
    ) -> None:
        super().__init__()
        self.formulation = formulation

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits.float()).mean() + F.softplus(fake_logits.float()).mean()

    def generator(self, fake_logits: Tensor) -> Tensor:
        if self.formulation == "minimax":
            return -F.softplus(fake_logits.float()).mean()
        return F.softplus(-fake_logits.float()).mean()
