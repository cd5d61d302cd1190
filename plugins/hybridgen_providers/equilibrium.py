"""Equilibrium margins: signals that hold back the player who is ahead.

A critic that guesses has the loss log 2 on real and on generated samples alike. Below that by a margin it is ahead, above
it by a margin behind. If one of the two losses says ahead and the other behind, neither player is held.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

LOG_2 = math.log(2.0)
Target = Annotated[float, Field(gt=0, description="the critic's loss in balance, in nats; log 2 where it guesses")]
Margin = Annotated[float, Field(gt=0, description="how far from it either loss may be, in nats")]


def critic_losses(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D on real and -log(1 - D) on generated samples, in nats. Shapes: logits `b ...`; returns `2`."""
    return torch.stack([F.softplus(-real_logits.float()).mean(), F.softplus(fake_logits.float()).mean()]).detach()


class CriticAhead(nn.Module):
    """1 where the critic is so far ahead that it had better wait, else 0: `[discriminator] hold = "critic_ahead"`.

    ahead   -log D(real) or -log(1 - D(fake)), batch means, is below target - margin
    behind  either is above target + margin
    1 if ahead and not behind

    Use it with `critic-behind` and the same target and margin. It is a tensor: nothing waits for the device. The means decide
    of the joint batch, and of all generated batches together.

    Shapes: real_logits, fake_logits `b ...`; returns a scalar, 0.0 or 1.0.
    Raises: ValueError where target - margin is not above 0: no loss is ever below it.
    When: a VAE/GAN whose critic wins early, under the minimax or non-saturating loss (margins in nats mean nothing under
        others); a lower learning rate for the critic (TTUR) or `r1` is smoother and usually to be preferred.
    Healthy: 1 in some steps, 0 in most. Always 1: the critic is so strong that it no longer learns; weaken it, or add a
        penalty. Never 1: the margin is too wide to matter.
    Source: the authors' code of Larsen et al. 2015 (arXiv:1512.09300), target 0.68 and margin 0.35; the paper lacks it.
    """

    def __init__(self, *, target: Target = LOG_2, margin: Margin = 0.35) -> None:
        super().__init__()
        if margin >= target:
            raise ValueError(
                f"critic-ahead: no loss is below target - margin = {target:g} - {margin:g}; write a margin under {target:g}"
            )
        self.low, self.high = target - margin, target + margin

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        losses = critic_losses(real_logits, fake_logits)
        return ((losses < self.low).any() & (losses <= self.high).all()).float()


class CriticBehind(nn.Module):
    """1 where the critic is so far behind that the decoder had better wait, else 0: `[decoder] hold = "critic_behind"`.

    ahead   -log D(real) or -log(1 - D(fake)), batch means, is below target - margin
    behind  either is above target + margin
    1 if behind and not ahead

    A decoder that descends a critic who knows less than a coin learns nothing of the data. Use it with `critic-ahead` and
    the same target and margin. It is a tensor: nothing waits for the device. The means decide of the joint batch, and of
    all generated batches together.

    Shapes: real_logits, fake_logits `b ...`; returns a scalar, 0.0 or 1.0.
    When: beside `critic-ahead`, or alone where a critic loses ground for long; `train.critic_steps` above 1 gives the
        critic more updates at a fixed price instead.
    Healthy: 0 but for short stretches. Always 1: the critic can't learn (too small, too high a learning rate), and the
        decoder waits for ever.
    Source: the authors' code of Larsen et al. 2015 (arXiv:1512.09300), target 0.68 and margin 0.35; the paper lacks it.
    """

    def __init__(self, *, target: Target = LOG_2, margin: Margin = 0.35) -> None:
        super().__init__()
        self.low, self.high = target - margin, target + margin

    def forward(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        losses = critic_losses(real_logits, fake_logits)
        return ((losses > self.high).any() & (losses >= self.low).all()).float()
