"""What keeps critics smooth: closed forms on linear and quadratic critics, double backward, averages and matrices by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from common import GAN, SGD, batch, close, compile_by, run
from torch import Tensor, nn

from hybridgen.precision import Choices
from hybridgen.step import Training, train_step
from hybridgen_losses.consistency import Consistency
from hybridgen_losses.lecam import LeCam
from hybridgen_losses.orthogonal import Orthogonal, OrthogonalDecoder
from hybridgen_losses.penalties import DRAGAN, R1, R1R2, R2, FiniteR1, FiniteR2, GradientPenalty

B, SHAPE = 3, (2, 3, 5)  # no two of these numbers alike
SIZE = math.prod(SHAPE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


REAL, FAKE = normal(B, *SHAPE, seed=1), 2 * normal(B, *SHAPE, seed=2) - 1
T, JITTER, DIRECTION = uniform(B, seed=3), uniform(B, *SHAPE, seed=4), normal(B, *SHAPE, seed=5)
GAMMA = 7.0


def penalties(**gamma: Any) -> dict[str, Callable[[Callable[..., Tensor]], Tensor]]:
    """Each penalty at the samples and with the noise above, as a function of the critic."""
    gamma = gamma or {"gamma": GAMMA}
    facts = (SHAPE, B)
    return {
        "gradient-penalty": lambda d: GradientPenalty().discriminator(d, REAL, FAKE, T),
        "dragan": lambda d: DRAGAN(SHAPE).discriminator(d, REAL, JITTER),
        "r1": lambda d: R1(*facts, **gamma).discriminator(d, REAL),
        "r2": lambda d: R2(*facts, **gamma).discriminator(d, FAKE),
        "r1-r2": lambda d: R1R2(*facts, **gamma).discriminator(d, REAL, FAKE),
        "r1-finite": lambda d: FiniteR1(*facts, **gamma, sigma=0.5).discriminator(d, REAL, DIRECTION),
        "r2-finite": lambda d: FiniteR2(*facts, **gamma, sigma=0.5).discriminator(d, FAKE, DIRECTION),
    }


# -- a linear critic: one gradient everywhere ----------------------------------------------------------------------------

W = normal(SIZE, seed=6) / 3


def linear(w: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x.flatten(1) @ w + 0.3


def slopes(w: Tensor) -> Tensor:
    """(e.w)^2 of each direction."""
    return (DIRECTION.flatten(1).double() @ w).square()


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient-penalty": lambda w: (w.norm() - 1).square(),
    "dragan": lambda w: (w.norm() - 1).square(),
    "r1": lambda w: GAMMA / 2 * w.square().sum(),
    "r2": lambda w: GAMMA / 2 * w.square().sum(),
    "r1-r2": lambda w: GAMMA * w.square().sum(),
    "r1-finite": lambda w: GAMMA / 2 * slopes(w).sum() / B,
    "r2-finite": lambda w: GAMMA / 2 * slopes(w).sum() / B,
}


@pytest.mark.parametrize("name", LINEAR)
def test_penalties_of_a_linear_critic(name: str) -> None:
    """D(x) = w.x + b: the gradient is w at every sample, and the penalty's own gradient in w is known."""
    w, exact = W.clone().requires_grad_(), W.double().requires_grad_()
    got, expected = penalties()[name](linear(w)), LINEAR[name](exact)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-5)
    got.backward()
    expected.backward()
    torch.testing.assert_close(w.grad, exact.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_logits_of_patches_count_by_their_mean(name: str) -> None:
    """Patches 1 and 5 times as steep as w: the adversarial terms see their mean, w times 3."""
    scales = torch.tensor([[1.0, 5.0]])  # 1 h w
    patches = lambda x: (x.flatten(1) @ W)[:, None, None] * scales  # noqa: E731
    torch.testing.assert_close(penalties()[name](patches), LINEAR[name](3 * W.double()).float(), rtol=1e-4, atol=1e-5)


def test_a_target_and_one_side() -> None:
    """|w| = 3 against targets below and above; one side forgives what is below."""
    w = W / W.norm() * 3
    for target, both, one in ((2.0, 1.0, 1.0), (5.0, 4.0, 0.0), (0.0, 9.0, None)):
        for one_sided, expected in ((False, both), (True, one)):
            if expected is None:
                continue
            options = {"target": target, "one_sided": one_sided}
            between = GradientPenalty(**options).discriminator(linear(w), REAL, FAKE, T)  # type: ignore[arg-type]
            near = DRAGAN(SHAPE, **options).discriminator(linear(w), REAL, JITTER)  # type: ignore[arg-type]
            assert float(between) == pytest.approx(expected, abs=1e-5)
            assert float(near) == pytest.approx(expected, abs=1e-5)


def test_options_that_mean_nothing_are_refused() -> None:
    for make in (GradientPenalty, lambda **o: DRAGAN(SHAPE, **o)):
        with pytest.raises(ValueError, match="no norm is below target = 0"):
            make(target=0.0, one_sided=True)


# -- a quadratic critic: the gradient depends on where it is taken -------------------------------------------------------

A = normal(SIZE, seed=7)


def quadratic(a: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: 0.5 * (a * x.flatten(1).square()).sum(1)


def square(a: Tensor, x: Tensor) -> Tensor:
    """|grad D|^2 = sum_i (a_i x_i)^2 of each sample."""
    return (a * x.flatten(1).double()).square().sum(1)


def step(a: Tensor, x: Tensor) -> Tensor:
    """(D(x + s e) - D(x)) / s = sum_i a_i (x_i e_i + s e_i^2 / 2), s = 0.5."""
    e = DIRECTION.flatten(1).double()
    return (a * (x.flatten(1).double() * e + 0.25 * e.square())).sum(1)


BETWEEN = torch.stack([r * (1 - t) + f * t for r, f, t in zip(REAL, FAKE, T, strict=True)])  # one coefficient a sample
NEAR = REAL + 0.5 * float(np.std(REAL.numpy())) * JITTER

QUADRATIC: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient-penalty": lambda a: (square(a, BETWEEN).sqrt() - 1).square().sum() / B,
    "dragan": lambda a: (square(a, NEAR).sqrt() - 1).square().sum() / B,
    "r1": lambda a: GAMMA / 2 * square(a, REAL).sum() / B,
    "r2": lambda a: GAMMA / 2 * square(a, FAKE).sum() / B,
    "r1-r2": lambda a: GAMMA / 2 * (square(a, REAL).sum() + square(a, FAKE).sum()) / B,
    "r1-finite": lambda a: GAMMA / 2 * step(a, REAL).square().sum() / B,
    "r2-finite": lambda a: GAMMA / 2 * step(a, FAKE).square().sum() / B,
}


@pytest.mark.parametrize("name", QUADRATIC)
def test_penalties_of_a_quadratic_critic(name: str) -> None:
    """One norm a sample, taken where the formula says: samples have different gradients here."""
    a, exact = A.clone().requires_grad_(), A.double().requires_grad_()
    got, expected = penalties()[name](quadratic(a)), QUADRATIC[name](exact)
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-4)
    got.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, exact.grad.float(), rtol=1e-4, atol=1e-4)


def test_one_norm_a_sample_is_neither_one_a_batch_nor_one_a_pixel() -> None:
    """Gradients (3, 4) and (0, 0.5), norms 5 and 0.5: the penalty is ((5 - 1)^2 + (0.5 - 1)^2) / 2."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    critic = lambda y: 0.5 * y.square().sum(1)  # noqa: E731
    assert float(GradientPenalty().discriminator(critic, x, x, torch.zeros(2))) == pytest.approx(8.125)
    assert float(R1((2,), 2, gamma=3.0).discriminator(critic, x)) == pytest.approx(1.5 * (25 + 0.25) / 2)


def test_a_wider_spread_reaches_further() -> None:
    near = REAL + 2.0 * float(np.std(REAL.numpy())) * JITTER
    expected = (square(A.double(), near).sqrt() - 1).square().mean()
    torch.testing.assert_close(DRAGAN(SHAPE, spread=2.0).discriminator(quadratic(A), REAL, JITTER), expected.float())


# -- finite differences --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("finite", "exact"), [(FiniteR1, R1), (FiniteR2, R2)])
def test_finite_differences_are_the_squared_gradient_on_average(finite: Any, exact: Any) -> None:
    """Directions +-sqrt(n) along each axis have the mean e e^T = I, as normal ones: for a linear critic the mean is exact."""
    axes = math.sqrt(SIZE) * torch.cat([torch.eye(SIZE), -torch.eye(SIZE)]).reshape(-1, *SHAPE)
    x = REAL[:1].expand(len(axes), *SHAPE)
    got = finite(SHAPE, B, gamma=GAMMA, sigma=0.1).discriminator(linear(W), x, axes)
    torch.testing.assert_close(got, exact(SHAPE, B, gamma=GAMMA).discriminator(linear(W), x), rtol=1e-4, atol=0)


def test_finite_differences_come_to_the_slope_as_sigma_falls() -> None:
    """((D(x + s e) - D(x)) / s)^2 -> (e.grad D)^2: the error of a quadratic critic falls with sigma."""
    along = (DIRECTION.flatten(1) * A * REAL.flatten(1)).sum(1).square().mean() * GAMMA / 2
    errors = [
        abs(float(FiniteR1(SHAPE, B, gamma=GAMMA, sigma=s).discriminator(quadratic(A), REAL, DIRECTION) - along))
        for s in (1.0, 0.1, 0.01)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_the_noise_that_a_penalty_asks_for_is_shaped_like_what_is_judged() -> None:
    assert DRAGAN(SHAPE).draws == {"jitter": ("uniform", SHAPE)}
    for finite in (FiniteR1, FiniteR2):
        assert finite(SHAPE, B).draws == {"direction": ("normal", SHAPE)}
        assert finite(SHAPE, B).sigma == 0.01


# -- any critic: the eager double backward -------------------------------------------------------------------------------


class Conv(nn.Module):
    """Patch logits from two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.silu(self.first(x))).squeeze(1)


def double_backward(critic: nn.Module, x: Tensor) -> Tensor:
    """Norm of each sample's gradient, the way it is done without functional transforms."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).mean((1, 2)).sum(), x, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


BACKWARD: dict[str, Callable[[nn.Module], Tensor]] = {
    "gradient-penalty": lambda d: (double_backward(d, BETWEEN) - 1).square().mean(),
    "dragan": lambda d: (double_backward(d, NEAR) - 1).square().mean(),
    "r1": lambda d: GAMMA / 2 * double_backward(d, REAL).square().mean(),
    "r2": lambda d: GAMMA / 2 * double_backward(d, FAKE).square().mean(),
    "r1-r2": lambda d: GAMMA / 2 * double_backward(d, torch.cat([REAL, FAKE])).square().sum() / B,
}


@pytest.mark.parametrize("name", BACKWARD)
def test_a_convolutional_critic_gets_what_double_backward_gives(name: str) -> None:
    torch.manual_seed(0)
    critic = Conv()
    weights = dict(critic.named_parameters())
    got = penalties()[name](lambda x: torch.func.functional_call(critic, weights, (x,)))
    expected = BACKWARD[name](critic)
    torch.testing.assert_close(got, expected)
    for key, parameter in weights.items():
        theirs = torch.autograd.grad(expected, parameter, retain_graph=True, allow_unused=True)[0]
        ours = torch.autograd.grad(got, parameter, retain_graph=True, allow_unused=True)[0]
        if key == "second.bias":  # it moves no gradient
            assert ours is None or not ours.any()
            continue
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["gradient-penalty", "dragan"])
def test_a_vanishing_gradient_gives_no_nan(name: str) -> None:
    """A critic that is flat at one sample: its norm is 0 and gets no gradient, the others' are as they are."""
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    a = torch.ones(2, requires_grad=True)
    critic = lambda y: 0.5 * (a * y.square()).sum(1)  # noqa: E731
    if name == "dragan":
        got = DRAGAN((2,)).discriminator(critic, x, torch.zeros(3, 2))
    else:
        got = GradientPenalty().discriminator(critic, x, x, torch.zeros(3))
    got.backward()
    torch.testing.assert_close(got, torch.tensor((1 + 16 + 1) / 3))
    # 2 (n - 1) / n * a_i x_i^2 / 3, summed: n = 5 gives 8/5 * (9, 16), n = 2 gives 1 * (0, 4)
    torch.testing.assert_close(a.grad, torch.tensor([8 / 5 * 9, 8 / 5 * 16 + 4]) / 3)


# -- joint samples -------------------------------------------------------------------------------------------------------


def pair(x: Tensor, z: Tensor) -> Tensor:
    return 0.5 * x.flatten(1).square().sum(1) + 2.0 * z.square().sum(1)


def test_joint_samples_have_one_norm_over_all_their_roles() -> None:
    """grad = (x, 4 z); the interpolate takes one coefficient for the whole of a pair."""
    real, fake = {"x": REAL, "z": normal(B, 4, seed=8)}, {"x": FAKE, "z": normal(B, 4, seed=9)}

    def norms(sample: dict[str, Tensor]) -> Tensor:
        return (sample["x"].flatten(1).square().sum(1) + 16 * sample["z"].square().sum(1)).sqrt()

    between = {role: torch.stack([r + t * (f - r) for r, f, t in zip(real[role], fake[role], T, strict=True)]) for role in real}
    torch.testing.assert_close(GradientPenalty().discriminator(pair, real, fake, T), (norms(between) - 1).square().mean())
    r1, r2 = (GAMMA / 2 * norms(sample).square().mean() for sample in (real, fake))
    torch.testing.assert_close(R1(SHAPE, B, gamma=GAMMA).discriminator(pair, real), r1)
    torch.testing.assert_close(R2(SHAPE, B, gamma=GAMMA).discriminator(pair, fake), r2)
    torch.testing.assert_close(R1R2(SHAPE, B, gamma=GAMMA).discriminator(pair, real, fake), r1 + r2)


def test_what_perturbs_one_tensor_says_what_to_use_for_joint_samples() -> None:
    joint = {"x": REAL, "z": normal(B, 4)}
    for loss, noise, instead in (
        (DRAGAN(SHAPE), JITTER, "gradient-penalty"),
        (FiniteR1(SHAPE, B), DIRECTION, "r1"),
        (FiniteR2(SHAPE, B), DIRECTION, "r2"),
    ):
        with pytest.raises(ValueError, match=rf'judges joint samples \(x, z\); use "{instead}"'):
            loss.discriminator(pair, joint, noise)


# -- gamma ---------------------------------------------------------------------------------------------------------------

WITH_GAMMA = (R1, R2, R1R2, FiniteR1, FiniteR2)


@pytest.mark.parametrize("penalty", WITH_GAMMA)
def test_the_automatic_gamma_follows_the_rule(penalty: Any) -> None:
    """0.0002 * 256^2 / 32 = 0.4096; not square: 0.0002 * 4 * 6 / 5 = 0.00096; channels don't count."""
    assert penalty((3, 256, 256), 32, gamma="auto").gamma == pytest.approx(0.4096)
    assert penalty((1, 4, 6), 5, gamma="auto").gamma == pytest.approx(0.00096)
    assert penalty((4,), 5).gamma == 1.0
    for shape in ((6,), (4, 6)):
        with pytest.raises(ValueError, match='gamma = "auto" counts the pixels of pictures'):
            penalty(shape, 5, gamma="auto")


def test_the_automatic_gamma_is_the_number_that_is_used() -> None:
    number = 0.0002 * SHAPE[1] * SHAPE[2] / B
    for name in ("r1", "r2", "r1-r2", "r1-finite", "r2-finite"):
        automatic, written = (penalties(gamma=g)[name](quadratic(A)) for g in ("auto", number))
        assert torch.equal(automatic, written)
        assert float(automatic) > 0


def test_only_dragan_couples_the_samples_of_a_batch() -> None:
    """By the standard deviation of the batch; of all else, two half batches have the mean of the whole."""
    critic, n = quadratic(A), 4
    real, fake, jitter = normal(n, *SHAPE, seed=13), normal(n, *SHAPE, seed=14), uniform(n, *SHAPE, seed=15)
    for loss, given in (
        (GradientPenalty(), (real, fake, uniform(n))),
        (DRAGAN(SHAPE), (real, jitter)),
        (R1(SHAPE, n), (real,)),
        (R2(SHAPE, n), (fake,)),
        (R1R2(SHAPE, n), (real, fake)),
        (FiniteR1(SHAPE, n), (real, jitter)),
        (FiniteR2(SHAPE, n), (fake, jitter)),
    ):
        whole = loss.discriminator(critic, *given)  # type: ignore[operator]
        halves = [loss.discriminator(critic, *(t[i : i + 2] for t in given)) for i in (0, 2)]  # type: ignore[operator]
        coupled = getattr(loss, "couples_batch", False)
        assert coupled is isinstance(loss, DRAGAN)
        assert torch.allclose(torch.stack(halves).mean(), whole, rtol=1e-5) is not coupled


def test_samples_in_half_precision_are_judged_in_float32() -> None:
    real, fake = REAL.bfloat16(), FAKE.bfloat16()
    seen: list[torch.dtype] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return quadratic(A)(x)

    R1R2(SHAPE, B).discriminator(critic, real, fake)
    GradientPenalty().discriminator(critic, real, fake, T)
    DRAGAN(SHAPE).discriminator(critic, real, JITTER)
    FiniteR1(SHAPE, B).discriminator(critic, real, DIRECTION)
    FiniteR2(SHAPE, B).discriminator(critic, fake, DIRECTION)
    R1(SHAPE, B).discriminator(lambda x, z: critic(x) + critic(z), {"x": real, "z": fake})
    Consistency(SHAPE).discriminator(critic, real, fake, torch.zeros(B), torch.ones(B), uniform(B, 2), uniform(B))
    assert len(seen) == 12
    assert set(seen) == {torch.float32}


# -- in a step: batch norm, compiled, half precision ---------------------------------------------------------------------

BATCH_NORM = GAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "batch-norm"')
LOSSES = ("gradient-penalty", "dragan", "r1", "r2", "r1-r2", "r1-finite", "r2-finite")


def tables(*names: str) -> str:
    return "".join(f'[loss.{name}]\nuse = "{name}"\ndiscriminator_weight = 0.1\n' for name in names)


ALL = tables(*LOSSES)


def test_a_critic_with_batch_norm_is_penalised_and_keeps_its_statistics(training: Callable[..., Training]) -> None:
    """Seven penalties judge batches of their own; the running averages have seen the step's own two calls alone."""
    plain, penalised = training(BATCH_NORM, *SGD), training(BATCH_NORM + ALL, *SGD)
    train_step(plain, [batch()], 1)
    values = train_step(penalised, [batch()], 1)
    for name in LOSSES:
        assert float(values[f"loss.{name}.discriminator"]) > 0
    for (key, ours), theirs in zip(
        penalised.model.parts["discriminator.main"].named_buffers(),
        plain.model.parts["discriminator.main"].buffers(),
        strict=True,
    ):
        assert torch.equal(ours, theirs), key


def test_penalties_of_a_critic_with_batch_norm_compile_whole(training: Callable[..., Training]) -> None:
    """A gradient and a difference; the shelf's recipes compile every one."""
    text = BATCH_NORM + tables("gradient-penalty", "r2-finite")
    eager = run(training(text, *SGD), 2)
    state = training(text, *SGD)
    compile_by(state, "aot_eager")
    close(run(state, 2), eager, rtol=1e-4, atol=1e-5)


def test_penalties_stay_in_float32_under_autocast(training: Callable[..., Training]) -> None:
    """In the first step both critics are the same; only the generated samples are rounded. R1 sees real ones: no difference."""
    half, full = (training(GAN + ALL, choices=Choices("cpu", p, False, ())) for p in ("bf16", "fp32"))
    rounded, exact = (train_step(state, [batch()], 1) for state in (half, full))
    for name in LOSSES:
        key = f"loss.{name}.discriminator"
        real_alone = name in ("dragan", "r1", "r1-finite")
        tolerance = {"rtol": 0, "atol": 0} if real_alone else {"rtol": 0.05, "atol": 1e-3}
        torch.testing.assert_close(rounded[key], exact[key], **tolerance)


# -- LeCam ---------------------------------------------------------------------------------------------------------------


def test_lecam_holds_each_kind_to_the_other_kinds_anchor() -> None:
    """Anchors 2 and -1: real logits 3, 5 are held to -1, generated ones 0, -2 to 2."""
    loss = LeCam()
    loss.anchor_real.fill_(2.0)
    loss.anchor_fake.fill_(-1.0)
    real, fake = torch.tensor([3.0, 5.0], requires_grad=True), torch.tensor([0.0, -2.0], requires_grad=True)
    value = loss.discriminator(real, fake)
    torch.testing.assert_close(value, torch.tensor((16 + 36) / 2 + (4 + 16) / 2))
    value.backward()
    torch.testing.assert_close(real.grad, torch.tensor([4.0, 6.0]))
    torch.testing.assert_close(fake.grad, torch.tensor([-2.0, -4.0]))


def test_lecam_anchors_over_three_updates() -> None:
    """Moving averages from zero, divided by 1 - decay^n (Adam's correction), of each update's mean."""
    loss, decay = LeCam(decay=0.8), 0.8
    assert float(loss.anchor_real) == float(loss.anchor_fake) == 0.0
    means = [(2.0, -1.0), (4.0, 1.0), (-3.0, 2.0)]
    real_average = fake_average = 0.0
    for n, (real, fake) in enumerate(means, start=1):
        loss.update(torch.tensor([[real - 1], [real + 1]]), torch.tensor([fake, fake + 3, fake - 3]))
        real_average = decay * real_average + (1 - decay) * real
        fake_average = decay * fake_average + (1 - decay) * fake
        assert float(loss.anchor_real) == pytest.approx(real_average / (1 - decay**n), rel=1e-5)
        assert float(loss.anchor_fake) == pytest.approx(fake_average / (1 - decay**n), rel=1e-5)
        if n == 1:
            assert (float(loss.anchor_real), float(loss.anchor_fake)) == pytest.approx((2.0, -1.0))
    assert LeCam().decay == 0.99


def test_lecam_works_in_float32() -> None:
    logits = normal(2, 300, seed=16).bfloat16()
    half, whole = LeCam(), LeCam()
    for real, fake in (logits, logits):
        half.update(real, fake)
        whole.update(real.float(), fake.float())
        value = half.discriminator(real, fake)
        assert value.dtype == torch.float32
        assert torch.equal(value, whole.discriminator(real.float(), fake.float()))


def test_lecam_without_memory_remembers_the_last_batch() -> None:
    loss = LeCam(decay=0.0)
    for real, fake in ((2.0, -1.0), (5.0, 7.0)):
        loss.update(torch.tensor([real]), torch.tensor([fake]))
    assert (float(loss.anchor_real), float(loss.anchor_fake)) == (5.0, 7.0)


def test_lecam_keeps_and_reports_its_anchors() -> None:
    loss = LeCam()
    state = dict(loss.named_buffers())
    assert set(state) == {"anchor_real", "anchor_fake", "updates"}
    assert all(state[name].ndim == 0 and state[name].is_floating_point() for name in LeCam.reports)
    assert LeCam.reports == ("anchor_real", "anchor_fake")


# -- consistency ---------------------------------------------------------------------------------------------------------

PICTURE = (1, 9, 8)


def centred(seed: int) -> Tensor:
    """Pictures that are grey but for their middle, so that a shift of one pixel pushes nothing over the border."""
    x = torch.zeros(B, *PICTURE)
    x[:, :, 2:7, 2:6] = normal(B, 1, 5, 4, seed=seed)
    return x


def call(loss: Consistency, critic: Callable[..., Tensor], real: Any, fake: Any, places: Tensor, mirrored: Tensor) -> Tensor:
    logits = [critic(**s) if isinstance(s, dict) else critic(s) for s in (real, fake)]
    return loss.discriminator(critic, real, fake, *logits, places, mirrored)


def test_a_critic_that_shifts_and_mirrors_leave_alone_costs_nothing() -> None:
    invariant = lambda x: x.square().flatten(1).sum(1)  # noqa: E731
    value = call(Consistency(PICTURE), invariant, centred(1), centred(2), uniform(B, 2), uniform(B))
    assert float(value) == pytest.approx(0.0, abs=1e-10)
    here = lambda x: x[:, 0, 4, 2]  # noqa: E731
    assert float(call(Consistency(PICTURE), here, centred(1), centred(2), uniform(B, 2), uniform(B))) > 0.1


# one sample goes down, one left, one stays; the first is mirrored (after it moved): 0.125 of 9 and 8 pixels is 1
PLACES, MIRRORED = torch.tensor([[0.9, 0.5], [0.5, 0.1], [0.5, 0.5]]), torch.tensor([0.1, 0.6, 0.9])


def copied(x: Tensor) -> Tensor:
    """By hand: b c h w."""
    first = torch.zeros_like(x[0])
    first[:, 1:] = x[0][:, :-1]
    second = torch.zeros_like(x[1])
    second[:, :, :-1] = x[1][:, :, 1:]
    return torch.stack([first.flip(-1), second, x[2]])


@pytest.mark.parametrize(("real_weight", "fake_weight"), [(2.0, 5.0), (3.0, 0.0), (0.0, 4.0)])
def test_consistency_by_hand(real_weight: float, fake_weight: float) -> None:
    """A linear critic: the difference of logits is w.(x - T(x)), its gradient in w known. No corner is grey here."""
    real, fake = normal(B, *PICTURE, seed=10), normal(B, *PICTURE, seed=11)
    w = normal(72, seed=12).requires_grad_()
    loss = Consistency(PICTURE, real_weight=real_weight, fake_weight=fake_weight)
    got = call(loss, linear(w), real, fake, PLACES, MIRRORED)
    exact = w.detach().double().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for weight, x in ((real_weight, real), (fake_weight, fake)):
        difference = (x - copied(x)).flatten(1).double()
        expected = expected + weight * (difference @ exact).square().sum() / B
    torch.testing.assert_close(got, expected.float())
    got.backward()
    expected.backward()
    torch.testing.assert_close(w.grad, exact.grad.float(), rtol=1e-4, atol=1e-4)


def test_consistency_takes_the_logits_that_it_is_given_and_averages_patches() -> None:
    real, fake = centred(1), centred(2)
    patches = lambda x: x[:, 0, 3:5, 2:5]  # noqa: E731
    value = Consistency(PICTURE).discriminator(
        patches, real, fake, patches(real) + 2, patches(fake) - 1, torch.full((B, 2), 0.5), torch.ones(B)
    )  # nothing moves, nothing is mirrored
    assert float(value) == pytest.approx(4 + 1)
    half = [(patches(x) * 3).bfloat16() for x in (real, fake)]
    values = [
        Consistency(PICTURE).discriminator(patches, real, fake, *logits, torch.full((B, 2), 0.5), torch.ones(B))
        for logits in (half, [h.float() for h in half])
    ]
    assert torch.equal(*values)


def test_a_half_of_weight_zero_is_not_judged() -> None:
    judged: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        judged.append(x)
        return x.flatten(1).sum(1)

    logits = torch.zeros(B)
    for weights, count in (({"fake_weight": 0.0}, 1), ({"real_weight": 0.0}, 1), ({}, 2)):
        judged.clear()
        Consistency(PICTURE, **weights).discriminator(critic, centred(1), centred(2), logits, logits, PLACES, MIRRORED)
        assert len(judged) == count


def test_shift_and_mirror_can_be_turned_off() -> None:
    real = normal(B, *PICTURE, seed=10)
    flat = linear(normal(72, seed=12))
    unmoved = call(Consistency(PICTURE, shift=0.0), flat, real, real, PLACES, MIRRORED)
    expected = flat(real)[0] - flat(real[:1].flip(-1))[0]
    torch.testing.assert_close(unmoved, 2 * expected.square() / B)
    straight = call(Consistency(PICTURE, mirror=False), flat, real, real, PLACES, torch.zeros(B))
    moved = copied(real)
    moved[0] = moved[0].flip(-1)
    torch.testing.assert_close(straight, 2 * (flat(real) - flat(moved)).square().mean(), rtol=1e-4, atol=1e-5)
    assert Consistency((3, 32, 20)).most == (4, 3)
    assert Consistency((3, 32, 20), shift=0.5).most == (16, 10)


def test_in_a_joint_sample_the_picture_moves() -> None:
    z = normal(B, 4)
    real = {"x": normal(B, *PICTURE, seed=10), "z": z}
    flat = linear(normal(72, seed=12))
    critic = lambda x, z: flat(x) * z.sum(1)  # noqa: E731
    got = call(Consistency(PICTURE, fake_weight=0.0), critic, real, real, PLACES, MIRRORED)
    expected = ((flat(real["x"]) - flat(copied(real["x"]))) * z.sum(1)).square().mean()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_consistency_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"judges the shape \(6,\)"):
        Consistency((6,))
    with pytest.raises(ValueError, match="both 0"):
        Consistency(PICTURE, real_weight=0.0, fake_weight=0.0)
    with pytest.raises(ValueError, match="less than a pixel"):
        Consistency(PICTURE, shift=0.05, mirror=False)
    assert Consistency(PICTURE).draws == {"places": ("uniform", (2,)), "mirrored": ("uniform", ())}


# -- orthogonal ----------------------------------------------------------------------------------------------------------

# rows (1, 2, 0), (0, 3, 1): W W^T = [[5, 6], [6, 10]]
WIDE = torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 1.0]])


def test_a_known_matrix() -> None:
    """|[[4, 6], [6, 9]]|^2 = 169; relaxed: 2 * 36; the gradients 4 (W W^T - I) W, and 4 offdiagonal(W W^T) W."""
    for relaxed, value, excess in ((False, 169.0, [[4.0, 6.0], [6.0, 9.0]]), (True, 72.0, [[0.0, 6.0], [6.0, 0.0]])):
        w = WIDE.clone().requires_grad_()
        got = Orthogonal(relaxed=relaxed).discriminator({"layer.weight": w})
        torch.testing.assert_close(got, torch.tensor(value))
        got.backward()
        torch.testing.assert_close(w.grad, 4 * torch.tensor(excess) @ WIDE)
        torch.testing.assert_close(OrthogonalDecoder(relaxed=relaxed).generator({"layer.weight": WIDE}), got.detach())


def test_the_defaults_are_the_papers() -> None:
    assert float(Orthogonal().discriminator({"w": WIDE})) == 169.0  # Brock et al. 2016
    assert float(OrthogonalDecoder().generator({"w": WIDE})) == 72.0  # BigGAN


def test_a_tall_matrix_is_judged_by_its_columns() -> None:
    """W W^T can't be I then. |W W^T - I|^2 differs from |W^T W - I|^2 by out - rest alone: the same gradient."""
    w = WIDE.T.clone().requires_grad_()
    got = Orthogonal().discriminator({"w": w})
    torch.testing.assert_close(got, torch.tensor(169.0))
    other = (w @ w.T - torch.eye(3)).square().sum()
    torch.testing.assert_close(got + 1, other)
    torch.testing.assert_close(*(torch.autograd.grad(value, w)[0] for value in (got, other)))
    tall = torch.linalg.qr(normal(5, 3)).Q
    assert float(Orthogonal().discriminator({"w": tall})) == pytest.approx(0.0, abs=1e-9)
    # relaxed speaks of rows whatever the shape: (1, 0), (2, 3), (0, 1) have the products 2, 0, 3
    assert float(Orthogonal(relaxed=True).discriminator({"w": WIDE.T})) == 2 * (4 + 0 + 9)


def test_rows_of_any_length_at_right_angles_are_free_when_relaxed() -> None:
    w = torch.diag(torch.tensor([3.0, 0.5]))
    assert float(Orthogonal(relaxed=True).discriminator({"w": w})) == 0.0
    assert float(Orthogonal().discriminator({"w": w})) == pytest.approx(8**2 + 0.75**2)


@pytest.mark.parametrize("loss", [Orthogonal().discriminator, OrthogonalDecoder(relaxed=False).generator])
def test_which_weights_count(loss: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Their sum; convolutions flattened to `out (in h w)`; no biases, no gains, no tables of embeddings."""
    conv = torch.zeros(2, 1, 1, 3)
    conv[:, 0, 0] = WIDE
    other = {"norm.weight": torch.full((5,), 9.0), "layer.bias": torch.full((4,), 9.0), "embed.weight": torch.ones(7, 3)}
    torch.testing.assert_close(loss({"conv.weight": conv, **other}), torch.tensor(169.0))
    torch.testing.assert_close(loss({"a": conv, "b": WIDE, "c": 2 * torch.eye(2), **other}), torch.tensor(169.0 * 2 + 18))


def test_weights_in_half_precision_are_multiplied_in_float32() -> None:
    w = normal(7, 40, seed=17).bfloat16()
    for relaxed in (False, True):
        loss = Orthogonal(relaxed=relaxed)
        assert torch.equal(loss.discriminator({"w": w}), loss.discriminator({"w": w.float()}))


def test_what_is_skipped_can_be_said() -> None:
    weights = {"table.weight": 2 * torch.eye(2), "embed.weight": WIDE}
    assert float(Orthogonal(skip=("table",)).discriminator(weights)) == 169.0
    assert float(OrthogonalDecoder(relaxed=False, skip=()).generator(weights)) == 169.0 + 18
    with pytest.raises(ValueError, match=r"no weight matrix besides those that skip = \['table', 'embed'\] leaves out"):
        Orthogonal(skip=("table", "embed")).discriminator(weights)
