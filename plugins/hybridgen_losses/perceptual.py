"""Distances in what a frozen network sees, from a file of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen.errors import RunError
from hybridgen.files import sha256
from hybridgen_losses.backbones import Backbone
from hybridgen_losses.program import Program
from hybridgen_losses.structure import picture_sides

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EPSILON = 1e-10

Layers = Annotated[
    Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None,
    Field(description="which activations: numbers in torchvision's `features`, or of a program's outputs"),
]
Numbers = Annotated[tuple[float, ...], Field(min_length=1)] | None


class Perceptual(nn.Module):
    """How different reconstruction and original are to a frozen network, which the user gives as a file.

    loss = sum over layers of the mean over positions of |f_l(x) - f_l(recon)|^2, where with `normalise` every position's
    channels are scaled to length 1 first and their squares are summed (LPIPS with weights 1: twice 1 - cosine), and without
    it the squares are averaged over channels as well (Johnson).

    network "vgg11", "vgg16", "vgg19", "alexnet": `weights` is a state dict in torchvision's layout (safetensors, or .pth with
        nothing but tensors), of which `features.*` is read. layers: by default the last ReLU of each of VGG's five blocks
        (vgg16: 3, 8, 15, 22, 29), all five ReLUs of AlexNet. What lies behind the last of them is not computed.
    network "program": `weights` is a file of torch.export.save, of a network in eval mode, exported with an open batch, that
        takes a picture and returns a tensor or several, `b c ...`. Read as data: only known tensor operators are called,
        nothing is unpickled or executed, so the file need not be trusted. layers: all outputs by default. With x of a batch of
        2 or more, `open` = torch.export.Dim.DYNAMIC:
            torch.export.save(torch.export.export(net.eval(), (x,), dynamic_shapes=({0: open},)), "net.pt2")

    Pictures go from [-1, 1] to [0, 1], grey ones are repeated where the network wants more channels, `resize` scales the
    smaller side, then (value - mean) / std. The weights are neither trained nor averaged nor written to checkpoints: a
    resumed run reads the file again, and refuses to go on if it is another one.

    Shapes: x, recon `b c h w`; returns a scalar, with `normalise` from 0 to 2 a layer for layers that are never negative.
    Raises: ValueError for a missing or wrong file, data that are no pictures in [-1, 1], channels or sides that don't fit.

    When: beside a pixel distance (with about the same gradient), for reconstructions that look alike rather than average;
        with an adversarial term it is VQGAN's. Networks trained on photographs say little of digits or spectra.
    Healthy: falls slowly, and much less than a pixel distance does. Fine grids in the reconstructions: too much of it; colours
        that drift: too little of the pixel distance beside it.
    Source: Johnson et al. 2016 (arXiv:1603.08155), equation 2; Zhang et al. 2018 (arXiv:1801.03924), equation 1.
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        network: Annotated[
            Literal["vgg11", "vgg16", "vgg19", "alexnet", "program"],
            Field(description='whose weights the file holds; "program" for a file of torch.export.save'),
        ],
        weights: Annotated[Path, Field(description="the file; nothing is downloaded")],
        layers: Layers = None,
        normalise: Annotated[bool, Field(description="scale every position's channels to length 1")] = True,
        resize: Annotated[int | None, Field(ge=1, description="pixels of the smaller side that the network sees")] = None,
        mean: Annotated[
            Numbers, Field(description="of each channel in [0, 1]; vgg and alexnet: ImageNet's, program: 0")
        ] = None,
        std: Annotated[Numbers, Field(description="of each channel in [0, 1]; vgg and alexnet: ImageNet's, program: 1")] = None,
    ) -> None:
        super().__init__()
        picture_sides(sample_shape, output_activation, "perceptual")
        if not weights.is_file():
            kind = "torch.export.save" if network == "program" else f"{network}'s weights"
            raise ValueError(f"perceptual: there is no file {weights}; write the path of a file of {kind} in `weights`")
        dry = torch.get_default_device().type == "meta"
        with torch.device("cpu"):
            seen = Program(weights, layers) if network == "program" else Backbone(network, weights, layers)
        self.channels = seen.channels
        self.size = _sides(sample_shape, seen, resize)
        if sample_shape[0] not in (1, self.channels):
            raise ValueError(
                f"perceptual: the network wants {self.channels} channels, these pictures have {sample_shape[0]}; "
                "only grey ones are repeated"
            )
        photographs = network != "program"
        shift = _numbers("mean", mean or (IMAGENET_MEAN if photographs else (0.0,)), self.channels)
        scale = _numbers("std", std or (IMAGENET_STD if photographs else (1.0,)), self.channels)
        if min(scale) <= 0:
            raise ValueError(f"perceptual: std = {list(scale)}, but it divides; write numbers above 0")
        self.normalise = normalise
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(shift).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(scale).reshape(-1, 1, 1), persistent=False)
        # in a tuple it is no submodule: not counted, averaged, saved or put into training mode; `_apply` moves it
        self._network = (seen.to("meta") if dry else seen,)
        content = b"" if dry else bytes.fromhex(sha256(weights))
        self._digest = torch.tensor(list(content), dtype=torch.uint8, device="cpu")

    def forward(self, x: Tensor, recon: Tensor) -> Tensor:
        distances = [self._distance(a.detach(), b) for a, b in zip(self._features(x), self._features(recon), strict=True)]
        return sum(distances[1:], distances[0]).mean()

    def _features(self, x: Tensor) -> list[Tensor]:
        picture = ((x.float() + 1.0) / 2.0).expand(-1, self.channels, -1, -1)
        if self.size is not None:
            picture = F.interpolate(picture, self.size, mode="bilinear", antialias=True)
        return [feature.float() for feature in self._network[0]((picture - self.mean) / self.std)]

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        """One layer's distance of each sample. Shapes: `b c ...` -> `b`."""
        if self.normalise:
            return (_unit(a) - _unit(b)).square().sum(1, keepdim=True).flatten(1).mean(1)
        return (a - b).square().flatten(1).mean(1)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Perceptual:
        super()._apply(fn, recurse)
        self._network[0]._apply(fn, recurse)
        return self

    def get_extra_state(self) -> Tensor:
        """The SHA-256 of the weights' file: what a checkpoint holds of the network."""
        return self._digest

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self._digest):
            raise RunError("the perceptual loss's weights are another file than this run began with; put that one back")


def _unit(features: Tensor) -> Tensor:
    """Every position's channels at length 1. Shapes: `b c ...` -> `b c ...`."""
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + EPSILON)


def _sides(sample_shape: tuple[int, ...], seen: Backbone | Program, resize: int | None) -> tuple[int, int] | None:
    """The sides that pictures are scaled to, None where they stay. Raises ValueError where the network can't take them."""
    height, width = sample_shape[1:]
    short = min(height, width)
    size = None if resize is None else (round(height * resize / short), round(width * resize / short))
    got = size or (height, width)
    if min(got) < seen.least_side:
        raise ValueError(
            f"perceptual: pictures of {got[0]}x{got[1]} are too small for layer {max(seen.layers)} of the network; write "
            f"`resize = {seen.least_side}` or more, or earlier `layers`"
        )
    if any(fixed not in (None, side) for fixed, side in zip(seen.sides, got, strict=True)):
        wanted = "x".join("*" if side is None else str(side) for side in seen.sides)
        fixed = [side for side in seen.sides if side is not None]
        raise ValueError(
            f"perceptual: the network was exported for pictures of {wanted}, these are {got[0]}x{got[1]}; "
            f"write `resize = {min(fixed)}` if that gives them those sides, or export it with open sides"
        )
    return size


def _numbers(name: str, given: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """One number a channel; a single one is for all."""
    numbers = given * channels if len(given) == 1 else given
    if len(numbers) != channels:
        raise ValueError(
            f"perceptual: {name} has {len(numbers)} numbers; write one for each of {channels} channels, or one for all"
        )
    return numbers
