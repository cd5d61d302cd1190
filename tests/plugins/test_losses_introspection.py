"""Soft-IntroVAE's terms, written out in numpy from the formula, with slopes by hand; who learns from which in its recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from common import LABELLED, VAE, batch, parameters
from numpy.typing import NDArray
from torch import Tensor

from hybridgen.errors import RecipeError
from hybridgen.model import build
from hybridgen.precision import Choices
from hybridgen.recipe import load_recipe
from hybridgen.step import Training, train_step
from hybridgen_latents.gaussian import DiagonalGaussian, Gaussian
from hybridgen_losses.introspection import SoftIntrospective
from hybridgen_losses.reconstruction import Reconstruction

Array = NDArray[np.float64]
SCALE, ALPHA, BETA_NEG, GAMMA, WARM_UP = 0.7, 1.5, 3.0, 0.6, 0.4
RAMP = 0.25  # at a tenth of the run, a quarter of the warm-up
SHAPE, SIZE, COUNT = (1, 2, 3), 6, 4  # of a sample, its values, samples


# -- the formula, in numpy ---------------------------------------------------------------------------------------------------


def kl(mean: Array, logvar: Array) -> Array:
    """KL(N(mean, exp(logvar)) || N(0, I)) in nats."""
    return 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)


def energy(x: Array, recon: Array, kl_of_it: Array, scale: float) -> Array:
    """(|x - recon|^2 / (2 scale^2) + KL) / n of each sample."""
    return (((x - recon) ** 2).reshape(len(x), -1).sum(1) / (2 * scale**2) + kl_of_it) / x[0].size


def encoders(v: dict[str, Array], ramp: float, scale: float = SCALE, alpha: float = ALPHA, beta_neg: float = BETA_NEG) -> float:
    real = energy(v["x"], v["recon"], kl(v["mean"], v["logvar"]), scale)
    generated = energy(v["fake"], v["fake_recon"], beta_neg * kl(v["fake_mean"], v["fake_logvar"]), scale)
    return float(real.mean() + ramp * np.exp(-alpha * generated).mean() / alpha)


def decoders(v: dict[str, Array], ramp: float, scale: float = SCALE, gamma: float = GAMMA) -> float:
    return float(energy(v["x"], v["recon"], ramp * gamma * kl(v["fake_mean"], v["fake_logvar"]), scale).mean())


def values(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = dict.fromkeys(("x", "recon", "fake", "fake_recon"), SHAPE) | dict.fromkeys(
        ("mean", "logvar", "fake_mean", "fake_logvar"), (3,)
    )
    return {name: 0.5 * torch.randn(COUNT, *shape, generator=generator) for name, shape in shapes.items()}


def arguments(v: dict[str, Tensor]) -> dict[str, Any]:
    posterior, fake_posterior = DiagonalGaussian(v["mean"], v["logvar"]), DiagonalGaussian(v["fake_mean"], v["fake_logvar"])
    shown = {"posterior": posterior, "z": v["mean"], "fake_posterior": fake_posterior, "fake_z": v["fake_mean"]}
    return {**{k: v[k] for k in ("x", "recon", "fake", "fake_recon")}, **shown, "prior": Gaussian(SHAPE, dim=3).prior()}


def loss(warm_up: float = WARM_UP) -> SoftIntrospective:
    return SoftIntrospective("tanh", scale=SCALE, alpha=ALPHA, beta_neg=BETA_NEG, gamma=GAMMA, warm_up=warm_up)


def sides(v: dict[str, Tensor], progress: float = 1.0, warm_up: float = WARM_UP) -> tuple[Tensor, Tensor]:
    given = {**arguments(v), "progress": torch.tensor(progress)}
    generator = {k: given[k] for k in ("x", "recon", "prior", "fake_posterior", "fake_z", "progress")}
    return loss(warm_up).discriminator(**given), loss(warm_up).generator(**generator)


def array(v: dict[str, Tensor]) -> dict[str, Array]:
    return {name: value.detach().double().numpy() for name, value in v.items()}


@pytest.mark.parametrize(
    ("progress", "warm_up", "ramp"), [(0.0, 0.4, 0.0), (0.1, 0.4, 0.25), (0.4, 0.4, 1.0), (1.0, 0.4, 1.0), (0.0, 0.0, 1.0)]
)
def test_both_terms_are_the_formula_and_the_game_sets_in_during_the_warm_up(
    progress: float, warm_up: float, ramp: float
) -> None:
    given = values()
    encoder, decoder = sides(given, progress, warm_up)
    assert float(encoder) == pytest.approx(encoders(array(given), ramp), rel=1e-5)
    assert float(decoder) == pytest.approx(decoders(array(given), ramp), rel=1e-5)


def test_both_terms_have_the_slopes_that_the_formula_has() -> None:
    """d exp(-alpha e) / alpha = -exp(-alpha e) de: a generated sample pushes the less, the lower its ELBO is already."""
    given = {name: value.requires_grad_() for name, value in values().items()}
    v = array(given)
    one = 1 / (COUNT * SIZE)
    push = RAMP * np.exp(-ALPHA * energy(v["fake"], v["fake_recon"], BETA_NEG * kl(v["fake_mean"], v["fake_logvar"]), SCALE))
    in_space, in_code = push[:, None, None, None], push[:, None]
    expected = (
        {
            "recon": one * (v["recon"] - v["x"]) / SCALE**2,
            "mean": one * v["mean"],
            "logvar": one * 0.5 * (np.exp(v["logvar"]) - 1),
            "fake_recon": -one * in_space * (v["fake_recon"] - v["fake"]) / SCALE**2,
            "fake_mean": -one * BETA_NEG * in_code * v["fake_mean"],
            "fake_logvar": -one * BETA_NEG * in_code * 0.5 * (np.exp(v["fake_logvar"]) - 1),
        },
        {
            "recon": one * (v["recon"] - v["x"]) / SCALE**2,
            "fake_mean": one * RAMP * GAMMA * v["fake_mean"],
            "fake_logvar": one * RAMP * GAMMA * 0.5 * (np.exp(v["fake_logvar"]) - 1),
        },
    )
    for term, slopes in zip(sides(given, RAMP * WARM_UP), expected, strict=True):
        found = torch.autograd.grad(term, [given[name] for name in slopes], retain_graph=True)
        for name, got in zip(slopes, found, strict=True):
            torch.testing.assert_close(got, torch.tensor(slopes[name]).float(), msg=lambda m, n=name: f"{n}: {m}")
    (unused,) = torch.autograd.grad(sides(given)[1], [given["mean"]], allow_unused=True)
    assert unused is None  # the decoder doesn't move the KL of x


def test_the_encoder_lowers_the_elbo_of_samples_and_raises_that_of_data_and_the_decoder_raises_both() -> None:
    """A small step down each term, and what it does to the two energies, which are minus the ELBOs but for constants."""

    def energies(v: dict[str, Tensor]) -> tuple[float, float]:
        a = array(v)
        real = energy(a["x"], a["recon"], kl(a["mean"], a["logvar"]), SCALE)
        return float(real.mean()), float(energy(a["fake"], a["fake_recon"], kl(a["fake_mean"], a["fake_logvar"]), SCALE).mean())

    given = {name: value.requires_grad_() for name, value in values().items()}
    before = energies(given)
    for term, signs in zip(sides(given), ((-1, 1), (-1, -1)), strict=True):
        moved = [name for name in given if name not in ("x", "fake")]
        slopes = torch.autograd.grad(term, [given[name] for name in moved], allow_unused=True, retain_graph=True)
        after = {name: value.detach() for name, value in given.items()}
        for name, slope in zip(moved, slopes, strict=True):
            after[name] = after[name] - (0.0 if slope is None else 0.1 * slope)
        for now, then, sign in zip(energies(after), before, signs, strict=True):
            assert (now - then) * sign > 0


def test_samples_of_low_elbo_are_left_alone_and_each_counts_by_itself() -> None:
    """The exponential is of each sample, then averaged: one that the encoder has rejected weighs nothing, the others stay."""
    given = values()
    given["fake"][0] = 50.0
    given["fake_recon"].requires_grad_()
    (slope,) = torch.autograd.grad(sides(given)[0], given["fake_recon"])
    assert not slope[0].any()
    assert slope[1:].abs().amin((1, 2, 3)).gt(0).all()


def test_it_offers_the_likelihood_of_its_scale() -> None:
    given = values()
    x, recon = given["x"], given["recon"]
    expected = torch.distributions.Normal(recon, SCALE).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(loss().log_likelihood(x, recon, recon.atanh()), expected)
    at = loss().log_likelihood_at(x, lambda z: z)
    raw = torch.randn(COUNT, *SHAPE, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(at(raw), Reconstruction("tanh", scale=SCALE).log_likelihood(x, raw.tanh(), raw))


# -- in its recipe -------------------------------------------------------------------------------------------------------------

SMALL = ("encoder.width=4", "decoder.width=4", "latent.dim=3", "data.batch_size=8")


def shipped(*overrides: str) -> Training:
    return Training(build(load_recipe("soft-intro-vae", (*SMALL, *overrides)), LABELLED), Choices("cpu", "fp32", False, ()))


@torch.no_grad()
def by_hand(state: Training, data: dict[str, Tensor], step: int) -> dict[str, Array]:
    """What the formula wants, from the parts and the noise of a step."""
    parts = state.model.parts
    encode, decode = parts["encoder"], lambda z: parts["decoder"](z).tanh()
    noise = state.leaves(state.planner.plan(state.model.terms), data, step, 0)[0]
    found = {"x": data["x"], "fake": decode(noise["noise@z_prior"])}
    for of, prefix in (("x", ""), ("fake", "fake_")):
        mean, logvar = encode(found[of]).chunk(2, 1)
        z = mean + (0.5 * logvar).exp() * noise[f"noise@{prefix}z"]
        found |= {f"{prefix}mean": mean, f"{prefix}logvar": logvar, f"{prefix}recon": decode(z)}
    return array(found)


@pytest.mark.parametrize("ramp", [0.5, 1.0])
def test_in_the_recipe_the_terms_are_of_x_and_of_samples_encoded_and_decoded(ramp: float) -> None:
    state = shipped("optim.lr=0.0", "loss.introspection.warm_up=0.5", "train.steps=100")
    term: Any = state.model.parts["loss.introspection"]
    data, step = batch(spec=LABELLED), int(ramp * 50)
    given = by_hand(state, data, step)
    got = train_step(state, [data], step)
    encoder = encoders(given, ramp, term.scale, term.alpha, term.beta_neg)
    assert float(got["loss.introspection.discriminator"]) == pytest.approx(encoder, rel=1e-4)
    assert float(got["loss.introspection"]) == pytest.approx(decoders(given, ramp, term.scale, term.gamma), rel=1e-4)


@pytest.mark.parametrize(("silent", "moves"), [("weight", "encoder"), ("discriminator_weight", "decoder")])
def test_in_the_recipe_the_encoder_learns_from_one_term_and_the_decoder_from_the_other(silent: str, moves: str) -> None:
    state = shipped(f"loss.introspection.{silent}=0.0")
    assert {t.label: set(t.trains) for t in state.model.terms} == {
        "introspection.discriminator": {"encoder"},
        "introspection": {"decoder"},
    }
    before = parameters(state.model)
    train_step(state, [batch(spec=LABELLED)], state.train.steps)
    after = parameters(state.model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith(f"{moves}/")
    }


def test_without_an_encoder_on_the_critics_side_it_is_refused(training: Callable[..., Training]) -> None:
    text = VAE.replace('[loss.kl]\nuse = "kl"\n', "").replace('"reconstruction"', '"soft-introspective"')
    refused = (
        r"nothing learns from loss 'reconstruction.discriminator'.*it reaches encoder, decoder, latent: name what shall learn"
    )
    with pytest.raises(RecipeError, match=refused):
        training(text)
    training(text + '[players]\ndiscriminator = ["encoder"]\n')


def test_a_posterior_without_a_kl_is_refused(training: Callable[..., Training]) -> None:
    text = VAE.replace('[loss.kl]\nuse = "kl"\n', "").replace('"reconstruction"', '"soft-introspective"')
    text = text.replace('"gaussian"', '"deterministic"\nprior = "normal"') + '[players]\ndiscriminator = ["encoder"]\n'
    with pytest.raises(RecipeError, match="a deterministic latent has no KL"):
        training(text)
