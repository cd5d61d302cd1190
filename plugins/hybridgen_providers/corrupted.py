"""Data with something missing, for an encoder that shall find it again."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn


class Corrupted(nn.Module):
    """The real batch with noise on it, for a denoising autoencoder: the encoder sees this, the loss compares with `x`.

    `[quantity.x_corrupted] use = "corrupted"` and `[encoder] inputs = { x = "x_corrupted" }`

    gaussian  x + amount * noise, noise standard normal
    masking   each value is `blank` with probability amount

    In evaluation and in use nothing is changed.

    Shapes: x `b ...`; returns `b ...`.
    Raises: ValueError for masking with an amount of 1 or more.
    When: an autoencoder whose code is to hold what the data have in common, not each value: features for other tasks, and
        reconstructions of damaged data.
    Healthy: reconstructions of clean held-out data as good as without it or better; far worse: a smaller `amount`.
    Source: Vincent et al. 2008 ("Extracting and composing robust features with denoising autoencoders", ICML), section 2.3;
        gaussian: Vincent et al. 2010 (JMLR 11), section 3.3.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        *,
        kind: Annotated[Literal["gaussian", "masking"], Field(description="what is done to a value")] = "gaussian",
        amount: Annotated[float, Field(gt=0, description="standard deviation (gaussian) or share of values (masking)")] = 0.3,
        blank: Annotated[float, Field(description="what a masked value becomes; -1 is black in pictures")] = -1.0,
    ) -> None:
        super().__init__()
        if kind == "masking" and amount >= 1:
            raise ValueError(f"masking takes a share below 1, got amount = {amount:g}: nothing of x would be left")
        self.kind = kind
        self.amount = amount
        self.blank = blank
        self.draws = {"grain": ("normal" if kind == "gaussian" else "uniform", sample_shape)}

    def forward(self, x: Tensor, grain: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.kind == "gaussian":
            return x + self.amount * grain
        return torch.where(grain < self.amount, self.blank, x)
