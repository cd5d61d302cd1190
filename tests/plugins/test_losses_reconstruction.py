"""Reconstruction losses: value and gradient against closed forms and independent implementations."""

from __future__ import annotations

import copy
import json
import math
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Categorical, Laplace, Normal
from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim

from hybridgen.errors import RunError
from hybridgen_losses.backbones import Backbone, default_layers, layers_of
from hybridgen_losses.distance import AbsoluteError, SquaredError
from hybridgen_losses.features import FeatureReconstruction
from hybridgen_losses.frequency import FocalFrequency
from hybridgen_losses.perceptual import Perceptual
from hybridgen_losses.program import Program
from hybridgen_losses.reconstruction import Reconstruction
from hybridgen_losses.structure import SSIM, MultiScaleSSIM
from hybridgen_losses.tokens import CrossEntropy

PICTURE = (2, 13, 9)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    """Values in (-1, 1), smooth enough for structure to exist."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (values + values.roll(1, -1) + values.roll(1, -2)).mul(0.6).tanh()


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(loss, at, retain_graph=True)[0]


def slopes(function: Callable[[np.ndarray], float], at: Tensor, places: list[tuple[int, ...]]) -> Tensor:
    """Central differences of a float64 function at single values."""
    found = []
    for place in places:
        sides = []
        for step in (1e-5, -1e-5):
            moved = at.detach().double().numpy().copy()
            moved[place] += step
            sides.append(function(moved))
        found.append((sides[0] - sides[1]) / 2e-5)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    "make",
    [
        SquaredError,
        AbsoluteError,
        lambda: SSIM((2, 8, 8), "tanh"),
        lambda: MultiScaleSSIM((2, 8, 8), "tanh", window=3),
        lambda: FocalFrequency((2, 8, 8)),
        FeatureReconstruction,
    ],
)
def test_losses_are_computed_in_float32_whatever_comes(make: Callable[[], Any]) -> None:
    x = pictures(3, 2, 8, 8)
    x, recon = x.bfloat16(), (0.9 * x + 0.1 * pictures(3, 2, 8, 8, seed=1)).bfloat16()
    loss = make()
    given = [(x, recon), (x.float(), recon.float())]
    if isinstance(loss, FeatureReconstruction):
        given = [([a], [b]) for a, b in given]  # type: ignore[misc]
    half, full = (loss(*pair) for pair in given)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full)


# -- distances ---------------------------------------------------------------------------------------------------------


def test_squared_error_per_value_and_per_sample() -> None:
    x, recon = pictures(5, 3, 4), pictures(5, 3, 4, seed=1).requires_grad_()
    error = (recon - x).detach()
    value, sample = SquaredError()(x, recon), SquaredError(per="sample")(x, recon)
    torch.testing.assert_close(value.detach(), error.square().sum() / 60)
    torch.testing.assert_close(sample.detach(), error.square().sum() / 5)
    torch.testing.assert_close(gradient(value, recon), error * 2 / 60)
    torch.testing.assert_close(gradient(sample, recon), error * 2 / 5)
    # the likelihood that it is documented against
    nats = -Normal(recon.detach(), 1.0).log_prob(x).sum() / 5
    torch.testing.assert_close(0.5 * sample.detach() + 6 * math.log(2 * math.pi), nats)


def test_absolute_error_per_value_and_per_sample() -> None:
    x, recon = pictures(5, 3, 4), pictures(5, 3, 4, seed=1).requires_grad_()
    error = (recon - x).detach()
    value, sample = AbsoluteError()(x, recon), AbsoluteError(per="sample")(x, recon)
    torch.testing.assert_close(value.detach(), error.abs().sum() / 60)
    torch.testing.assert_close(sample.detach(), error.abs().sum() / 5)
    torch.testing.assert_close(gradient(value, recon), error.sign() / 60)
    torch.testing.assert_close(gradient(sample, recon), error.sign() / 5)
    nats = -Laplace(recon.detach(), 1.0).log_prob(x).sum() / 5
    torch.testing.assert_close(sample.detach() + 12 * math.log(2), nats)


def test_a_learned_scale_is_clamped_where_it_would_leave_model_space() -> None:
    x = torch.zeros(3, 2)
    for start, limit in ((1e-9, -7.0), (1e9, 7.0)):
        loss = Reconstruction("identity", scale=start, learn_scale=True)
        torch.testing.assert_close(loss(x, x, x), torch.tensor(2 * (limit + 0.5 * math.log(2 * math.pi))))


# -- tokens ------------------------------------------------------------------------------------------------------------


def written_out(logits: Tensor, tokens: Tensor, mask: Tensor, smoothing: float) -> tuple[float, Tensor]:
    """-sum_v t_v log p_v at every kept position, and its gradient p - t, in float64; mean over the batch."""
    total, slope = 0.0, torch.zeros_like(logits, dtype=torch.float64)
    batch, length, size = logits.shape
    for b in range(batch):
        for i in range(length):
            if not mask[b, i]:
                continue
            exponentials = [math.exp(float(v)) for v in logits[b, i]]
            p = torch.tensor([e / sum(exponentials) for e in exponentials], dtype=torch.float64)
            target = torch.full((size,), smoothing / size, dtype=torch.float64)
            target[tokens[b, i]] += 1 - smoothing
            total -= float((target * p.log()).sum()) / batch
            slope[b, i] = (p - target) / batch
    return total, slope


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_a_sum_over_kept_positions_in_nats(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(3, 5, 4, generator=generator)).requires_grad_()
    tokens = torch.randint(0, 4, (3, 5), generator=generator)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True, False, True, True, False]])
    for kept in (mask, torch.ones_like(mask)):
        given = (mask,) if kept is mask else ()
        options = {"label_smoothing": smoothing} if smoothing else {}
        loss = CrossEntropy("softmax", **options)(logits, tokens, *given)
        value, slope = written_out(logits.detach(), tokens, kept, smoothing)
        assert float(loss.detach()) == pytest.approx(value, rel=1e-5)
        torch.testing.assert_close(gradient(loss, logits).double(), slope, atol=1e-6, rtol=1e-5)


def test_the_log_likelihood_of_tokens_knows_no_smoothing() -> None:
    """The metric "elbo" reads it: a smoothed bound would be none."""
    generator = torch.Generator().manual_seed(1)
    logits, tokens = torch.randn(3, 5, 4, generator=generator), torch.randint(0, 4, (3, 5), generator=generator)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])
    loss = CrossEntropy("softmax", label_smoothing=0.2)
    half = logits.bfloat16()
    torch.testing.assert_close(loss(half, tokens), loss(half.float(), tokens))
    expected = Categorical(logits=logits).log_prob(tokens)
    assert "log_likelihood" in loss.quantities
    torch.testing.assert_close(loss.log_likelihood(logits, tokens), expected.sum(1))
    torch.testing.assert_close(loss.log_likelihood(logits, tokens, mask), (expected * mask).sum(1))


def test_padding_costs_nothing_even_where_its_logits_are_infinite() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[:, 2] = -torch.inf
    logits.requires_grad_()
    mask = torch.tensor([[True, True, False]] * 2)
    loss = CrossEntropy("softmax")(logits, torch.zeros(2, 3, dtype=torch.long), mask)
    assert float(loss.detach()) == pytest.approx(2 * math.log(4))


def test_cross_entropy_wants_tokens() -> None:
    with pytest.raises(ValueError, match='use = "reconstruction"'):
        CrossEntropy("tanh")


# -- structure ---------------------------------------------------------------------------------------------------------


def window_of(size: int, sigma: float) -> np.ndarray:
    side = [math.exp(-((i - (size - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    square = np.outer(side, side)
    return square / square.sum()


def factors(x: np.ndarray, y: np.ndarray, size: int, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast with structure, of one channel, place by place (Wang 2004, equations 6 to 13)."""
    w, c1, c2 = window_of(size, sigma), (0.01 * 2) ** 2, (0.03 * 2) ** 2
    rows, columns = x.shape[0] - size + 1, x.shape[1] - size + 1
    luminance, contrast = np.zeros((rows, columns)), np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            a, b = x[i : i + size, j : j + size], y[i : i + size, j : j + size]
            ma, mb = (w * a).sum(), (w * b).sum()
            va, vb, cov = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum(), (w * (a - ma) * (b - mb)).sum()
            luminance[i, j] = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
            contrast[i, j] = (2 * cov + c2) / (va + vb + c2)
    return luminance, contrast


def ssim_by_hand(x: np.ndarray, y: np.ndarray, size: int, sigma: float) -> float:
    values = [
        np.mean(np.multiply(*factors(a, b, size, sigma))) for s, t in zip(x, y, strict=True) for a, b in zip(s, t, strict=True)
    ]
    return 1.0 - float(np.mean(values))


@pytest.mark.parametrize(("size", "sigma"), [(3, 1.5), (5, 0.8)])
def test_ssim_place_by_place_with_its_gradient(size: int, sigma: float) -> None:
    x, recon = pictures(3, *PICTURE), pictures(3, *PICTURE, seed=1).mul(0.7).add(0.1).requires_grad_()
    loss = SSIM(PICTURE, "tanh", window=size, sigma=sigma)(x, recon)
    target = x.double().numpy()
    assert float(loss.detach()) == pytest.approx(ssim_by_hand(target, recon.detach().double().numpy(), size, sigma), abs=1e-5)
    places = [(0, 0, 0, 0), (1, 1, 6, 4), (2, 0, 12, 8), (0, 1, 3, 7)]
    expected = slopes(lambda moved: ssim_by_hand(target, moved, size, sigma), recon, places)
    got = torch.stack([gradient(loss, recon)[place] for place in places]).double()
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-3)


def test_ssim_is_that_of_torchmetrics_where_the_window_fits() -> None:
    """torchmetrics mirrors the borders in addition, which the paper does not."""
    x, recon = pictures(4, 3, 28, 30), pictures(4, 3, 28, 30, seed=1)
    _, full = torchmetrics_ssim(recon, x, data_range=2.0, return_full_image=True)
    expected = 1 - full[..., 5:-5, 5:-5].mean()
    torch.testing.assert_close(SSIM((3, 28, 30), "tanh")(x, recon), expected, atol=1e-5, rtol=0)


def test_ssim_at_its_ends() -> None:
    x = pictures(3, 1, 8, 8)
    loss = SSIM((1, 8, 8), "tanh")
    assert float(loss(x, x)) == pytest.approx(0.0, abs=1e-6)
    board = 0.5 - torch.eye(2).repeat(4, 4).expand(3, 1, 8, 8)
    assert 1.95 < float(loss(0.3 + board, 0.3 - board)) < 2.0  # the same means, the opposite contrast


@pytest.mark.parametrize(("side", "size"), [(3, 3), (8, 3), (10, 5), (16, 7), (21, 9), (22, 11), (28, 11), (64, 11)])
def test_the_window_of_ssim_suits_the_picture(side: int, size: int) -> None:
    assert len(SSIM((1, side, side + 5), "tanh").kernel) == size
    assert len(SSIM((1, side + 5, side), "tanh").kernel) == size
    assert SSIM((1, side, side), "tanh").state_dict() == {}  # windows are options, not state


def test_windows_are_no_state_of_ms_ssim() -> None:
    assert MultiScaleSSIM((1, 28, 28), "tanh").state_dict() == {}


def ms_ssim_by_hand(x: np.ndarray, y: np.ndarray, size: int, weights: list[float]) -> float:
    """One scale after the other, one channel after the other (Wang 2003, equation 7); negative terms count as 0.001."""
    values = []
    for s, t in zip(x, y, strict=True):
        for a, b in zip(s, t, strict=True):
            product = 1.0
            for scale, weight in enumerate(weights):
                if scale:
                    h, w = (side // 2 * 2 for side in a.shape)
                    a, b = (v[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3)) for v in (a, b))
                luminance, contrast = factors(a, b, size, 1.5)
                term = float(np.mean(luminance * contrast if scale == len(weights) - 1 else contrast))
                product *= max(term, 1e-3) ** weight
            values.append(product)
    return 1.0 - float(np.mean(values))


PAPER = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@pytest.mark.parametrize(("scales", "used"), [(None, 3), (2, 2), (1, 1)])
def test_ms_ssim_scale_by_scale_with_its_gradient(scales: int | None, used: int) -> None:
    x = pictures(3, *PICTURE)
    recon = (0.7 * x + 0.3 * pictures(3, *PICTURE, seed=1)).requires_grad_()
    loss = MultiScaleSSIM(PICTURE, "tanh", window=3, scales=scales)(x, recon)  # 13x9, 6x4, then 3x2: too small for 3
    if scales is None:
        used = 2
    weights = [w / sum(PAPER[:used]) for w in PAPER[:used]]
    target = x.double().numpy()
    expected = ms_ssim_by_hand(target, recon.detach().double().numpy(), 3, weights)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    places = [(0, 0, 1, 1), (1, 1, 6, 4), (2, 0, 11, 7)]
    slope = slopes(lambda moved: ms_ssim_by_hand(target, moved, 3, weights), recon, places)
    got = torch.stack([gradient(loss, recon)[place] for place in places]).double()
    torch.testing.assert_close(got, slope, atol=1e-6, rtol=1e-3)


def test_ms_ssim_uses_five_scales_where_they_fit_and_the_contrast_of_torchmetrics() -> None:
    x = pictures(2, 1, 176, 180)
    recon = 0.6 * x + 0.4 * pictures(2, 1, 176, 180, seed=1)
    loss = MultiScaleSSIM((1, 176, 180), "tanh")
    assert loss.weights == pytest.approx([w / sum(PAPER) for w in PAPER])
    product, a, b = torch.ones(2), x, recon
    for scale, weight in enumerate(PAPER):
        _, contrast = torchmetrics_ssim(b, a, data_range=2.0, return_contrast_sensitivity=True)
        if scale == 4:
            contrast = torchmetrics_ssim(b, a, data_range=2.0, return_full_image=True)[1][..., 5:-5, 5:-5].mean((1, 2, 3))
        product = product * contrast ** (weight / sum(PAPER))
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    torch.testing.assert_close(loss(x, recon), 1 - product.mean(), atol=1e-5, rtol=0)
    assert len(MultiScaleSSIM((1, 175, 300), "tanh").weights) == 4
    assert len(MultiScaleSSIM((1, 28, 28), "tanh").weights) == 2
    assert MultiScaleSSIM((1, 20, 21), "tanh").weights == [1.0]


def test_inverted_contrast_is_no_nan_in_ms_ssim() -> None:
    x = pictures(3, 1, 16, 16)
    x = x - F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1)  # hardly any local mean
    recon = (-x).requires_grad_()
    loss = MultiScaleSSIM((1, 16, 16), "tanh", window=5)(x, recon)
    slope = gradient(loss, recon)
    assert torch.isfinite(slope).all()
    assert 0.9 < float(loss.detach()) <= 1.0
    board = 0.5 - torch.eye(2).repeat(4, 4).expand(3, 1, 8, 8)
    for scales, expected in ((1, 1 - 1e-3), (2, 1 - 1e-3 ** (0.0448 / (0.0448 + 0.2856)))):  # at the half it is grey
        loss = MultiScaleSSIM((1, 8, 8), "tanh", window=3, scales=scales)
        assert float(loss(0.3 + board, 0.3 - board)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SSIM((2,), "tanh"), 'use "reconstruction"'),
        (lambda: SSIM((1, 8, 8), "identity"), "output activation tanh"),
        (lambda: SSIM((1, 8, 8), "tanh", window=4), "write 3 or 5"),
        (lambda: SSIM((1, 8, 9), "tanh", window=9), "write `window = 7` or less"),
        (lambda: SSIM((1, 9, 20), "tanh", window=11), "write `window = 9` or less"),
        (lambda: SSIM((1, 3, 9), "tanh", window=5), "write `window = 3` or less"),
        (lambda: SSIM((1, 2, 9), "tanh"), 'use "squared-error"'),
        (lambda: MultiScaleSSIM((1, 8, 8), "tanh"), "write `window = 7` or less"),
        (lambda: MultiScaleSSIM((1, 28, 28), "tanh", scales=3), "write `scales = 2` or a smaller `window`"),
        (lambda: MultiScaleSSIM((1, 28, 28), "tanh", window=10), "write 9 or 11"),
        (lambda: MultiScaleSSIM((6, 5), "softmax"), "compares pictures"),
    ],
)
def test_structure_refuses_what_does_not_fit(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- the discriminator's layers ----------------------------------------------------------------------------------------


def features(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *shape, generator=generator, requires_grad=True) for shape in ((4, 2, 5), (6,), (7,))]


@pytest.mark.parametrize(("layers", "which"), [(None, [2]), ((0,), [0]), ((-3, -2), [0, 1]), ((0, 1, 2), [0, 1, 2])])
def test_feature_reconstruction_is_a_unit_gaussian_in_each_layer(layers: tuple[int, ...] | None, which: list[int]) -> None:
    real, recon = features(0), features(1)
    loss = FeatureReconstruction(layers=layers)(real, recon) if layers else FeatureReconstruction()(real, recon)
    nats = torch.zeros(())
    for i in which:
        constant = 0.5 * math.log(2 * math.pi) * real[i][0].numel()
        nats = nats - Normal(recon[i], 1.0).log_prob(real[i].detach()).sum() / 3 - constant
    torch.testing.assert_close(loss, nats)
    for i in which:
        torch.testing.assert_close(gradient(loss, recon[i]), ((recon[i] - real[i]) / 3).detach())
    used = [real[i] for i in which]
    assert torch.autograd.grad(loss, used, allow_unused=True) == (None,) * len(which)  # the target is a constant


@pytest.mark.parametrize("layers", [(3,), (0, -4)])
def test_feature_reconstruction_names_the_layers_that_exist(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gives 3 features; write numbers from -3 to 2"):
        FeatureReconstruction(layers=layers)(features(0), features(1))
    with pytest.raises(ValueError, match="use a discriminator that returns some"):
        FeatureReconstruction()([], [])


# -- frequency ---------------------------------------------------------------------------------------------------------


def wave(shape: tuple[int, int], u: int, v: int, amplitude: float) -> Tensor:
    h, w = shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return amplitude * torch.cos(2 * math.pi * (u * y / h + v * x / w))


@pytest.mark.parametrize("focus", [0.0, 1.0, 2.5])
def test_focal_frequency_of_waves(focus: float) -> None:
    """A wave of amplitude A has the power A^2 / 2, in two bins; one of amplitude B beside it has the weight (B / A)^focus."""
    x = pictures(3, 2, 6, 9)
    loss = FocalFrequency((2, 6, 9), focus=focus) if focus != 1 else FocalFrequency((2, 6, 9))
    one = wave((6, 9), 1, 2, 0.7)
    torch.testing.assert_close(loss(x, x + one), torch.tensor(0.7**2 / 2), atol=1e-5, rtol=0)
    both = one + wave((6, 9), 2, 0, 0.3)
    expected = 0.7**2 / 2 + (0.3 / 0.7) ** focus * 0.3**2 / 2
    torch.testing.assert_close(loss(x, x + both), torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("focus", [0.0, 1.0, 1.7])
def test_focal_frequency_by_numpy_with_the_weight_a_constant(focus: float) -> None:
    x, recon = pictures(3, 2, 7, 10), pictures(3, 2, 7, 10, seed=1).requires_grad_()
    loss = FocalFrequency((2, 7, 10), focus=focus)(x, recon)
    spectrum = np.fft.fft2((recon.detach() - x).double().numpy(), norm="ortho")
    weight = np.abs(spectrum) ** focus
    weight = weight / weight.max(axis=(-2, -1), keepdims=True)  # of each sample and channel
    assert float(loss.detach()) == pytest.approx(float((weight * np.abs(spectrum) ** 2).mean()), rel=1e-5)
    slope = torch.from_numpy(np.fft.ifft2(weight * spectrum, norm="ortho").real * 2 / spectrum.size)
    torch.testing.assert_close(gradient(loss, recon).double(), slope, atol=1e-7, rtol=1e-4)


def test_without_focus_it_is_the_mean_squared_error_and_equal_pictures_cost_nothing() -> None:
    x, recon = pictures(3, 1, 5, 8), pictures(3, 1, 5, 8, seed=1)
    torch.testing.assert_close(FocalFrequency((1, 5, 8), focus=0.0)(x, recon), SquaredError()(x, recon))
    same = x.clone().requires_grad_()
    loss = FocalFrequency((1, 5, 8))(x, same)
    assert float(loss.detach()) == 0.0
    assert torch.equal(gradient(loss, same), torch.zeros_like(x))


def test_focal_frequency_wants_pictures() -> None:
    with pytest.raises(ValueError, match='use "squared-error"'):
        FocalFrequency((5,))


# -- perceptual: programs ----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """Two layers of features of a grey picture, running statistics among them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x: Tensor) -> list[Tensor]:
        h = torch.relu(self.norm(self.first(x)))
        return [h, torch.tanh(self.second(h))]


class Varied(nn.Module):
    """What convolutional and attention networks are written with: in-place layers, sizes, several ways to reshape."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.GroupNorm(2, 8), nn.GELU())
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)
        self.drop = nn.Dropout(0.5)
        self.scale = torch.tensor(1.5)
        self.place = nn.Parameter(0.1 * torch.randn(1, 9, 8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.stem(x)
        g = self.block(h)
        g += h
        pooled = F.max_pool2d(g, 3, stride=3, padding=1) * self.scale
        q = pooled.flatten(2).transpose(1, 2) + self.place
        q = self.norm(q)
        a, _ = self.attention(q, q, q, need_weights=False)
        rows = a.reshape(x.shape[0] * 9, 8)
        left, right = self.drop(self.head(rows)).view(x.shape[0], 9, 5).permute(0, 2, 1).split([2, 3], 1)
        return g, torch.cat([left, right], 1), F.interpolate(pooled, scale_factor=2.0, mode="bilinear")


class Types(nn.Module):
    """Weights, and numbers on the way, of several types and layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1).to(torch.bfloat16)
        self.scale = nn.Parameter(torch.rand(4, 1, 1, dtype=torch.float64))
        self.register_buffer("small", torch.tensor([0.5, 1.5, 2.5], dtype=torch.float16))
        self.register_buffer("order", torch.tensor([2, 0, 3]))
        self.register_buffer("keep", torch.tensor([True, False, True]))
        self.register_buffer("whole", torch.rand(5, 3))
        self.register_buffer("turned", self.whole.t())  # one storage for both

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x.to(torch.bfloat16))
        g = (h.to(torch.float64) * self.scale)[:, self.order].float().contiguous(memory_format=torch.channels_last)
        g = g * self.small.float()[:, None, None] * self.keep.float()[:, None, None]
        g = g.clone(memory_format=torch.contiguous_format) + g.clone(memory_format=torch.preserve_format)
        return h, torch.einsum("bchw,cd->bdhw", g, self.turned)


class Counts(nn.Module):
    """A network that changes a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return x + self.seen


def exported(net: nn.Module, path: Path, example: Tensor, dynamic: Any = ({0: torch.export.Dim.DYNAMIC},)) -> Path:
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=dynamic), path)
    return path


def seeded(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = kind()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
        return net.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported networks: `small.pt2` (grey, open batch), and `varied.pt2`, open in nothing but the batch."""
    folder = tmp_path_factory.mktemp("networks")
    exported(seeded(Small), folder / "small.pt2", torch.rand(2, 1, 8, 6))
    exported(seeded(Varied), folder / "varied.pt2", torch.rand(2, 3, 8, 8))
    exported(seeded(Types), folder / "types.pt2", torch.rand(2, 1, 4, 1))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "shape"), [("small", Small, (1, 8, 6)), ("varied", Varied, (3, 8, 8)), ("types", Types, (1, 4, 1))]
)
def test_a_program_computes_what_the_network_did(files: Path, name: str, kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    program, net = Program(files / f"{name}.pt2"), seeded(kind)
    x = pictures(5, *shape).requires_grad_()
    got, expected = program(x), net(x * 1.0)  # in-place layers don't reach the leaf
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    total = [sum(f.square().sum() for f in side) for side in (got, expected)]
    torch.testing.assert_close(gradient(total[0], x), gradient(total[1], x))
    assert program.channels == shape[0]
    assert program.sides == shape[1:]
    assert program.state_dict() == {}
    assert [f.dtype for f in got] == [f.dtype for f in expected]


def test_a_networks_own_precision_ends_at_its_features(files: Path) -> None:
    loss = Perceptual((1, 4, 1), "tanh", network="program", weights=files / "types.pt2", layers=(0,), normalise=False)
    x, recon, net = pictures(3, 1, 4, 1).bfloat16(), pictures(3, 1, 4, 1, seed=1).bfloat16(), seeded(Types)
    a, b = (net((v.float() + 1) / 2)[0] for v in (x, recon))
    assert a.dtype == torch.bfloat16
    torch.testing.assert_close(loss(x, recon), (a.float() - b.float()).square().mean())


def test_a_program_compiles_whole_and_can_be_copied(files: Path) -> None:
    program = copy.deepcopy(Program(files / "varied.pt2", (1,)))
    x = pictures(3, 3, 8, 8)
    whole = torch.compile(lambda x: program(x)[0], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x), seeded(Varied)(x)[1])
    assert program.to("meta")(x.to("meta"))[0].shape == (3, 5, 9)


def unit(f: Tensor) -> Tensor:
    return f / f.square().sum(1, keepdim=True).add(1e-10).sqrt()


@pytest.mark.parametrize("normalise", [True, False])
def test_perceptual_with_a_program_by_hand(files: Path, normalise: bool) -> None:
    loss = Perceptual(
        (1, 8, 6), "tanh", network="program", weights=files / "small.pt2", normalise=normalise, mean=(0.3,), std=(0.2,)
    )
    x, recon = pictures(3, 1, 8, 6), pictures(3, 1, 8, 6, seed=1).requires_grad_()
    net = seeded(Small)
    pairs = zip(net(((x + 1) / 2 - 0.3) / 0.2), net(((recon + 1) / 2 - 0.3) / 0.2), strict=True)
    expected = torch.zeros(())
    for a, b in pairs:
        if normalise:  # |u - v|^2 = 2 - 2 cos for vectors of length 1; where a ReLU left nothing the length is 0
            lengths = (a.norm(dim=1) > 0).float() + (b.norm(dim=1) > 0).float()
            expected = expected + (lengths - 2 * F.cosine_similarity(a, b, dim=1)).sum() / (3 * a.shape[2] * a.shape[3])
        else:
            expected = expected + (a - b).square().sum() / (3 * a[0].numel())
    got = loss(x, recon)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient(got, recon), gradient(expected, recon), atol=1e-5, rtol=1e-3)
    assert float(gradient(got, recon).abs().sum()) > 0
    assert float(loss(x, x)) == pytest.approx(0.0, abs=1e-6)


def test_perceptual_leaves_pictures_in_0_to_1_without_mean_and_std(files: Path) -> None:
    loss = Perceptual((1, 8, 6), "tanh", network="program", weights=files / "small.pt2", layers=(1,), normalise=False)
    x, recon, net = pictures(3, 1, 8, 6), pictures(3, 1, 8, 6, seed=1), seeded(Small)
    expected = (net((x + 1) / 2)[1] - net((recon + 1) / 2)[1]).square().mean()
    torch.testing.assert_close(loss(x, recon), expected)
    half = loss(x.bfloat16(), recon.bfloat16())
    torch.testing.assert_close(half, loss(x.bfloat16().float(), recon.bfloat16().float()), rtol=1e-6, atol=0)


class Vector(nn.Module):
    """One vector a picture, as CLIP or DINO give."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


def test_perceptual_with_one_vector_a_picture(tmp_path: Path) -> None:
    path, net = exported(seeded(Vector), tmp_path / "vector.pt2", torch.rand(2, 1, 8, 6)), seeded(Vector)
    x, recon = pictures(3, 1, 8, 6), pictures(3, 1, 8, 6, seed=1)
    a, b = net((x + 1) / 2), net((recon + 1) / 2)
    cosine = Perceptual((1, 8, 6), "tanh", network="program", weights=path)(x, recon)
    torch.testing.assert_close(cosine, (2 - 2 * F.cosine_similarity(a, b)).mean(), atol=1e-6, rtol=1e-4)
    plain = Perceptual((1, 8, 6), "tanh", network="program", weights=path, normalise=False)(x, recon)
    torch.testing.assert_close(plain, (a - b).square().mean())


def test_perceptual_gives_no_gradient_to_the_original_and_has_nothing_to_train(files: Path) -> None:
    loss = Perceptual((1, 8, 6), "tanh", network="program", weights=files / "small.pt2")
    x, recon = pictures(3, 1, 8, 6).requires_grad_(), pictures(3, 1, 8, 6, seed=1).requires_grad_()
    loss.train()
    assert torch.autograd.grad(loss(x, recon), [x], allow_unused=True) == (None,)
    assert list(loss.parameters()) == []
    assert list(loss.state_dict()) == ["_extra_state"]  # 32 bytes, whatever the network's size
    assert not any(p.requires_grad for p in loss._network[0].parameters())
    other = copy.deepcopy(loss)
    assert torch.equal(other(x, recon), loss(x, recon))
    assert other._network[0] is not loss._network[0]
    assert {b.device.type for b in other.to("meta")._network[0].buffers()} == {"meta"}


def test_a_grey_picture_is_repeated_and_scaled_for_a_network_that_wants_it_so(files: Path) -> None:
    loss = Perceptual(
        (1, 4, 4),
        "tanh",
        network="program",
        weights=files / "varied.pt2",
        layers=(0,),
        resize=8,
        normalise=False,
        std=(1.0, 0.5, 0.25),
    )
    x, recon, net = pictures(3, 1, 4, 4), pictures(3, 1, 4, 4, seed=1), seeded(Varied)
    std = torch.tensor([1.0, 0.5, 0.25]).reshape(3, 1, 1)
    a, b = (net(F.interpolate((v + 1) / 2, (8, 8), mode="bilinear").repeat(1, 3, 1, 1) / std)[0] for v in (x, recon))
    torch.testing.assert_close(loss(x, recon), (a - b).square().mean(), atol=1e-6, rtol=1e-4)


def test_resize_sets_the_smaller_side_and_keeps_the_shape(files: Path, tmp_path: Path) -> None:
    open_sides = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    path = exported(seeded(Small), tmp_path / "open.pt2", torch.rand(2, 1, 16, 12), open_sides)
    loss = Perceptual((1, 12, 20), "tanh", network="program", weights=path, resize=9, normalise=False)
    assert Program(path).sides == (None, None)
    assert loss.size == (9, 15)
    assert Perceptual((1, 20, 12), "tanh", network="program", weights=path, resize=9).size == (15, 9)
    assert Perceptual((1, 20, 12), "tanh", network="program", weights=path).size is None
    x, recon, net = pictures(3, 1, 12, 20), pictures(3, 1, 12, 20, seed=1), seeded(Small)
    scaled = [F.interpolate((v + 1) / 2, (9, 15), mode="bilinear", antialias=True) for v in (x, recon)]
    expected = sum((a - b).square().mean() for a, b in zip(*map(net, scaled), strict=True))
    torch.testing.assert_close(loss(x, recon), expected)


def test_a_dry_run_costs_no_memory_and_no_digest(files: Path) -> None:
    with torch.device("meta"):
        loss = Perceptual((1, 8, 6), "tanh", network="program", weights=files / "small.pt2")
        value = loss(torch.empty(2, 1, 8, 6), torch.empty(2, 1, 8, 6))
    assert value.device.type == "meta"
    assert value.shape == ()
    assert all(b.device.type == "meta" for b in [*loss._network[0].buffers(), *loss.buffers()])


def test_a_run_goes_on_with_its_own_weights_only(files: Path, tmp_path: Path) -> None:
    path = shutil.copy(files / "small.pt2", tmp_path / "net.pt2")
    first = Perceptual((1, 8, 6), "tanh", network="program", weights=path)
    saved = {name: value.clone() for name, value in first.state_dict().items()}
    Perceptual((1, 8, 6), "tanh", network="program", weights=path).load_state_dict(saved)
    with torch.random.fork_rng(devices=[]):
        exported(Small().eval(), path, torch.rand(2, 1, 8, 6))
    with pytest.raises(RunError, match="another file than this run began with"):
        Perceptual((1, 8, 6), "tanh", network="program", weights=path).load_state_dict(saved)


# -- programs are data -------------------------------------------------------------------------------------------------


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an archive with entries changed, or left out where `change` returns None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def with_model(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def apply(name: str, data: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return data
        model = json.loads(data)
        change(model)
        return json.dumps(model).encode()

    return apply


def with_target(target: str) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][0]["target"] = target

    return change


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.add.out",
        "torch.ops.higher_order.cond",
        "torch.ops.prim.Print.default",
        "_operator.attrgetter",
        "builtins.eval",
        "math.sqrt",
        "torch.ops.aten.relu.default.__call__",
    ],
)
def test_a_program_may_call_known_operators_only(files: Path, tmp_path: Path, target: str) -> None:
    path = rewritten(files / "small.pt2", tmp_path / "bad.pt2", with_model(with_target(target)))
    with pytest.raises(ValueError, match="a feature network may not"):
        Program(path)


def test_nothing_in_a_program_is_executed(files: Path, tmp_path: Path) -> None:
    """Whatever torch.export.load would evaluate or unpickle: shape expressions, guards, example inputs, constants."""
    poison = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"
    pickle = b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("sample_inputs/model.pt"):
            return pickle
        data = with_model(lambda model: model.update(guards_code=[poison], range_constraints={poison: {"min_val": 0}}))(
            name, data
        )
        return data.replace(b"Symbol('s77', positive=True, integer=True)", json.dumps(poison).strip('"').encode())

    x = pictures(3, 1, 8, 6)
    program = Program(rewritten(files / "small.pt2", tmp_path / "poison.pt2", change))
    torch.testing.assert_close(program(x)[1], seeded(Small)(x)[1])
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused_unread(files: Path, tmp_path: Path) -> None:
    pickle = b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."

    def change(name: str, data: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            return data.replace(b'"use_pickle": false', b'"use_pickle": true')
        return pickle if name.endswith("weight_0") else data

    with pytest.raises(ValueError, match="as a pickle, which is not read"):
        Program(rewritten(files / "small.pt2", tmp_path / "pickled.pt2", change))
    assert not (tmp_path / "ran").exists()


def emptied(name: str, data: bytes) -> bytes:
    return data[:-4] if name.endswith("weight_0") else data


def mutilated(*keys: str) -> Callable[[str, bytes], bytes]:
    def change(model: dict[str, Any]) -> None:
        for key in keys[:-1]:
            model = model[key]
        del model[keys[-1]]

    return with_model(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (emptied, "has fewer values than its shape"),
        (lambda name, data: None if name.endswith("weight_1") else data, "can't be read as a network"),
        (lambda name, data: None if name.endswith("model.json") else data, "holds 0 networks"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian"),
        (lambda name, data: b"{" if name.endswith("model.json") else data, "can't be read as a network"),
        (with_model(lambda model: model["schema_version"].update(major=9)), "in another format; with torch 2.13 write it"),
        (mutilated("graph_module", "signature"), "can't be read as a network"),
        (mutilated("graph_module", "graph", "tensor_values"), "can't be read as a network"),
    ],
)
def test_a_damaged_program_is_told_apart(
    files: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Program(rewritten(files / "small.pt2", tmp_path / "damaged.pt2", change))


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Training(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_a_network_that_is_no_feature_network_is_refused(tmp_path: Path) -> None:
    x, batch = torch.rand(2, 1, 8, 6), ({0: torch.export.Dim.DYNAMIC},)
    path = exported(Small().eval(), tmp_path / "fixed.pt2", x, None)
    with pytest.raises(ValueError, match=r"takes 2 1 8 6, expected float32 pictures \* c h w"):
        Program(path)
    path = exported(Training(), tmp_path / "training.pt2", x, batch)
    with pytest.raises(ValueError, match=r"exported while training; call net.eval\(\) first"):
        Program(path)
    path = exported(Small().train(), tmp_path / "statistics.pt2", x, batch)
    with pytest.raises(ValueError, match=r"call net.eval\(\) first"):
        Program(path)
    path = exported(Counts(), tmp_path / "counts.pt2", x, batch)
    with pytest.raises(ValueError, match=r"changes its own buffers; call net.eval\(\) first"):
        Program(path)
    path = exported(Odd(), tmp_path / "odd.pt2", x, batch)
    with pytest.raises(ValueError, match=r"calls torch.ops.aten.special_bessel_j0.default, which a feature network may not"):
        Program(path)
    both = torch.export.export(TwoInputs(), (x, x), dynamic_shapes=(batch[0], batch[0]))
    torch.export.save(both, tmp_path / "two.pt2")
    with pytest.raises(ValueError, match="takes 2 tensors, expected one"):
        Program(tmp_path / "two.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ValueError, match=r"can't be read as a network of torch.export"):
        Program(tmp_path / "text.pt2")


# -- perceptual: the papers' networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "count", "last", "picks"),
    [
        ("vgg11", 9_220_480, 20, (1, 4, 9, 14, 19)),
        ("vgg16", 14_714_688, 30, (3, 8, 15, 22, 29)),
        ("vgg19", 20_024_384, 36, (3, 8, 17, 26, 35)),
        ("alexnet", 2_469_696, 12, (1, 4, 7, 9, 11)),
    ],
)
def test_the_tables_of_the_papers(network: str, count: int, last: int, picks: tuple[int, ...]) -> None:
    """Parameters of torchvision's `features`, the number of its last layer (a pooling), and LPIPS's layers."""
    with torch.device("meta"):
        layers = layers_of(network)
        assert default_layers(network) == picks
    assert sum(p.numel() for layer in layers for p in layer.parameters()) == count
    assert len(layers) == last + 1
    assert isinstance(layers[-1], nn.MaxPool2d)


def random_state(network: str, count: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = nn.Sequential(*layers_of(network)[:count]).state_dict()
    return {f"features.{name}": 1.5 * value for name, value in state.items()}


def vgg16_by_hand(x: Tensor, state: dict[str, Tensor]) -> list[Tensor]:
    """relu1_2 and relu2_2: convolutions 0, 2, a pooling, convolutions 5, 7."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    h, found = ((x + 1) / 2 - mean) / std, []
    for first, second in ((0, 2), (5, 7)):
        h = F.max_pool2d(h, 2) if first else h
        for number in (first, second):
            h = F.conv2d(h, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1).relu()
        found.append(h)
    return found


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_vgg16_by_hand_from_either_kind_of_file(ending: str, tmp_path: Path) -> None:
    state, path = random_state("vgg16", 9), tmp_path / f"vgg16.{ending}"
    if ending == "pth":
        torch.save(state | {"classifier.0.weight": torch.zeros(3, 3)}, path)
    else:
        save_file({name.removeprefix("features."): value for name, value in state.items()}, path)
    loss = Perceptual((3, 6, 8), "tanh", network="vgg16", weights=path, layers=(3, 8))
    x, recon = pictures(2, 3, 6, 8), pictures(2, 3, 6, 8, seed=1).requires_grad_()
    pairs = zip(vgg16_by_hand(x, state), vgg16_by_hand(recon, state), strict=True)
    expected = sum((unit(a) - unit(b)).square().sum(1).mean() for a, b in pairs)
    got = loss(x, recon)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(gradient(got, recon), gradient(expected, recon), atol=1e-6, rtol=1e-3)


def test_alexnet_by_hand(tmp_path: Path) -> None:
    state, path = random_state("alexnet", 11), tmp_path / "alexnet.safetensors"
    save_file(state, path)
    net = Backbone("alexnet", path, (1, 8, 10))
    x = pictures(2, 3, 47, 40)
    w = {name.removeprefix("features."): value for name, value in state.items()}
    first = F.conv2d(x, w["0.weight"], w["0.bias"], stride=4, padding=2).relu()
    h = F.conv2d(F.max_pool2d(first, 3, 2), w["3.weight"], w["3.bias"], padding=2).relu()
    h = F.conv2d(F.max_pool2d(h, 3, 2), w["6.weight"], w["6.bias"], padding=1).relu()
    fourth = F.conv2d(h, w["8.weight"], w["8.bias"], padding=1)
    fifth = F.conv2d(fourth.relu(), w["10.weight"], w["10.bias"], padding=1)
    for got, expected in zip(net(x), (first, fourth, fifth), strict=True):
        torch.testing.assert_close(got, expected)
    assert [p.requires_grad for p in net.parameters()] == [False] * 10


@pytest.mark.parametrize(("network", "layers"), [("vgg16", (30,)), ("vgg11", (2, 1)), ("alexnet", (12,)), ("alexnet", (0,))])
def test_the_least_side_is_the_least_that_works(network: str, layers: tuple[int, ...], tmp_path: Path) -> None:
    count = max(layers) + 1
    with torch.device("meta"):
        stack = nn.Sequential(*layers_of(network)[:count])
    state = {name: torch.zeros(()).expand(value.shape) for name, value in stack.state_dict().items()}
    torch.save(state, tmp_path / "zeros.pth")
    least = Backbone(network, tmp_path / "zeros.pth", layers).least_side
    assert stack(torch.empty(1, 3, least, least, device="meta")).numel() > 0
    if least > 1:
        with pytest.raises(RuntimeError):
            stack(torch.empty(1, 3, least - 1, least, device="meta"))


@pytest.fixture
def vgg11(tmp_path: Path) -> Path:
    save_file(random_state("vgg11", 5), tmp_path / "vgg11.safetensors")
    return tmp_path / "vgg11.safetensors"


@pytest.mark.parametrize(
    ("shape", "activation", "options", "message"),
    [
        ((5,), "identity", {}, 'use "reconstruction"'),
        ((3, 8, 8), "identity", {}, "output activation tanh"),
        (
            (3, 8, 8),
            "tanh",
            {"weights": Path("nowhere.pth")},
            "there is no file nowhere.pth; write the path of a file of vgg11's",
        ),
        ((3, 8, 8), "tanh", {"layers": (21,)}, "no layer 21; write numbers from 0 to 20"),
        ((3, 8, 8), "tanh", {}, "`features.6.weight` is missing"),  # the file ends before the default layers
        ((3, 8, 8), "tanh", {"network": "vgg16"}, r"`features.2.weight` is missing"),
        (
            (3, 8, 8),
            "tanh",
            {"network": "alexnet", "layers": (1,)},
            r"`features.0.weight` has the shape \(64, 3, 3, 3\), expected",
        ),
        ((2, 8, 8), "tanh", {"layers": (1,)}, "wants 3 channels, these pictures have 2; only grey"),
        ((3, 8, 1), "tanh", {"layers": (4,)}, "pictures of 8x1 are too small for layer 4 .* write `resize = 2` or more"),
        ((3, 8, 8), "tanh", {"layers": (1,), "mean": (0.1, 0.2)}, "mean has 2 numbers; write one for each of 3 channels"),
        ((3, 8, 8), "tanh", {"layers": (1,), "std": (0.1, 0.2, 0.0)}, "write numbers above 0"),
    ],
)
def test_perceptual_says_what_does_not_fit(
    vgg11: Path, shape: tuple[int, ...], activation: str, options: dict[str, Any], message: str
) -> None:
    for device in ("cpu", "meta"):
        with torch.device(device), pytest.raises(ValueError, match=message):
            Perceptual(shape, activation, **{"network": "vgg11", "weights": vgg11, **options})


def test_a_picture_of_the_least_side_fits(vgg11: Path) -> None:
    loss = Perceptual((3, 8, 2), "tanh", network="vgg11", weights=vgg11, layers=(4,), normalise=False)
    assert torch.isfinite(loss(pictures(3, 3, 8, 2), pictures(3, 3, 8, 2, seed=1)))
    assert Perceptual((3, 8, 1), "tanh", network="vgg11", weights=vgg11, layers=(4,), resize=2).size == (16, 2)


def test_perceptual_says_what_does_not_fit_a_program(files: Path) -> None:
    small = files / "small.pt2"
    with pytest.raises(ValueError, match="exported for pictures of 8x6, these are 9x6; write `resize = 6` if"):
        Perceptual((1, 9, 6), "tanh", network="program", weights=small)
    with pytest.raises(ValueError, match="no output 2; write numbers from 0 to 1"):
        Perceptual((1, 8, 6), "tanh", network="program", weights=small, layers=(2,))
    with pytest.raises(ValueError, match="wants 1 channels, these pictures have 3"):
        Perceptual((3, 8, 6), "tanh", network="program", weights=small)
    with pytest.raises(ValueError, match=r"file of torch.export.save in `weights`"):
        Perceptual((3, 8, 6), "tanh", network="program", weights=Path("nowhere.pt2"))


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("broken.safetensors", lambda path: path.write_bytes(b"no weights"), "can't be read as safetensors"),
        ("broken.pth", lambda path: path.write_bytes(b"no weights"), "can't be read as a file of torch.save with tensors only"),
        ("code.pth", lambda path: torch.save(Malicious(), path), "can't be read as a file of torch.save with tensors only"),
        ("list.pth", lambda path: torch.save([torch.zeros(2)], path), "holds list, expected a state dict"),
        ("nested.pth", lambda path: torch.save({"state_dict": {"a": torch.zeros(2)}}, path), "expected a state dict: name"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, name: str, write: Callable[[Path], Any], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        Backbone("vgg11", tmp_path / name, (1,))


@pytest.fixture(autouse=True)
def _one_default_device() -> Iterator[None]:
    yield
    assert torch.get_default_device().type == "cpu"
