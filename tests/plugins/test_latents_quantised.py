"""Discrete codes: a learned codebook, a grid, the loss and the metric beside them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from hybridgen_latents import quantised
from hybridgen_latents.quantised import FiniteScalar, VectorQuantised
from hybridgen_losses.quantisation import Quantisation
from hybridgen_metrics.codebook import Codebook


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def quantiles(count: int) -> Tensor:
    """Standard normal noise without chance: the middles of `count` slices of equal probability."""
    return torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count).float()


def vector(**options: object) -> VectorQuantised:
    """Pictures 1x4x6, a code 2x3, codes drawn far from the origin."""
    latent = VectorQuantised((1, 4, 6), **{"codes": 5, "dim": 2, "halvings": 1, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        latent.codes.copy_(numbers(*latent.codes.shape, seed=7))
        if latent.averaged:
            latent.sums.copy_(latent.codes * latent.counts.unsqueeze(1))
    return latent


# -- the nearest code --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_each_position_gets_the_nearest_code(codebook: str) -> None:
    latent = vector(codebook=codebook, codes=9)
    code = numbers(4, 2, 2, 3)
    posterior = latent.posterior(code)
    assert posterior.indices.shape == (4, 2, 3)
    for b, i, j in itertools.product(range(4), range(2), range(3)):
        distances = [float((code[b, :, i, j] - e).detach().square().sum()) for e in latent.codebook()]
        best = min(range(9), key=distances.__getitem__)
        assert int(posterior.indices[b, i, j]) == best
        assert torch.equal(posterior.mean[b, :, i, j], latent.codebook()[best].detach())
    assert posterior.sample(torch.randn(4, 2, 2, 3)) is posterior.mean
    assert torch.equal(latent.indices(posterior), posterior.indices)


def test_without_a_map_a_sample_is_one_code() -> None:
    latent = VectorQuantised(codes=5, dim=3)
    posterior = latent.posterior(numbers(4, 3))
    assert (latent.code_shape, tuple(posterior.indices.shape)) == ((3,), (4,))
    expected = torch.cdist(numbers(4, 3).double(), latent.codes.double()).argmin(1)
    assert torch.equal(posterior.indices, expected)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_the_gradient_goes_straight_through_to_the_code_and_not_to_the_codebook(codebook: str) -> None:
    latent = vector(codebook=codebook)
    code, factors = numbers(4, 2, 2, 3).requires_grad_(), numbers(4, 2, 2, 3, seed=1)
    (latent.posterior(code).mean * factors).sum().backward()
    assert torch.equal(code.grad, factors)
    assert latent.codes.grad is None


def test_nearest_has_a_gradient_to_the_codes_and_none_to_the_encoder() -> None:
    latent = vector(codebook="gradient")
    code, factors = numbers(4, 2, 2, 3).requires_grad_(), numbers(4, 2, 2, 3, seed=1)
    posterior = latent.posterior(code)
    nearest = latent.nearest(posterior)
    assert torch.equal(nearest, posterior.mean)
    (nearest * factors).sum().backward()
    expected = torch.zeros(5, 2)
    for b, i, j in itertools.product(range(4), range(2), range(3)):
        expected[posterior.indices[b, i, j]] += factors[b, :, i, j]
    torch.testing.assert_close(latent.codes.grad, expected)
    assert code.grad is None


def test_what_it_offers_depends_on_how_the_codebook_learns() -> None:
    assert vector().quantities == ("indices", "quantised", "code_counts")
    assert vector(codebook="gradient").quantities == ("indices", "quantised", "code_counts", "nearest")
    assert not list(vector().parameters())
    latent = vector()
    posterior = latent.posterior(numbers(4, 2, 2, 3).requires_grad_())
    assert torch.equal(latent.quantised(posterior), posterior.mean)
    assert not latent.quantised(posterior).requires_grad
    assert latent.code_counts(posterior).tolist() == [
        [int((posterior.indices[b] == k).sum()) for k in range(5)] for b in range(4)
    ]


# -- the codebook as a moving average ----------------------------------------------------------------------------------


def test_two_updates_of_the_codebook_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts, sums and smoothing of appendix A.1, the last large enough to be seen."""
    monkeypatch.setattr(quantised, "SMOOTHING", 0.3)
    latent = vector(decay=0.75, revive=0.0)
    assert latent.draws == {}
    count = [0.2] * 5
    total = [[0.2 * float(v) for v in e] for e in latent.codes]
    for step, size in ((1, 4), (2, 3)):  # batches of two sizes
        code = numbers(size, 2, 2, 3, seed=step)
        indices = latent.posterior(code).indices
        seen, summed = [0.0] * 5, [[0.0, 0.0] for _ in range(5)]
        for b, i, j in itertools.product(range(size), range(2), range(3)):
            k = int(indices[b, i, j])
            seen[k] += 1 / (6 * size)
            for d in range(2):
                summed[k][d] += float(code[b, d, i, j]) / (6 * size)
        count = [0.75 * old + 0.25 * new for old, new in zip(count, seen, strict=True)]
        total = [[0.75 * m + 0.25 * s for m, s in zip(*pair, strict=True)] for pair in zip(total, summed, strict=True)]
        latent.update(code, indices)
        torch.testing.assert_close(latent.counts, torch.tensor(count))
        torch.testing.assert_close(latent.sums, torch.tensor(total))
        smooth = [(n + 0.3 * sum(count) / 5) / (sum(count) + 0.3 * sum(count)) * sum(count) for n in count]
        expected = [[m / n for m in row] for row, n in zip(total, smooth, strict=True)]
        torch.testing.assert_close(latent.codes, torch.tensor(expected))
    assert not bool((latent.counts == latent.counts[0]).all())


def test_a_code_that_nothing_chooses_stays_where_it_is() -> None:
    """Without revival; the smoothing that keeps the division finite is too small to be seen."""
    latent = vector(revive=0.0, decay=0.9)
    before = latent.codes.clone()
    code = before[[0, 0, 2, 2]].T.reshape(1, 2, 2, 2)
    for _ in range(30):
        latent.update(code, latent.posterior(code).indices)
    torch.testing.assert_close(latent.codes, before, rtol=1e-3, atol=1e-3)
    frozen = vector(revive=0.0, decay=0.0)
    frozen.update(code, frozen.posterior(code).indices)
    assert torch.isfinite(frozen.codes).all()


# -- revival -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_exactly_the_dead_codes_become_vectors_of_the_batch(codebook: str) -> None:
    latent = vector(codebook=codebook, decay=0.9, revive=0.4)
    latent.counts.copy_(torch.tensor([0.3, 0.08, 0.09, 0.5, 0.03]))  # 0.4 of the mean, 0.2, is 0.08
    if codebook == "ema":
        latent.sums.copy_(latent.codes * latent.counts.unsqueeze(1))
    before = latent.codebook().detach().clone()
    parameter = latent.codes.detach().clone()
    indices = torch.tensor([[[0, 0, 0], [3, 3, 2]], [[3, 0, 2], [2, 2, 3]]])
    code = numbers(2, 2, 2, 3, seed=3)
    vectors = code.movedim(1, -1).reshape(12, 2)
    revival = torch.linspace(1, 0.2, 12).reshape(2, 2, 3)  # falling: the last vector comes first
    with torch.no_grad():
        latent.update(code, indices, revival)

    moved = 0.9 * torch.tensor([0.3, 0.08, 0.09, 0.5, 0.03]) + 0.1 * torch.tensor([4, 0, 4, 4, 0]) / 12
    mean = float(moved.mean())
    assert [k for k in range(5) if float(moved[k]) < 0.4 * mean] == [1, 4]
    torch.testing.assert_close(latent.codebook()[[1, 4]].detach(), vectors[[11, 10]])
    torch.testing.assert_close(latent.counts[[1, 4]], torch.full((2,), mean))
    torch.testing.assert_close(latent.counts[[0, 2, 3]], moved[[0, 2, 3]])
    if codebook == "gradient":
        assert torch.equal(latent.codes.detach(), parameter)
        assert torch.equal(latent.codebook()[[0, 2, 3]].detach(), before[[0, 2, 3]])
    else:
        torch.testing.assert_close(latent.sums[[1, 4]], vectors[[11, 10]] * mean)
        sums = torch.stack([vectors[(indices == k).flatten()].sum(0) for k in (0, 2, 3)]) / 12
        weights = torch.tensor([0.3, 0.09, 0.5]).unsqueeze(1)
        expected = (0.9 * before[[0, 2, 3]] * weights + 0.1 * sums) / moved[[0, 2, 3]].unsqueeze(1)
        torch.testing.assert_close(latent.codes[[0, 2, 3]], expected, rtol=1e-4, atol=1e-4)


def test_the_first_batch_makes_the_codebook() -> None:
    latent = VectorQuantised((1, 4, 6), codes=20, dim=2, halvings=1)
    assert latent.draws == {"revival": ("uniform", (2, 3))}
    code = numbers(6, 2, 2, 3) + 5.0
    posterior = latent.posterior(code)
    latent.update(code, posterior.indices, torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0)))
    vectors = code.movedim(1, -1).reshape(36, 2)
    unseen = [k for k in range(20) if k not in posterior.indices]
    assert len(unseen) >= 10
    found = (latent.codes[unseen].unsqueeze(1) == vectors).all(2)
    assert bool((found.sum(1) == 1).all())
    assert bool((found.sum(0) <= 1).all())  # each a vector of its own
    for k in set(range(20)) - set(unseen):
        torch.testing.assert_close(latent.codes[k], vectors[posterior.indices.flatten() == k].mean(0), rtol=1e-3, atol=0)


def test_more_dead_codes_than_vectors_share_them() -> None:
    latent = VectorQuantised(codes=8, dim=2)
    code = numbers(3, 2)
    latent.update(code, torch.tensor([7, 7, 7]), torch.tensor([0.2, 0.9, 0.5]))
    assert torch.equal(latent.codes[:7], code[[0, 2, 1, 0, 2, 1, 0]])


# -- what it reports ---------------------------------------------------------------------------------------------------


def test_perplexity_and_usage_of_known_assignments() -> None:
    latent = VectorQuantised(codes=5, dim=2, decay=0.75)
    code = torch.zeros(8, 2)
    latent.update(code, torch.tensor([0, 0, 0, 0, 1, 1, 3, 3]), torch.rand(8))
    torch.testing.assert_close(latent.perplexity, torch.tensor(2**1.5))
    torch.testing.assert_close(latent.usage, torch.tensor(3 / 5))
    latent.update(code, torch.full((8,), 2), torch.rand(8))
    share = torch.tensor([0.75 * 0.5, 0.75 * 0.25, 1.0, 0.75 * 0.25]) / 1.75  # revived codes don't count as chosen
    torch.testing.assert_close(latent.perplexity, (-share * share.log()).sum().exp())
    torch.testing.assert_close(latent.usage, torch.tensor(4 / 5))
    for _ in range(30):  # what was chosen long ago is no longer used
        latent.update(code, torch.full((8,), 2), torch.rand(8))
    torch.testing.assert_close(latent.usage, torch.tensor(1 / 5))
    assert latent.reports == ("perplexity", "usage")


def test_a_code_is_used_from_a_hundredth_of_the_mean_on() -> None:
    frequency = torch.tensor([4.0, 0.011, 0.009, 0.0]) * 7
    torch.testing.assert_close(quantised.usage(frequency), torch.tensor(2 / 4))  # the mean is 1.005 times 7


def test_the_codes_start_near_the_origin() -> None:
    torch.manual_seed(0)
    for codebook in ("ema", "gradient"):
        codes = VectorQuantised(codes=20, dim=500, codebook=codebook).codebook().detach()  # type: ignore[arg-type]
        assert 0.0499 < float(codes.max()) <= 0.05
        assert -0.05 <= float(codes.min()) < -0.0499
        torch.testing.assert_close(float(codes.std()), 0.05 / math.sqrt(3), rtol=0.02, atol=0)


def test_the_grid_reports_alike() -> None:
    latent = FiniteScalar(levels=(3, 2), decay=0.75)
    latent.update(torch.tensor([[0, 0, 0, 0], [1, 1, 3, 3]]))
    latent.update(torch.full((2, 4), 2))
    share = torch.tensor([0.75 * 0.5, 0.75 * 0.25, 1.0, 0.75 * 0.25]) / 1.75
    torch.testing.assert_close(latent.perplexity, (-share * share.log()).sum().exp())
    torch.testing.assert_close(latent.usage, torch.tensor(4 / 6))
    posterior = latent.posterior(torch.zeros(3, 2))
    assert latent.code_counts(posterior).tolist() == torch.eye(6)[posterior.indices].tolist()


def test_the_metric_counts_over_all_batches() -> None:
    metric = Codebook()
    assert all(math.isnan(value) for value in metric.compute().values())
    metric.update(torch.tensor([[1.0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 0, 0, 0]]))
    metric.update(torch.tensor([[1.0, 1, 0, 0, 1]]))
    assert metric.compute() == pytest.approx({"perplexity": (2**4 * 4**2 * 8**2) ** (1 / 8), "usage": 0.8})
    metric.reset()
    metric.update(torch.tensor([[2.0, 0, 0, 0, 0], [0, 2, 2, 0, 0]]))
    metric.update(torch.tensor([[2.0, 0, 0, 0, 0]]))
    assert metric.compute() == pytest.approx({"perplexity": 2**1.5, "usage": 0.6})
    metric.reset()
    metric.update(torch.tensor([[0.0, 3, 0]]))
    assert metric.compute() == pytest.approx({"perplexity": 1.0, "usage": 1 / 3})


# -- priors ------------------------------------------------------------------------------------------------------------


def test_the_uniform_prior_draws_every_code_alike_and_costs_log_k_a_position() -> None:
    latent = vector(prior="uniform")
    prior = latent.prior()
    assert prior is not None
    noise = quantiles(1000)[torch.randperm(6000, generator=torch.Generator().manual_seed(0)) % 1000]
    z = prior.sample(torch.stack([noise.reshape(1000, 2, 3), torch.randn(1000, 2, 3)], 1))
    drawn = (z.movedim(1, -1).unsqueeze(-2) == latent.codes).all(-1)  # b h w k
    assert drawn.sum((0, 1, 2)).tolist() == [1200] * 5
    torch.testing.assert_close(prior.log_prob(z), torch.full((1000,), -6 * math.log(5)))
    assert prior.log_prob(z[:1]).tolist() == pytest.approx([-6 * math.log(5)])
    posterior = latent.posterior(numbers(4, 2, 2, 3))
    torch.testing.assert_close(posterior.kl(prior), torch.full((4,), 6 * math.log(5)))
    assert bool(torch.isfinite(prior.sample(torch.full((2, 2, 2, 3), 12.0))).all())
    assert vector().prior() is None


def test_samples_of_the_prior_train_a_gradient_codebook() -> None:
    latent = vector(prior="uniform", codebook="gradient")
    prior = latent.prior()
    assert prior is not None
    prior.sample(quantiles(20).reshape(10, 2, 1, 1)[:, :1].expand(10, 2, 2, 3)).sum().backward()
    torch.testing.assert_close(latent.codes.grad, torch.full((5, 2), 12.0))


def test_the_uniform_prior_of_the_grid_draws_every_level_alike() -> None:
    latent = FiniteScalar((1, 4, 6), levels=(4, 5), halvings=1, prior="uniform")
    prior = latent.prior()
    assert prior is not None
    order = [torch.randperm(6000, generator=torch.Generator().manual_seed(d)) for d in range(2)]
    noise = torch.stack([quantiles(6000)[o].reshape(1000, 2, 3) for o in order], 1)
    z = prior.sample(noise)
    assert {float(v): int(n) for v, n in zip(*z[:, 0].unique(return_counts=True), strict=True)} == {
        -1.0: 1500,
        -0.5: 1500,
        0.0: 1500,
        0.5: 1500,
    }
    values, counts = z[:, 1].unique(return_counts=True)
    assert (values.tolist(), counts.tolist()) == ([-1.0, -0.5, 0.0, 0.5, 1.0], [1200] * 5)
    assert prior.log_prob(z[:1]).tolist() == pytest.approx([-6 * math.log(20)])
    torch.testing.assert_close(prior.log_prob(z), torch.full((1000,), -6 * math.log(20)))
    torch.testing.assert_close(latent.posterior(numbers(3, 2, 2, 3)).kl(prior), torch.full((3,), 6 * math.log(20)))
    assert bool((prior.sample(torch.full((1, 2, 2, 3), 12.0))[:, 0] == 0.5).all())
    assert FiniteScalar(levels=(4, 5)).prior() is None


def test_codes_of_one_value_have_a_density_too() -> None:
    for latent in (VectorQuantised(codes=7, dim=1, prior="uniform"), FiniteScalar(levels=(7,), prior="uniform")):
        prior = latent.prior()
        assert prior is not None
        assert prior.log_prob(prior.sample(numbers(3, 1))).tolist() == pytest.approx([-math.log(7)] * 3)


# -- the grid ----------------------------------------------------------------------------------------------------------

LEVELS = (2, 3, 4, 5, 8)


def edges(levels: int) -> list[float]:
    """Where a value goes from one level to the next, solved from the paper's formula by hand."""
    half, offset = (levels - 1) * (1 - 1e-3) / 2, 0.5 if levels % 2 == 0 else 0.0
    shift = math.tan(offset / half)
    return [math.atanh((j - levels // 2 + 0.5 + offset) / half) - shift for j in range(levels - 1)]


@pytest.mark.parametrize("levels", LEVELS)
def test_each_dimension_has_its_number_of_levels_and_they_begin_where_the_paper_says(levels: int) -> None:
    latent = FiniteScalar(levels=(levels,))
    values = latent.posterior(torch.linspace(-12, 12, 4001).unsqueeze(1)).mean
    expected = [(j - levels // 2) / (levels // 2) for j in range(levels)]
    torch.testing.assert_close(values.unique(), torch.tensor(expected))
    assert torch.equal(values, values.sort(0).values)
    for j, edge in enumerate(edges(levels)):
        around = latent.posterior(torch.tensor([[edge - 1e-3], [edge + 1e-3]])).mean.flatten()
        torch.testing.assert_close(around, torch.tensor(expected[j : j + 2]))


def test_indices_number_the_grid_one_to_one() -> None:
    latent = FiniteScalar(levels=(4, 3, 2))
    middles = []
    for levels in (4, 3, 2):
        ends = [-9.0, *edges(levels), 9.0]
        middles.append([(a + b) / 2 for a, b in itertools.pairwise(ends)])
    code = torch.tensor([[a, b, c] for c in middles[2] for b in middles[1] for a in middles[0]])  # the first runs fastest
    posterior = latent.posterior(code)
    assert posterior.indices.tolist() == list(range(24))
    torch.testing.assert_close(latent.codes_of(torch.arange(24)), posterior.mean)
    assert len(posterior.mean.unique(dim=0)) == 24
    spatial = FiniteScalar((1, 4, 6), levels=(4, 3, 2), halvings=1)
    found = spatial.posterior(3 * numbers(5, 3, 2, 3))
    assert torch.equal(spatial.codes_of(found.indices), found.mean)


def test_rounding_passes_the_gradient_of_the_bounded_value() -> None:
    latent = FiniteScalar(levels=(5, 4))
    code, factors = numbers(3, 2).requires_grad_(), numbers(3, 2, seed=1)
    (latent.posterior(code).mean * factors).sum().backward()
    half = [4 * 0.999 / 2, 3 * 0.999 / 2]
    shift = [0.0, math.tan(0.5 / half[1])]
    slope = [[half[d] * (1 - math.tanh(float(code[b, d].detach()) + shift[d]) ** 2) / 2 for d in range(2)] for b in range(3)]
    torch.testing.assert_close(code.grad, factors * torch.tensor(slope))


def test_levels_that_make_no_grid_are_refused() -> None:
    for levels in ((), (5, 1)):
        with pytest.raises(ValueError, match=r"each at least 2"):
            FiniteScalar(levels=levels)
    with pytest.raises(ValueError, match="2097152 codes; write at most 1048576"):
        FiniteScalar(levels=(128, 128, 128))
    assert FiniteScalar(levels=(1024, 1024)).size == 2**20


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_loss_and_its_gradients() -> None:
    code, chosen = numbers(3, 2, 4, 5).requires_grad_(), numbers(3, 2, 4, 5, seed=1)
    nearest = chosen.clone().requires_grad_()
    loss = Quantisation(beta=0.7)(code, chosen, nearest)
    squares = sum(float((code[b] - chosen[b]).square().sum().detach()) for b in range(3)) / 3
    assert float(loss.detach()) == pytest.approx(1.7 * squares, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(code.grad, 0.7 * 2 * (code.detach() - chosen) / 3)
    torch.testing.assert_close(nearest.grad, 2 * (chosen - code.detach()) / 3)


def test_with_an_averaged_codebook_only_the_commitment_counts() -> None:
    code = numbers(3, 2, 4, 5).requires_grad_()
    chosen = numbers(3, 2, 4, 5, seed=1).requires_grad_()
    loss = Quantisation()(code, chosen)
    expected = 0.25 * (code - chosen).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert chosen.grad is None


def test_together_they_move_each_chosen_code_to_the_mean_of_its_vectors() -> None:
    """The gradient codebook's closed form: zero gradient exactly where a code is the mean of what chose it."""
    latent = vector(codebook="gradient", codes=3)
    code = numbers(7, 2, 2, 3)
    posterior = latent.posterior(code)
    Quantisation()(code, latent.quantised(posterior), latent.nearest(posterior)).backward()
    vectors, flat = code.movedim(1, -1).reshape(42, 2), posterior.indices.flatten()
    for k in range(3):
        own = vectors[flat == k]
        expected = 2 * len(own) * (latent.codes[k].detach() - own.mean(0)) / 7
        torch.testing.assert_close(latent.codes.grad[k], expected)
