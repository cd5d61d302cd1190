"""Latents: densities, samples, limits."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from hybridgen_latents.deterministic import Deterministic
from hybridgen_latents.gaussian import DiagonalGaussian, Gaussian, StandardNormal


def test_the_code_is_mean_and_log_variance() -> None:
    latent = Gaussian(dim=3)
    assert (latent.code_shape, latent.z_shape) == ((6,), (3,))
    code = torch.arange(12.0).reshape(2, 6)
    posterior = latent.posterior(code)
    assert torch.equal(posterior.mean, code[:, :3])
    assert torch.equal(posterior.logvar, code[:, 3:].clamp(max=20))


def test_sampling_is_the_reparameterisation() -> None:
    mean, logvar = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    noise = torch.tensor([[3.0, -1.0]])
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).sample(noise), mean + (logvar / 2).exp() * noise)
    draws = DiagonalGaussian(mean.expand(50000, 2), logvar.expand(50000, 2)).sample(
        torch.randn(50000, 2, generator=torch.Generator().manual_seed(0))
    )
    torch.testing.assert_close(draws.mean(0), mean[0], atol=0.05, rtol=0)
    torch.testing.assert_close(draws.var(0), logvar[0].exp(), atol=0, rtol=0.03)


def test_densities() -> None:
    mean, logvar, z = torch.randn(4, 3), torch.randn(4, 3), torch.randn(4, 3)
    expected = MultivariateNormal(mean, torch.diag_embed(logvar.exp())).log_prob(z)
    torch.testing.assert_close(DiagonalGaussian(mean, logvar).log_prob(z), expected)
    torch.testing.assert_close(StandardNormal().log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(1))


def test_the_one_sample_kl_estimates_the_closed_form() -> None:
    class Shifted:
        def log_prob(self, z: torch.Tensor) -> torch.Tensor:
            return StandardNormal().log_prob(z)

    torch.manual_seed(0)
    posterior = DiagonalGaussian(torch.full((20000, 2), 0.7), torch.full((20000, 2), -1.0))
    z = posterior.sample(torch.randn(20000, 2))
    torch.testing.assert_close(posterior.kl(Shifted(), z).mean(), posterior.kl(StandardNormal()).mean(), rtol=0.03, atol=0)
    with pytest.raises(ValueError, match="pass `z`"):
        posterior.kl(Shifted())


def test_the_log_variance_is_clamped_where_it_would_overflow() -> None:
    code = torch.tensor([[0.0, 1000.0], [0.0, -1000.0]], requires_grad=True)
    posterior = Gaussian(dim=1).posterior(code)
    kl = posterior.kl(StandardNormal()).sum()
    assert torch.isfinite(kl)
    assert float(torch.autograd.grad(kl, code)[0][0, 1]) == 0.0


def test_a_point_has_no_spread_and_no_kl() -> None:
    point = Deterministic(dim=2).posterior(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(point.sample(torch.randn(1, 2)), torch.tensor([[1.0, 2.0]]))
    with pytest.raises(ValueError, match="remove the KL loss"):
        point.kl(StandardNormal())
    assert Deterministic().prior() is None
    assert isinstance(Deterministic(prior="normal").prior(), StandardNormal)
