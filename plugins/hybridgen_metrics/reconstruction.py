"""How close reconstructions come to held-out data."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class ReconstructionError:
    """Mean squared error of reconstructions, per value of model space (images in [-1, 1]); lower is better.

    Every value of every sample counts alike, so batch sizes don't matter. Sums are kept in float64.

    Shapes: x, recon `b ...`.
    When: always, where there is an encoder; "ssim" and "lpips" say more of what a person sees.
    Healthy: well below that of principal components of the same dimension; equal to the data's variance: nothing was learned.
    Source: least squares, Legendre 1805.
    """

    unit = "squared model-space units"
    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, x: Tensor, recon: Tensor) -> None:
        self.total = self.total + (x - recon).double().square().sum()
        self.count += x.numel()

    def compute(self) -> float:
        return float(self.total) / max(self.count, 1)


class PSNR:
    """Peak signal-to-noise ratio of reconstructions in dB, averaged over samples; images span 2 (-1 to 1).

    10 log10(2^2 / mean squared error of a sample).

    Shapes: x, recon `b ...`.
    When: to compare with published reconstructions. It forgives blur: look at "ssim" and "rfid" beside it.
    Healthy: 20 dB is blurred, 30 dB good, above 40 dB hard to tell apart.
    Source: torchmetrics' implementation; the average over samples is that of papers on compression.
    """

    unit = "dB"
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def update(self, x: Tensor, recon: Tensor) -> None:
        from torchmetrics.functional.image import peak_signal_noise_ratio  # here, for it takes a second and a half of a start

        axes = tuple(range(1, x.ndim))
        values = peak_signal_noise_ratio(recon.double(), x.double(), data_range=2.0, dim=axes, reduction="none")
        self.total = self.total + torch.as_tensor(values).sum()
        self.count += x.shape[0]

    def compute(self) -> float:
        return float(self.total) / self.count if self.count else math.nan
