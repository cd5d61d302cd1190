"""Terms of the latent: value and gradient against closed forms, enumerations and written-out sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Laplace, MultivariateNormal, Normal, kl_divergence

from hybridgen_latents.deterministic import Point
from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal
from hybridgen_losses.disentangle import DIP, Factor, TCDecomposition
from hybridgen_losses.importance import ImportanceWeighted
from hybridgen_losses.kl import Capacity, FreeBits
from hybridgen_losses.mmd import MMD
from hybridgen_losses.reconstruction import Reconstruction
from hybridgen_nets.conv import ConvDecoder
from hybridgen_providers.permuted import permuted


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, of, retain_graph=True)


def slope_of(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient by central differences."""
    found = torch.zeros_like(at)
    for i in range(at.numel()):
        move = torch.zeros(at.numel(), dtype=at.dtype)
        move[i] = step
        move = move.view_as(at)
        found.view(-1)[i] = (function(at + move) - function(at - move)) / (2 * step)
    return found


class Bimodal:
    """A prior without a closed form."""

    def log_prob(self, z: Tensor) -> Tensor:
        shifted = torch.stack([Normal(m, 0.5).log_prob(z).flatten(1).sum(1) for m in (-1.0, 1.0)])
        return shifted.logsumexp(0) - math.log(2)


# -- capacity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "sign"), [(0.3, -1), (2.0, 1)])
def test_capacity_pulls_the_kl_to_the_target_from_both_sides(size: float, sign: int) -> None:
    mean, logvar = (size * values(5, 3)).requires_grad_(), torch.zeros(5, 3, dtype=torch.float64)
    loss = Capacity(capacity=3.0, over=0.5)(DiagonalGaussian(mean, logvar), StandardNormal(), mean, torch.tensor(0.25))
    kl = float((mean.detach() ** 2 / 2).sum() / 5)
    assert np.sign(kl - 1.5) == sign
    assert float(loss.detach()) == pytest.approx(sign * (kl - 1.5))
    torch.testing.assert_close(gradients(loss, mean)[0], sign * mean.detach() / 5)


def test_the_capacity_rises_linearly_and_stays() -> None:
    nothing = DiagonalGaussian(torch.zeros(4, 3), torch.zeros(4, 3))
    term = Capacity(capacity=20.0, over=0.8)
    for progress, target in ((0.0, 0.0), (0.2, 5.0), (0.4, 10.0), (0.8, 20.0), (0.9, 20.0), (1.0, 20.0)):
        loss = term(nothing, StandardNormal(), nothing.mean, torch.tensor(progress))
        assert float(loss) == pytest.approx(target)


def test_the_capacity_holds_the_batch_mean_under_any_prior() -> None:
    mean = torch.tensor([[0.0], [0.0], [3.0]])  # KL 0, 0, 4.5: mean 1.5, where each by itself is 1.5 or 3 away
    posterior = DiagonalGaussian(mean, torch.zeros(3, 1))
    assert float(Capacity(capacity=1.5, over=1.0)(posterior, StandardNormal(), mean, torch.tensor(1.0))) == 0.0
    z = torch.tensor([[0.5], [-1.0], [2.0]])
    estimate = (posterior.log_prob(z) - Bimodal().log_prob(z)).mean()
    loss = Capacity(capacity=7.0, over=1.0)(posterior, Bimodal(), z, torch.tensor(1.0))
    torch.testing.assert_close(loss, 7.0 - estimate)


# -- free bits ---------------------------------------------------------------------------------------------------------


def test_without_a_floor_free_bits_are_the_plain_kl() -> None:
    mean, logvar = values(2, 64, 8)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(FreeBits(free=0.0)(DiagonalGaussian(mean, logvar), StandardNormal()), expected)


def test_a_dimension_under_the_floor_costs_the_floor_and_gets_no_gradient() -> None:
    mean = torch.tensor([[1.0, 0.0], [1.0, 0.6]], requires_grad=True)  # KL m**2 / 2: 0.5; 0 and 0.18, mean 0.09
    loss = FreeBits(free=0.1)(DiagonalGaussian(mean, torch.zeros(2, 2)), StandardNormal())
    torch.testing.assert_close(loss, torch.tensor(0.5 + 0.1))
    torch.testing.assert_close(gradients(loss, mean)[0], torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


def test_in_a_spatial_code_a_dimension_is_a_channel() -> None:
    mean = torch.zeros(3, 2, 2, 2)
    mean[:, 0] = 0.6  # 4 positions of 0.18: 0.72 in this channel, 0 in the other
    posterior = DiagonalGaussian(mean.requires_grad_(), torch.zeros_like(mean))
    loss = FreeBits(free=0.5)(posterior, StandardNormal())
    torch.testing.assert_close(loss, torch.tensor(0.72 + 0.5))
    expected = torch.zeros(3, 2, 2, 2)
    expected[:, 0] = 0.6 / 3
    torch.testing.assert_close(gradients(loss, mean)[0], expected)
    logvar = values(3, 2, 2, 2)
    posterior = DiagonalGaussian(mean.detach().double(), logvar)
    torch.testing.assert_close(FreeBits(free=0.0)(posterior, StandardNormal()), posterior.kl(StandardNormal()).mean())


def test_free_bits_refuse_what_has_no_closed_form() -> None:
    with pytest.raises(ValueError, match=r'is a Bimodal; write \[latent\] use = "gaussian", or use = "kl"'):
        FreeBits()(DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 3)), Bimodal())
    with pytest.raises(ValueError, match="this one is a Point"):
        FreeBits()(Point(torch.zeros(2, 3)), StandardNormal())


# -- the KL in three parts ---------------------------------------------------------------------------------------------


def mixture(n: int, d: int) -> tuple[DiagonalGaussian, Tensor]:
    """Posteriors of n examples, and one sample of each."""
    mean, logvar = values(n, d).requires_grad_(), (0.5 * values(n, d, seed=1) - 1).requires_grad_()
    return DiagonalGaussian(mean, logvar), mean + (logvar / 2).exp() * values(n, d, seed=2)


def three_parts(posterior: DiagonalGaussian, z: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """MI, TC and dimension-wise KL written out: densities, not logarithms, sample by sample."""
    information, correlation, dimensions = [], [], []
    for i in range(len(z)):
        densities = Normal(posterior.mean, (posterior.logvar / 2).exp()).log_prob(z[i]).exp()  # j d
        q_zx, q_z = densities[i].prod(), (weights[i] * densities.prod(1)).sum()
        q_zd = (weights[i, :, None] * densities).sum(0)
        p_z = Normal(0.0, 1.0).log_prob(z[i]).exp().prod()
        information.append((q_zx / q_z).log())
        correlation.append((q_z / q_zd.prod()).log())
        dimensions.append((q_zd.prod() / p_z).log())
    return tuple(torch.stack(part).mean() for part in (information, correlation, dimensions))  # type: ignore[return-value]


def weights_of(estimator: str, b: int, n: int) -> Tensor:
    if estimator == "weighted":
        return torch.full((b, b), 1 / (n * b), dtype=torch.float64)
    weights = torch.full((b, b), (n - 1) / n / (b - 1), dtype=torch.float64)
    weights.fill_diagonal_(1 / n)
    return weights


@pytest.mark.parametrize("prices", [(1.0, 1.0, 1.0), (0.3, 1.7, 2.6), (0.0, 5.0, 0.4)])
@pytest.mark.parametrize(("estimator", "examples"), [("stratified", 5), ("stratified", 40), ("weighted", 40)])
def test_the_three_parts_of_the_kl_each_at_their_price(estimator: Any, examples: int, prices: tuple[float, ...]) -> None:
    posterior, z = mixture(5, 3)
    alpha, beta, gamma = prices
    term = TCDecomposition(examples, alpha=alpha, beta=beta, gamma=gamma, estimator=estimator)
    loss = term(posterior, StandardNormal(), z)
    parts = three_parts(posterior, z, weights_of(estimator, 5, examples))
    expected = alpha * parts[0] + beta * parts[1] + gamma * parts[2]
    torch.testing.assert_close(loss, expected)
    leaves = posterior.mean, posterior.logvar
    torch.testing.assert_close(gradients(loss, *leaves), gradients(expected, *leaves))


def test_stratified_sampling_is_exact_where_the_batch_is_the_data() -> None:
    posterior, z = mixture(5, 3)
    log_q_z, log_q_zd = TCDecomposition(5, estimator="stratified").aggregate(posterior.mean, posterior.logvar, z)
    densities = Normal(posterior.mean, (posterior.logvar / 2).exp()).log_prob(z.unsqueeze(1)).exp()  # i j d
    torch.testing.assert_close(log_q_z.exp(), densities.prod(2).mean(1))
    torch.testing.assert_close(log_q_zd.exp(), densities.mean(1))


def test_stratified_sampling_is_unbiased_over_the_batches_that_hold_an_example() -> None:
    """All batches of 3 out of 6 examples that hold the first one, whose sample is judged."""
    posterior, z = mixture(6, 2)
    term = TCDecomposition(6, estimator="stratified")
    found = []
    for others in itertools.combinations(range(1, 6), 2):
        batch = [0, *others]
        log_q_z, log_q_zd = term.aggregate(posterior.mean[batch], posterior.logvar[batch], z[batch])
        found.append(torch.cat([log_q_z[:1], log_q_zd[0]]).exp())
    densities = Normal(posterior.mean, (posterior.logvar / 2).exp()).log_prob(z[0]).exp()  # j d
    torch.testing.assert_close(torch.stack(found).mean(0), torch.cat([densities.prod(1, keepdim=True), densities], 1).mean(0))


def test_stratified_sampling_averages_the_papers_estimate_over_whom_it_singles_out() -> None:
    """Chen et al., appendix C: 1/N for the sample's own example, (N - M)/(N M) for one other, 1/M for the rest; M = b - 1."""
    n, b = 20, 4
    m = b - 1
    papers = []
    for singled in range(1, b):
        row = torch.full((b,), 1 / m, dtype=torch.float64)
        row[0], row[singled] = 1 / n, (n - m) / (n * m)
        assert float(row.sum()) == pytest.approx(1.0)
        papers.append(row)
    got = TCDecomposition(n, estimator="stratified").log_weights(values(b, 2)).exp()
    torch.testing.assert_close(got[0], torch.stack(papers).mean(0))
    torch.testing.assert_close(got.sum(1), torch.ones(b, dtype=torch.float64))
    weighted = TCDecomposition(n, estimator="weighted").log_weights(values(b, 2)).exp()
    torch.testing.assert_close(weighted.sum(1), torch.full((b,), 1 / n, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_at_equal_prices_the_parts_are_the_kl(estimator: Any) -> None:
    posterior, z = mixture(600, 3)
    loss = TCDecomposition(5000, alpha=1.0, beta=1.0, gamma=1.0, estimator=estimator)(posterior, StandardNormal(), z)
    torch.testing.assert_close(loss, (posterior.log_prob(z) - StandardNormal().log_prob(z)).mean())
    torch.testing.assert_close(loss, posterior.kl(StandardNormal()).mean(), rtol=0.05, atol=0)


def test_independent_dimensions_have_no_total_correlation() -> None:
    """Codes on a grid factorise: q(z) over the data is the product of its marginals, exactly."""
    grid = torch.cartesian_prod(torch.tensor([-2.0, 0.0, 1.0, 2.5]), torch.tensor([-1.0, 0.3, 2.0])).double()
    line = torch.stack([grid[:, 0], grid[:, 0]], 1)

    def correlation(mean: Tensor) -> float:
        posterior = DiagonalGaussian(mean, torch.full_like(mean, -2.0))
        z = mean + math.exp(-1.0) * values(*mean.shape)
        terms = [TCDecomposition(12, beta=beta, estimator="stratified") for beta in (3.0, 2.0)]
        return float(terms[0](posterior, StandardNormal(), z) - terms[1](posterior, StandardNormal(), z))

    assert correlation(grid) == pytest.approx(0.0, abs=1e-12)
    assert correlation(line) > 0.8


def test_every_value_of_a_spatial_code_is_a_dimension_of_the_decomposition() -> None:
    posterior, z = mixture(5, 12)
    spatial = DiagonalGaussian(posterior.mean.view(5, 3, 2, 2), posterior.logvar.view(5, 3, 2, 2))
    term = TCDecomposition(30, beta=4.0, estimator="weighted")
    torch.testing.assert_close(
        term(spatial, StandardNormal(), z.view(5, 3, 2, 2)), term(posterior, StandardNormal(), z), rtol=1e-12, atol=0
    )


def test_the_decomposition_refuses_what_it_cannot_mean() -> None:
    posterior, z = mixture(3, 2)
    with pytest.raises(ValueError, match="is a Bimodal"):
        TCDecomposition(30)(posterior, Bimodal(), z)
    with pytest.raises(ValueError, match="this one is a Point"):
        TCDecomposition(30)(Point(z), StandardNormal(), z)
    with pytest.raises(ValueError, match="at least 2 training examples, there are 1"):
        TCDecomposition(1)
    with pytest.raises(ValueError, match="this one has 1; raise batch_size"):
        TCDecomposition(30)(DiagonalGaussian(z[:1], z[:1]), StandardNormal(), z[:1])


# -- FactorVAE ---------------------------------------------------------------------------------------------------------


def test_the_best_critic_measures_the_total_correlation_of_a_gaussian() -> None:
    """TC = -1/2 log det R for a Gaussian with correlations R; the best critic's logit is the log-density ratio."""
    correlations = torch.tensor([[1.0, 0.6, -0.2], [0.6, 1.0, 0.3], [-0.2, 0.3, 1.0]], dtype=torch.float64)
    joint = MultivariateNormal(torch.zeros(3, dtype=torch.float64), correlations)
    z = values(100000, 3) @ torch.linalg.cholesky(correlations).T
    logits = joint.log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(1)
    truth = -0.5 * float(torch.logdet(correlations))
    assert float(Factor().generator(logits)) == pytest.approx(truth, rel=0.02)


def test_factor_terms_at_known_logits() -> None:
    real, fake = torch.tensor([[-3.0, 0.0], [3.0, 1.0], [0.5, 2.0]], requires_grad=True), torch.tensor([-1.0, 2.0])
    fake.requires_grad_()
    loss = Factor().generator(real)
    assert float(loss.detach()) == pytest.approx(3.5 / 6)
    torch.testing.assert_close(gradients(loss, real)[0], torch.full((3, 2), 1 / 6))
    loss = Factor().discriminator(real, fake)
    expected = -0.5 * (real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    torch.testing.assert_close(loss, expected)
    slopes = 0.5 * (real.detach().sigmoid() - 1) / 6, 0.5 * fake.detach().sigmoid() / 2
    torch.testing.assert_close(gradients(loss, real, fake), slopes)
    assert float(Factor().discriminator(torch.zeros(4), torch.zeros(5))) == pytest.approx(math.log(2))
    extreme = torch.tensor([-1000.0, 1000.0])
    assert float(Factor().discriminator(extreme, extreme)) == pytest.approx(500.0)


@pytest.mark.parametrize("shape", [(7,), (3, 2, 2)])
def test_permuted_shuffles_every_dimension_by_itself(shape: tuple[int, ...]) -> None:
    z, noise = values(50, *shape).requires_grad_(), values(50, *shape, seed=1)
    got = permuted(z, noise)
    assert torch.equal(got.sort(0).values, z.sort(0).values)
    came_from = (got.unsqueeze(1) == z).flatten(2).long().argmax(1)  # new row -> old row, for each dimension
    assert len(torch.unique(came_from, dim=1).T) == math.prod(shape)  # no two dimensions alike
    weight = values(50, *shape, seed=2)
    expected = torch.zeros(50, math.prod(shape), dtype=torch.float64).scatter(0, came_from, weight.flatten(1))
    torch.testing.assert_close(gradients((got * weight).sum(), z)[0].flatten(1), expected)


def test_permuted_draws_all_orders_alike() -> None:
    """24,000 dimensions over a batch of 3: each of the six orders in a sixth of them (standard deviation 58)."""
    z = torch.arange(3.0).unsqueeze(1).expand(3, 24000)
    orders, counts = torch.unique(permuted(z, values(3, 24000)), dim=1, return_counts=True)
    assert orders.shape[1] == 6
    assert float((counts - 4000).abs().max()) < 250


# -- DIP-VAE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 2, 1)])
@pytest.mark.parametrize(
    ("kind", "lambda_d", "used"), [("i", None, 30.0), ("i", 5.0, 5.0), ("ii", None, 3.0), ("ii", 7.0, 7.0)]
)
def test_dip_is_a_penalty_on_the_covariance(kind: Any, lambda_d: float | None, used: float, shape: tuple[int, ...]) -> None:
    term = DIP(kind=kind, lambda_od=3.0, lambda_d=lambda_d)

    def expected(mean: Tensor, logvar: Tensor) -> float:
        covariance = np.cov(mean.flatten(1).numpy(), rowvar=False)
        if kind == "ii":
            covariance = covariance + np.diag(np.exp(logvar.flatten(1).numpy()).mean(0))
        d = len(covariance)
        off = sum(covariance[i, j] ** 2 for i in range(d) for j in range(d) if i != j)
        return 3.0 * off + used * sum((covariance[i, i] - 1) ** 2 for i in range(d))

    mean, logvar = values(4, *shape).requires_grad_(), values(4, *shape, seed=1).requires_grad_()
    loss = term(DiagonalGaussian(mean, logvar))
    assert float(loss.detach()) == pytest.approx(expected(mean.detach(), logvar.detach()), rel=1e-12)
    of_mean = slope_of(lambda m: torch.tensor(expected(m, logvar.detach())), mean.detach())
    torch.testing.assert_close(gradients(loss, mean)[0], of_mean, rtol=1e-6, atol=1e-6)
    if kind == "ii":
        of_logvar = slope_of(lambda v: torch.tensor(expected(mean.detach(), v)), logvar.detach())
        torch.testing.assert_close(gradients(loss, logvar)[0], of_logvar, rtol=1e-6, atol=1e-6)


def test_the_kinds_of_dip_agree_where_posteriors_have_no_spread() -> None:
    mean = values(6, 4)
    for logvar, same in ((-60.0, True), (-1.0, False)):
        posterior = DiagonalGaussian(mean, torch.full_like(mean, logvar))
        one, two = (DIP(kind=kind, lambda_od=3.0, lambda_d=2.0)(posterior) for kind in ("i", "ii"))  # type: ignore[arg-type]
        assert torch.isclose(one, two) == same
    standard = DiagonalGaussian(torch.zeros(6, 4), torch.zeros(6, 4))  # collapsed: z is N(0, I), its mean does not vary
    assert float(DIP(kind="ii")(standard)) == 0.0
    assert float(DIP(kind="i", lambda_d=2.5)(standard)) == 4 * 2.5


def test_dip_refuses_what_it_cannot_mean() -> None:
    assert float(DIP(kind="i")(Point(values(5, 3)))) > 0
    with pytest.raises(ValueError, match=r'dip with kind = "ii" needs .* a Point; .* or kind = "i"'):
        DIP(kind="ii")(Point(values(5, 3)))
    with pytest.raises(ValueError, match="dip compares the samples of a batch, this one has 1"):
        DIP()(Point(values(1, 3)))


# -- maximum mean discrepancy ------------------------------------------------------------------------------------------

SCALES = (0.3, 1.0, 4.0)


def mmd_by_loops(z: Tensor, p: Tensor, kernel: str, estimator: str, sigma: float) -> Tensor:
    """Pair by pair, from the definitions."""
    n, d = z.shape

    def k(a: Tensor, b: Tensor) -> Tensor:
        squared = (a - b).square().sum()
        if kernel == "imq":
            return sum(2 * d * sigma**2 * s / (2 * d * sigma**2 * s + squared) for s in SCALES)  # type: ignore[return-value]
        return sum(torch.exp(-squared / (2 * (sigma * math.sqrt(d * s)) ** 2)) for s in SCALES)  # type: ignore[return-value]

    pairs = [(i, j) for i in range(n) for j in range(n) if estimator == "biased" or i != j]
    within = sum(k(z[i], z[j]) + k(p[i], p[j]) for i, j in pairs) / len(pairs)
    return within - 2 * sum(k(z[i], p[j]) for i in range(n) for j in range(n)) / n**2


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
def test_mmd_is_the_sum_over_pairs(kernel: Any, estimator: Any) -> None:
    z, p = (values(5, 3) + 0.7).requires_grad_(), (1.3 * values(5, 3, seed=1)).requires_grad_()
    term = MMD(3, kernel=kernel, estimator=estimator, sigma=1.3, scales=SCALES)
    loss = term(z, p)
    torch.testing.assert_close(loss, mmd_by_loops(z, p, kernel, estimator, 1.3))
    expected = slope_of(lambda at: mmd_by_loops(at, p.detach(), kernel, estimator, 1.3), z.detach())
    torch.testing.assert_close(gradients(loss, z)[0], expected, rtol=1e-6, atol=1e-8)
    assert torch.autograd.grad(loss, p, allow_unused=True)[0] is None  # the prior is the target
    spatial = term(z.view(5, 3, 1, 1), p.view(5, 3, 1, 1))
    torch.testing.assert_close(spatial, loss)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_mmd_of_a_batch_with_itself(kernel: Any) -> None:
    """Biased: zero. Unbiased: a pair with itself counts in the cross term only, hence below zero."""
    z = values(6, 4)
    assert float(MMD(4, kernel=kernel, estimator="biased")(z, z)) == pytest.approx(0.0, abs=1e-14)
    assert float(MMD(4, kernel=kernel, estimator="unbiased")(z, z)) < 0


def test_mmd_of_gaussians_is_the_closed_form() -> None:
    """E exp(-|a - b|^2 / C) of a - b ~ N(m, v I) is (1 + 2 v / C)^(-d/2) exp(-|m|^2 / (C + 2 v)); 200 batches of 200."""
    d, shift, variance, scale = 3, 0.8, 0.5, 0.6
    c = 2 * d * scale

    def mean_kernel(distance: float, v: float) -> float:
        return (1 + 2 * v / c) ** (-d / 2) * math.exp(-(distance**2) / (c + 2 * v))

    truth = mean_kernel(0, 2 * variance) + mean_kernel(0, 2.0) - 2 * mean_kernel(shift * math.sqrt(d), variance + 1)
    term = MMD(d, kernel="rbf", scales=(scale,))
    z, p = shift + math.sqrt(variance) * values(200, 200, d), values(200, 200, d, seed=1)
    found = torch.stack([term(*pair) for pair in zip(z, p, strict=True)])
    assert float(found.mean()) == pytest.approx(truth, rel=0.02)
    assert float(found.std()) / math.sqrt(200) < 0.01 * truth


def test_mmd_keeps_its_digits_far_from_the_origin() -> None:
    z, p = values(6, 4).float(), values(6, 4, seed=1).float()
    near = MMD(4, scales=(0.1,))(z, p)
    torch.testing.assert_close(MMD(4, scales=(0.1,))(z + 512, p + 512), near, rtol=1e-3, atol=0)


def test_mmd_refuses_a_batch_of_one() -> None:
    with pytest.raises(ValueError, match="mmd compares the samples of a batch, this one has 1; raise batch_size"):
        MMD(3)(values(1, 3), values(1, 3))


# -- the importance-weighted bound -------------------------------------------------------------------------------------


class Linear:
    """x = W z + c + scale * noise, W with orthogonal columns: the posterior is a diagonal Gaussian, p(x) a Gaussian."""

    def __init__(self, scale: float = 0.6) -> None:
        self.scale = scale
        columns = torch.linalg.qr(values(4, 2, seed=7)).Q
        self.w = columns * torch.tensor([1.5, 0.7], dtype=torch.float64)  # 4 2
        self.c = values(4, seed=8)
        self.x = values(6, 4, seed=9)

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.w.T + self.c

    def posterior(self) -> DiagonalGaussian:
        precision = 1 + self.w.square().sum(0) / self.scale**2
        mean = (self.x - self.c) @ self.w / self.scale**2 / precision
        return DiagonalGaussian(mean, -precision.log().expand_as(mean))

    def log_likelihood(self) -> Tensor:
        covariance = self.w @ self.w.T + self.scale**2 * torch.eye(4, dtype=torch.float64)
        return MultivariateNormal(self.c, covariance).log_prob(self.x)


GRADIENTS = ["reparameterised", "doubly"]


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("samples", [1, 3, 10])
def test_under_the_true_posterior_every_draw_gives_the_likelihood(samples: int, gradient: Any) -> None:
    model = Linear()
    truth = model.posterior()
    mean, logvar = (t.clone().requires_grad_() for t in (truth.mean, truth.logvar))
    term = ImportanceWeighted("identity", (2,), samples=samples, gradient=gradient, scale=0.6).double()
    loss = term(model.x, DiagonalGaussian(mean, logvar), StandardNormal(), model.decode, values(6, samples, 2))
    torch.testing.assert_close(loss.detach(), -model.log_likelihood().mean())
    # log w is constant in z there: the doubly reparameterised gradient has no noise, where the plain one has some
    largest = max(float(slope.abs().max()) for slope in gradients(loss, mean, logvar))
    assert largest < 1e-6 if gradient == "doubly" else largest > 1e-2


def test_the_bound_tightens_with_the_number_of_samples_up_to_the_likelihood() -> None:
    model = Linear()
    truth = model.posterior()
    wrong = DiagonalGaussian(truth.mean + 0.2, truth.logvar + 0.5)
    found = []
    for samples in (1, 4, 16, 2000):
        term = ImportanceWeighted("identity", (2,), samples=samples, scale=0.6).double()
        repeats = [
            term(model.x, wrong, StandardNormal(), model.decode, values(6, samples, 2, seed=seed))
            for seed in range(max(1, 2000 // samples))
        ]
        found.append(float(torch.stack(repeats).mean()))
    assert found[0] > found[1] > found[2] > found[3]
    assert found[3] == pytest.approx(-float(model.log_likelihood().mean()), abs=0.05)
    assert found[0] > found[3] + 0.1


def shallow(seed: int = 3) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A decoder 2 -> 4 that is not linear, and its weight."""
    weight = values(4, 2, seed=seed).requires_grad_()
    return weight, lambda z: torch.sin(z @ weight.T) + 0.3 * (z @ weight.T)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_with_one_sample_it_is_the_negative_elbo(likelihood: Any, gradient: Any) -> None:
    mean, logvar, points = values(5, 2), values(5, 2, seed=1), values(5, 1, 2, seed=2)
    x, posterior = values(5, 4, seed=4).tanh(), DiagonalGaussian(mean, logvar)
    _, decode = shallow()
    options: dict[str, Any] = {"likelihood": likelihood, "scale": 0.7}
    got = ImportanceWeighted("tanh", (2,), samples=1, gradient=gradient, **options).double()(
        x, posterior, StandardNormal(), decode, points
    )
    z = posterior.sample(points[:, 0])
    reconstruction = Reconstruction("tanh", **options)
    expected = reconstruction(x, decode(z).tanh(), decode(z)) + (posterior.log_prob(z) - StandardNormal().log_prob(z)).mean()
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("prior", [StandardNormal(), Bimodal()])
@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_the_bound_written_out(likelihood: Any, prior: Any) -> None:
    """Densities from torch.distributions, sample by sample; gradients of encoder, decoder and scale."""
    mean, logvar = values(5, 2).requires_grad_(), values(5, 2, seed=1).requires_grad_()
    points, x = values(5, 3, 2, seed=2), values(5, 4, seed=4).tanh()
    weight, decode = shallow()
    learned = likelihood != "bernoulli"
    term = ImportanceWeighted("tanh", (2,), samples=3, likelihood=likelihood, scale=0.7, learn_scale=learned).double()
    loss = term(x, DiagonalGaussian(mean, logvar), prior, decode, points)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(5):
        q = Normal(mean[i], (logvar[i] / 2).exp())
        w = torch.zeros((), dtype=torch.float64)
        for k in range(3):
            z = mean[i] + (logvar[i] / 2).exp() * points[i, k]
            raw = decode(z)
            if likelihood == "bernoulli":
                log_p = Bernoulli(logits=2 * raw, validate_args=False).log_prob((x[i] + 1) / 2).sum()
            else:
                log_p = {"gaussian": Normal, "laplace": Laplace}[likelihood](raw.tanh(), scale).log_prob(x[i]).sum()
            w = w + (log_p + prior.log_prob(z[None])[0] - q.log_prob(z).sum()).exp() / 3
        expected = expected - w.log() / 5
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    leaves = mean, logvar, weight
    torch.testing.assert_close(gradients(loss, *leaves), gradients(expected, *leaves), rtol=1e-4, atol=1e-5)
    if learned:
        (got,) = gradients(loss, term.likelihood.log_scale)
        torch.testing.assert_close(got, gradients(expected, scale)[0] * 0.7, rtol=1e-4, atol=1e-5)


def test_doubly_reparameterised_gradients_written_out() -> None:
    """Tucker et al. 2018: the encoder gets sum_k share_k^2 dlog w_k/dz_k dz_k/dphi, all else what the plain bound gives."""
    mean, logvar = values(5, 2).requires_grad_(), values(5, 2, seed=1).requires_grad_()
    points, x = values(5, 3, 2, seed=2), values(5, 4, seed=4)
    weight, decode = shallow()
    plain, doubly = (
        ImportanceWeighted("identity", (2,), samples=3, gradient=g, learn_scale=True).double()
        for g in GRADIENTS  # type: ignore[arg-type]
    )
    arguments = x, DiagonalGaussian(mean, logvar), Bimodal(), decode, points
    a, b = plain(*arguments), doubly(*arguments)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(gradients(a, weight), gradients(b, weight))
    torch.testing.assert_close(*(gradients(v, t.likelihood.log_scale) for v, t in ((a, plain), (b, doubly))))
    of_mean, of_logvar = torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    for i in range(5):
        spread = (logvar[i] / 2).exp().detach()
        z = (mean[i].detach() + spread * points[i]).requires_grad_()  # k d
        log_w = (
            Normal(decode(z), 1.0).log_prob(x[i]).sum(1)
            + Bimodal().log_prob(z)
            - Normal(mean[i].detach(), spread).log_prob(z).sum(1)
        )
        (slope,) = gradients(log_w.sum(), z)
        share = log_w.detach().softmax(0)
        of_mean[i] = -(share[:, None] ** 2 * slope).sum(0) / 5
        of_logvar[i] = -(share[:, None] ** 2 * slope * 0.5 * spread * points[i]).sum(0) / 5
    torch.testing.assert_close(gradients(b, mean, logvar), (of_mean, of_logvar))


def test_doubly_reparameterised_gradients_have_the_same_mean_and_less_variance() -> None:
    """One example, 40,000 draws of 8 samples: the means agree within 5 standard errors, the variance is a fraction."""
    n, samples = 40000, 8
    points, x = values(n, samples, 2, seed=2), values(1, 4, seed=4).expand(n, 4)
    _, decode = shallow()
    found = []
    for gradient in GRADIENTS:
        mean = torch.tensor([[0.3, -0.2]], dtype=torch.float64).repeat(n, 1).requires_grad_()
        logvar = torch.tensor([[-0.5, -1.0]], dtype=torch.float64).repeat(n, 1).requires_grad_()
        term = ImportanceWeighted("identity", (2,), samples=samples, gradient=gradient).double()  # type: ignore[arg-type]
        loss = term(x, DiagonalGaussian(mean, logvar), StandardNormal(), decode, points)
        found.append(torch.cat(gradients(loss, mean, logvar), 1) * n)  # a row a draw
    plain, doubly = found
    error = ((plain.var(0) + doubly.var(0)) / n).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 5 * error).all()
    assert (plain.mean(0).abs() > 10 * error).any()  # there is something to agree on
    assert (doubly.var(0) < 0.5 * plain.var(0)).all()


class Labelled(nn.Module):
    """A decoder with convolutions, group norm and a label for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4)
        self.body = ConvDecoder((4,), (2, 6, 5), width=8, norm="group")

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.body(z + self.table(label))


def test_its_one_call_decodes_each_sample_with_its_own_label() -> None:
    torch.manual_seed(0)
    network, label = Labelled(), torch.tensor([0, 2, 1, 2])
    posterior = DiagonalGaussian(values(4, 4).float(), values(4, 4, seed=1).float())
    points, x = values(4, 3, 4, seed=2).float(), values(4, 2, 6, 5, seed=3).tanh().float()
    term = ImportanceWeighted("tanh", (4,), samples=3)
    got = term(x, posterior, StandardNormal(), lambda z: network(z, label), points)
    rows = []
    for k in range(3):
        z = posterior.sample(points[:, k])
        raw = network(z, label)
        rows.append(term.log_likelihood(x, raw.tanh(), raw) + StandardNormal().log_prob(z) - posterior.log_prob(z))
    expected = -(torch.stack(rows).logsumexp(0) - math.log(3)).mean()
    torch.testing.assert_close(got, expected)
    wanted = list(network.parameters())
    torch.testing.assert_close(gradients(got, *wanted), gradients(expected, *wanted), rtol=1e-4, atol=1e-5)


def test_its_one_call_drops_other_units_for_each_sample() -> None:
    torch.manual_seed(0)
    drop = nn.Dropout(0.5)

    def decode(z: Tensor) -> Tensor:
        return z + drop(torch.ones_like(z))

    same = DiagonalGaussian(torch.zeros(4, 6), torch.zeros(4, 6))
    term = ImportanceWeighted("identity", (6,), samples=2)
    first, second = (
        term.log_weights(torch.zeros(4, 6), same, StandardNormal(), d, torch.zeros(2, 4, 6)) for d in (decode, lambda z: z)
    )
    assert not torch.equal(first[0], first[1])
    assert torch.equal(second[0], second[1])


def test_what_the_bound_asks_for_offers_and_refuses() -> None:
    term = ImportanceWeighted("tanh", (4, 2, 3), samples=7, likelihood="laplace", scale=0.3)
    assert term.draws == {"points": ("normal", (7, 4, 2, 3))}
    assert term.quantities == ("log_likelihood", "log_likelihood_at")
    x, raw = values(5, 4).tanh(), values(5, 4, seed=1)
    torch.testing.assert_close(
        term.log_likelihood(x, raw.tanh(), raw),
        Laplace(raw.tanh(), 0.3).log_prob(x).sum(1),
        check_dtype=False,
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="bernoulli likelihood wants data in"):
        ImportanceWeighted("identity", (4,), likelihood="bernoulli")
    with pytest.raises(ValueError, match="a Point has no log_prob"):
        term(x, Point(values(5, 4)), StandardNormal(), lambda z: z, values(5, 7, 4))
    with pytest.raises(ValueError, match="draws noise shaped like z, which this posterior"):
        term(x, DiagonalGaussian(x, raw), StandardNormal(), lambda z: z, values(5, 7, 3))
    norm = nn.BatchNorm1d(4).double()
    with pytest.raises(ValueError, match='write norm = "group"'):
        term(x, DiagonalGaussian(x, raw), StandardNormal(), lambda z: norm(z), values(5, 7, 4))
