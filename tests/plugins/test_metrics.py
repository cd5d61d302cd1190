"""Metrics: values known in closed form, the same however the data are batched."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hybridgen_latents.gaussian import DiagonalGaussian, StandardNormal
from hybridgen_metrics.critic import DiscriminatorAccuracy
from hybridgen_metrics.latent import ELBO, ActiveUnits
from hybridgen_metrics.reconstruction import PSNR, ReconstructionError


def test_reconstruction_error_and_psnr() -> None:
    x = torch.zeros(5, 1, 2, 2)
    recon = torch.full_like(x, 0.2)
    recon[0] = 0.4
    error, psnr = ReconstructionError(), PSNR()
    for piece in (slice(0, 2), slice(2, 5)):  # batches of unequal size
        error.update(x[piece], recon[piece])
        psnr.update(x[piece], recon[piece])
    assert error.compute() == pytest.approx((0.16 + 4 * 0.04) / 5)
    assert psnr.compute() == pytest.approx((10 * math.log10(4 / 0.16) + 4 * 10 * math.log10(4 / 0.04)) / 5)
    error.reset()
    error.update(x, x)
    assert error.compute() == 0.0


def test_elbo() -> None:
    posterior = DiagonalGaussian(torch.ones(3, 2), torch.zeros(3, 2))
    elbo = ELBO()
    elbo.update(torch.tensor([-1.0, -2.0, -6.0]), posterior, StandardNormal(), torch.ones(3, 2))
    assert elbo.compute() == pytest.approx(-3.0 - 1.0)  # KL of a unit shift in two dimensions: 2 * 1/2


def test_active_units_counts_dimensions_that_vary_over_the_data() -> None:
    mean = torch.zeros(100, 4)
    mean[:, 0] = torch.linspace(-1, 1, 100)
    mean[:, 1] = 5.0  # far away, but always the same: says nothing
    mean[::2, 2] = 0.05  # variance 0.000625
    metric = ActiveUnits()
    for piece in mean.split(30):
        metric.update(DiagonalGaussian(piece, torch.zeros_like(piece)))
    assert metric.compute() == 1.0
    low: Any = ActiveUnits(threshold=1e-4)
    low.update(DiagonalGaussian(mean, torch.zeros_like(mean)))
    assert low.compute() == 2.0


def test_discriminator_accuracy() -> None:
    metric = DiscriminatorAccuracy()
    metric.update(torch.tensor([1.0, -1.0, 2.0, 3.0]), torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    assert metric.compute() == {"real": 0.75, "fake": 0.25}


@pytest.mark.parametrize("metric", [ReconstructionError, PSNR, ELBO, ActiveUnits, DiscriminatorAccuracy])
def test_every_metric_states_its_unit_and_direction(metric: Any) -> None:
    assert isinstance(metric.unit, str)
    assert metric.higher_is_better in (True, False, None)
