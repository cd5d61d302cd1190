"""Penalties on a critic's gradient in what it judges: they keep the slope that the generator follows small and smooth.

Every penalty asks for the critic as a function, which runs in float32, and differentiates it with `torch.func.grad`, so the
penalty trains the critic through its gradient, compiled or not. Real and generated batches are judged by calls of their own, as
in the step itself: conditional critics keep their labels, and batch norm its statistics. Those make a sample's logit depend
on the other samples, and "its" gradient is then that of the sum of all logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

Critic = Callable[..., Tensor]
Sample = Tensor | dict[str, Tensor]
Target = Annotated[float, Field(ge=0, description="the norm that costs nothing")]
OneSided = Annotated[bool, Field(description="let smaller norms cost nothing as well")]
Gamma = Annotated[float, Field(ge=0, description='strength; "auto" = 0.0002 * pixels / batch size')] | Literal["auto"]
Sigma = Annotated[float, Field(gt=0, description="standard deviation of the step, model space")]

AUTO_GAMMA = 0.0002


def asked(critic: Critic, sample: Sample) -> Tensor:
    """The critic's logits of a sample, by the names of its roles where it is a joint one. Shapes: returns `b ...`."""
    return critic(**sample) if isinstance(sample, dict) else critic(sample)


def judge(critic: Critic, sample: Sample) -> Tensor:
    """D of each sample: the mean over its patches, as the adversarial terms average them. Shapes: returns `b`."""
    logits = asked(critic, sample)
    return logits.reshape(logits.shape[0], -1).mean(1)


def sample_gradient(critic: Critic, sample: Sample) -> list[Tensor]:
    """The gradient of D at each sample, one tensor a role. Shapes: `b ...` each, as the sample's."""
    sample = {k: v.float() for k, v in sample.items()} if isinstance(sample, dict) else sample.float()
    gradient: Any = torch.func.grad(lambda s: judge(critic, s).sum())(sample)
    return list(gradient.values()) if isinstance(gradient, dict) else [gradient]


def squared_norm(gradient: list[Tensor]) -> Tensor:
    """The squared norm of each sample's gradient, over all roles. Shapes: `b ...` -> `b`."""
    return torch.stack([g.flatten(1).square().sum(1) for g in gradient]).sum(0)


def norm(gradient: list[Tensor]) -> Tensor:
    """The norm of each sample's gradient; its own gradient is 0, not infinite, where it vanishes. Shapes: `b ...` -> `b`."""
    square = squared_norm(gradient)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def away_from(target: float, one_sided: bool, length: Tensor) -> Tensor:
    """(length - target)^2, or of its excess alone, averaged over the batch."""
    excess = length - target
    return (excess.clamp(min=0) if one_sided else excess).square().mean()


def strength(gamma: float | Literal["auto"], judged_shape: tuple[int, ...], batch_size: int) -> float:
    """The number behind `gamma`. Raises ValueError for "auto" on what are no pictures."""
    if gamma != "auto":
        return gamma
    if len(judged_shape) != 3:
        raise ValueError(
            f'gamma = "auto" counts the pixels of pictures (c, h, w), but what is judged has the shape {judged_shape}; '
            f"write a number, e.g. gamma = 1.0"
        )
    return AUTO_GAMMA * math.prod(judged_shape[1:]) / batch_size


def _sides(target: float, one_sided: bool) -> None:
    if one_sided and target == 0:
        raise ValueError("no norm is below target = 0, so one_sided means nothing; remove it, or write target = 1.0")


def _single(sample: Sample, name: str, instead: str) -> Tensor:
    if isinstance(sample, dict):
        raise ValueError(
            f'"{name}" perturbs one tensor, but this discriminator judges joint samples ({", ".join(sample)}); use "{instead}"'
        )
    return sample.float()


class GradientPenalty(nn.Module):
    """WGAN-GP: the critic's gradient has norm 1 on the lines between real and generated samples.

    loss = mean over samples of (|grad D(y)| - target)^2,  y = real + t (fake - real),  t uniform in [0, 1), one a sample

    `one_sided` counts only norms above the target. Joint samples move on one line together, and all roles count in the norm.
    The paper's lambda is the recipe's `discriminator_weight`.

    Shapes: judged_real, judged_fake `b ...`; the norm is each sample's own; returns a scalar.
    Raises: ValueError for one_sided with target = 0, below which no norm is.
    When: with formulation = "wasserstein", discriminator_weight = 10. With the other games R1 is cheaper and better founded.
    Healthy: falls towards 0, the norms towards the target. Staying near target^2 means a flat critic that says nothing
        yet; above it, a critic that steepens faster than the penalty holds it: raise discriminator_weight.
    Source: Gulrajani et al. 2017 (arXiv:1704.00028), equation 3 and algorithm 1; one-sided: its section 4.
    """

    def __init__(self, *, target: Target = 1.0, one_sided: OneSided = False) -> None:
        super().__init__()
        _sides(target, one_sided)
        self.target = target
        self.one_sided = one_sided

    def discriminator(self, critic: Critic, judged_real: Sample, judged_fake: Sample, uniform: Tensor) -> Tensor:
        between: Sample
        if isinstance(judged_real, dict) and isinstance(judged_fake, dict):
            between = {role: _between(judged_real[role], judged_fake[role], uniform) for role in judged_real}
        else:
            between = _between(judged_real, judged_fake, uniform)  # type: ignore[arg-type]
        return away_from(self.target, self.one_sided, norm(sample_gradient(critic, between)))


def _between(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    t = uniform.reshape(-1, *[1] * (real.ndim - 1))  # b 1 ...
    return torch.lerp(real.float(), fake.float(), t)


class DRAGAN(nn.Module):
    """The critic's gradient has norm 1 in a neighbourhood of the data, wherever the generator is.

    loss = mean over samples of (|grad D(real + delta)| - target)^2,  delta = spread * std * u,  u uniform in [0, 1)

    u has a value of its own in every place of a sample; std is the batch's standard deviation over all its values, which
    couples the samples of a batch. The paper's lambda is the recipe's `discriminator_weight`.

    Shapes: judged_real, jitter `b ...`; the norm is each sample's own; returns a scalar.
    Raises: ValueError for joint samples, or one_sided with target = 0.
    When: with the nonsaturating game (discriminator_weight = 10), where generated samples are still far from the data and
        the lines to them say little; R1 asks for a zero gradient at the data instead and needs no noise.
    Healthy: falls towards 0. Staying near target^2 means a critic that is flat around the data.
    Source: Kodali et al. 2017 (arXiv:1705.07215), section 2.3 and the authors' code (spread 0.5, target 1).
    """

    couples_batch = True

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        target: Target = 1.0,
        one_sided: OneSided = False,
        spread: Annotated[float, Field(gt=0, description="largest step, in standard deviations of the batch")] = 0.5,
    ) -> None:
        super().__init__()
        _sides(target, one_sided)
        self.target = target
        self.one_sided = one_sided
        self.spread = spread
        self.draws = {"jitter": ("uniform", judged_shape)}

    def discriminator(self, critic: Critic, judged_real: Sample, jitter: Tensor) -> Tensor:
        real = _single(judged_real, "dragan", "gradient-penalty")
        near = real + self.spread * real.std(correction=0) * jitter
        return away_from(self.target, self.one_sided, norm(sample_gradient(critic, near)))


class R1(nn.Module):
    """The critic is flat where the data are: at the equilibrium it has nothing left to say, and the game stops there.

    loss = gamma / 2 * mean over real samples of |grad D(x)|^2

    gamma = "auto" is 0.0002 * pixels / batch size: strong where pictures are large and batches small. Joint samples
    count all their roles in the norm.

    Shapes: judged_real `b ...`; returns a scalar.
    Raises: ValueError for gamma = "auto" on what are no pictures.
    When: the first penalty to try, with any game (wasserstein wants "gradient-penalty"); every = 16 costs and changes little.
    Healthy: small against the adversarial term and falling slowly. Growing means that D memorises the data: raise
        gamma. Near 0 from the start, with D's term at its equilibrium, means that gamma is too large: D is flat everywhere.
    Source: Mescheder et al. 2018 (arXiv:1801.04406), equation 9; the rule for gamma: Karras et al. 2020 (arXiv:2006.06676).
    """

    def __init__(self, judged_shape: tuple[int, ...], batch_size: int, *, gamma: Gamma = 1.0) -> None:
        super().__init__()
        self.gamma = strength(gamma, judged_shape, batch_size)

    def discriminator(self, critic: Critic, judged_real: Sample) -> Tensor:
        return 0.5 * self.gamma * squared_norm(sample_gradient(critic, judged_real)).mean()


class R2(nn.Module):
    """The critic is flat where the generator's samples are: R1 at the other side.

    loss = gamma / 2 * mean over generated samples of |grad D(G(z))|^2, averaged over the batches that are judged

    Shapes: judged_fake `b ...`; returns a scalar.
    Raises: ValueError for gamma = "auto" on what are no pictures.
    When: beside R1 where the game is still unstable, as in the pairing game; by itself it leaves the data's side steep.
    Healthy: as R1. Far above R1's value early on: generated samples lie where D is steep, which R1 alone can't see.
    Source: Mescheder et al. 2018 (arXiv:1801.04406), equation 10.
    """

    def __init__(self, judged_shape: tuple[int, ...], batch_size: int, *, gamma: Gamma = 1.0) -> None:
        super().__init__()
        self.gamma = strength(gamma, judged_shape, batch_size)

    def discriminator(self, critic: Critic, judged_fake: Sample) -> Tensor:
        return 0.5 * self.gamma * squared_norm(sample_gradient(critic, judged_fake)).mean()


class R1R2(nn.Module):
    """R1 and R2 with one gamma: the critic is flat at the data and at the generator's samples.

    loss = gamma / 2 * (mean over real samples of |grad D|^2 + mean over generated samples of |grad D|^2)

    Where several generated batches are judged, R1 is evaluated once for each: there `r1` and `r2` by themselves cost less.

    Shapes: judged_real, judged_fake `b ...`; returns a scalar.
    Raises: ValueError for gamma = "auto" on what are no pictures.
    When: with "relativistic" pairing, which needs both (R3GAN); one table in place of two.
    Healthy: as R1; both halves shrink as the samples come to lie where the data are.
    Source: Huang et al. 2025 (arXiv:2501.05441), section 2; Mescheder et al. 2018 (arXiv:1801.04406), equations 9 and 10.
    """

    def __init__(self, judged_shape: tuple[int, ...], batch_size: int, *, gamma: Gamma = 1.0) -> None:
        super().__init__()
        self.gamma = strength(gamma, judged_shape, batch_size)

    def discriminator(self, critic: Critic, judged_real: Sample, judged_fake: Sample) -> Tensor:
        real, fake = (squared_norm(sample_gradient(critic, sample)).mean() for sample in (judged_real, judged_fake))
        return 0.5 * self.gamma * (real + fake)


def finite_slope(critic: Critic, sample: Tensor, direction: Tensor, sigma: float) -> Tensor:
    """(D(x + sigma e) - D(x))^2 / sigma^2 of each sample. Shapes: `b ...` -> `b`.

    D(x + sigma e) = D(x) + sigma e.g + O(sigma^2) with the gradient g, and E[(e.g)^2] = g.E[e e^T]g = |g|^2 for e ~ N(0, I).
    """
    return ((judge(critic, sample + sigma * direction) - judge(critic, sample)) / sigma).square()


class FiniteR1(nn.Module):
    """R1 from two values of the critic in place of its gradient: no second-order backward pass.

    loss = gamma / 2 * mean over real samples of ((D(x + sigma e) - D(x)) / sigma)^2,  e standard normal

    As sigma -> 0, D(x + sigma e) - D(x) = sigma e.g with the gradient g, and E[(e.g)^2] = g.E[e e^T]g = |g|^2: right on
    average, with the relative standard deviation sqrt(2) a sample, so it wants larger batches than R1.

    Shapes: judged_real, direction `b ...`; returns a scalar.
    Raises: ValueError for joint samples, or gamma = "auto" on what are no pictures.
    When: critics with layers that have no second derivative, or no memory for one. Not with dropout in the
        critic, whose two masks would differ: that noise is divided by sigma^2.
    Healthy: as R1, noisier. Rising as sigma shrinks means rounding, or a critic that draws: raise sigma.
    Source: Lin et al. 2025 (arXiv:2501.08316), "approximated R1" (there without gamma / 2 and 1 / sigma^2).
    """

    def __init__(self, judged_shape: tuple[int, ...], batch_size: int, *, gamma: Gamma = 1.0, sigma: Sigma = 0.01) -> None:
        super().__init__()
        self.gamma = strength(gamma, judged_shape, batch_size)
        self.sigma = sigma
        self.draws = {"direction": ("normal", judged_shape)}

    def discriminator(self, critic: Critic, judged_real: Sample, direction: Tensor) -> Tensor:
        real = _single(judged_real, "r1-finite", "r1")
        return 0.5 * self.gamma * finite_slope(critic, real, direction, self.sigma).mean()


class FiniteR2(nn.Module):
    """R2 from two values of the critic in place of its gradient: no second-order backward pass.

    loss = gamma / 2 * mean over generated samples of ((D(x + sigma e) - D(x)) / sigma)^2,  e standard normal

    See "r1-finite" for why this is |grad D|^2 on average; it is averaged over the generated batches that are judged.

    Shapes: judged_fake, direction `b ...`; returns a scalar.
    Raises: ValueError for joint samples, or gamma = "auto" on what are no pictures.
    When: beside "r1-finite", as R2 beside R1. Not with dropout in the critic.
    Healthy: as "r1-finite".
    Source: Lin et al. 2025 (arXiv:2501.08316), "approximated R1", at generated samples.
    """

    def __init__(self, judged_shape: tuple[int, ...], batch_size: int, *, gamma: Gamma = 1.0, sigma: Sigma = 0.01) -> None:
        super().__init__()
        self.gamma = strength(gamma, judged_shape, batch_size)
        self.sigma = sigma
        self.draws = {"direction": ("normal", judged_shape)}

    def discriminator(self, critic: Critic, judged_fake: Sample, direction: Tensor) -> Tensor:
        fake = _single(judged_fake, "r2-finite", "r2")
        return 0.5 * self.gamma * finite_slope(critic, fake, direction, self.sigma).mean()
