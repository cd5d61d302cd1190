"""Structural similarity: local means, contrasts and correlations in the place of single pixels."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

RANGE = 2.0
"""Of values in model space, [-1, 1]."""
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (Wang et al. 2003, section 3.2)."""
FLOOR = 1e-3
"""Least value of a scale's similarity under its exponent: below it a power has no bounded slope, below 0 no value."""

Sigma = Annotated[float, Field(gt=0, description="standard deviation of the window, pixels")]


class SSIM(nn.Module):
    """1 - structural similarity of reconstruction and original, by gaussian windows.

    ssim = (2 m_x m_y + c1) (2 s_xy + c2) / ((m_x^2 + m_y^2 + c1) (s_x^2 + s_y^2 + c2)) at every place where the window fits,
    m means, s^2 variances, s_xy the covariance within it; c1 = (0.01 * 2)^2, c2 = (0.03 * 2)^2 for the range 2 of model space.
    loss = mean over the batch of 1 - (mean of ssim over places and channels)

    Without `window` it is 11 or, on a small picture, the largest odd size up to half its smaller side (at least 3), so that
    more than the middle is looked at: 3 for 8x8, 11 from 22x22 on.

    Shapes: x, recon `b c h w` in [-1, 1]; returns a scalar in [0, 2].
    Raises: ValueError for data that are no pictures in [-1, 1], and for an even window or one larger than the picture.

    When: beside "absolute-error" or a reconstruction, for contrast and edges that a squared error blurs. Alone it hardly
        holds brightness and colour.
    Healthy: starts near 1 (nothing alike) and falls; below 0.1 differences are hard to see. Above 1 means inverted contrast.
    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        window: Annotated[int | None, Field(ge=3, description="side of the window, odd; 11 or what suits the picture")] = None,
        sigma: Sigma = 1.5,
    ) -> None:
        super().__init__()
        side = min(picture_sides(sample_shape, output_activation, "ssim"))
        if window is None:
            window = min(11, max(3, side // 2 - (side // 2 + 1) % 2))
        _check_window(window, side, "ssim")
        self.kernel: Tensor
        self.register_buffer("kernel", gaussian(window, sigma), persistent=False)

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        luminance, contrast = similarity(x.float(), recon.float(), self.kernel)
        return 1.0 - (luminance * contrast).mean()


class MultiScaleSSIM(nn.Module):
    """1 - structural similarity over several resolutions: the picture, its half, its quarter ...

    ms_ssim = product over scales j < m of cs_j^w_j times ssim_m^w_m, for each channel, where cs is the second factor of ssim
    (contrast and structure), averaged over the places of its scale; each scale is the 2x2 average of the one before.
    loss = mean over the batch of 1 - (mean of ms_ssim over channels)

    w = 0.0448, 0.2856, 0.3001, 0.2363, 0.1333, the finest scale first. Where the window fits fewer than five scales, the
    first m count, with weights that are scaled to add up to 1: with 11, from 176x176 on five, 28x28 two. A similarity that is
    not positive counts as 0.001 (and has no gradient), for a power of it would be NaN.

    Shapes: x, recon `b c h w` in [-1, 1]; returns a scalar in [0, 1].
    Raises: ValueError for data that are no pictures in [-1, 1], an even window, and where no or not all `scales` fit.

    When: pictures of 64x64 and more, in the place of "ssim": large structures count too. Well known together with
        "absolute-error" (Zhao et al. 2015, arXiv:1511.08861: 0.84 to 0.16).
    Healthy: starts between 0.5 and 1 and falls; below 0.05 differences are hard to see.
    Source: Wang et al. 2003, "Multiscale structural similarity for image quality assessment", equation 7.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        window: Annotated[int, Field(ge=3, description="side of the window, odd")] = 11,
        sigma: Sigma = 1.5,
        scales: Annotated[int | None, Field(ge=1, le=5, description="how many resolutions; as many as fit, up to 5")] = None,
    ) -> None:
        super().__init__()
        side = min(picture_sides(sample_shape, output_activation, "ms-ssim"))
        _check_window(window, side, "ms-ssim")
        fitting = next((m for m in range(1, len(SCALE_WEIGHTS)) if side >> m < window), len(SCALE_WEIGHTS))
        if scales is not None and scales > fitting:
            raise ValueError(
                f"ms-ssim: a window of {window} fits {fitting} of {scales} scales of a picture whose smaller side is {side}; "
                f"write `scales = {fitting}` or a smaller `window`"
            )
        used = SCALE_WEIGHTS[: scales or fitting]
        self.weights = [weight / sum(used) for weight in used]
        self.kernel: Tensor
        self.register_buffer("kernel", gaussian(window, sigma), persistent=False)

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        x, recon = x.float(), recon.float()
        product = x.new_ones(x.shape[:2])  # b c
        for scale, weight in enumerate(self.weights):
            if scale:
                x, recon = F.avg_pool2d(x, 2), F.avg_pool2d(recon, 2)
            luminance, contrast = similarity(x, recon, self.kernel)
            last = scale == len(self.weights) - 1
            similar = (luminance * contrast if last else contrast).mean((2, 3))
            product = product * similar.clamp(min=FLOOR).pow(weight)
        return 1.0 - product.mean()


def gaussian(size: int, sigma: float) -> Tensor:
    """A window that adds up to 1 along one axis; its outer product with itself is the square one. Shapes: `size`."""
    place = torch.arange(size) - (size - 1) / 2
    weights = torch.exp(-0.5 * (place / sigma).square())
    return weights / weights.sum()


def similarity(x: Tensor, y: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance factor, and the contrast and structure factor, where the window fits. Shapes: `b c h w` -> `b c h' w'`."""
    moments = _windowed(torch.cat([x, y, x * x, y * y, x * y]), kernel)
    mean_x, mean_y, square_x, square_y, product = moments.unflatten(0, (5, -1))
    variances = (square_x - mean_x.square()) + (square_y - mean_y.square())
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x.square() + mean_y.square() + C1)
    return luminance, (2 * covariance + C2) / (variances + C2)


def _windowed(values: Tensor, kernel: Tensor) -> Tensor:
    """Weighted means over the square window, one axis after the other. Shapes: `b c h w` -> `b c h' w'`."""
    channels = values.shape[1]
    down = F.conv2d(values, kernel.reshape(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    return F.conv2d(down, kernel.reshape(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)


def picture_sides(sample_shape: tuple[int, ...], output_activation: str, name: str) -> tuple[int, int]:
    """Height and width of the data. Raises ValueError for what are no pictures with values in [-1, 1]."""
    if len(sample_shape) != 3 or output_activation != "tanh":
        raise ValueError(
            f"{name} compares pictures (c h w) with values in [-1, 1] (output activation tanh), these data have the shape "
            f"{sample_shape} and '{output_activation}'; use \"reconstruction\""
        )
    return sample_shape[1], sample_shape[2]


def _check_window(window: int, side: int, name: str) -> None:
    if window % 2 == 0:
        raise ValueError(f"{name}: window = {window} has no middle; write {window - 1} or {window + 1}")
    if window > side:
        fits = side - 1 + side % 2
        advice = f"write `window = {fits}` or less" if fits >= 3 else 'use "squared-error"'
        raise ValueError(f"{name}: a window of {window} doesn't fit a picture whose smaller side is {side}; {advice}")
