"""Bounded latents, and InfoGAN's with its mutual information."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, OneHotCategorical
from torch.distributions import Uniform as UniformDistribution

from hybridgen_latents.bounded import Sphere, Uniform
from hybridgen_latents.info import Info
from hybridgen_losses.information import MutualInformation


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiles(count: int) -> Tensor:
    """Standard normal noise without chance: the middles of `count` slices of equal probability."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


# -- the cube ----------------------------------------------------------------------------------------------------------


def test_the_cube_is_filled_uniformly() -> None:
    latent = Uniform(dim=3)
    assert (latent.code_shape, latent.z_shape) == ((3,), (3,))
    z = latent.prior().sample(quantiles(3000).reshape(3, 1000).T).T.flatten()
    torch.testing.assert_close(z, (torch.arange(3000) + 0.5) / 1500 - 1, atol=1e-5, rtol=0)


def test_the_density_of_the_cube() -> None:
    z = torch.tensor([[0.3, -0.9, 0.0], [1.0, -1.0, 0.5], [0.0, 1.01, 0.0], [-1.5, 0.0, 2.0]])
    inside = UniformDistribution(-1.0, 1.0, validate_args=False).log_prob(torch.zeros(3)).sum()
    assert Uniform(dim=3).prior().log_prob(z).tolist() == pytest.approx([float(inside)] * 2 + [-math.inf] * 2)
    assert Uniform(dim=3).prior().log_prob(z[:1]).tolist() == pytest.approx([float(inside)])


@pytest.mark.parametrize("latent", [Uniform(dim=3), Sphere(dim=3)])
def test_a_bounded_code_is_a_point_without_kl(latent: Uniform | Sphere) -> None:
    posterior = latent.posterior(numbers(4, 3))
    assert posterior.sample(numbers(4, 3)) is posterior.mean
    with pytest.raises(ValueError, match="remove the KL loss"):
        posterior.kl(latent.prior())


def test_a_code_enters_the_cube_through_tanh() -> None:
    code = numbers(4, 3)
    torch.testing.assert_close(Uniform(dim=3).posterior(code).mean, (1 - (-2 * code).exp()) / (1 + (-2 * code).exp()))


# -- the sphere --------------------------------------------------------------------------------------------------------


def test_codes_and_samples_lie_on_the_sphere_in_the_direction_they_had() -> None:
    latent = Sphere(dim=5)
    assert (latent.code_shape, latent.z_shape) == ((5,), (5,))
    vectors = numbers(7, 5)
    for z in (latent.posterior(vectors).mean, latent.prior().sample(vectors)):
        torch.testing.assert_close(z.square().sum(1), torch.full((7,), 5.0))
        torch.testing.assert_close(torch.cosine_similarity(z, vectors), torch.ones(7))


def test_the_sphere_is_covered_uniformly() -> None:
    z = Sphere(dim=4).prior().sample(numbers(100_000, 4))
    torch.testing.assert_close(z.mean(0), torch.zeros(4), atol=0.015, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(4), atol=0.02, rtol=0)
    # E[z_0^4] = 3 d / (d + 2) for radius sqrt(d); 3 for a Gaussian
    torch.testing.assert_close(float(z[:, 0].pow(4).mean()), 2.0, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("dim", "area"), [(2, 2 * math.pi * math.sqrt(2)), (3, 4 * math.pi * 3), (5, 8 * math.pi**2 / 3 * 5**2)]
)
def test_the_density_on_the_sphere_is_one_over_its_area(dim: int, area: float) -> None:
    prior = Sphere(dim=dim).prior()
    z = prior.sample(numbers(6, dim))
    torch.testing.assert_close(prior.log_prob(z), torch.full((6,), -math.log(area)))


def test_no_gradient_lengthens_a_code_on_the_sphere() -> None:
    code, factors = numbers(4, 3).requires_grad_(), numbers(4, 3, seed=1)
    (Sphere(dim=3).posterior(code).mean * factors).sum().backward()
    unit = code.detach() / code.detach().norm(dim=1, keepdim=True)
    across = factors - (factors * unit).sum(1, keepdim=True) * unit
    torch.testing.assert_close(code.grad, math.sqrt(3) * across / code.detach().norm(dim=1, keepdim=True))


# -- InfoGAN -----------------------------------------------------------------------------------------------------------


def info() -> Info:
    return Info(noise=3, categories=(4, 5), continuous=2)


def test_the_layout_of_z_and_of_the_code() -> None:
    latent = info()
    assert (latent.z_shape, latent.code_shape) == ((14,), (13,))
    noise = numbers(9, 14)
    z = latent.prior().sample(noise)
    assert torch.equal(z[:, :3], noise[:, :3])
    for start, end in ((3, 7), (7, 12)):
        assert torch.equal(z[:, start:end], torch.eye(end - start)[noise[:, start:end].argmax(1)])
    torch.testing.assert_close(z[:, 12:], 2 * Normal(0.0, 1.0).cdf(noise[:, 12:]) - 1)


def test_categories_are_drawn_alike_and_independently() -> None:
    z = info().prior().sample(numbers(60_000, 14))
    pairs = torch.einsum("bi,bj->ij", z[:, 3:7], z[:, 7:12]) / 60_000
    torch.testing.assert_close(pairs, torch.full((4, 5), 1 / 20), atol=0.004, rtol=0)
    torch.testing.assert_close(z[:, 12:].var(0), torch.full((2,), 1 / 3), atol=0.005, rtol=0)


def test_the_density_of_the_prior() -> None:
    prior = info().prior()
    z = prior.sample(numbers(6, 14))
    expected = Normal(0.0, 1.0).log_prob(z[:, :3]).sum(1) - math.log(4) - math.log(5) - 2 * math.log(2)
    torch.testing.assert_close(prior.log_prob(z), expected)
    for column, value in ((12, 1.2), (3, 0.5), (8, 2.0)):
        wrong = z.clone()
        wrong[:, column] = value
        assert torch.equal(prior.log_prob(wrong), torch.full((6,), -math.inf))
    for no_category in ([0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]):
        wrong = z.clone()
        wrong[:, 3:7] = torch.tensor(no_category)
        assert torch.equal(prior.log_prob(wrong), torch.full((6,), -math.inf))
    edge = z.clone()
    edge[:, 12:] = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(prior.log_prob(edge), expected)


def test_what_q_says_is_the_log_probability_of_torch_distributions() -> None:
    latent = info()
    z = latent.prior().sample(numbers(6, 14))
    code = numbers(6, 13, seed=2).requires_grad_()
    found = latent.code_log_prob(code, z)
    expected = (
        OneHotCategorical(logits=code[:, :4]).log_prob(z[:, 3:7])
        + OneHotCategorical(logits=code[:, 4:9]).log_prob(z[:, 7:12])
        + Normal(code[:, 9:11], (code[:, 11:] / 2).exp()).log_prob(z[:, 12:]).sum(1)
    )
    torch.testing.assert_close(found, expected)
    factors = torch.arange(1.0, 7.0)
    one, other = (torch.autograd.grad((value * factors).sum(), code)[0] for value in (found, expected))
    torch.testing.assert_close(one, other)


def test_a_log_variance_of_q_is_clamped() -> None:
    latent = Info(noise=0, categories=(), continuous=1, limit=3.0)
    code = torch.tensor([[0.5, -50.0]], requires_grad=True)
    value = latent.code_log_prob(code, torch.tensor([[0.5]]))
    torch.testing.assert_close(value, torch.tensor([1.5 - 0.5 * math.log(2 * math.pi)]))
    value.sum().backward()
    assert float(code.grad[0, 1]) == 0.0  # type: ignore[index]


def test_encoding_gives_probabilities_and_means_and_knows_nothing_of_the_noise() -> None:
    latent = info()
    code, noise = numbers(6, 13), numbers(6, 14, seed=1)
    posterior = latent.posterior(code)
    codes = torch.cat([code[:, :4].softmax(1), code[:, 4:9].softmax(1), code[:, 9:11]], 1)
    torch.testing.assert_close(posterior.mean, torch.cat([torch.zeros(6, 3), codes], 1))
    torch.testing.assert_close(posterior.sample(noise), torch.cat([noise[:, :3], codes], 1))
    with pytest.raises(ValueError, match="mutual-information"):
        posterior.kl(latent.prior())


def test_the_bound_is_the_entropy_where_q_is_perfect_and_zero_where_it_knows_nothing() -> None:
    latent = Info(noise=2, categories=(4, 3), continuous=0)
    z = latent.prior().sample(numbers(5000, 9))
    loss = MutualInformation()

    def value(code: Tensor) -> float:
        return float(loss(latent.code_log_prob(code, z), latent.code_entropy(z)))

    assert value(50 * z[:, 2:]) == pytest.approx(-math.log(4) - math.log(3), rel=1e-5)
    assert value(torch.zeros(5000, 7)) == pytest.approx(0.0, abs=1e-5)
    assert value(numbers(5000, 7, seed=3)) > 0.1  # sure of what it does not know


def test_the_bound_for_a_continuous_code() -> None:
    """Q = N(0, 1/3), the best that knows nothing: E log Q over the uniform code is -log(2 pi e / 3) / 2."""
    latent = Info(noise=0, categories=(), continuous=3)
    z = latent.prior().sample(quantiles(3000).reshape(3, 1000).T)
    code = torch.tensor([0.0, 0, 0, *[-math.log(3)] * 3]).expand(1000, 6)
    found = MutualInformation()(latent.code_log_prob(code, z), latent.code_entropy(z))
    assert float(found) == pytest.approx(3 * (0.5 * math.log(2 * math.pi * math.e / 3) - math.log(2)), abs=1e-4)


def test_the_term_is_the_batch_mean_and_its_gradient_raises_what_q_says() -> None:
    said = numbers(5).requires_grad_()
    loss = MutualInformation()(said, torch.full((5,), 0.75))
    torch.testing.assert_close(loss, -(said.mean() + 0.75))
    loss.backward()
    torch.testing.assert_close(said.grad, torch.full((5,), -0.2))


def test_the_log_variances_of_q_are_clamped_on_both_sides() -> None:
    latent = Info(noise=1, categories=(), continuous=1, limit=3.0)
    z = torch.zeros(2, 2)
    for raw, held in ((50.0, 3.0), (-50.0, -3.0)):
        code = torch.tensor([[0.5, raw]]).expand(2, 2)
        expected = Normal(0.5, math.exp(held / 2)).log_prob(torch.tensor(0.0))
        torch.testing.assert_close(latent.code_log_prob(code, z), expected.expand(2))


def test_an_info_latent_without_codes_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to read back"):
        Info(categories=(), continuous=0)
    with pytest.raises(ValueError, match="at least 2 values"):
        Info(categories=(10, 1))
    assert Info(categories=(2,), continuous=0).code_shape == (2,)
