"""Recipes in small for reconstruction losses and the generator's own terms."""

from __future__ import annotations

from pathlib import Path

import torch
from common import AE, GAN, LABELLED, VAE, VAGAN
from safetensors.torch import save_file
from torch import Tensor, nn

from hybridgen.data import SampleSpec
from hybridgen_losses.backbones import layers_of

TOKENS = SampleSpec(kind="tokens", shape=(6, 5), count=64, levels=5, activation="softmax")
RECONSTRUCTION = '[loss.reconstruction]\nuse = "reconstruction"\n'
FEATURES = '[loss.features]\nuse = "feature-reconstruction"\n'
TWO_LAYERS = "layers = [0, 1]\n"


def _instead(use: str, recipe: str = AE, **options: object) -> str:
    """A recipe with another term in the place of its reconstruction."""
    return recipe.replace(RECONSTRUCTION, _table("reconstruction", use, **options))


def _beside(use: str, recipe: str, **options: object) -> str:
    """A recipe with one term more."""
    return recipe + _table("extra", use, **options)


def _table(name: str, use: str, **options: object) -> str:
    return f'[loss.{name}]\nuse = "{use}"\n' + "".join(f"{key} = {value}\n" for key, value in options.items())


RECIPES: dict[str, str | tuple[str, SampleSpec]] = {
    "squared-error": _instead("squared-error"),
    "squared-error-per-sample": _instead("squared-error", per='"sample"'),
    "absolute-error": _instead("absolute-error"),
    "reconstruction-laplace": _instead("reconstruction", VAE, likelihood='"laplace"', learn_scale="true"),
    "cross-entropy": (_instead("cross-entropy", VAE, label_smoothing=0.1), TOKENS),
    "ssim": _instead("ssim"),
    "ms-ssim": _beside("ms-ssim", AE, window=3),
    "focal-frequency": _beside("focal-frequency", VAE, focus=1.5),
    "focal-frequency-plain": _instead("focal-frequency", focus=0.0),
    "feature-reconstruction": VAGAN + FEATURES + "trains = { encoder = 1.0, decoder = 1e-3 }\n",
    "feature-reconstruction-layers": VAGAN.replace('["recon", "fake"]', '"fake"') + FEATURES + TWO_LAYERS,
    "feature-matching": _beside("feature-matching", GAN, layers="[0, -1]"),
    "feature-matching-recon": _beside("feature-matching", VAGAN),
    "perceptual-program": _instead("perceptual", network='"program"', weights='"tiny.pt2"'),
    "perceptual-vgg11": _beside(
        "perceptual", AE, network='"vgg11"', weights='"vgg11.safetensors"', layers="[1, 4]", resize=12, normalise="false"
    ),
    "mode-seeking": _beside("mode-seeking", GAN),
    "mode-seeking-conditional": (
        _beside("mode-seeking", GAN.replace('[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp-conditional"')),
        LABELLED,
    ),
    "path-length": _beside("path-length", GAN, weight=2.0, every=2),
    "path-length-vagan": _beside("path-length", VAGAN, decay=0.9),
}


class Tiny(nn.Module):
    """A feature network of two layers, and an average of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.norm(self.first(x)))
        return h, torch.tanh(self.second(h))


def tiny() -> Tiny:
    """The network of `tiny.pt2`: its draw does not depend on what was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = Tiny().eval()
        for parameter in net.parameters():
            parameter.data.mul_(2.0)
        return net


def vgg(network: str, count: int) -> dict[str, Tensor]:
    """Random weights for the first `count` layers of a network, in torchvision's layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        layers = nn.Sequential(*layers_of(network)[:count])
        return {f"features.{name}": tensor.detach().clone() for name, tensor in layers.state_dict().items()}


def prepare(folder: Path) -> None:
    """Writes the files that the recipes name, beside the recipes."""
    program = torch.export.export(tiny(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, folder / "tiny.pt2")
    save_file(vgg("vgg11", 5), folder / "vgg11.safetensors")
