"""The patch discriminator of pix2pix: a logit for each patch, blind to what lies further apart."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.layers import Norm, SpectralNorm, initialise_dcgan, norm, normalise_spectrally, stagewise

MOST = 3
"""Layers by default where they fit: patches of 70 pixels."""

Layers = Annotated[
    int | None,
    Field(
        ge=0, description="halvings: 0 to 5 judge patches of 7, 16, 34, 70, 142, 286 pixels; by default up to 3, as many as fit"
    ),
]


class PatchDiscriminator(nn.Module):
    """A picture to a logit for each of its overlapping patches: judges texture, and leaves the layout to other terms.

    `layers` 4x4 convolutions of stride 2, one more of stride 1, then one to the logits, each padded by one pixel; leaky ReLU
    of slope 0.2; channels double from `width` up to 8 times. With norm = "none" a logit depends on its patch alone; a
    norm's statistics are of the whole picture (batch: of all). Initial weights N(0, 0.02), those of norms N(1, 0.02).

    Shapes: x `b c h w`; returns the logits `b (h // 2**layers - 2) (w // 2**layers - 2)` and the layers' activations.
    Raises: ValueError for data that are no pictures, or too small for so many layers.
    When: beside a reconstruction term (VQGAN, KL autoencoder, pix2pix); a GAN by itself wants a critic of the whole picture.
    Healthy: accuracy on real and on generated 0.55 to 0.8; reconstructions gain texture. If their error soars: less weight.
    Source: Isola et al. 2016 (arXiv:1611.07004), section 3.2.2 and appendix 6.1.2; Esser et al. 2020 (arXiv:2012.09841).
    """

    def __init__(
        self,
        judged_shape: tuple[int, ...],
        *,
        width: Annotated[int, Field(ge=1, description="channels of the first layer; they double up to 8 times that")] = 64,
        layers: Layers = None,
        norm: Norm = "group",
        spectral_norm: SpectralNorm = False,
    ) -> None:
        super().__init__()
        count = _fitting(judged_shape, layers)
        channels = [judged_shape[0], *(width * min(2**i, 8) for i in range(count + 1))]
        self.layers = nn.ModuleList(
            _layer(channels[i], channels[i + 1], 2 if i < count else 1, norm if i else "none") for i in range(count + 1)
        )
        self.to_logits = nn.Conv2d(channels[-1], 1, 4, padding=1)
        initialise_dcgan(self)
        if spectral_norm:
            normalise_spectrally(self)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = stagewise(self.layers, x)
        return self.to_logits(features[-1]).squeeze(1), features


def _layer(inputs: int, outputs: int, stride: int, normalisation: str) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 4, stride=stride, padding=1)
    return nn.Sequential(conv, *norm(normalisation, outputs, spatial=True), nn.LeakyReLU(0.2))


def _fitting(shape: tuple[int, ...], layers: int | None) -> int:
    """How many layers of stride 2: each halves the sides rounding down, and what follows takes two pixels off."""
    if len(shape) != 3:
        raise ValueError(f'patch discriminator wants pictures (c, h, w), these data have the shape {shape}; use "mlp"')
    side = min(shape[1:])
    if side < 3:
        raise ValueError(
            f"patch discriminator: pictures of {shape[1]}x{shape[2]} hold no patch, it wants sides of at least 3; "
            'write use = "conv" (or "mlp")'
        )
    most = max(n for n in range(side.bit_length()) if side >> n >= 3)
    if layers is not None and layers > most:
        raise ValueError(
            f"patch discriminator: layers = {layers} wants sides of at least {3 * 2**layers}, these pictures are "
            f"{shape[1]}x{shape[2]}; write layers = {most} or less, or leave it out"
        )
    return min(most, MOST) if layers is None else layers
