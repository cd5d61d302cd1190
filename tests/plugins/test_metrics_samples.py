"""Metrics of generated samples: against torchmetrics, brute force, closed forms and sets whose answer is known."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hybridgen.errors import Unmeasurable
from hybridgen_data.toy2d import Toy2d
from hybridgen_losses.backbones import layers_of
from hybridgen_metrics.duplicates import Duplicates
from hybridgen_metrics.embeddings import refuse_constant
from hybridgen_metrics.frechet import FID, MiFID, ReconstructionFID, Same, frechet_distance
from hybridgen_metrics.inception_score import InceptionScore
from hybridgen_metrics.kernel import KID
from hybridgen_metrics.modes import ClassModes, MixtureModes
from hybridgen_metrics.neighbours import DensityCoverage, PrecisionRecall, balls_hit, centred, kth_squared_distance
from hybridgen_metrics.perceptual import LPIPS, PathLength, slerp


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(metric: Any, real: Tensor | None, fake: Tensor | None, batch: int = 64) -> Any:
    for piece in () if real is None else real.split(batch):
        metric.update(piece)
    for piece in () if fake is None else fake.split(batch):
        metric.generated(piece)
    return metric.compute()


MIXED = normal(24, 24, seed=9) / 5  # features that are correlated, as those of a network are
REAL = normal(400, 24, seed=1) @ MIXED + 1
FAKE = normal(300, 24, seed=2) @ MIXED * 1.2 + 1.1

OF_EMBEDDINGS: dict[str, Callable[[], Any]] = {
    "fid": FID,
    "mifid": lambda: MiFID(0),
    "kid": lambda: KID(0),
    "precision-recall": lambda: PrecisionRecall(0),
    "density-coverage": lambda: DensityCoverage(0),
}
EVERY = (FID, ReconstructionFID, MiFID, KID, InceptionScore, PrecisionRecall, DensityCoverage, Duplicates)
EVERY += (ClassModes, MixtureModes, LPIPS, PathLength)


# -- Frechet distances -------------------------------------------------------------------------------------------------


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.double().mean(0), torch.cov(x.double().T)


def frechet_of_samples(a: Tensor, b: Tensor) -> float:
    """Independent of covariance matrices and their roots: Tr (C_a C_b)^(1/2) = nuclear norm of A B^T, A and B the centred
    samples over sqrt(n - 1)."""
    a, b = a.double(), b.double()
    spread_a, spread_b = ((x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (a, b))
    overlap = torch.linalg.matrix_norm(spread_a @ spread_b.T, ord="nuc")
    squares = (a.mean(0) - b.mean(0)).square().sum() + spread_a.square().sum() + spread_b.square().sum()
    return float(squares - 2 * overlap)


def test_fid_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = FrechetInceptionDistance(Same(24))
    theirs.update(REAL.double(), real=True)
    theirs.update(FAKE.double(), real=False)
    assert measured(FID(), REAL, FAKE) == pytest.approx(float(theirs.compute()), rel=1e-9)


@pytest.mark.parametrize(("count", "features"), [(400, 24), (20, 64), (2, 8)])
def test_fid_is_the_frechet_distance_also_where_covariances_are_singular(count: int, features: int) -> None:
    real, fake = normal(count, features, seed=3), normal(count + 3, features, seed=4) + 0.5
    assert measured(FID(), real, fake, 7) == pytest.approx(frechet_of_samples(real, fake), rel=1e-9)


def test_fid_of_a_dead_and_a_repeated_feature() -> None:
    real, fake = (torch.cat([x, x[:, :3], torch.zeros(len(x), 2)], 1) for x in (REAL, FAKE))
    assert measured(FID(), real, fake) == pytest.approx(frechet_of_samples(real, fake), rel=1e-9)


def test_fid_of_a_set_with_itself_is_0_and_never_below() -> None:
    for x in (REAL, normal(20, 64), normal(30, 100) * 100 + 1000):
        assert 0 <= measured(FID(), x, x) < 1e-12 * float(x.double().square().sum(1).mean())
        assert 0 <= measured(FID(), x, x.flip(0), 5) < 1e-12 * float(x.double().square().sum(1).mean())


def test_fid_in_closed_form() -> None:
    """Diagonal covariances commute: sum (m - m')^2 + (s - s')^2."""
    std = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([3.0, 2.0, 1.0]).double()
    mean = torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([0.0, 1.0, 3.0]).double()
    value = frechet_distance(mean[0], std[0].square().diag(), mean[1], std[1].square().diag())
    assert value == pytest.approx(0 + 1 + 4 + 4 + 0 + 1)


def test_fid_survives_features_far_from_0() -> None:
    real, fake = normal(200, 8, seed=1).double() + 1e4, normal(200, 8, seed=2).double() * 1.5 + 1e4
    assert measured(FID(), real, fake) == pytest.approx(frechet_of_samples(real, fake), rel=1e-5)


def test_rfid_compares_reconstructions_with_their_originals() -> None:
    metric = ReconstructionFID()
    for x, recon in zip(REAL[:300].split(50), FAKE.split(50), strict=True):
        metric.update(x, recon)
    assert metric.compute() == pytest.approx(frechet_of_samples(REAL[:300], FAKE), rel=1e-9)


def test_few_samples_for_the_features_are_remarked() -> None:
    metric = FID()
    measured(metric, normal(30, 64), normal(100, 64))
    assert len(metric.remarks) == 1
    assert "30 real samples for 64 features" in metric.remarks[0]
    metric.reset()
    measured(metric, normal(100, 64), normal(100, 64))
    assert metric.remarks == []


def test_mifid_agrees_with_torchmetrics_with_its_sides_swapped() -> None:
    from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

    near = torch.cat([REAL[:150] + 0.1 * normal(150, 24), FAKE[:150]])
    theirs = MemorizationInformedFrechetInceptionDistance(Same(24), cosine_distance_eps=0.5)
    theirs.update(near.double(), real=True)
    theirs.update(REAL.double(), real=False)
    value = measured(MiFID(0, threshold=0.5, chunk=70), REAL, near)
    assert value == pytest.approx(float(theirs.compute()), rel=1e-6)
    assert value > 1.5 * measured(FID(), REAL, near)


def test_mifid_looks_from_generated_samples_to_real_ones() -> None:
    """Copies of 10 of 400 real examples: all generated samples are copies, though most real examples have none near."""
    copies = REAL[:10].repeat(20, 1)
    metric = MiFID(0)
    assert measured(metric, REAL, copies) > 1e6 * measured(FID(), REAL, copies)
    assert any("nearly all generated samples are copies" in remark for remark in metric.remarks)
    assert measured(MiFID(0), REAL, REAL) == 0


def test_mifid_leaves_what_copies_nothing_as_it_is() -> None:
    real, fake = normal(300, 64, seed=1), normal(300, 64, seed=2)
    assert measured(MiFID(0), real, fake) == pytest.approx(measured(FID(), real, fake))


# -- KID and IS --------------------------------------------------------------------------------------------------------


def test_kid_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        theirs = KernelInceptionDistance(Same(24), subsets=50, subset_size=80)
        theirs.update(REAL.double(), real=True)
        theirs.update(FAKE.double(), real=False)
        torch.manual_seed(5)
        mean, std = theirs.compute()
    expected = {"mean": float(mean), "std": float(std)}
    assert measured(KID(5, subsets=50, subset_size=80), REAL, FAKE) == pytest.approx(expected, rel=1e-6)


def test_kid_of_whole_sets_is_the_unbiased_polynomial_mmd() -> None:
    a, b = REAL[:50].double(), FAKE[:50].double()
    total = 0.0
    for i in range(50):
        for j in range(50):
            if i != j:
                total += float((a[i] @ a[j] / 24 + 1) ** 3 + (b[i] @ b[j] / 24 + 1) ** 3) / (50 * 49)
            total -= 2 * float((a[i] @ b[j] / 24 + 1) ** 3) / 50**2
    value = measured(KID(0, subsets=2, subset_size=50), REAL[:50], FAKE[:50])
    assert value["mean"] == pytest.approx(total, rel=1e-6)
    assert value["std"] == pytest.approx(0, abs=1e-9)


def test_kid_is_0_within_its_noise_for_one_distribution_and_moves_no_global_state() -> None:
    before = torch.random.get_rng_state()
    value = measured(KID(0, subset_size=50), normal(1000, 16, seed=1), normal(1000, 16, seed=2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert abs(value["mean"]) < value["std"]
    assert value == measured(KID(0, subset_size=50), normal(1000, 16, seed=1), normal(1000, 16, seed=2))
    assert value != measured(KID(1, subset_size=50), normal(1000, 16, seed=1), normal(1000, 16, seed=2))


def test_kid_wants_as_many_samples_as_a_subset() -> None:
    with pytest.raises(Unmeasurable, match="99 generated samples, but subset_size = 100 needs at least 100"):
        measured(KID(0), normal(200, 4), normal(99, 4))
    with pytest.raises(ValueError, match="write a larger `most`"):
        KID(0, subset_size=200, most=100)


def test_inception_score_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    logits = 3 * normal(500, 10)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        theirs = Theirs(nn.Identity(), splits=5)
        theirs.update(logits.double())
        torch.manual_seed(7)
        mean, std = theirs.compute()
    value = measured(InceptionScore(7, splits=5), None, logits.softmax(1))
    assert value == pytest.approx({"mean": float(mean), "std": float(std)}, rel=1e-5)


def test_inception_score_in_closed_form() -> None:
    sure = torch.eye(4).repeat(500, 1)  # probabilities of exactly 0 and 1
    assert measured(InceptionScore(0, splits=2), None, sure)["mean"] == pytest.approx(4, rel=1e-2)
    one_class = torch.eye(4)[:1].repeat(100, 1)
    assert measured(InceptionScore(0), None, one_class) == pytest.approx({"mean": 1.0, "std": 0.0}, abs=1e-9)
    unsure = torch.full((100, 4), 0.25)
    assert measured(InceptionScore(0), None, unsure)["mean"] == pytest.approx(1)


def test_inception_score_refuses_and_remarks_too_few() -> None:
    with pytest.raises(Unmeasurable, match="measure 20 or more"):
        measured(InceptionScore(0), None, torch.full((19, 4), 0.25))
    metric = InceptionScore(0)
    measured(metric, None, torch.full((100, 4), 0.25))
    assert "10 samples a split for 4 classes" in metric.remarks[0]
    metric.reset()
    measured(metric, None, torch.full((400, 4), 0.25))
    assert metric.remarks == []


# -- neighbours --------------------------------------------------------------------------------------------------------


def brute_force(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The four numbers, pair by pair."""
    a, b = real.double(), fake.double()

    def radius(points: Tensor, i: int) -> float:
        return sorted(float((points[i] - points[j]).norm()) for j in range(len(points)) if j != i)[k - 1]

    radius_a, radius_b = ([radius(side, i) for i in range(len(side))] for side in (a, b))
    distance = [[float((x - y).norm()) for y in b] for x in a]
    n, m = len(a), len(b)
    return {
        "precision": sum(any(distance[i][j] <= radius_a[i] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(distance[i][j] <= radius_b[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(distance[i][j] <= radius_a[i] for i in range(n) for j in range(m)) / (k * m),
        "coverage": sum(any(distance[i][j] <= radius_a[i] for j in range(m)) for i in range(n)) / n,
    }


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_agree_with_brute_force(k: int) -> None:
    real, fake = normal(60, 3, seed=1), normal(45, 3, seed=2) * 0.6 + 0.7
    expected = brute_force(real, fake, k)
    found = measured(PrecisionRecall(0, k=k, chunk=17), real, fake) | measured(DensityCoverage(0, k=k, chunk=17), real, fake)
    assert found == pytest.approx(expected)
    assert len(set(expected.values())) == 4
    assert min(expected.values()) > 0


def test_disjoint_sets_have_nothing_in_common() -> None:
    real, fake = normal(300, 8, seed=1), normal(300, 8, seed=2) + 20
    assert measured(PrecisionRecall(0), real, fake) == {"precision": 0, "recall": 0}
    assert measured(DensityCoverage(0), real, fake) == {"density": 0, "coverage": 0}


def test_a_set_against_itself() -> None:
    real = normal(200, 16) * 3 + 100
    assert measured(PrecisionRecall(0, chunk=33), real, real) == {"precision": 1, "recall": 1}
    found = measured(DensityCoverage(0, k=5, chunk=33), real, real)
    assert found == pytest.approx({"density": 6 / 5, "coverage": 1})


def test_samples_of_one_of_two_modes_are_precise_and_recall_half() -> None:
    real = torch.cat([normal(300, 8, seed=1), normal(300, 8, seed=2) + 20])
    found = measured(PrecisionRecall(0), real, normal(300, 8, seed=1))
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(0.5)
    crowded = measured(DensityCoverage(0), real, normal(300, 8, seed=3))
    assert crowded["density"] == pytest.approx(1, abs=0.15)
    assert crowded["coverage"] == pytest.approx(0.5 * (1 - 2**-5), abs=0.03)


def test_samples_all_over_recall_all_and_are_imprecise() -> None:
    found = measured(PrecisionRecall(0), normal(400, 6, seed=1) * 0.3, normal(400, 6, seed=2) * 3)
    assert found["recall"] > 0.9
    assert found["precision"] < 0.1


def test_density_and_coverage_of_one_distribution_are_as_the_paper_expects() -> None:
    found = measured(DensityCoverage(0, k=5), normal(2000, 4, seed=1), normal(2000, 4, seed=2))
    assert found["density"] == pytest.approx(1, abs=0.03)
    assert found["coverage"] == pytest.approx(1 - 2**-5, abs=0.015)


def test_neighbours_find_copies_far_from_the_origin() -> None:
    """float32 features near 1000 that differ in their last digits: no cancellation decides."""
    real = 1000 * normal(1, 64, seed=1) + normal(50, 64) / 1000
    a, b, equal = centred(real, real, torch.device("cpu"))
    radius = kth_squared_distance(a, 1, 50)
    exact = (real.double()[:, None] - real.double()).square().sum(2).fill_diagonal_(math.inf).amin(1)
    torch.testing.assert_close(radius, exact, rtol=1e-9, atol=0)
    hits, _ = balls_hit(b, a, torch.zeros(50).double(), equal, 50)
    assert torch.equal(hits, torch.ones(50).long())  # of radius 0, only its own


def test_neighbours_remark_unequal_counts() -> None:
    for metric in (PrecisionRecall(0), DensityCoverage(0)):
        measured(metric, normal(100, 4), normal(30, 4))
        assert "100 real and 30 generated" in metric.remarks[0]
        measured(metric, None, normal(70, 4))
        assert metric.remarks == []


def test_neighbours_want_more_samples_than_neighbours() -> None:
    with pytest.raises(Unmeasurable, match="k = 3 needs at least 4"):
        measured(PrecisionRecall(0), normal(20, 4), normal(3, 4))
    with pytest.raises(Unmeasurable, match="k = 5 needs at least 6"):
        measured(DensityCoverage(0), normal(5, 4), normal(30, 4))


# -- all of those of embeddings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
def test_batches_and_a_reset_change_nothing(name: str) -> None:
    metric = OF_EMBEDDINGS[name]()
    first = measured(metric, REAL, FAKE, 400)
    metric.reset()
    measured(metric, FAKE, REAL, 50)
    metric.reset()
    assert measured(metric, REAL, FAKE, 33) == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
def test_generated_samples_may_come_first(name: str) -> None:
    metric = OF_EMBEDDINGS[name]()
    for piece in FAKE.split(50):
        metric.generated(piece)
    assert measured(metric, REAL, None) == pytest.approx(measured(OF_EMBEDDINGS[name](), REAL, FAKE), rel=1e-9)


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
def test_constant_and_missing_features_are_refused(name: str) -> None:
    constant = torch.full((200, 24), 0.1)
    with pytest.raises(Unmeasurable, match="the same value for all real examples"):
        measured(OF_EMBEDDINGS[name](), constant, FAKE)
    with pytest.raises(Unmeasurable, match="measure more samples"):
        measured(OF_EMBEDDINGS[name](), REAL, FAKE[:1])
    with pytest.raises(Unmeasurable, match="measure more samples"):
        OF_EMBEDDINGS[name]().compute()


@pytest.mark.parametrize("name", OF_EMBEDDINGS)
def test_a_generator_of_one_sample_has_a_bad_number_rather_than_none(name: str) -> None:
    collapsed = measured(OF_EMBEDDINGS[name](), REAL, REAL[:1].expand(300, 24))
    good = measured(OF_EMBEDDINGS[name](), REAL, REAL[:300] + 0.05 * normal(300, 24))
    if isinstance(good, dict):
        entry = next(e for e in ("coverage", "recall", "mean") if e in good)
        assert (collapsed[entry] < 0.5 * good[entry]) if entry != "mean" else (collapsed[entry] > good[entry])
    else:
        assert math.isfinite(collapsed)
        assert collapsed > good


def test_constant_features_are_told_from_such_as_vary_in_float32s_last_digits() -> None:
    x = torch.full((1000, 4), 0.1)
    x[::2] = torch.nextafter(x[::2], torch.tensor(1.0))
    x = x.double()
    with pytest.raises(Unmeasurable):
        refuse_constant(x.var(0), x.square().mean(0))
    x[:, 2] += 1e-5 * normal(1000)
    refuse_constant(x.var(0), x.square().mean(0))


@pytest.mark.parametrize("name", ["mifid", "kid", "precision-recall", "density-coverage", "duplicates", "inception-score"])
def test_50000_samples_take_bounded_memory(name: str) -> None:
    most = 300
    metric: Any = {
        "mifid": lambda: MiFID(0, most=most),
        "kid": lambda: KID(0, most=most),
        "precision-recall": lambda: PrecisionRecall(0, most=most),
        "density-coverage": lambda: DensityCoverage(0, most=most),
        "duplicates": lambda: Duplicates((4,), 0, most=most),
        "inception-score": lambda: InceptionScore(0, most=most),
    }[name]()
    kept = [r for r in (getattr(metric, side, None) for side in ("real", "fake", "kept")) if r is not None]
    for piece in normal(50_000, 4).softmax(1).split(250):
        if hasattr(metric, "update"):
            metric.update(piece)
        metric.generated(piece)
        assert all(sum(len(rows[0]) for rows in reservoir._rows) <= 2 * most for reservoir in kept)
    assert [reservoir.seen for reservoir in kept] == [50_000] * len(kept)
    value = metric.compute()
    assert all(math.isfinite(v) for v in (value.values() if isinstance(value, dict) else [value]))


def test_fid_keeps_sums_only() -> None:
    metric = FID()
    for piece in normal(50_000, 4).split(500):
        metric.update(piece)
        metric.generated(piece)
    held = [v for v in vars(metric.sums).values() if isinstance(v, Tensor)]
    assert sum(v.numel() for v in held) < 100
    assert metric.compute() < 1e-9


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_duplicates_counts_repeats_and_copies() -> None:
    real, fake = normal(1000, 6, seed=1), normal(1000, 6, seed=2)
    clean = measured(Duplicates((6,), 0), real, fake)
    assert max(clean.values()) <= 0.002
    fake[:100] = fake[100:200] + 1e-4  # 200 samples have a twin
    fake[200:250] = real[:50] - 1e-4
    found = measured(Duplicates((6,), 0, chunk=170), real, fake)
    assert found == pytest.approx({"repeated": 0.2, "copied": 0.05, "real_repeated": 0}, abs=0.003)


def test_duplicates_by_chance_are_as_many_as_the_docstring_says() -> None:
    points = [torch.rand(4000, 2, generator=torch.Generator().manual_seed(s)) for s in (1, 2)]
    found = measured(Duplicates((2,), 0), *points)
    assert found == pytest.approx(dict.fromkeys(found, 1 - 2**-0.01), abs=0.004)


def test_duplicates_of_one_sample_and_of_the_real_set() -> None:
    real = normal(500, 6)
    assert measured(Duplicates((6,), 0), real, real[:1].expand(500, 6))["repeated"] == 1
    assert measured(Duplicates((6,), 0), real, real) == {"repeated": 0, "copied": 1, "real_repeated": 0}


def test_duplicates_are_found_at_unequal_counts() -> None:
    real = normal(2000, 6, seed=1)
    fake = normal(200, 6, seed=2)
    fake[:100] = fake[100:]
    found = measured(Duplicates((6,), 0), real, fake)
    assert found["repeated"] == 1


def test_duplicates_count_as_many_of_either_side() -> None:
    """Of 4,000 in the plane far more come near one another than of 200, from which the scale is."""
    few, many = (torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) for n in (200, 4000))
    assert max(measured(Duplicates((2,), 0), few, many).values()) < 0.035  # 0.7 %; it were 13 % of all 4,000


def test_duplicates_take_an_even_part_of_data_in_order() -> None:
    real = torch.cat([normal(300, 6, seed=1), normal(300, 6, seed=2) + 20])  # sorted by class
    assert measured(Duplicates((6,), 0), real, real[300:])["copied"] == pytest.approx(0.5, abs=0.1)


def test_duplicates_see_a_noisy_copy_of_a_large_picture_and_no_other_picture() -> None:
    coarse = normal(60, 1, 16, 16)
    real = nn.functional.interpolate(coarse, 128)
    fake = nn.functional.interpolate(normal(60, 1, 16, 16, seed=5), 128)
    fake[:30] = real[:30] + 0.3 * normal(30, 1, 128, 128, seed=6)
    metric = Duplicates((1, 128, 128), 0)
    found = measured(metric, real, fake, 16)
    assert found == {"repeated": 0, "copied": 0.5, "real_repeated": 0}
    assert metric.sides.real.rows()[0].shape == (60, 32 * 32)
    assert "60 samples" in metric.remarks[0]


def test_duplicates_refuse_what_they_cannot_scale() -> None:
    with pytest.raises(Unmeasurable, match="exact twin"):
        measured(Duplicates((3,), 0), torch.ones(50, 3), normal(50, 3))
    with pytest.raises(Unmeasurable, match="at least 10"):
        measured(Duplicates((3,), 0), normal(50, 3), normal(9, 3))


def test_duplicates_do_not_follow_batches() -> None:
    real, fake = normal(300, 2, seed=1), normal(400, 2, seed=2)
    first = measured(Duplicates((2,), 0), real, fake, 400)
    assert measured(Duplicates((2,), 0), real, fake, 7) == first
    assert first["repeated"] > 0


# -- modes -------------------------------------------------------------------------------------------------------------


def sure(classes: list[int], k: int = 4) -> Tensor:
    return torch.eye(k)[torch.tensor(classes)] * 0.7 + 0.3 / k


def test_class_modes_counts_classes_and_compares_histograms() -> None:
    real = sure([0, 1, 2, 3] * 25)
    fake = sure([0] * 50 + [1] * 47 + [2] * 3)  # class 2 has 3 of 100, a tenth of a quarter is 2.5
    kl = sum(p * math.log(p / 0.25) for p in (0.5, 0.47, 0.03))
    assert measured(ClassModes(), real, fake, 9) == pytest.approx({"modes": 3, "classes": 4, "kl": kl})
    assert measured(ClassModes(share=0.2), real, fake)["modes"] == 2
    assert measured(ClassModes(), real, real) == {"modes": 4, "classes": 4, "kl": 0}
    assert measured(ClassModes(), real, sure([1] * 80)) == pytest.approx({"modes": 1, "classes": 4, "kl": math.log(4)})


def test_class_modes_stay_finite_for_a_class_without_real_examples() -> None:
    metric = ClassModes()
    found = measured(metric, sure([0, 1, 2] * 20), sure([3] * 60))
    assert found["kl"] == pytest.approx(-math.log(0.5 / 60.5))
    assert "1 classes have no real example" in metric.remarks[0]


def test_class_modes_want_enough_samples() -> None:
    with pytest.raises(Unmeasurable, match="measure 40 samples or more"):
        measured(ClassModes(), sure([0, 1]), sure([0, 1, 2] * 13))
    with pytest.raises(Unmeasurable):
        measured(ClassModes(), None, sure([0] * 100))


@pytest.mark.parametrize(("shape", "modes"), [("ring", 8), ("grid", 25)])
def test_mixture_modes_of_real_draws_are_all_found(shape: Any, modes: int) -> None:
    held_out = Toy2d(shape=shape, modes=modes, count=4000).load()["train"]
    other = Toy2d(shape=shape, modes=modes, count=4000, seed=1).load()["train"]
    metric = MixtureModes((2,), modes, 0)
    assert held_out.label is not None
    for x, label in zip(held_out.x.split(300), held_out.label.split(300), strict=True):
        metric.update(x, label)
    for x in other.x.split(170):
        metric.generated(x)
    found = metric.compute()
    assert (found["modes"], found["classes"]) == (modes, modes)
    assert found["good"] == pytest.approx(1 - math.exp(-4.5), abs=0.005)
    std = (metric.squares / metric.count[:, None] - (metric.sum / metric.count[:, None]).square()).mean(1).sqrt()
    torch.testing.assert_close(std, torch.full_like(std, 0.05), rtol=0.12, atol=0)


def test_mixture_modes_miss_what_was_not_reached_and_what_lies_between() -> None:
    data = Toy2d(shape="ring", modes=8, count=4000).load()["train"]
    centres = Toy2d(shape="ring", modes=8).modes()
    metric = MixtureModes((2,), 8, 0)
    metric.update(data.x, data.label)  # type: ignore[arg-type]
    metric.generated(torch.cat([centres[:3].repeat(10, 1), (centres[:1] + centres[1:2]) / 2]))
    assert metric.compute() == pytest.approx({"modes": 3, "classes": 8, "good": 30 / 31})
    metric.reset()
    metric.update(data.x, data.label)  # type: ignore[arg-type]
    metric.generated(torch.zeros(20, 2))
    assert metric.compute() == {"modes": 0, "classes": 8, "good": 0}
    few = MixtureModes((2,), 8, 0, least=5)
    few.update(data.x, data.label)  # type: ignore[arg-type]
    few.generated(torch.cat([centres[:1].repeat(5, 1), centres[1:2].repeat(4, 1)]))
    assert few.compute()["modes"] == 1


def test_mixture_modes_refuse_what_has_no_modes() -> None:
    with pytest.raises(ValueError, match="class-modes"):
        MixtureModes((1, 8, 8), 10, 0)
    with pytest.raises(ValueError, match="write sigmas = 10"):
        MixtureModes((64,), 10, 0)
    MixtureModes((9,), 10, 0)  # P(chi^2 of 9 < 9) = 0.56, of 10: 0.47
    with pytest.raises(ValueError, match="of a Gaussian lies within"):
        MixtureModes((10,), 10, 0)
    metric = MixtureModes((2,), 3, 0)
    metric.update(normal(20, 2), torch.arange(20) % 2)
    metric.generated(normal(5, 2))
    with pytest.raises(Unmeasurable, match="modes 2;"):
        metric.compute()
    metric.update(torch.ones(3, 2), torch.tensor([2, 2, 2]))
    with pytest.raises(Unmeasurable, match="no width"):
        metric.compute()


# -- LPIPS and path length ---------------------------------------------------------------------------------------------


def backbone_file(network: str, folder: Path) -> Path:
    """A network with weights of chance, in torchvision's layout."""
    body = nn.Sequential(*layers_of(network))
    random = torch.Generator().manual_seed(0)
    for weight in body.parameters():
        weight.data = torch.randn(weight.shape, generator=random) * (2 / weight[0].numel()) ** 0.5 * (weight.ndim > 1)
    torch.save({f"features.{name}": value for name, value in body.state_dict().items()}, folder / f"{network}.pth")
    return folder / f"{network}.pth"


@pytest.mark.parametrize(("network", "theirs", "side"), [("alexnet", "alex", 64), ("vgg16", "vgg", 32)])
def test_lpips_agrees_with_torchmetrics(
    network: Any, theirs: Any, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchmetrics.functional.image import lpips

    file = backbone_file(network, tmp_path)

    def features(name: str, pretrained: bool) -> nn.Sequential:
        body = nn.Sequential(*layers_of(name))
        body.load_state_dict({k.removeprefix("features."): v for k, v in torch.load(file).items()})
        return body

    monkeypatch.setattr(lpips, "_get_tv_model_features", features)  # torchvision's, which has no build here
    expected = lpips._LPIPS(net=theirs, pnet_rand=True)
    x, recon = normal(3, 3, side, side).tanh(), normal(3, 3, side, side, seed=1).tanh()
    metric = LPIPS((3, side, side), "tanh", network=network, weights=file)
    metric.update(x[:2], recon[:2])
    metric.update(x[2:], recon[2:])
    with torch.no_grad():
        assert metric.compute() == pytest.approx(float(expected(x, recon).mean()), rel=1e-4)
    metric.reset()
    metric.update(x, x)
    assert metric.compute() == 0


def test_lpips_takes_grey_and_small_pictures_and_refuses_others(tmp_path: Path) -> None:
    file = backbone_file("alexnet", tmp_path)
    metric = LPIPS((1, 28, 28), "tanh", weights=file, resize=64)
    x = normal(2, 1, 28, 28).tanh()
    metric.update(x, -x)
    wide = LPIPS((3, 28, 28), "tanh", weights=file, resize=64)
    wide.update(x.expand(-1, 3, -1, -1), -x.expand(-1, 3, -1, -1))
    assert metric.compute() == pytest.approx(wide.compute())
    assert metric.compute() > 0
    with pytest.raises(ValueError, match="too small for alexnet; write `resize = "):
        LPIPS((1, 28, 28), "tanh", weights=file)
    with pytest.raises(ValueError, match="wants 3 channels"):
        LPIPS((2, 64, 64), "tanh", weights=file)
    with pytest.raises(ValueError, match="there is no file"):
        LPIPS((3, 64, 64), "tanh", weights=tmp_path / "none.pth")
    with pytest.raises(ValueError, match="compares pictures"):
        LPIPS((8,), "identity", weights=file)


def path_length(batch: int = 50, count: int = 400, decode: Any = None, z: Tensor | None = None, **options: Any) -> float:
    metric = PathLength("identity", 0, **options)
    for piece in (normal(count, 6) if z is None else z).split(batch):
        metric.generated(piece, decode or (lambda z: z), lambda x: x)
    return float(metric.compute())


def test_path_length_of_a_linear_decoder_is_that_of_its_path() -> None:
    """Straight from a to b, any linear map M: |M (b - a)|^2 at every t; E |b - a|^2 = 2 d."""
    z, matrix = normal(400, 6), normal(6, 9, seed=3)
    expected = (z.diff(dim=0) @ matrix).square().sum(1).mean()
    assert path_length(decode=lambda z: z @ matrix, z=z, path="lerp", discard=0) == pytest.approx(float(expected), rel=1e-3)


def test_path_length_along_the_sphere_is_the_squared_angle() -> None:
    z = nn.functional.normalize(normal(400, 6), dim=1)
    angle = torch.acos((z[1:] * z[:-1]).sum(1).double())
    assert path_length(z=z, discard=0) == pytest.approx(float(angle.square().mean()), rel=1e-3)


def test_path_length_discards_either_end() -> None:
    """Distances of every scale: |b - a|^2 of the first pairs are far away, as few as are discarded."""
    z = torch.arange(1, 102).double()[:, None] ** 2 / 100  # 100 pairs
    squared = z.diff(dim=0).square().flatten().sort().values
    # quantiles at ranks 0.05 * 99 = 4.95 (lower: 4) and 0.95 * 99 = 94.05 (higher: 95)
    assert path_length(z=z, path="lerp", discard=0.05) == pytest.approx(float(squared[4:96].mean()), rel=1e-4)


def test_path_length_follows_neither_batches_nor_batches_of_one() -> None:
    bent: Any = lambda z: (3 * z).sin()  # noqa: E731
    first = path_length(batch=400, decode=bent)
    assert path_length(batch=33, decode=bent) == pytest.approx(first, rel=1e-6)
    assert path_length(batch=1, decode=bent) == pytest.approx(first, rel=1e-6)


def test_path_length_passes_the_output_activation_and_the_embedding() -> None:
    z = normal(100, 6)
    metric = PathLength("tanh", 0, path="lerp", discard=0)
    metric.generated(z, lambda z: 100 + z, lambda x: x)  # tanh(100 + z) is 1, all flat
    assert metric.compute() == 0
    assert "ignores z" in metric.remarks[0]
    plain, doubled = (PathLength("identity", 0, path="lerp") for _ in range(2))
    plain.generated(z, lambda z: z, lambda x: x)
    doubled.generated(z, lambda z: z, lambda x: 2 * x)
    assert doubled.compute() == pytest.approx(4 * plain.compute(), rel=1e-3)


def test_path_length_of_pictures_of_latents() -> None:
    z = normal(40, 2, 4, 4)
    flat = path_length(z=z.flatten(1), decode=lambda z: z, discard=0)
    assert path_length(z=z, decode=lambda z: z.flatten(1), discard=0) == pytest.approx(flat, rel=1e-6)


def test_path_length_wants_20_samples_and_a_reset_begins_anew() -> None:
    metric = PathLength("identity", 0)
    metric.generated(normal(19, 6), lambda z: z, lambda x: x)
    with pytest.raises(Unmeasurable, match="19 generated samples, at least 20"):
        metric.compute()
    metric.reset()
    metric.generated(normal(400, 6), lambda z: z, lambda x: x)
    assert metric.compute() == pytest.approx(path_length())


def test_slerp_stays_on_the_sphere_at_an_even_speed_and_is_straight_where_ends_are_parallel() -> None:
    a, b = (nn.functional.normalize(normal(20, 5, seed=s), dim=1) for s in (1, 2))
    t = torch.full((20, 1), 0.25)
    point = slerp(a, b, t)
    torch.testing.assert_close(point.norm(dim=1), torch.ones(20))
    angle = torch.acos((a * b).sum(1))
    torch.testing.assert_close(torch.acos((a * point).sum(1)), angle / 4, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(slerp(a, a, t), a)
    torch.testing.assert_close(slerp(a, -a, t), 0.5 * a)
    assert torch.isfinite(slerp(torch.zeros(20, 5), b, t)).all()


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", EVERY)
def test_every_metric_states_what_show_prints(metric: Any) -> None:
    doc = inspect.getdoc(metric) or ""
    lines = [line.split(": ")[0] for line in doc.splitlines()]
    assert all(fact in lines for fact in ("Shapes", "When", "Healthy", "Source"))
    assert isinstance(metric.unit, str)
    higher = metric.higher_is_better
    assert higher in (True, False) or all(v in (True, False, None) for v in higher.values())
    assert hasattr(metric, "update") or hasattr(metric, "generated")
    options = [p for p in inspect.signature(metric).parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert all(p.annotation for p in options)
