"""Distances of pictures as sums of waves."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn


class FocalFrequency(nn.Module):
    """Squared distance of the spectra of reconstruction and original, most where they are furthest apart.

    F = orthonormal 2D discrete Fourier transform of (recon - x), for each channel
    w = |F|^focus, divided by its largest value in the spectrum, a constant
    loss = mean over frequencies and channels of w |F|^2

    `focus = 0` is the plain distance of spectra, which by Parseval's theorem is the mean squared error of the values.

    Shapes: x, recon `b c h w`, any sides; returns a scalar, a mean over values, so the same scale for every picture size.
    Raises: ValueError for data that are no pictures.

    When: beside "reconstruction", when reconstructions are blurred or show grids: fine texture has small amplitudes, which a
        squared error neglects. It is blind to nothing, but doesn't know what looks alike: for that take "perceptual".
    Healthy: at most the "squared-error" per value, and falls with it. A weight that brings its gradient near that of the
        reconstruction's is a good start (a reconstruction in nats is larger by about half the number of values).
    Source: Jiang et al. 2020 (arXiv:2012.12821), sections 3.2 and 3.3.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        focus: Annotated[float, Field(ge=0, description="the paper's alpha; 0 weighs all frequencies alike")] = 1.0,
    ) -> None:
        super().__init__()
        if len(sample_shape) != 3:
            raise ValueError(
                f'focal-frequency compares pictures (c h w), these data have the shape {sample_shape}; use "squared-error"'
            )
        self.focus = focus

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(recon.float() - x.float(), norm="ortho")  # b c h w, complex
        power = spectrum.real.square() + spectrum.imag.square()
        if self.focus:
            weight = power.detach().pow(self.focus / 2)
            largest = weight.amax((-2, -1), keepdim=True)
            power = power * (weight / largest.clamp(min=torch.finfo(weight.dtype).tiny))
        return power.mean()
