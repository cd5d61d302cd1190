"""Latents: densities, samples, limits; codes in the plane."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from hybridgen_latents.bounded import Sphere, Uniform
from hybridgen_latents.deterministic import Deterministic
from hybridgen_latents.gaussian import DiagonalGaussian, Gaussian, StandardNormal
from hybridgen_latents.info import Info
from hybridgen_latents.mixture import GaussianMixture
from hybridgen_latents.quantised import FiniteScalar, VectorQuantised
from hybridgen_latents.vamp import Vamp


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


SPATIAL: dict[str, Callable[..., nn.Module]] = {
    "gaussian": lambda *facts, **options: Gaussian(*facts, dim=4, **options),
    "deterministic": lambda *facts, **options: Deterministic(*facts, dim=4, **options),
    "vector-quantised": lambda *facts, **options: VectorQuantised(*facts, dim=4, **options),
    "finite-scalar": lambda *facts, **options: FiniteScalar(*facts, levels=(5, 5, 5, 5), **options),
}


@pytest.mark.parametrize("name", SPATIAL)
def test_a_spatial_code_has_the_sides_of_the_picture_halved_and_rounded_up(name: str) -> None:
    values = 8 if name == "gaussian" else 4
    for halvings, plane in ((0, (9, 5)), (1, (5, 3)), (2, (3, 2)), (4, (1, 1))):
        latent: Any = SPATIAL[name]((3, 9, 5), halvings=halvings)
        assert (latent.code_shape, latent.z_shape) == ((values, *plane), (4, *plane))
        code = torch.randn(2, *latent.code_shape)
        assert latent.posterior(code).sample(torch.randn(2, *latent.z_shape)).shape == (2, *latent.z_shape)
    without: Any = SPATIAL[name]((3, 9, 5))
    assert (without.code_shape, without.z_shape) == ((values,), (4,))


@pytest.mark.parametrize("name", SPATIAL)
def test_halvings_that_the_data_do_not_permit_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: halvings = 5 halves 9x5 .* at most 4"):
        SPATIAL[name]((3, 9, 5), halvings=5)
    with pytest.raises(ValueError, match=rf"{name}: `halvings` wants pictures .* \(7,\); leave it out"):
        SPATIAL[name]((7,), halvings=1)
    with pytest.raises(ValueError, match="wants pictures"):
        SPATIAL[name](halvings=1)


def test_a_spatial_posterior_sums_over_its_map() -> None:
    latent = Gaussian((1, 6, 4), dim=3, halvings=1)
    code = torch.randn(5, 6, 3, 2, generator=torch.Generator().manual_seed(0))
    posterior = latent.posterior(code)
    assert torch.equal(posterior.mean, code[:, :3])
    q = Normal(code[:, :3], (code[:, 3:] / 2).exp())
    torch.testing.assert_close(posterior.kl(latent.prior()), kl_divergence(q, Normal(0.0, 1.0)).sum((1, 2, 3)))
    z = torch.randn(5, 3, 3, 2)
    torch.testing.assert_close(posterior.log_prob(z), q.log_prob(z).sum((1, 2, 3)))
    torch.testing.assert_close(latent.prior().log_prob(z), Normal(0.0, 1.0).log_prob(z).sum((1, 2, 3)))


def _encode(latent: Any) -> Callable[[Tensor], Tensor]:
    def encode(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1] * torch.ones(latent.code_shape, device=x.device)

    return encode


EVERY: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: Gaussian((1, 8, 8), dim=3, halvings=1),
    "deterministic": lambda: Deterministic(prior="normal"),
    "gaussian-mixture": lambda: GaussianMixture(components=3),
    "vamp": lambda: Vamp((1, 8, 8), "tanh", components=3),
    "uniform": Uniform,
    "sphere": Sphere,
    "vector-quantised": lambda: VectorQuantised((1, 8, 8), codes=5, halvings=2, prior="uniform"),
    "vector-quantised-gradient": lambda: VectorQuantised(codes=5, codebook="gradient", prior="uniform"),
    "finite-scalar": lambda: FiniteScalar((1, 8, 8), halvings=2, prior="uniform"),
    "info": lambda: Info(noise=3),
}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", EVERY)
def test_every_latent_states_its_shapes_computes_in_float32_and_copies(name: str, device: str) -> None:
    """On the meta device as well, where the dry run needs it."""
    with torch.device(device):
        latent = copy.deepcopy(EVERY[name]())
        code = torch.randn(7, *latent.code_shape, dtype=torch.bfloat16)
        noise = torch.randn(7, *latent.z_shape)
        posterior = latent.posterior(code)
        prior = latent.prior(_encode(latent)) if name == "vamp" else latent.prior()
        for sample in (posterior.mean, posterior.sample(noise), prior.sample(noise)):
            assert (tuple(sample.shape), sample.dtype) == ((7, *latent.z_shape), torch.float32)
        assert (prior.log_prob(prior.sample(noise)).shape, prior.log_prob(noise).dtype) == ((7,), torch.float32)
        if name.startswith("vector"):
            latent.update(code, posterior.indices, torch.rand(posterior.indices.shape))
        elif name == "finite-scalar":
            latent.update(posterior.indices)
