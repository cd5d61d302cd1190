"""How alike reconstructions and held-out pictures are in structure: local contrast and pattern, not single values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.embeddings import exact_device

RADIUS = 5
"""Of the window: 11 x 11 pixels, a Gaussian of 1.5 pixels, as in the paper."""

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the scales, from the finest; Wang et al. 2003, section 3.2."""


def smaller_side(sample_shape: tuple[int, ...], metric: str) -> int:
    """The smaller side of a picture. Raises ValueError for data that are no pictures."""
    if len(sample_shape) != 3:
        raise ValueError(f'{metric} measures pictures, these samples have the shape {sample_shape}; use "reconstruction-error"')
    return min(sample_shape[1:])


class _Mean:
    """The mean over samples of a function of two pictures with values from 0 to 2."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, x: Tensor, recon: Tensor) -> None:
        device = exact_device(x)
        # shifted: both indices compare means relative to black, which is -1 in model space
        values = self.function(recon.to(device, torch.float64) + 1, x.to(device, torch.float64) + 1)
        self.total = self.total + values.sum()
        self.count += len(x)

    def value(self) -> float:
        if not self.count:
            raise Unmeasurable("there are no held-out examples; measure more samples")
        return float(self.total) / self.count


class SSIM:
    """Structural similarity of reconstructions and pictures, 1 where they are equal; higher is better.

    Mean over windows of (2 m_x m_r + c1)(2 s_xr + c2) / ((m_x^2 + m_r^2 + c1)(s_x^2 + s_r^2 + c2)), m the mean and s the
    (co)variance in a Gaussian window, c1 = (0.01 L)^2, c2 = (0.03 L)^2, L = 2 the range of model space, black at 0. The
    window spans 11 pixels, or as many as fit into smaller pictures (7 for 8x8), its standard deviation in proportion. Channels
    are averaged.

    Shapes: x, recon `b c h w` in [-1, 1].
    Raises: ValueError for data that are no pictures, or of fewer than 3 pixels a side.
    When: beside "psnr", which a shift in brightness ruins and a blur hardly touches; for perceived likeness use "lpips".
    Healthy: above 0.9 good, 0.5 to 0.8 a blur. Near 0: nothing in common. Numbers of small windows don't compare with others'.
    Source: Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity", IEEE TIP 13),
        equation 13.
    """

    unit = "similarity"
    higher_is_better = True

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        side = smaller_side(sample_shape, "ssim")
        radius = min(RADIUS, (side - 1) // 2)
        if radius < 1:
            raise ValueError(f'ssim wants 3 pixels a side or more, these pictures have {side}; use "psnr"')
        sigma = 1.5 * radius / RADIUS
        small = f"pictures of {side} pixels: the window spans {2 * radius + 1}, not 11; compare only with pictures of this size"
        self.remarks = [small] if radius < RADIUS else []

        def similarity(recon: Tensor, x: Tensor) -> Tensor:
            from torchmetrics.functional.image import structural_similarity_index_measure

            found = structural_similarity_index_measure(recon, x, sigma=sigma, data_range=2.0, reduction="none")
            return torch.as_tensor(found)

        self.similarity = similarity
        self.reset()

    def reset(self) -> None:
        self.mean = _Mean(self.similarity)

    def update(self, x: Tensor, recon: Tensor) -> None:
        self.mean.add(x, recon)

    def compute(self) -> float:
        return self.mean.value()


class MultiScaleSSIM:
    """Structural similarity at several scales, each half the size of the one before; 1 where equal, higher is better.

    luminance at the coarsest scale ^ beta_M times the product over scales j of (contrast and structure) ^ beta_j. The paper's
    5 scales want pictures of 176 pixels; with fewer `scales` the first weights are kept and brought to the sum 1.
    Negative similarities count as 0.

    Shapes: x, recon `b c h w` in [-1, 1].
    Raises: ValueError for data that are no pictures, or too small for the scales.
    When: pictures of 176 pixels and more, where the result of "ssim" hangs on the distance that one looks from.
    Healthy: higher than "ssim": above 0.95 good. Numbers of different `scales` don't compare.
    Source: Wang et al. 2003 ("Multiscale structural similarity for image quality assessment", Asilomar), equation 7.
    """

    unit = "similarity"
    higher_is_better = True

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        scales: Annotated[int, Field(ge=2, le=5, description="sizes of the picture, each half the one before")] = 5,
    ) -> None:
        side = smaller_side(sample_shape, "ms-ssim")
        # the second is a bound of torchmetrics' own; it is the larger one only for 4 scales
        least = {s: (2 * RADIUS + 1) * max(2 ** (s - 1), (s - 1) ** 2) for s in range(2, 6)}
        if side < least[scales]:
            fits = [s for s in least if side >= least[s]]
            write = f"write scales = {fits[-1]}, or " if fits else ""
            raise ValueError(
                f"ms-ssim: {scales} scales want {least[scales]} pixels a side or more, these pictures have {side}; "
                f'{write}use "ssim"'
            )
        betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])

        def similarity(recon: Tensor, x: Tensor) -> Tensor:
            from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

            return multiscale_structural_similarity_index_measure(
                recon, x, sigma=1.5, data_range=2.0, reduction="none", betas=betas, normalize="relu"
            )

        self.similarity = similarity
        self.reset()

    def reset(self) -> None:
        self.mean = _Mean(self.similarity)

    def update(self, x: Tensor, recon: Tensor) -> None:
        self.mean.add(x, recon)

    def compute(self) -> float:
        return self.mean.value()
