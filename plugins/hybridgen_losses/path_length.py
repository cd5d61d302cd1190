"""How evenly a decoder spreads what its latent says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn


class PathLength(nn.Module):
    """A step in z shall change the sample by the same amount everywhere and in every direction.

    length_b = |J(z_b)^T y_b|, J the Jacobian of the decoder's raw values at z_prior, y ~ N(0, 1) / sqrt(pixels)
    loss = mean over the batch of (length - a)^2, a the moving average of lengths, a constant

    The lengths are those of *raw* values: behind a tanh, saturated pixels would count as short paths. `pixels` is the number of
    positions (h * w), so that lengths do not depend on the resolution. `a` starts at the first batch's mean, and until then
    the loss is 0; the authors' starts at 0, which presses every length towards 0 at first.

    Shapes: z_prior `b ...`, noise like x; returns a scalar. Offers `path_lengths`, `b`; reports `path_length`, the average a.

    When: a GAN whose latent shall be inverted, edited or interpolated; with `every = 4` to 16, for it differentiates twice.
        The authors' weight is 2.
    Healthy: `path_length` settles, and the loss falls far below its square. A `path_length` that goes to 0 is a decoder
        that ignores z: the weight is too large. One that grows without end: the generator is diverging.
    Source: Karras et al. 2019 (arXiv:1912.04958), section 3.2 and equation 4.
    """

    quantities = ("path_lengths",)
    reports = ("path_length",)

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        decay: Annotated[float, Field(ge=0, lt=1, description="how much of the moving average an update keeps")] = 0.99,
    ) -> None:
        super().__init__()
        positions = {2: sample_shape[:1], 3: sample_shape[1:]}  # l c; c h w
        self.pixels = math.prod(positions.get(len(sample_shape), sample_shape))
        self.decay = decay
        self.path_length: Tensor
        self.register_buffer("path_length", torch.zeros(()))

    def path_lengths(self, decode: Callable[[Tensor], Tensor], z_prior: Tensor, noise: Tensor) -> Tensor:
        """|J^T y| of each sample: the length of a random step of its raw values, as z sees it. Shapes: `b ...` -> `b`."""
        y = noise.float() / math.sqrt(self.pixels)
        # samples decode apart, so one gradient of the sum is every sample's own (batch norm would couple them)
        gradient = torch.func.grad(lambda z: (decode(z) * y).sum())(z_prior.detach().float())
        return torch.linalg.vector_norm(gradient.flatten(1), dim=1)  # its gradient at 0 is 0, that of a sqrt is infinite

    def forward(self, path_lengths: Tensor) -> Tensor:
        target = torch.where(self.path_length > 0, self.path_length, path_lengths.detach())
        return (path_lengths - target).square().mean()

    def update(self, path_lengths: Tensor) -> None:
        rate = torch.where(self.path_length > 0, 1.0 - self.decay, 1.0)
        self.path_length.lerp_(path_lengths.mean(), rate)
