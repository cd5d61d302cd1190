"""The generator's own terms: values by hand, gradients in closed form or by finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridgen_losses.diversity import ModeSeeking
from hybridgen_losses.features import FeatureMatching
from hybridgen_losses.path_length import PathLength


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slopes(function: Any, at: Tensor) -> Tensor:
    """Central differences of a float64 function of an array, value by value."""
    base, found = at.detach().double().numpy(), np.zeros(at.shape)
    for place in np.ndindex(*at.shape):
        for sign in (1, -1):
            moved = base.copy()
            moved[place] += sign * 1e-5
            found[place] += sign * function(moved) / 2e-5
    return torch.from_numpy(found)


def test_terms_are_computed_in_float32_whatever_comes() -> None:
    fake, z = normal(5, 4).bfloat16(), normal(5, 3, seed=1).bfloat16()
    W = normal(24, 3, seed=2)

    def decode(z: Tensor) -> Tensor:
        return (z @ W.T).unflatten(1, SHAPE)

    def lengths(z: Tensor, noise: Tensor) -> Tensor:
        return PathLength(SHAPE).path_lengths(decode, z, noise)

    for function, given in (
        (ModeSeeking().generator, (fake, z)),
        (lambda a, b: FeatureMatching().generator([a], [b]), (fake, fake.flip(0) * 2)),
        (lengths, (z, normal(5, *SHAPE).bfloat16())),
    ):
        half, full = function(*given), function(*(g.float() for g in given))
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full)


# -- feature matching --------------------------------------------------------------------------------------------------


def features(count: int, seed: int) -> list[Tensor]:
    return [normal(count, *shape, seed=seed + i).requires_grad_() for i, shape in enumerate(((3, 2, 4), (6,), (5,)))]


@pytest.mark.parametrize(("layers", "which"), [(None, [2]), ((0,), [0]), ((-1, 1), [2, 1]), ((0, 1, 2), [0, 1, 2])])
def test_feature_matching_is_the_squared_distance_of_the_batches_means(
    layers: tuple[int, ...] | None, which: list[int]
) -> None:
    real, fake = features(7, 0), features(4, 10)  # the two batches need not be of one size
    loss = FeatureMatching(layers=layers) if layers else FeatureMatching()
    value = loss.generator(real, fake)

    def by_hand(changed: int, array: np.ndarray) -> float:
        total = 0.0
        for i in which:
            a = real[i].detach().double().numpy()
            b = array if i == changed else fake[i].detach().double().numpy()
            total += float(((a.sum(0) / 7 - b.sum(0) / 4) ** 2).sum())
        return total

    assert float(value.detach()) == pytest.approx(by_hand(-1, np.zeros(0)), rel=1e-5)
    for i in which:
        expected = slopes(lambda array, i=i: by_hand(i, array), fake[i])
        got = torch.autograd.grad(value, fake[i], retain_graph=True)[0]
        torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-4)
    constants = [real[i] for i in which]
    assert torch.autograd.grad(value, constants, allow_unused=True) == (None,) * len(which)


def test_feature_matching_couples_the_batch_and_says_so() -> None:
    loss = FeatureMatching(layers=(1,))
    real, fake = features(6, 0), features(6, 10)
    halves = [loss.generator([f[s] for f in real], [f[s] for f in fake]) for s in (slice(0, 3), slice(3, 6))]
    assert loss.couples_batch is True
    assert float(sum(halves).detach() / 2) > 1.2 * float(loss.generator(real, fake).detach())


def test_feature_matching_names_the_layers_that_exist() -> None:
    with pytest.raises(ValueError, match=r"feature-matching: layers = .*gives 3 features; write numbers from -3 to 2"):
        FeatureMatching(layers=(3,)).generator(features(2, 0), features(2, 1))


# -- mode seeking ------------------------------------------------------------------------------------------------------

FAKE = torch.tensor([[[0.0, 0.4]], [[1.0, 0.0]], [[-0.5, 0.9]]])
LATENT = torch.tensor([[0.0, 1.0, 0.0], [0.3, 1.0, 0.6], [2.0, -1.0, 0.0]]).reshape(3, 3, 1)


def distance(a: Tensor, b: Tensor) -> float:
    pairs = zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    gaps = [abs(p - q) for p, q in pairs]
    return sum(gaps) / len(gaps)


def ratio(i: int, j: int) -> float:
    return distance(FAKE[i], FAKE[j]) / distance(LATENT[i], LATENT[j])


def test_mode_seeking_by_hand_for_three_samples() -> None:
    """Pairs (0, 1), (1, 2) and (2, 0): distances of samples 0.7, 1.2, 0.5 and of latents 0.3, 4.3 / 3, 4 / 3."""
    ratios = [0.7 / 0.3, 1.2 / (4.3 / 3), 0.5 / (4 / 3)]
    assert [ratio(0, 1), ratio(1, 2), ratio(2, 0)] == pytest.approx(ratios)
    loss = ModeSeeking().generator(FAKE, LATENT)
    assert float(loss) == pytest.approx(1 / (sum(ratios) / 3 + 1e-5), rel=1e-6)


def test_the_gradient_of_mode_seeking_drives_samples_apart() -> None:
    fake = FAKE.clone().requires_grad_()
    loss = ModeSeeking().generator(fake, LATENT)
    (got,) = torch.autograd.grad(loss, fake)

    def by_hand(array: np.ndarray) -> float:
        flat, latent = array.reshape(3, -1), LATENT.double().numpy()
        ratios = [np.abs(flat[i] - flat[j]).mean() / np.abs(latent[i] - latent[j]).mean() for i, j in ((0, 1), (1, 2), (2, 0))]
        return float(1 / (np.mean(ratios) + 1e-5))

    torch.testing.assert_close(got.double(), slopes(by_hand, fake), atol=1e-6, rtol=1e-4)
    assert float(ModeSeeking().generator(FAKE - 0.1 * got, LATENT)) < float(loss.detach())


@pytest.mark.parametrize(
    ("label", "pairs"),
    [
        ([5, 2, 5], [(0, 2)]),  # sorted: 2 | 5 5
        ([3, 3, 3], [(0, 1), (1, 2), (2, 0)]),
        ([1, 1, 0], [(0, 1)]),
        ([0, 9, 4], []),
    ],
)
def test_pairs_are_of_one_class(label: list[int], pairs: list[tuple[int, int]]) -> None:
    fake = FAKE.clone().requires_grad_()
    loss = ModeSeeking().generator(fake, LATENT, torch.tensor(label))
    expected = 1 / (sum(ratio(i, j) for i, j in pairs) / len(pairs) + 1e-5) if pairs else 0.0
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    (slope,) = torch.autograd.grad(loss, fake)
    assert torch.isfinite(slope).all()
    paired = {i for pair in pairs for i in pair}
    assert [bool(s.any()) for s in slope] == [i in paired for i in range(3)]


def test_neighbours_of_a_class_keep_their_order() -> None:
    """Four samples of one class among others, in a chain: (0, 2), (2, 3), (3, 6); the cycle is not closed."""
    label = torch.tensor([1, 0, 1, 1, 2, 0, 1])
    fake, z = normal(7, 5), normal(7, 3, seed=1)
    pairs = [(1, 5), (0, 2), (2, 3), (3, 6)]
    ratios = [distance(fake[i], fake[j]) / distance(z[i], z[j]) for i, j in pairs]
    assert float(ModeSeeking().generator(fake, z, label)) == pytest.approx(1 / (sum(ratios) / 4 + 1e-5), rel=1e-5)


def test_one_sample_says_nothing_of_diversity_and_equal_samples_cost_the_most() -> None:
    fake = FAKE[:1].clone().requires_grad_()
    loss = ModeSeeking().generator(fake, LATENT[:1])
    assert float(loss.detach()) == 0.0
    assert torch.equal(torch.autograd.grad(loss, fake)[0], torch.zeros_like(fake))
    assert float(ModeSeeking().generator(FAKE[:1].expand(3, 1, 2), LATENT)) == pytest.approx(1e5, rel=1e-6)
    assert ModeSeeking.couples_batch is True


# -- path length -------------------------------------------------------------------------------------------------------

SHAPE, PIXELS = (2, 3, 4), 12


def test_the_paths_of_a_linear_decoder_are_known() -> None:
    """decode(z) = W z: the length is |W^T y|, and its mean square |W|^2 / pixels."""
    W = normal(24, 5)
    z, noise = normal(3, 5, seed=1), normal(3, *SHAPE, seed=2)
    lengths = PathLength(SHAPE).path_lengths(lambda z: (z @ W.T).unflatten(1, SHAPE), z, noise)
    expected = (noise.flatten(1).double() @ W.double()).square().sum(1).sqrt() / math.sqrt(PIXELS)
    torch.testing.assert_close(lengths.double(), expected, rtol=1e-5, atol=0)
    many = PathLength(SHAPE).path_lengths(lambda z: (z @ W.T).unflatten(1, SHAPE), normal(20000, 5), normal(20000, *SHAPE))
    assert float(many.square().mean()) == pytest.approx(float(W.square().sum()) / PIXELS, rel=0.03)


def test_the_gradient_of_a_linear_decoder_is_known() -> None:
    """d(|v| - a)^2 / dW with v = W^T y is 2 (|v| - a) y v^T / |v|, mean over the batch; a is a constant."""
    W = normal(24, 5).requires_grad_()
    z, noise = normal(3, 5, seed=1), normal(3, *SHAPE, seed=2)
    loss = PathLength(SHAPE)
    loss.path_length.fill_(0.8)
    value = loss(loss.path_lengths(lambda z: (z @ W.T).unflatten(1, SHAPE), z, noise))
    y = noise.flatten(1) / math.sqrt(PIXELS)
    v = (y @ W).detach()
    size = v.norm(dim=1)
    torch.testing.assert_close(value.detach(), (size - 0.8).square().sum() / 3)
    outer = y[:, :, None] * v[:, None, :]  # b values d
    expected = (2 * (size - 0.8) / size)[:, None, None] * outer
    torch.testing.assert_close(torch.autograd.grad(value, W)[0], expected.sum(0) / 3)


def test_the_paths_of_a_curved_decoder_by_its_whole_jacobian() -> None:
    W, shape = normal(24, 6), (6, 1, 1)
    z = normal(3, *shape, seed=1).requires_grad_()  # a spatial latent

    def decode(z: Tensor) -> Tensor:
        return torch.tanh(z.flatten(1) @ W.T).unflatten(1, SHAPE)

    noise = normal(3, *SHAPE, seed=2)
    lengths = PathLength(SHAPE).path_lengths(decode, z, noise)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(decode, z[i : i + 1].detach()).reshape(24, 6)
        expected = (jacobian.T @ (noise[i].flatten() / math.sqrt(PIXELS))).norm()
        torch.testing.assert_close(lengths[i].detach(), expected)
    assert not lengths.requires_grad  # the points are constants: a learned prior is not moved to where paths are even


@pytest.mark.parametrize(("shape", "pixels"), [((2, 3, 4), 12), ((1, 3, 4), 12), ((7,), 7), ((6, 5), 6)])
def test_pixels_are_positions_whatever_the_channels(shape: tuple[int, ...], pixels: int) -> None:
    assert PathLength(shape).pixels == pixels


def test_the_average_starts_at_the_first_batch_and_follows_slowly() -> None:
    loss = PathLength(SHAPE, decay=0.9)
    lengths = torch.tensor([0.1, 0.2, 0.6], requires_grad=True)
    value = loss(lengths)  # no average yet: nothing to be held to
    assert float(value.detach()) == 0.0
    assert not torch.autograd.grad(value, lengths)[0].any()
    with torch.no_grad():
        loss.update(lengths)
        assert float(loss.path_length) == pytest.approx(0.3)
        loss.update(torch.tensor([0.5, 0.5]))
    assert float(loss.path_length) == pytest.approx(0.3 + 0.1 * 0.2)
    value = loss(lengths)
    expected = torch.tensor([-0.22, -0.12, 0.28])
    torch.testing.assert_close(value.detach(), expected.square().mean())
    torch.testing.assert_close(torch.autograd.grad(value, lengths)[0], 2 * expected / 3)
    assert loss.reports == ("path_length",)
    assert float(PathLength(SHAPE).decay) == 0.99


def test_a_decoder_that_ignores_its_latent_gives_no_nan() -> None:
    W = torch.zeros(24, 5, requires_grad=True)
    loss = PathLength(SHAPE)
    value = loss(loss.path_lengths(lambda z: (z @ W.T).unflatten(1, SHAPE), normal(3, 5), normal(3, *SHAPE)))
    assert float(value.detach()) == 0.0
    assert torch.isfinite(torch.autograd.grad(value, W)[0]).all()
