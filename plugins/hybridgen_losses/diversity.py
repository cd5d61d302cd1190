"""Terms that keep a generator from saying one thing only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-5
"""The loss is at most 1 / EPSILON, reached where all pairs are generated alike."""


class ModeSeeking(nn.Module):
    """Different latents shall give different samples: the inverse of how far samples part as their latents do.

    ratio = mean |fake_i - fake_j| / mean |z_i - z_j|, means over the values of a sample, for pairs of neighbours in the batch
    loss = 1 / (mean of the ratios over pairs + 1e-5)

    Where the data have labels, pairs are neighbours among the samples of one class (`fake_label`), so that a class alone
    does not count as a difference; without a single pair (all classes differ) the loss is 0. Samples of a batch are coupled
    (`couples_batch`).

    Shapes: fake `b ...`, z_prior `b ...`, fake_label `b`; returns a scalar.

    When: a GAN, conditional ones above all, whose samples repeat themselves. Costs no further pass. With weight 1 in the
        paper's conditional models; too much of it buys variety with noise.
    Healthy: settles near what real pairs would give: for normal latents 1.1 / mean |x_i - x_j|, e.g. 2 to 6 for pictures in
        [-1, 1]. Rising without end while the adversarial term is calm: mode collapse under way.
    Source: Mao et al. 2019 (arXiv:1903.05628), section 3, inverted as the authors do to have something to descend.
    """

    couples_batch = True

    def generator(self, fake: Tensor, z_prior: Tensor, fake_label: Tensor | None = None) -> Tensor:
        samples, latents = fake.float().flatten(1), z_prior.float().flatten(1)
        if fake_label is not None:
            order = torch.argsort(fake_label, stable=True)
            samples, latents, fake_label = samples[order], latents[order], fake_label[order]
        apart = (samples - samples.roll(1, 0)).abs().mean(1)  # b
        between = (latents - latents.roll(1, 0)).abs().mean(1)
        pairs = between > 0  # a batch of one is its own neighbour
        if fake_label is not None:
            pairs = pairs & (fake_label == fake_label.roll(1, 0))
        ratios = torch.where(pairs, apart / torch.where(pairs, between, 1.0), 0.0)
        count = pairs.sum()
        loss = 1.0 / (ratios.sum() / count.clamp(min=1) + EPSILON)
        return torch.where(count > 0, loss, torch.zeros_like(loss))
