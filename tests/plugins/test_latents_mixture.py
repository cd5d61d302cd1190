"""Learned priors: a mixture of Gaussians, and the VampPrior."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from common import AUTOENCODER, POINTS
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from hybridgen.step import Training
from hybridgen.use import GenerativeModel
from hybridgen_latents.gaussian import DiagonalGaussian, Gaussian
from hybridgen_latents.mixture import GaussianMixture, Mixture, split
from hybridgen_latents.vamp import Vamp


def quantiles(count: int) -> Tensor:
    """Standard normal noise without chance: the middles of `count` slices of equal probability."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(mean: Tensor, logvar: Tensor, logits: Tensor) -> Mixture:
    return Mixture(mean, logvar, logits.log_softmax(0))


def independent(mean: Tensor, logvar: Tensor, logits: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(mean, (logvar / 2).exp()), 1))


def test_the_density_and_its_gradients_are_those_of_torch_distributions() -> None:
    z, mean, logvar, logits = numbers(5, 3), numbers(4, 3, seed=1), numbers(4, 3, seed=2), numbers(4, seed=3)
    values, gradients = [], []
    for mixture in (made, independent):
        leaves = [t.clone().requires_grad_() for t in (z, mean, logvar, logits)]
        value = mixture(*leaves[1:]).log_prob(leaves[0])
        values.append(value)
        gradients.append(torch.autograd.grad((value * torch.arange(1.0, 6.0)).sum(), leaves))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_a_component_is_chosen_as_often_as_its_weight_says_and_the_noise_stays_normal_within_each() -> None:
    weights, count = torch.tensor([0.2, 0.05, 0.45, 0.3]), 100_000
    noise = torch.stack([quantiles(count), torch.arange(count) * 1.0], 1)
    chosen, rest = split(noise, weights)
    torch.testing.assert_close(torch.bincount(chosen) / count, weights, atol=2e-5, rtol=0)
    assert torch.equal(rest[:, 1], noise[:, 1])
    for component in range(4):
        own = rest[chosen == component, 0]
        assert float((own.sort().values - quantiles(len(own))).abs()[5:-5].max()) < 0.02
        assert abs(float(own.mean())) < 2e-3
        assert abs(float(own.var()) - 1) < 5e-3


def test_the_farthest_noise_and_a_weight_of_zero_do_no_harm() -> None:
    noise = torch.tensor([[-12.0], [-5.0], [0.0], [5.0], [12.0]])
    for weights in ([0.0, 0.4, 0.0, 0.6, 0.0], [0.5, 0.5], [1.0]):
        chosen, rest = split(noise, torch.tensor(weights))
        assert torch.isfinite(rest).all()
        assert bool((torch.tensor(weights)[chosen[1:4]] > 0).all())
        assert int(chosen.min()) >= 0
        assert int(chosen.max()) < len(weights)


def test_samples_have_the_moments_of_the_mixture() -> None:
    mean = torch.tensor([[1.0, -2.0], [-3.0, 0.5], [0.0, 4.0]])
    logvar = torch.tensor([[0.0, -1.0], [1.0, 0.5], [-2.0, 0.3]])
    logits = torch.tensor([0.2, -0.5, 0.7])
    samples = made(mean, logvar, logits).sample(numbers(200_000, 2, dtype=torch.float32))
    w = logits.softmax(0)
    centre = w @ mean
    spread = torch.einsum("k,kd,ke->de", w, mean - centre, mean - centre) + torch.diag(w @ logvar.exp())
    torch.testing.assert_close(samples.mean(0), centre, atol=0.03, rtol=0)
    torch.testing.assert_close(samples.T.cov(), spread, atol=0.05, rtol=0.01)


def test_a_sample_trains_the_mean_and_variance_of_its_component_and_nothing_else() -> None:
    mean, logvar, logits = (numbers(*s, seed=i).float().requires_grad_() for i, s in enumerate([(3, 2), (3, 2), (3,)]))
    mixture = made(mean, logvar, logits)
    noise = numbers(7, 2, dtype=torch.float32)
    chosen, rest = split(noise, logits.detach().softmax(0))
    factors = numbers(7, 2, seed=5).float()
    (mixture.sample(noise) * factors).sum().backward()
    expected, spread = torch.zeros(3, 2), torch.zeros(3, 2)
    for i, k in enumerate(chosen.tolist()):
        expected[k] += factors[i]
        spread[k] += factors[i] * 0.5 * (logvar[k] / 2).exp().detach() * rest[i]
    torch.testing.assert_close(mean.grad, expected)
    torch.testing.assert_close(logvar.grad, spread)
    assert logits.grad is None


def test_the_kl_estimate_is_right_on_average() -> None:
    """Against the integral in one dimension; the estimate's mean over noise without chance."""
    latent = GaussianMixture(dim=1, components=3)
    with torch.no_grad():
        latent.mean.copy_(torch.tensor([[-1.5], [0.3], [2.0]]))
        latent.logvar.copy_(torch.tensor([[-1.0], [0.2], [-0.5]]))
        latent.logits.copy_(torch.tensor([0.5, 0.0, -0.7]))
    mean, logvar, count = 0.6, -0.8, 40_000
    posterior = DiagonalGaussian(torch.full((count, 1), mean), torch.full((count, 1), logvar))
    estimate = posterior.kl(latent.prior(), posterior.sample(quantiles(count).unsqueeze(1)))
    assert estimate.shape == (count,)

    grid = torch.linspace(-8, 9, 40_001, dtype=torch.float64)
    q = Normal(torch.tensor(mean, dtype=torch.float64), math.exp(logvar / 2))
    p = MixtureSameFamily(
        Categorical(logits=latent.logits.double()), Normal(latent.mean[:, 0].double(), (latent.logvar[:, 0].double() / 2).exp())
    )
    exact = torch.trapezoid(q.log_prob(grid).exp() * (q.log_prob(grid) - p.log_prob(grid)), grid)
    torch.testing.assert_close(float(estimate.mean().detach()), float(exact.detach()), rtol=1e-3, atol=0)


def test_the_prior_starts_with_equal_weights_unit_variances_and_means_as_far_apart_as_it_is_told() -> None:
    torch.manual_seed(0)
    latent = GaussianMixture(dim=200, components=50, spread=3.0)
    prior = latent.prior()
    torch.testing.assert_close(prior.log_weights.exp(), torch.full((50,), 0.02))
    assert torch.equal(prior.logvar, torch.zeros(50, 200))
    torch.testing.assert_close(float(prior.mean.detach().std()), 3.0, rtol=0.03, atol=0)
    assert (latent.code_shape, latent.z_shape) == ((400,), (200,))
    torch.testing.assert_close(float(GaussianMixture(dim=200, components=50).mean.detach().std()), 1.0, rtol=0.03, atol=0)


@pytest.mark.parametrize("kind", ["mixture", "vamp"])
def test_log_variances_are_clamped_in_posterior_and_prior(kind: str) -> None:
    code = torch.tensor([[0.5, 100.0], [1.5, -100.0]])
    if kind == "mixture":
        latent = GaussianMixture(dim=1, components=2, limit=5.0)
        with torch.no_grad():
            latent.logvar.copy_(code[:, 1:])
        prior = latent.prior()
    else:
        latent = Vamp((1,), "identity", dim=1, components=2, limit=5.0)  # type: ignore[assignment]
        prior = latent.prior(lambda u: code)  # type: ignore[call-arg]
    for found in (prior, latent.posterior(code)):
        assert found.logvar.flatten().tolist() == [5.0, -5.0]
    assert torch.equal(latent.posterior(code).mean, Gaussian(dim=1).posterior(code).mean)


# -- the VampPrior -----------------------------------------------------------------------------------------------------


def test_the_vamp_prior_is_the_mean_of_the_encoders_posteriors_at_its_pseudo_inputs() -> None:
    """By hand with a linear encoder: value, and gradients to pseudo-inputs, encoder and z."""
    torch.manual_seed(0)
    latent = Vamp((1, 2, 3), "tanh", dim=2, components=5)
    weight = (0.5 * torch.randn(6, 4)).requires_grad_()
    z = torch.randn(3, 2, requires_grad=True)
    prior = latent.prior(lambda u: u.flatten(1) @ weight)
    value = prior.log_prob(z)

    density = torch.zeros(3)
    for k in range(5):
        code = torch.tanh(latent.raw[k]).flatten() @ weight
        density = density + Normal(code[:2], (code[2:] / 2).exp()).log_prob(z).sum(1).exp() / 5
    torch.testing.assert_close(value, density.log())

    factors = torch.tensor([1.0, -2.0, 0.5])
    leaves = (latent.raw, weight, z)
    found = torch.autograd.grad((value * factors).sum(), leaves)
    expected = torch.autograd.grad((density.log() * factors).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other)


def test_each_pseudo_input_gives_an_equal_share_of_the_samples() -> None:
    latent = Vamp((1,), "identity", dim=1, components=4)
    with torch.no_grad():
        latent.raw.copy_(torch.tensor([[0.0], [10.0], [20.0], [30.0]]))
    prior = latent.prior(lambda u: torch.cat([u, torch.full_like(u, -4.0)], 1))
    samples = prior.sample(quantiles(10_000).unsqueeze(1)).squeeze(1)
    assert torch.bincount((samples / 10).round().long()).tolist() == [2500] * 4


def test_pseudo_inputs_lie_in_model_space() -> None:
    pictures = Vamp((1, 4, 4), "tanh", components=3).pseudo_inputs()
    assert float(pictures.detach().abs().max()) < 1
    tokens = Vamp((5, 7), "softmax", components=3).pseudo_inputs()
    torch.testing.assert_close(tokens.sum(-1), torch.ones(3, 5))
    torch.manual_seed(0)
    vectors = Vamp((300,), "identity", components=40, spread=2.5)
    assert vectors.pseudo_inputs() is vectors.raw
    torch.testing.assert_close(float(vectors.raw.detach().std()), 2.5, rtol=0.03, atol=0)


def test_a_model_with_a_vamp_prior_samples_encodes_and_reconstructs_in_use(training: Callable[..., Training]) -> None:
    text = AUTOENCODER + '[latent]\nuse = "vamp"\ndim = 3\ncomponents = 6\n[loss.kl]\nuse = "kl"\n'
    state = training(text, spec=POINTS)
    model = GenerativeModel(state.model, state.refresh_averaged())
    samples = model.sample(9, seed=4)
    assert samples.shape == (9, 2)
    assert torch.equal(samples, model.sample(9, seed=4))
    assert len(samples.unique(dim=0)) == 9
    assert model.reconstruct(torch.randn(5, 2)).shape == (5, 2)
