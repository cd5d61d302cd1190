"""Metrics of structure, likelihood, codes and factors: closed forms, other implementations, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from common import VAE
from sklearn.metrics import adjusted_rand_score, mutual_info_score
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from hybridgen.data import SampleSpec, open_data
from hybridgen.errors import Unmeasurable
from hybridgen.evaluation import prepare
from hybridgen.model import build
from hybridgen.recipe import Recipe
from hybridgen_data.digits import Digits
from hybridgen_data.sprites import Sprites
from hybridgen_latents.deterministic import Point
from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal
from hybridgen_latents.mixture import Mixture
from hybridgen_losses.importance import ImportanceWeighted as ImportanceWeightedLoss
from hybridgen_losses.mmd import MMD
from hybridgen_losses.reconstruction import LikelihoodAt, Reconstruction
from hybridgen_losses.tokens import CrossEntropy
from hybridgen_metrics.aggregate import AggregateMismatch, KLPerDimension
from hybridgen_metrics.disentanglement import DCI, MIG, scores
from hybridgen_metrics.likelihood import ImportanceWeighted
from hybridgen_metrics.probes import Clustering, KNNProbe, LinearProbe
from hybridgen_metrics.structure import SSIM, MultiScaleSSIM


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fed(metric: Any, *tensors: Any, size: int = 64) -> Any:
    """What a metric makes of tensors that come in batches; the first is a code, which becomes a posterior."""
    metric.reset()
    for batch in zip(*(t.split(size) for t in tensors), strict=True):
        metric.update(Point(batch[0]), *batch[1:])
    return metric.compute()


# -- structure ---------------------------------------------------------------------------------------------------------


def slow_ssim(x: Tensor, y: Tensor, sigma: float, radius: int) -> float:
    """Wang et al. 2004, equation 13, pixel by pixel on one picture `h w` with values from 0 to 2 and mirrored edges."""
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    a, b = (np.pad(t.double().numpy(), radius, mode="reflect") for t in (x, y))
    found = []
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            p, q = (t[i : i + 2 * radius + 1, j : j + 2 * radius + 1] for t in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq, c = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum() - mp * mq
            c1, c2 = 0.02**2, 0.06**2
            found.append((2 * mp * mq + c1) * (2 * c + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


@pytest.mark.parametrize(("side", "radius", "sigma"), [(8, 3, 0.9), (14, 5, 1.5)])
def test_ssim_is_the_formula_in_a_window_that_fits(side: int, radius: int, sigma: float) -> None:
    x = normal(3, 1, side, side).tanh()
    recon = (x + 0.3 * normal(3, 1, side, side, seed=1)).clamp(-1, 1)
    metric = SSIM((1, side, side))
    for piece in (slice(0, 2), slice(2, 3)):
        metric.update(x[piece], recon[piece])
    expected = np.mean([slow_ssim(a[0] + 1, b[0] + 1, sigma, radius) for a, b in zip(x, recon, strict=True)])
    assert metric.compute() == pytest.approx(expected, abs=1e-6)
    assert bool(metric.remarks) == (radius < 5)


def test_ssim_compares_means_with_black() -> None:
    """Two flat pictures: (2 m_x m_r + c1) / (m_x^2 + m_r^2 + c1), the means counted from black, which is -1."""
    metric = SSIM((1, 8, 8))
    metric.update(torch.full((1, 1, 8, 8), -0.5), torch.full((1, 1, 8, 8), 0.0))
    c1 = 0.02**2
    assert metric.compute() == pytest.approx((2 * 0.5 * 1.0 + c1) / (0.25 + 1.0 + c1), abs=1e-9)


def test_both_similarities_are_one_for_equal_pictures_and_order_noise() -> None:
    x = torch.nn.functional.interpolate(normal(2, 1, 16, 16).tanh(), size=48, mode="bicubic").clamp(-1, 1)
    for metric in (SSIM((1, 48, 48)), MultiScaleSSIM((1, 48, 48), scales=3)):
        found = []
        for scale in (0.0, 0.1, 0.5):
            metric.reset()
            metric.update(x, (x + scale * normal(2, 1, 48, 48, seed=1)).clamp(-1, 1))
            found.append(metric.compute())
        assert found[0] == pytest.approx(1.0, abs=1e-9)
        assert 1 > found[1] > found[2] > 0


def test_ms_ssim_of_a_constant_shift_is_the_luminance_at_the_last_scale() -> None:
    """Contrast and structure don't see a shift; what is left is luminance ^ beta, 0.2856 / (0.0448 + 0.2856) for 2 scales."""
    x = torch.full((1, 1, 24, 24), -0.4)
    metric = MultiScaleSSIM((1, 24, 24), scales=2)
    metric.update(x, x + 0.4)
    c1 = 0.02**2
    luminance = (2 * 0.6 * 1.0 + c1) / (0.36 + 1.0 + c1)
    assert metric.compute() == pytest.approx(luminance ** (0.2856 / (0.0448 + 0.2856)), rel=1e-6)


def test_every_size_that_ms_ssim_accepts_has_a_value() -> None:
    for scales, side in ((2, 22), (3, 44), (4, 99), (5, 176)):
        x = normal(1, 1, side, side).tanh()
        metric = MultiScaleSSIM((1, side, side), scales=scales)
        metric.update(x, x)
        assert metric.compute() == pytest.approx(1.0)
        with pytest.raises(ValueError, match=f"want {side} pixels"):
            MultiScaleSSIM((1, side - 1, 300), scales=scales)


def test_similarity_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="measures pictures"):
        SSIM((2,))
    with pytest.raises(ValueError, match="3 pixels a side"):
        SSIM((1, 2, 8))
    with pytest.raises(ValueError, match='write scales = 2, or use "ssim"'):
        MultiScaleSSIM((1, 28, 28))
    with pytest.raises(Unmeasurable):
        SSIM((1, 8, 8)).compute()


# -- likelihood ----------------------------------------------------------------------------------------------------------


class Linear:
    """x = W z + b + sigma noise, z ~ N(0, I): p(x) is N(b, W W' + sigma^2 I), and p(z|x) Gaussian with a known precision."""

    def __init__(self, *, columns: int = 2, sigma: float = 0.5) -> None:
        self.w = torch.linalg.qr(normal(6, columns))[0] * torch.tensor([2.0, 0.7][:columns])  # orthogonal columns
        self.b, self.sigma = normal(6, seed=1), sigma
        self.x = normal(200, columns, seed=2) @ self.w.T + self.b + sigma * normal(200, 6, seed=3)
        covariance = self.w @ self.w.T + sigma**2 * torch.eye(6)
        self.nll = -float(MultivariateNormal(self.b.double(), covariance.double()).log_prob(self.x.double()).mean())
        self.likelihood = Reconstruction("identity", scale=sigma)

    def posterior(self, x: Tensor, spread: float = 1.0) -> DiagonalGaussian:
        """The exact one, for the columns are orthogonal; `spread` widens it."""
        precision = 1 + self.w.square().sum(0) / self.sigma**2
        mean = (x - self.b) @ self.w / self.sigma**2 / precision
        return DiagonalGaussian(mean, (spread**2 / precision).log().expand_as(mean))

    def measure(
        self, samples: int, *, spread: float = 1.0, size: int = 50, levels: int | None = None, seed: int = 0
    ) -> ImportanceWeighted:
        metric = ImportanceWeighted((6,), (self.w.shape[1],), seed, levels, samples=samples)
        for x in self.x.split(size):
            at = self.likelihood.log_likelihood_at(x, lambda z: z @ self.w.T + self.b)
            metric.update(x, self.posterior(x, spread), StandardNormal(), at)
        return metric


def test_the_bound_is_the_likelihood_where_the_posterior_is_exact() -> None:
    """Then every weight is p(x) itself."""
    model = Linear()
    for samples in (1, 3):
        metric = model.measure(samples)
        assert metric.compute()["nll"] == pytest.approx(model.nll, abs=1e-4)


def test_the_bound_tightens_towards_the_likelihood_of_a_linear_gaussian_model() -> None:
    model = Linear()
    found = [model.measure(k, spread=3.0).compute()["nll"] for k in (1, 4, 16, 64, 512)]
    assert all(a > b for a, b in pairwise(found))
    assert found[0] > model.nll + 2
    assert found[2] > model.nll + 0.02
    assert found[-1] == pytest.approx(model.nll, abs=0.05)
    narrow = model.measure(512, spread=0.7).compute()["nll"]
    assert narrow == pytest.approx(model.nll, abs=0.05)


def test_one_sample_is_the_negative_elbo_in_expectation() -> None:
    model = Linear()
    q, p = model.posterior(model.x, 2.0), StandardNormal()
    # E log p(x|z) over q in closed form: the error of the mean, and the spread that the columns carry on
    error = (model.x - q.mean @ model.w.T - model.b).square().sum(1) + (q.logvar.exp() * model.w.square().sum(0)).sum(1)
    log_likelihood = -0.5 * error / model.sigma**2 - 6 * math.log(model.sigma * math.sqrt(2 * math.pi))
    elbo = float((log_likelihood - q.kl(p)).mean())
    found = [model.measure(1, spread=2.0, seed=seed).compute()["nll"] for seed in range(40)]
    assert len(set(found)) == 40
    assert np.mean(found) == pytest.approx(-elbo, abs=4 * np.std(found) / math.sqrt(40))
    assert np.std(found) < 0.5


def test_neither_batches_nor_further_samples_change_what_a_sample_is() -> None:
    model = Linear()
    whole, pieces = model.measure(8, spread=2.0, size=200), model.measure(8, spread=2.0, size=7)
    assert whole.compute()["nll"] == pytest.approx(pieces.compute()["nll"], abs=1e-6)
    again = pieces.compute()["nll"]
    pieces.reset()
    for x in model.x.split(50):
        at = model.likelihood.log_likelihood_at(x, lambda z: z @ model.w.T + model.b)
        pieces.update(x, model.posterior(x, 2.0), StandardNormal(), at)
    assert pieces.compute()["nll"] == pytest.approx(again, abs=1e-6)


def test_a_prior_without_closed_form_is_asked_for_its_density() -> None:
    model = Linear()
    wide = Mixture(torch.zeros(1, 2), torch.full((1, 2), math.log(4.0)), torch.zeros(1))  # N(0, 4 I)
    metric = ImportanceWeighted((6,), (2,), 0, samples=512)
    at = model.likelihood.log_likelihood_at(model.x, lambda z: z @ model.w.T + model.b)
    metric.update(model.x, model.posterior(model.x, 1.5), wide, at)
    covariance = 4 * model.w @ model.w.T + model.sigma**2 * torch.eye(6)
    expected = -float(MultivariateNormal(model.b, covariance).log_prob(model.x).mean())
    assert metric.compute()["nll"] == pytest.approx(expected, abs=0.05)


def test_bits_are_those_of_a_density_in_steps_of_the_levels() -> None:
    """A density that is nearly even over [-1, 1] gives 256 levels 8 bits each."""
    model = Linear()
    found = model.measure(1, levels=256).compute()
    assert found["bits-per-dim"] == pytest.approx((model.nll / 6 + math.log(127.5)) / math.log(2), abs=1e-4)
    even = Normal(torch.zeros(()), torch.tensor(0.6))
    x = torch.linspace(-1, 1, 256)[:, None]
    metric = ImportanceWeighted((1,), (1,), 0, 256, samples=1)
    standard = DiagonalGaussian(torch.zeros(256, 1), torch.zeros(256, 1))
    metric.update(x, standard, StandardNormal(), LikelihoodAt(lambda z: even.log_prob(x).sum(1), "continuous"))
    mass = even.cdf(x + 1 / 255) - even.cdf(x - 1 / 255)  # the exact probability of each level's bin
    assert metric.compute()["bits-per-dim"] == pytest.approx(float(-mass.log2().mean()), abs=1e-3)


def test_bits_of_two_valued_data_are_probabilities_and_of_grey_values_absent() -> None:
    x = torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    loss = Reconstruction("tanh", likelihood="bernoulli")
    at = loss.log_likelihood_at(x, lambda z: torch.zeros(2, 3))  # every value even odds: one bit
    standard = DiagonalGaussian(torch.zeros(2, 2), torch.zeros(2, 2))
    found = {}
    for levels in (2, 256, None):
        metric = ImportanceWeighted((3,), (2,), 0, levels, samples=4)
        metric.update(x, standard, StandardNormal(), at)
        found[levels] = metric.compute()
        assert found[levels]["nll"] == pytest.approx(3 * math.log(2))
    assert found[2]["bits-per-dim"] == pytest.approx(1.0)
    assert set(found[256]) == set(found[None]) == {"nll"}


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "bernoulli"])
def test_the_likelihood_at_z_is_that_of_what_z_decodes_to(likelihood: Any) -> None:
    x, z = normal(5, 3).tanh(), normal(5, 3, seed=1)
    loss = Reconstruction("tanh", likelihood=likelihood, scale=0.4 if likelihood != "bernoulli" else 1.0)
    found = loss.log_likelihood_at(x, lambda z: 2 * z)(z)
    torch.testing.assert_close(found, loss.log_likelihood(x, (2 * z).tanh(), 2 * z))
    bound = ImportanceWeightedLoss("tanh", (3,), likelihood=likelihood, scale=0.4 if likelihood != "bernoulli" else 1.0)
    torch.testing.assert_close(bound.log_likelihood_at(x, lambda z: 2 * z)(z), found)


def test_tokens_have_a_likelihood_at_any_z() -> None:
    tokens, mask = torch.tensor([[0, 2, 1], [1, 1, 1]]), torch.tensor([[True, True, False], [True, True, True]])
    at = CrossEntropy("softmax").log_likelihood_at(lambda z: torch.zeros(2, 3, 4), tokens, mask)
    torch.testing.assert_close(at(torch.zeros(2, 1)), -math.log(4) * torch.tensor([2.0, 3.0]))
    metric = ImportanceWeighted((3, 4), (1,), 0, 4)
    metric.update(tokens, DiagonalGaussian(torch.zeros(2, 1), torch.zeros(2, 1)), StandardNormal(), at)
    assert metric.compute() == {"nll": pytest.approx(2.5 * math.log(4))}


def test_a_loose_bound_and_negative_bits_are_marked() -> None:
    model = Linear()
    exact = model.measure(16)
    exact.compute()
    assert exact.remarks == []
    loose = model.measure(16, spread=30.0)
    loose.compute()
    assert "the bound is loose; raise samples" in loose.remarks[0]
    narrow = model.measure(1, levels=2)
    narrow.values, narrow.total, narrow.count = "continuous", 1000.0, 1  # log p(x) = 1000 nats in 6 dimensions
    narrow.compute()
    assert "below 0 bits" in narrow.remarks[0]


def test_no_density_no_bound() -> None:
    x, at = torch.zeros(2, 3), LikelihoodAt(lambda z: torch.zeros(2), "continuous")
    metric = ImportanceWeighted((3,), (2,), 0)
    with pytest.raises(Unmeasurable, match=r'a Point has none; write \[latent\] use = "gaussian"'):
        metric.update(x, Point(torch.zeros(2, 2)), StandardNormal(), at)
    with pytest.raises(Unmeasurable, match="no held-out examples"):
        metric.compute()

    class Nowhere:
        def log_prob(self, z: Tensor) -> Tensor:
            return torch.full((len(z),), -torch.inf)

    metric.update(x, DiagonalGaussian(torch.zeros(2, 2), torch.zeros(2, 2)), Nowhere(), at)
    with pytest.raises(Unmeasurable, match="no density at all"):
        metric.compute()


# -- codes and the prior -------------------------------------------------------------------------------------------------


def test_kl_of_each_dimension() -> None:
    mean, logvar = torch.zeros(10, 3), torch.zeros(10, 3)
    mean[:5, 0], logvar[:, 1] = 2.0, -2.0
    metric = KLPerDimension()
    for piece in (slice(0, 3), slice(3, 10)):
        metric.update(DiagonalGaussian(mean[piece], logvar[piece]), StandardNormal())
    second = 0.5 * (math.exp(-2) - 1 + 2)  # 0.568; the first is 4 / 2 for half the data, 1
    expected = {"sum": 1 + second, "max": 1.0, "median": second, "min": 0.0, "active": 2.0}
    assert metric.compute() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(Unmeasurable, match=r'a Point to a StandardNormal is no sum.*use = "gaussian"'):
        metric.update(Point(mean), StandardNormal())
    other = Mixture(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(Unmeasurable, match="Mixture is no sum"):
        metric.update(DiagonalGaussian(mean, logvar), other)


def mismatch(z: Tensor, z_prior: Tensor, size: int = 64, **options: Any) -> dict[str, float]:
    metric: Any = AggregateMismatch(z[0].numel(), 0, **options)
    for a, b in zip(z.split(size), z_prior.split(size), strict=True):
        metric.update(a, b)
    return metric.compute()


def test_the_mismatch_is_the_loss_on_all_samples_at_once() -> None:
    z, p = 0.5 + normal(100, 4), normal(100, 4, seed=1)
    found = mismatch(z, p)
    assert found["mmd"] == pytest.approx(float(MMD(4)(z.double(), p.double())), rel=1e-5)
    assert found == mismatch(z, p, size=33)
    maps = mismatch(z.reshape(100, 1, 2, 2), p.reshape(100, 1, 2, 2))
    assert maps == found


def test_the_p_value_is_even_under_the_prior_and_small_elsewhere() -> None:
    same = [mismatch(normal(60, 3, seed=2 * i), normal(60, 3, seed=2 * i + 1), permutations=99) for i in range(60)]
    values = np.array([found["p-value"] for found in same])
    assert 0.38 < values.mean() < 0.62  # even on (0, 1]: 0.5 +- 3 * 0.29 / sqrt(60)
    assert (values <= 0.05).mean() < 0.15
    assert abs(np.mean([found["mmd"] for found in same])) < 0.02  # unbiased
    shifted = mismatch(normal(200, 3) + 0.6, normal(200, 3, seed=1))
    narrow = mismatch(0.3 * normal(200, 3), normal(200, 3, seed=1))
    assert shifted["p-value"] == narrow["p-value"] == 1 / 500
    assert shifted["mmd"] > 0.1
    collapsed = mismatch(torch.zeros(50, 3), normal(50, 3))
    assert collapsed["p-value"] == 1 / 500


def test_the_mismatch_keeps_a_bounded_sample_and_wants_a_few() -> None:
    metric = AggregateMismatch(2, 0, most=50, permutations=19)
    for i in range(20):
        metric.update(normal(64, 2, seed=i), normal(64, 2, seed=100 + i))
    assert len(metric.samples.rows()[0]) == 50
    assert metric.compute()["p-value"] >= 0.05
    with pytest.raises(Unmeasurable, match="19 samples are too few"):
        mismatch(normal(19, 2), normal(19, 2, seed=1))


# -- labels --------------------------------------------------------------------------------------------------------------

LABEL = torch.arange(120) % 3
CORNERS = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
APART = CORNERS[LABEL] + 0.3 * normal(120, 2)
NOISE = normal(120, 2, seed=5)
READERS = [LinearProbe, KNNProbe, Clustering]


@pytest.mark.parametrize("reader", READERS)
def test_classes_that_lie_apart_are_found_and_noise_is_not(reader: Callable[[int], Any]) -> None:
    apart, noise = fed(reader(0), APART, LABEL), fed(reader(0), NOISE, LABEL)
    for entry in {"accuracy", "nmi", "ari"} & apart.keys():
        assert apart[entry] == 1.0
        assert noise[entry] < 0.5
    assert apart.get("chance", 1 / 3) == pytest.approx(1 / 3)
    assert apart == fed(reader(0), APART, LABEL, size=7)
    assert noise == fed(reader(0), NOISE.reshape(120, 2, 1, 1), LABEL)
    mixed = APART * torch.tensor([1.0, 0.0]) + 0.5 * NOISE  # only one class lies apart
    values = fed(reader(0), mixed, LABEL)
    assert all(0.3 < values[entry] < 1.0 for entry in {"accuracy", "nmi", "ari"} & values.keys())


@pytest.mark.parametrize("reader", READERS)
def test_one_class_is_nothing_to_tell_apart(reader: Callable[[int], Any]) -> None:
    with pytest.raises(Unmeasurable, match="all 120 held-out examples are of one class"):
        fed(reader(0), APART, torch.zeros(120, dtype=torch.long))
    with pytest.raises(Unmeasurable, match="no held-out examples"):
        reader(0).compute()


def test_a_class_with_fewer_examples_than_folds_is_named() -> None:
    label = LABEL.clone()
    label[:3] = 7
    for reader in (LinearProbe, KNNProbe):
        with pytest.raises(Unmeasurable, match=r"class 7 has 3 held-out examples, and 5 folds need 5.*or lower folds"):
            fed(reader(0), APART, label)
        assert fed(reader(0, folds=3), APART, label)["accuracy"] > 0.9
    assert fed(LinearProbe(0), APART, (LABEL == 0).long())["chance"] == pytest.approx(2 / 3)
    with pytest.raises(Unmeasurable, match="neighbours among 96"):
        fed(KNNProbe(0, neighbours=97), APART, LABEL)


def test_a_probe_is_tested_on_examples_that_it_was_not_trained_on() -> None:
    """The nearest code of a training example is itself: seen in training, labels at random would be known perfectly."""
    label = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(0))
    code = normal(200, 2)
    assert fed(KNNProbe(0, neighbours=1), code, label)["accuracy"] < 0.65
    wide = fed(LinearProbe(0, strength=1e4), normal(200, 150), label)  # more dimensions than it takes to know all by heart
    assert wide["accuracy"] < 0.65


def test_the_nearest_neighbour_by_hand() -> None:
    """Leave-one-out in two folds of pairs: codes 0, 1 of class a and 10, 11 of class b, one of them mislabelled."""
    code = torch.tensor([0.0, 0.1, 0.2, 0.3, 10.0, 10.1, 10.2, 10.3]).unsqueeze(1)
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    found = fed(KNNProbe(0, neighbours=1, folds=4), code, label)
    assert found == {"accuracy": 1.0, "chance": 0.5}


def test_a_linear_probe_sees_a_direction_that_neighbours_miss() -> None:
    """The class is in a dimension that is a hundredth as wide as the others."""
    code = torch.cat([0.02 * (LABEL[:, None] - 1.0) + 0.002 * NOISE[:, :1], 2 * normal(120, 3, seed=8)], 1)
    assert fed(LinearProbe(0), code, LABEL)["accuracy"] > 0.95
    assert fed(KNNProbe(0), code, LABEL)["accuracy"] < 0.6


def test_a_probe_that_did_not_converge_says_so() -> None:
    metric = LinearProbe(0, iterations=1)
    fed(metric, APART, LABEL)
    assert metric.remarks == ["5 of 5 probes did not converge; raise iterations"]
    full = LinearProbe(0)
    fed(full, APART, LABEL)
    assert full.remarks == []


def test_agreement_of_clusters_by_hand() -> None:
    """Two classes, one of them in two places, on three corners: k-means with 2 clusters joins the two that are nearer."""
    place = torch.tensor([0.0, 1.0, 9.0])[LABEL]
    classes = (LABEL == 2).long()
    assert fed(Clustering(0), place[:, None], classes) == pytest.approx({"nmi": 1.0, "ari": 1.0})
    other = (LABEL == 0).long()  # the clusters are still {0, 1} and {2}
    found = fed(Clustering(0), place[:, None], other)
    shared = mutual_info_score(other, classes)
    entropy = math.log(3) - 2 / 3 * math.log(2)  # of thirds 1 and 2, both times
    assert found["nmi"] == pytest.approx(shared / entropy)
    assert found["ari"] == pytest.approx(adjusted_rand_score(other, classes))
    with pytest.raises(Unmeasurable, match="2 different codes can't make 3 clusters"):
        fed(Clustering(0), (LABEL == 0).float()[:, None], LABEL)


# -- factors -------------------------------------------------------------------------------------------------------------

FACTORS = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).repeat(5, 1)  # 300 3
ROTATION = torch.linalg.qr(normal(3, 3, seed=4))[0]
SCALED = FACTORS / FACTORS.float().std(0)


def test_codes_that_are_the_factors() -> None:
    codes = torch.cat([SCALED, torch.zeros(300, 1), 1e-3 * normal(300, 1)], 1)
    assert fed(MIG(0, bins=5), codes[:, :4], FACTORS) == pytest.approx(1.0)
    assert fed(MIG(0), codes, FACTORS) > 0.8  # what noise shares with a factor by chance is the rest
    dci = fed(DCI(0), codes, FACTORS)
    assert dci["informativeness"] == 1.0
    assert dci["disentanglement"] == pytest.approx(1.0, abs=1e-6)
    assert dci["completeness"] == pytest.approx(1.0, abs=1e-6)
    assert dci["chance"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5) / 3)
    assert dci == fed(DCI(0), codes, FACTORS, size=37)


def test_a_rotation_mixes_the_factors() -> None:
    rotated = SCALED @ ROTATION
    assert fed(MIG(0), rotated, FACTORS) < 0.35
    dci = fed(DCI(0), rotated, FACTORS)
    assert dci["disentanglement"] < 0.5
    assert dci["completeness"] < 0.5
    assert dci["informativeness"] > dci["chance"] + 0.3


def test_two_dimensions_of_one_factor_and_one_dimension_of_two() -> None:
    """MIG is 0 for a factor that two dimensions know alike; DCI tells which half fails."""
    twice = torch.cat([SCALED, SCALED + 1e-4 * normal(300, 3)], 1)
    assert fed(MIG(0), twice, FACTORS) == pytest.approx(0.0, abs=0.02)
    dci = fed(DCI(0), twice, FACTORS)
    assert dci["disentanglement"] > 0.95
    assert dci["completeness"] < 0.85
    joint = torch.stack([FACTORS[:, 0] * 4.0 + FACTORS[:, 1], FACTORS[:, 2].float()], 1)
    dci = fed(DCI(0, depth=20), joint, FACTORS)
    assert dci["completeness"] > 0.95
    assert 1 / 3 < dci["disentanglement"] < 0.9
    assert dci["informativeness"] > 0.95


def test_disentanglement_and_completeness_by_hand() -> None:
    """Three dimensions, two factors: the first serves one factor, the second both alike, the third none."""
    disentanglement, completeness = scores(np.array([[0.6, 0.0], [0.2, 0.2], [0.0, 0.0]]))
    assert disentanglement == pytest.approx(0.6 * 1 + 0.4 * 0)  # weighted by their shares of all importance
    first = 1 - (-0.75 * math.log(0.75) - 0.25 * math.log(0.25)) / math.log(3)  # 3/4 and 1/4, to the base 3; the second is 1
    assert completeness == pytest.approx((first + 1) / 2)
    assert scores(np.zeros((3, 2))) == (0.0, 0.0)


def test_mig_is_the_gap_of_mutual_informations() -> None:
    """Against scikit-learn's mutual information and NumPy's histograms, on codes that know parts of the factors."""
    codes = torch.cat([SCALED[:, :2] @ torch.tensor([[1.0, 0.4], [0.2, 1.0]]), normal(300, 2)], 1)
    gaps = []
    for factor in FACTORS.T.numpy():
        placed = [np.digitize(c, np.histogram_bin_edges(c, 7)[:-1]) for c in codes.T.double().numpy()]
        known = sorted((mutual_info_score(c, factor) for c in placed), reverse=True)
        gaps.append((known[0] - known[1]) / math.log(len(np.unique(factor))))
    assert fed(MIG(0, bins=7), codes, FACTORS) == pytest.approx(np.mean(gaps), abs=1e-9)


def test_a_collapsed_code_has_no_gap_and_no_importance() -> None:
    assert fed(MIG(0), torch.ones(300, 4), FACTORS) == 0.0
    with pytest.raises(Unmeasurable, match="every example has the same code"):
        fed(DCI(0), torch.ones(300, 4), FACTORS)
    noise = DCI(0)
    found = fed(noise, normal(300, 4), FACTORS)
    assert found["disentanglement"] < 0.3
    assert "hardly better than chance" in noise.remarks[0]


def test_what_can_not_be_told_apart_is_refused_or_left_out() -> None:
    still = torch.cat([FACTORS, torch.full((300, 1), 2)], 1)
    for metric in (MIG(0, bins=5), DCI(0)):
        assert fed(metric, SCALED, still) == fed(metric, SCALED, FACTORS)
        fed(metric, SCALED, still)
        assert "left out: number 3" in metric.remarks[0]
        with pytest.raises(Unmeasurable, match="no factor varies"):
            fed(metric, SCALED, torch.zeros_like(FACTORS))
        with pytest.raises(Unmeasurable, match=r"write latent\.dim = 2"):
            fed(metric, SCALED[:, :1], FACTORS)
        with pytest.raises(Unmeasurable, match="no held-out examples"):
            type(metric)(0).compute()
    with pytest.raises(Unmeasurable, match="only one factor varies"):
        fed(DCI(0), SCALED, FACTORS[:, :1])
    with pytest.raises(Unmeasurable, match="20 held-out examples are too few"):
        fed(DCI(0), SCALED[:20], FACTORS[:20])
    few = MIG(0)
    fed(few, SCALED[:60], FACTORS[:60])
    assert "60 examples for 20 bins" in few.remarks[0]


# -- in a recipe ---------------------------------------------------------------------------------------------------------

ALL = ("ssim", "importance-weighted", "kl-per-dimension", "aggregate-mismatch", "linear-probe", "knn-probe", "clustering")


def evaluated(recipe: Callable[..., Recipe], text: str, source: Any, spec: SampleSpec) -> tuple[Any, Any]:
    loaded = recipe(text)
    model = build(loaded, spec)
    evaluation = prepare(model)
    for part in model.parts.values():
        part.eval()
    return evaluation, evaluation.run(model.parts, open_data(source, loaded.data), 1)


def test_every_metric_is_measured_in_a_recipe(recipe: Callable[..., Recipe]) -> None:
    text = VAE.replace('use = "digits"', 'use = "sprites"\ncount = 400\nvalidation = 0.3')
    text += "".join(f'[metric."{name}"]\nuse = "{name}"\n' for name in (*ALL, "mig", "dci"))
    source = Sprites(count=400)
    evaluation, found = evaluated(recipe, text, source, source.describe())
    assert not evaluation.unavailable
    assert not found.refused
    assert {name.partition(".")[0] for name in found.values} == {*ALL, "mig", "dci"}
    assert all(math.isfinite(value) for value in found.values.values())
    assert "importance-weighted.bits-per-dim" in found.values


def test_a_plain_autoencoder_has_codes_but_no_density(recipe: Callable[..., Recipe]) -> None:
    text = VAE.replace('use = "gaussian"', 'use = "deterministic"').replace('[loss.kl]\nuse = "kl"\n', "")
    text += "".join(f'[metric."{name}"]\nuse = "{name}"\n' for name in (*ALL, "mig"))
    evaluation, found = evaluated(recipe, text, Digits(), Digits().describe())
    lacking = {"importance-weighted", "kl-per-dimension", "aggregate-mismatch"}
    assert set(evaluation.unavailable) == {*lacking, "mig"}
    assert "no factors of variation" in evaluation.unavailable["mig"]
    assert {name.partition(".")[0] for name in found.values} == set(ALL) - lacking


METRICS: list[Any] = [
    SSIM, MultiScaleSSIM, ImportanceWeighted, KLPerDimension, AggregateMismatch, LinearProbe, KNNProbe, Clustering, MIG, DCI,
]  # fmt: skip


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_says_when_and_what_is_healthy(metric: Any) -> None:
    lines = [line.strip() for line in metric.__doc__.splitlines()]
    for start in ("Shapes: ", "When: ", "Healthy: ", "Source: "):
        assert any(line.startswith(start) for line in lines), start
    assert isinstance(metric.unit, str)
    assert metric.higher_is_better is True or isinstance(metric.higher_is_better, dict)
