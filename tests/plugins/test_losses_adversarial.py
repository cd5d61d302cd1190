"""The game: every formulation at logits -3, 0, 3, its equilibrium, and label smoothing; the encoder's side; relativism."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from common import BIGAN, batch
from torch import Tensor

from hybridgen.step import Training, train_step
from hybridgen_losses.adversarial import Adversarial, AdversarialInference
from hybridgen_losses.relativistic import Relativistic

FORMULATIONS = ("nonsaturating", "minimax", "least-squares", "hinge", "wasserstein")
SMOOTHED = ("nonsaturating", "minimax", "least-squares")


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def log1pexp(x: float) -> float:
    return math.log1p(math.exp(x))


def check(loss: Tensor, value: float, **gradients: tuple[Tensor, list[float]]) -> None:
    """The value, and the gradient in each tensor, which is divided by nothing any more."""
    torch.testing.assert_close(loss, torch.tensor(value))
    for tensor, expected in gradients.values():
        (got,) = torch.autograd.grad(loss, tensor, retain_graph=True)
        torch.testing.assert_close(got, torch.tensor(expected).reshape(got.shape))


# -- by itself: real logits -3, 0, 3 and generated logits 3, 0, -1, three a batch ------------------------------------------

REAL, FAKE = (-3.0, 0.0, 3.0), (3.0, 0.0, -1.0)
CROSS_ENTROPY = (
    sum(log1pexp(-l) for l in REAL) / 3 + sum(log1pexp(l) for l in FAKE) / 3,
    [(sigmoid(l) - 1) / 3 for l in REAL],
    [sigmoid(l) / 3 for l in FAKE],
)
DISCRIMINATOR: dict[str, tuple[float, list[float], list[float]]] = {
    "nonsaturating": CROSS_ENTROPY,
    "minimax": CROSS_ENTROPY,
    "least-squares": ((16 + 1 + 4) / 6 + (9 + 0 + 1) / 6, [-4 / 3, -1 / 3, 2 / 3], [3 / 3, 0.0, -1 / 3]),
    "hinge": ((4 + 1 + 0) / 3 + (4 + 1 + 0) / 3, [-1 / 3, -1 / 3, 0.0], [1 / 3, 1 / 3, 0.0]),
    "wasserstein": (2 / 3 - 0.0, [-1 / 3] * 3, [1 / 3] * 3),
}
GENERATOR: dict[str, tuple[float, list[float]]] = {
    "nonsaturating": (sum(log1pexp(-l) for l in FAKE) / 3, [(sigmoid(l) - 1) / 3 for l in FAKE]),
    "minimax": (-sum(log1pexp(l) for l in FAKE) / 3, [-sigmoid(l) / 3 for l in FAKE]),
    "least-squares": ((4 + 1 + 4) / 6, [2 / 3, -1 / 3, -2 / 3]),
    "hinge": (-2 / 3, [-1 / 3] * 3),
    "wasserstein": (-2 / 3, [-1 / 3] * 3),
}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_each_game_at_known_logits(formulation: Any) -> None:
    real, fake = torch.tensor(REAL, requires_grad=True), torch.tensor(FAKE, requires_grad=True)
    loss = Adversarial(formulation=formulation)
    value, at_real, at_fake = DISCRIMINATOR[formulation]
    # hinge has a kink at -1, where a generated logit stands: torch takes the slope 0 there
    check(loss.discriminator(real, fake), value, real=(real, at_real), fake=(fake, at_fake))
    value, at_fake = GENERATOR[formulation]
    check(loss.generator(fake), value, fake=(fake, at_fake))


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_patches_are_averaged(formulation: Any) -> None:
    """Logits `b h w` of 2 samples and 3 patches weigh as much as 6 logits."""
    real, fake = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    loss = Adversarial(formulation=formulation)
    patches = real.reshape(2, 3, 1), fake.reshape(2, 3, 1)
    torch.testing.assert_close(loss.discriminator(*patches), loss.discriminator(real, fake))
    torch.testing.assert_close(loss.generator(patches[1]), loss.generator(fake))


EQUILIBRIUM: dict[str, tuple[float, float, float]] = {  # the logit everywhere, D's term, G's
    "nonsaturating": (0.0, 2 * math.log(2), math.log(2)),
    "minimax": (0.0, 2 * math.log(2), -math.log(2)),
    "least-squares": (0.5, 0.25, 0.125),
    "hinge": (0.0, 2.0, 0.0),
    "wasserstein": (0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_the_equilibrium_has_the_value_that_show_prints(formulation: Any) -> None:
    """Where data and samples are alike, D's best answer is the same everywhere: its two halves pull with equal force."""
    level, d, g = EQUILIBRIUM[formulation]
    logits = torch.full((4,), level, requires_grad=True)
    loss = Adversarial(formulation=formulation)
    check(loss.discriminator(logits, logits), d, logits=(logits, [0.0] * 4))
    check(loss.generator(logits), g)


@pytest.mark.parametrize(
    "loss",
    [*(Adversarial(formulation=f) for f in FORMULATIONS), *(Relativistic(formulation=f) for f in ("pairing", "average"))],  # type: ignore[arg-type]
)
def test_logits_in_half_precision_are_judged_in_float32(loss: Any) -> None:
    real, fake = (2 * torch.randn(2, 300, generator=torch.Generator().manual_seed(4))).bfloat16()
    whole, half = loss.discriminator(real.float(), fake.float()), loss.discriminator(real, fake)
    assert half.dtype == torch.float32
    assert torch.equal(half, whole)
    if isinstance(loss, Adversarial):
        assert torch.equal(loss.generator(fake), loss.generator(fake.float()))
    else:
        assert torch.equal(loss.generator(real, fake), loss.generator(real.float(), fake.float()))


def test_the_default_is_bit_for_bit_what_it_was() -> None:
    logits = (7 * torch.randn(2, 500, generator=torch.Generator().manual_seed(1))).unbind()
    found = []
    for smoothable in (True, False):
        real, fake = (l.clone().requires_grad_() for l in logits)
        loss = Adversarial().discriminator(real, fake) if smoothable else F.softplus(-real).mean() + F.softplus(fake).mean()
        loss.backward()
        found.append((loss.detach(), real.grad, fake.grad))
    for got, expected in zip(*found, strict=True):
        assert torch.equal(got, expected)
    fake = torch.tensor([float("inf"), 1e4])
    assert float(Adversarial().discriminator(fake, -fake)) == 0.0  # and a certain D costs nothing, not NaN


# -- label smoothing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("r", "f"), [(0.9, 0.0), (1.0, 0.2), (0.8, 0.1)])
@pytest.mark.parametrize("formulation", SMOOTHED)
def test_smoothed_labels_are_targets_of_the_discriminator(formulation: Any, r: float, f: float) -> None:
    real, fake = (torch.tensor(v, requires_grad=True) for v in (REAL, FAKE))
    loss = Adversarial(formulation=formulation, real_target=r, fake_target=f)
    got = loss.discriminator(real, fake)
    if formulation == "least-squares":
        expected = 0.5 * F.mse_loss(real, torch.full((3,), r)) + 0.5 * F.mse_loss(fake, torch.full((3,), f))
    else:
        expected = F.binary_cross_entropy(torch.sigmoid(real.double()), torch.full((3,), r).double())
        expected = expected + F.binary_cross_entropy(torch.sigmoid(fake.double()), torch.full((3,), f).double())
    torch.testing.assert_close(got, expected.float())
    for logits in (real, fake):
        ours, theirs = (torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (got, expected))
        torch.testing.assert_close(ours, theirs)
    if formulation == "least-squares":  # c = b: generated samples shall look as real as real ones do
        expected = 0.5 * F.mse_loss(fake, torch.full((3,), r))
    else:  # the generator's term has no label to smooth
        expected = Adversarial(formulation=formulation).generator(fake)
    torch.testing.assert_close(loss.generator(fake), expected)


@pytest.mark.parametrize(("r", "f"), [(0.9, 0.0), (1.0, 0.2), (0.8, 0.1)])
@pytest.mark.parametrize("formulation", SMOOTHED)
def test_the_best_smoothed_discriminator_is_the_one_that_the_docstring_states(formulation: Any, r: float, f: float) -> None:
    """Two places A and B; the data are at A 3 times of 4, the samples 1 time of 5: D = (r p + f q) / (p + q) is stationary."""
    best = torch.tensor([(r * p + f * q) / (p + q) for p, q in ((3 / 4, 1 / 5), (1 / 4, 4 / 5))], dtype=torch.float64)
    logits = best if formulation == "least-squares" else torch.logit(best)
    logits = logits.float().requires_grad_()
    loss = Adversarial(formulation=formulation, real_target=r, fake_target=f)
    a, b = logits.unbind()
    loss.discriminator(torch.stack([a, a, a, b]), torch.stack([a, b, b, b, b])).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2), rtol=0, atol=1e-6)


def test_what_has_no_labels_refuses_to_smooth_them() -> None:
    for formulation in ("hinge", "wasserstein"):
        for targets in ({"real_target": 0.9}, {"fake_target": 0.1}):
            with pytest.raises(ValueError, match=f"{formulation} loss has no labels to smooth; remove real_target and fake_"):
                Adversarial(formulation=formulation, **targets)  # type: ignore[arg-type]
    for f in (0.5, 0.6):
        with pytest.raises(ValueError, match="is no smaller than real_target"):
            Adversarial(real_target=0.5, fake_target=f)


# -- the encoder's side ---------------------------------------------------------------------------------------------------

PAIRS = (-3.0, 0.0, 2.0)  # logits of three of the encoder's pairs
ENCODER: dict[str, tuple[float, list[float]]] = {
    "nonsaturating": (sum(log1pexp(l) for l in PAIRS) / 3, [sigmoid(l) / 3 for l in PAIRS]),
    "minimax": (-sum(log1pexp(-l) for l in PAIRS) / 3, [sigmoid(-l) / 3 for l in PAIRS]),
    "least-squares": ((9 + 0 + 4) / 6, [-1.0, 0.0, 2 / 3]),
    "hinge": (-1 / 3, [1 / 3] * 3),
    "wasserstein": (-1 / 3, [1 / 3] * 3),
}


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_the_encoders_term_at_known_logits(formulation: Any) -> None:
    pairs = torch.tensor(PAIRS, requires_grad=True)
    value, slopes = ENCODER[formulation]
    loss = AdversarialInference(formulation=formulation)
    check(loss.generator(pairs), value, pairs=(pairs, slopes))
    assert torch.equal(loss.generator(pairs.reshape(1, 3, 1)), loss.generator(pairs))  # patches are averaged
    half = (2 * torch.randn(300, generator=torch.Generator().manual_seed(5))).bfloat16()
    assert torch.equal(loss.generator(half), loss.generator(half.float()))


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_it_is_the_decoders_term_with_the_labels_turned(formulation: Any) -> None:
    """A logit l of the label 1 says as much as -l of the label 0; among least squares' labels 0 and 1, 1 - l does."""
    pairs = torch.tensor(PAIRS)
    turned = 1 - pairs if formulation == "least-squares" else -pairs
    decoders = Adversarial(formulation=formulation).generator(turned)
    torch.testing.assert_close(AdversarialInference(formulation=formulation).generator(pairs), decoders)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_what_the_encoder_gains_its_critic_loses(formulation: Any) -> None:
    """Between the labels: opposite slopes. Minimax and Wasserstein have one value for both (Donahue's equation 3)."""
    pairs = torch.tensor([0.2, 0.5, 0.9], requires_grad=True)
    critics = Adversarial(formulation=formulation).discriminator(pairs, torch.zeros(3))
    (against,) = torch.autograd.grad(critics, pairs)
    (along,) = torch.autograd.grad(AdversarialInference(formulation=formulation).generator(pairs), pairs)
    assert (against * along < 0).all()
    if formulation in ("minimax", "wasserstein"):
        torch.testing.assert_close(along, -against)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_in_a_model_each_side_moves_its_pairs_towards_the_others(formulation: Any, training: Callable[..., Training]) -> None:
    """With the critic held still, a step of both makes the encoder's pairs look generated and the decoder's look real."""
    text = BIGAN.replace('"pair"', '"mlp-joint"\nwidth = 16').replace(
        '"both-sides"', f'"adversarial-inference"\nformulation = "{formulation}"'
    )
    text = text.replace('use = "adversarial"\n', f'use = "adversarial"\nformulation = "{formulation}"\n')
    state = training(text, "optim.use=sgd", "optim.lr=0.01", "optim.discriminator.lr=0.0")
    trained = {term.label: dict(term.trains) for term in state.model.terms}
    assert trained == {
        "adversarial.discriminator": {"discriminator.main": 1.0},
        "adversarial": {"decoder": 1.0},
        "inverse": {"encoder": 1.0},
    }
    data = batch(64)
    noise = state.leaves(state.planner.plan(state.model.terms), data, 1, 0)[0]

    @torch.no_grad()
    def said() -> tuple[float, float]:
        parts = state.model.parts
        z = parts["latent"].posterior(parts["encoder"](data["x"])).sample(noise["noise@z"])
        z_prior = noise["noise@z_prior"]
        critic = parts["discriminator.main"]
        return float(critic(data["x"], z)[0].mean()), float(critic(parts["decoder"](z_prior).tanh(), z_prior)[0].mean())

    real, fake = said()
    train_step(state, [data], 1)
    after = said()
    assert after[0] < real
    assert after[1] > fake


def test_the_encoders_equilibrium_has_the_value_that_show_prints() -> None:
    assert float(AdversarialInference().generator(torch.zeros(4))) == pytest.approx(0.693, abs=1e-3)
    assert AdversarialInference().formulation == Adversarial().formulation


# -- relativistic --------------------------------------------------------------------------------------------------------


def pairing(upper: list[float], lower: list[float]) -> tuple[float, list[float], list[float]]:
    """mean softplus(-(u - l)); its slope in u_i is -sigmoid(l_i - u_i) / n, in l_i the opposite."""
    n = len(upper)
    slopes = [sigmoid(l - u) / n for u, l in zip(upper, lower, strict=True)]
    return sum(log1pexp(l - u) for u, l in zip(upper, lower, strict=True)) / n, [-s for s in slopes], slopes


def average(upper: list[float], lower: list[float]) -> tuple[float, list[float], list[float]]:
    """Both halves, and both ways in which a logit counts: by itself, and in the mean that the others are held against."""
    n = len(upper)
    mean_upper, mean_lower = sum(upper) / n, sum(lower) / n
    value = sum(log1pexp(mean_lower - u) for u in upper) / n + sum(log1pexp(l - mean_upper) for l in lower) / n
    own_upper = [sigmoid(mean_lower - u) for u in upper]
    own_lower = [sigmoid(l - mean_upper) for l in lower]
    at_upper = [-s / n - sum(own_lower) / n / n for s in own_upper]
    at_lower = [s / n + sum(own_upper) / n / n for s in own_lower]
    return value, at_upper, at_lower


@pytest.mark.parametrize("closed", [pairing, average])
def test_relativistic_games_at_known_logits(closed: Any) -> None:
    upper, lower = [2.0, -1.0, 0.5, 1.0], [0.0, 1.5, -2.0, 3.0]
    loss = Relativistic(formulation=closed.__name__)
    real, fake = torch.tensor(upper, requires_grad=True), torch.tensor(lower, requires_grad=True)
    value, at_real, at_fake = closed(upper, lower)
    check(loss.discriminator(real, fake), value, real=(real, at_real), fake=(fake, at_fake))
    value, at_fake, at_real = closed(lower, upper)  # the generator plays the same game the other way round
    check(loss.generator(real, fake), value, real=(real, at_real), fake=(fake, at_fake))


def test_relativistic_games_at_their_equilibrium_and_their_default() -> None:
    logits = torch.full((3, 2, 2), 1.7)
    for formulation, value in (("pairing", math.log(2)), ("average", 2 * math.log(2))):
        loss = Relativistic(formulation=formulation)  # type: ignore[arg-type]
        assert float(loss.discriminator(logits, logits)) == pytest.approx(value)
        assert float(loss.generator(logits, logits)) == pytest.approx(value)
    assert Relativistic().formulation == "pairing"


def test_only_differences_of_logits_count() -> None:
    real, fake = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    for formulation in ("pairing", "average"):
        loss = Relativistic(formulation=formulation)  # type: ignore[arg-type]
        torch.testing.assert_close(loss.discriminator(real + 5, fake + 5), loss.discriminator(real, fake))


def test_patches_are_paired_by_place() -> None:
    """Of 2 samples with 2 patches: each real patch meets the generated one in its place, and no other."""
    real = torch.tensor([[[0.0, 1.0]], [[2.0, 3.0]]])  # b h w
    fake = torch.tensor([[[1.0, 1.0]], [[0.0, 5.0]]])
    differences = [-1.0, 0.0, 2.0, -2.0]
    expected = sum(log1pexp(-d) for d in differences) / 4
    assert float(Relativistic().discriminator(real, fake)) == pytest.approx(expected)
    turned = Relativistic().discriminator(real, fake.flip(-1))
    assert float(turned) != pytest.approx(expected, abs=0.1)
    averaged = Relativistic(formulation="average")
    torch.testing.assert_close(averaged.discriminator(real, fake.flip(-1)), averaged.discriminator(real, fake))


def test_only_the_average_couples_the_samples_of_a_batch() -> None:
    real, fake = torch.randn(2, 6, generator=torch.Generator().manual_seed(3))
    for formulation, coupled in (("pairing", False), ("average", True)):
        loss = Relativistic(formulation=formulation)  # type: ignore[arg-type]
        halves = torch.stack([loss.discriminator(r, f) for r, f in zip(real.chunk(2), fake.chunk(2), strict=True)]).mean()
        assert loss.couples_batch is coupled
        assert torch.allclose(halves, loss.discriminator(real, fake)) is not coupled


def test_each_game_says_which_logit_decides() -> None:
    """Half way between the labels of least squares, none where only differences count, 0 where it is a log-odds."""
    found = {name: Adversarial(formulation=name).decision for name in ("nonsaturating", "minimax", "hinge", "wasserstein")}
    assert found == {"nonsaturating": 0.0, "minimax": 0.0, "hinge": 0.0, "wasserstein": None}
    smoothed = Adversarial(formulation="least-squares", real_target=0.9, fake_target=0.2)
    assert smoothed.decision == pytest.approx(0.55)
    assert Relativistic().decision is None
