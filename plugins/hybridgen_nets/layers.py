"""What the networks share: activations, normalisations, initialisation, spectral normalisation; and their options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

Activation = Annotated[
    Literal["silu", "relu", "leaky-relu", "gelu"], Field(description="nonlinearity; leaky-relu has slope 0.2")
]
Norm = Annotated[
    Literal["none", "group", "layer", "batch"],
    Field(description="normalisation; batch couples the samples of a batch, so they are judged apart and cost more passes"),
]
Width = Annotated[int, Field(ge=1, description="channels of the first stage; they double with each halving")]
Units = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)],
    Field(description="units of each hidden layer: one number for all, or a list from the input on"),
]
Layers = Annotated[int | None, Field(ge=1, description="hidden layers; by default 2, or as many as `width` lists")]
Depth = Annotated[int | None, Field(ge=0, description="halvings of each side; by default until the shorter side is at most 4")]
Dropout = Annotated[float, Field(ge=0, lt=1, description="share of activations dropped")]
SpectralNorm = Annotated[bool, Field(description="divide each weight by its largest singular value (Miyato et al. 2018)")]
Embedding = Annotated[int, Field(ge=1, description="values that a class is embedded in")]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky-relu": lambda: nn.LeakyReLU(0.2),
    "gelu": nn.GELU,
}


def activation(name: str) -> nn.Module:
    return _ACTIVATIONS[name]()


def norm(name: str, channels: int, *, spatial: bool) -> list[nn.Module]:
    """No layer or one. Group norm: the most groups of at least 8 channels, up to 8 (Wu & He 2018, arXiv:1803.08494)."""
    if name == "none":
        return []
    if name == "batch":
        return [nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)]
    groups = 1 if name == "layer" else max(g for g in (8, 4, 2, 1) if channels % g == 0 and (channels // g >= 8 or g == 1))
    return [nn.GroupNorm(groups, channels)]


def dropout(share: float, *, spatial: bool) -> list[nn.Module]:
    if not share:
        return []
    return [nn.Dropout2d(share) if spatial else nn.Dropout(share)]


def stagewise(layers: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """What each of a stack of layers makes of the one before: a critic's features."""
    features = []
    for layer in layers:
        x = layer(x)
        features.append(x)
    return features


def initialise(module: nn.Module, slope: float = 0.2) -> None:
    """He's normal initialisation for every weight, zero biases (He et al. 2015, arXiv:1502.01852).

    slope: of the nonlinearity that follows, for negative values; 1 where none follows.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(
                layer.weight, a=slope, mode="fan_out" if isinstance(layer, nn.ConvTranspose2d) else "fan_in"
            )
            if isinstance(layer, nn.ConvTranspose2d):  # stride 2: each output sees a quarter of the kernel
                layer.weight.data.mul_(2.0)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_dcgan(module: nn.Module) -> None:
    """DCGAN's: every weight N(0, 0.02), those of norms N(1, 0.02), zero biases (Radford et al. 2015, arXiv:1511.06434)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, (nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def initialise_xavier(module: nn.Module, gain: float = 1.0) -> None:
    """Glorot's uniform initialisation for every weight, zero biases (Glorot & Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            nn.init.xavier_uniform_(layer.weight, gain)
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def normalise_spectrally(module: nn.Module) -> None:
    """Spectral normalisation on every weight of a discriminator, embeddings too (Miyato et al. 2018, arXiv:1802.05957)."""
    for layer in list(module.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            spectral_norm(layer)
