"""A pull of the critic's two kinds of logits towards each other, for little data."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn


class LeCam(nn.Module):
    """Real logits stay near where generated ones have been, and the other way round: the critic can't run away.

    loss = mean (real - anchor_fake)^2 + mean (fake - anchor_real)^2

    The anchors are moving averages of the mean real and mean generated logit, corrected for their start: the first
    batch sets them (before it they are 0), the n-th moves them by (1 - decay) / (1 - decay^n) of what is missing. They carry no
    gradient. In the wasserstein game, with anchors at rest, the generator then descends a LeCam divergence.

    Shapes: logits `b ...` (patches are averaged); returns a scalar. Reports anchor_real and anchor_fake.
    When: a few thousand pictures or fewer, beside augmentation, with discriminator_weight = 0.01 to 0.3, best started once
        the game has settled (e.g. discriminator_weight = { to = 0.1, start = 0.1 }).
    Healthy: the anchors stay apart by a roughly constant gap, anchor_real above. A gap that grows means that D overfits:
        raise the weight. A gap of 0 means that D is blind: lower it.
    Source: Tseng et al. 2021 (arXiv:2104.03310), equations 5 and 6.
    """

    reports = ("anchor_real", "anchor_fake")
    anchor_real: Tensor
    anchor_fake: Tensor
    updates: Tensor

    def __init__(
        self, *, decay: Annotated[float, Field(ge=0, lt=1, description="of the anchors' moving averages")] = 0.99
    ) -> None:
        super().__init__()
        self.decay = decay
        for name in ("anchor_real", "anchor_fake", "updates"):
            self.register_buffer(name, torch.zeros(()))

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        real, fake = real_logits.float() - self.anchor_fake, fake_logits.float() - self.anchor_real
        return real.square().mean() + fake.square().mean()

    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        self.updates += 1
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        self.anchor_real.lerp_(real_logits.float().mean(), share)
        self.anchor_fake.lerp_(fake_logits.float().mean(), share)
