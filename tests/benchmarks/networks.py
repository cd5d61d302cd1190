"""The networks of the benchmarks, as public tutorials and toolkits have them, offered to recipes as a plugin would.

dcgan-64    the PyTorch DCGAN example's: 64 base channels, 4x4 kernels, batch norm, pictures of 3x64x64
wide-28     what pythae takes for 28x28: 128 to 1,024 channels in four strided convolutions, batch norm but in the critic
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from hybridgen import hookimpl


def down(inputs: int, outputs: int, norm: bool = True, slope: float = 0.2) -> nn.Sequential:
    """Half the sides: a 4x4 convolution of stride 2, batch norm, a rectifier."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=not norm)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(*layers, nn.LeakyReLU(slope) if slope else nn.ReLU())


def up(inputs: int, outputs: int, kernel: int = 4, padding: int = 1, more: int = 0) -> nn.Sequential:
    """Twice the sides."""
    layer = nn.ConvTranspose2d(inputs, outputs, kernel, 2, padding, output_padding=more, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def judged(body: Iterable[nn.Module], to_logit: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A critic's logits `b`, and what each of its layers makes of the one before."""
    features = []
    for layer in body:
        x = layer(x)
        features.append(x)
    return to_logit(x).flatten(), features


class Generator64(nn.Module):
    """z `b d` -> raw `b c 64 64`."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...], *, width: int = 64) -> None:
        super().__init__()
        first = nn.ConvTranspose2d(z_shape[0], 8 * width, 4, 1, 0, bias=False)
        self.layers = nn.Sequential(
            nn.Sequential(first, nn.BatchNorm2d(8 * width), nn.ReLU()),
            up(8 * width, 4 * width),
            up(4 * width, 2 * width),
            up(2 * width, width),
            nn.ConvTranspose2d(width, sample_shape[0], 4, 2, 1, bias=False),
        )

    def forward(self, z: Tensor) -> Tensor:
        raw: Tensor = self.layers(z[:, :, None, None])
        return raw


class _Body64(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            down(channels, width, norm=False),
            down(width, 2 * width),
            down(2 * width, 4 * width),
            down(4 * width, 8 * width),
        )


class Encoder64(_Body64):
    """x `b c 64 64` -> code `b d`."""

    def __init__(self, sample_shape: tuple[int, ...], code_shape: tuple[int, ...], *, width: int = 64) -> None:
        super().__init__(sample_shape[0], width)
        self.to_code = nn.Linear(8 * width * 16, code_shape[0])

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.to_code(self.body(x).flatten(1))
        return code


class Critic64(_Body64):
    """x `b c 64 64` -> logits `b` and each layer's features."""

    def __init__(self, judged_shape: tuple[int, ...], *, width: int = 64) -> None:
        super().__init__(judged_shape[0], width)
        self.to_logit = nn.Sequential(nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Flatten())

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return judged(self.body, self.to_logit, x)


SIZES_28 = (1, 2, 4, 8)  # times the width: 28 -> 14 -> 7 -> 3 -> 1


class Encoder28(nn.Module):
    """x `b c 28 28` -> code `b d`."""

    def __init__(self, sample_shape: tuple[int, ...], code_shape: tuple[int, ...], *, width: int = 128) -> None:
        super().__init__()
        sizes = (sample_shape[0], *(width * n for n in SIZES_28))
        self.body = nn.Sequential(*(down(a, b, slope=0.0) for a, b in pairwise(sizes)))
        self.to_code = nn.Linear(8 * width, code_shape[0])

    def forward(self, x: Tensor) -> Tensor:
        code: Tensor = self.to_code(self.body(x).flatten(1))
        return code


class Critic28(nn.Module):
    """x `b c 28 28` -> logits `b` and each layer's features; without batch norm, and with one tanh, as pythae has it."""

    def __init__(self, judged_shape: tuple[int, ...], *, width: int = 128) -> None:
        super().__init__()
        sizes = (judged_shape[0], *(width * n for n in SIZES_28))
        rectifiers = (nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.ReLU())
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), act) for (a, b), act in zip(pairwise(sizes), rectifiers, strict=True)
        )
        self.to_logit = nn.Sequential(nn.Flatten(), nn.Linear(8 * width, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return judged(self.body, self.to_logit, x)


class Decoder28(nn.Module):
    """z `b d` -> raw `b c 28 28`: 4x4 with 1,024 channels, then 7, 14 and 28."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...], *, width: int = 128) -> None:
        super().__init__()
        self.start = (8 * width, 4, 4)
        self.from_z = nn.Linear(z_shape[0], 8 * width * 16)
        self.layers = nn.Sequential(
            up(8 * width, 4 * width, kernel=3),
            up(4 * width, 2 * width, kernel=3, more=1),
            nn.ConvTranspose2d(2 * width, sample_shape[0], 3, 2, 1, output_padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        raw: Tensor = self.layers(self.from_z(z).unflatten(1, self.start))
        return raw


@hookimpl
def register_components(register: Any) -> None:
    register.encoder("dcgan-64", Encoder64)
    register.decoder("dcgan-64", Generator64)
    register.discriminator("dcgan-64", Critic64)
    register.encoder("wide-28", Encoder28)
    register.decoder("wide-28", Decoder28)
    register.discriminator("wide-28", Critic28)


PLUGIN = SimpleNamespace(register_components=register_components)
