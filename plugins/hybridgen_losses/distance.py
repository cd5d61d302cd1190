"""Plain distances of a reconstruction, without a likelihood behind them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

Per = Annotated[
    Literal["value", "sample"], Field(description="the mean over every value, or the sum over each sample's values")
]


def per_sample(values: Tensor, per: Literal["value", "sample"]) -> Tensor:
    """One number for each sample: the mean or the sum of its values. Shapes: `b ...` -> `b`."""
    values = values.flatten(1)
    return values.mean(1) if per == "value" else values.sum(1)


class SquaredError(nn.Module):
    """Squared difference of reconstruction and original.

    value   mean over every value of (recon - x)^2: the MSE that papers print; the same scale for every picture size
    sample  the sum over each sample, mean over the batch: twice the gaussian `reconstruction` of scale 1 without its constant

    Shapes: x, recon `b ...`; returns a scalar.

    When: autoencoders and comparisons with published MSE. In a VAE use "reconstruction", which is in nats: a mean over
        values weighs the KL as many times too much as a sample has values (784 for 28x28), and the posterior collapses.
    Healthy: `value` starts near the data's variance and falls below a tenth of it; a blurred picture is its usual best.
    Source: least squares, Legendre 1805; as the gaussian likelihood Kingma & Welling 2013 (arXiv:1312.6114), appendix C.2.
    """

    def __init__(self, *, per: Per = "value") -> None:
        super().__init__()
        self.per: Literal["value", "sample"] = per

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return per_sample((recon.float() - x.float()).square(), self.per).mean()


class AbsoluteError(nn.Module):
    """Absolute difference of reconstruction and original.

    value   mean over every value of |recon - x|: the L1 of pix2pix and VQGAN
    sample  the sum over each sample, mean over the batch: the laplace `reconstruction` of scale 1 without its constant

    Shapes: x, recon `b ...`; returns a scalar.

    When: beside an adversarial or perceptual term, where it blurs less than "squared-error"; in a VAE use "reconstruction"
        with the laplace likelihood, which is in nats.
    Healthy: `value` falls from the data's mean absolute deviation; its gradient has one size however small the error, so it
        jitters at the end unless the learning rate falls.
    Source: Isola et al. 2016 (arXiv:1611.07004), equation 3.
    """

    def __init__(self, *, per: Per = "value") -> None:
        super().__init__()
        self.per: Literal["value", "sample"] = per

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        return per_sample((recon.float() - x.float()).abs(), self.per).mean()
