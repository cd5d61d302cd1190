"""Feature networks of the papers, for weights in torchvision's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

CONFIGURATIONS: Final = {
    "vgg11": (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    "vgg16": (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
    "vgg19": (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512, 0),
}
"""Columns A, D and E of table 1 in Simonyan & Zisserman 2014 (arXiv:1409.1556): channels of 3x3 convolutions, 0 a pooling."""


def layers_of(network: str) -> list[nn.Module]:
    """The layers of torchvision's `features`, in its numbering."""
    if network == "alexnet":  # Krizhevsky 2014 (arXiv:1404.5997): one tower, no response normalisation
        convs = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.Conv2d(64, 192, 5, padding=2), nn.Conv2d(192, 384, 3, padding=1)]
        convs += [nn.Conv2d(384, 256, 3, padding=1), nn.Conv2d(256, 256, 3, padding=1)]
        pools = (0, 1, 4)
        return [
            layer
            for i, conv in enumerate(convs)
            for layer in (conv, nn.ReLU(), *([nn.MaxPool2d(3, stride=2)] if i in pools else []))
        ]
    made: list[nn.Module] = []
    channels = 3
    for width in CONFIGURATIONS[network]:
        if width:
            made += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            made.append(nn.MaxPool2d(2, stride=2))
    return made


def default_layers(network: str) -> tuple[int, ...]:
    """What LPIPS compares: each ReLU of AlexNet, the last ReLU of each of VGG's blocks."""
    layers = layers_of(network)
    relus = [i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
    if network == "alexnet":
        return tuple(relus)
    return tuple(i for i in relus if isinstance(layers[i + 1], nn.MaxPool2d))


class Backbone(nn.Module):
    """VGG or AlexNet, frozen, up to the last of `layers`: a picture `b 3 h w` to the activations behind those layers.

    least_side: the smallest side that reaches the last layer; sides: which it insists on, none.

    Raises: ValueError for a layer that the network doesn't have, and weights that aren't its own.
    """

    channels = 3
    sides = (None, None)

    def __init__(self, network: str, path: Path, layers: tuple[int, ...] | None) -> None:
        super().__init__()
        with torch.device("meta"):
            everything = layers_of(network)
            self.layers = default_layers(network) if layers is None else layers
        if max(self.layers) >= len(everything):
            last = len(everything) - 1
            raise ValueError(f"{network} has no layer {max(self.layers)}; write numbers from 0 to {last} in `layers`")
        used = everything[: max(self.layers) + 1]
        self.least_side = _least_side(used)
        self.body = nn.ModuleList(used)
        self._load(network, path)
        self.requires_grad_(False)

    def _load(self, network: str, path: Path) -> None:
        state = read_state(path)
        wanted = self.body.state_dict()
        found = {}
        for name, empty in wanted.items():
            tensor = state.get(f"features.{name}", state.get(name))
            if tensor is None or tensor.shape != empty.shape:
                got = "is missing" if tensor is None else f"has the shape {tuple(tensor.shape)}"
                raise ValueError(
                    f"{path} holds no weights of {network}: `features.{name}` {got}, expected {tuple(empty.shape)}; "
                    f"write the path of a state dict in torchvision's layout, e.g. of torchvision.models.{network}"
                )
            found[name] = tensor.to(torch.float32)
        self.body.load_state_dict(found, assign=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for i, layer in enumerate(self.body):
            x = layer(x)
            found[i] = x
        return [found[i] for i in self.layers]


def _least_side(layers: list[nn.Module]) -> int:
    """The side of a picture of which one pixel is left behind the last layer, and no less behind any before."""
    side = 1
    for layer in reversed(layers):
        if isinstance(layer, nn.Conv2d):
            side = max(1, (side - 1) * layer.stride[0] + layer.kernel_size[0] - 2 * int(layer.padding[0]))
        elif isinstance(layer, nn.MaxPool2d):
            stride, size = (v if isinstance(v, int) else v[0] for v in (layer.stride, layer.kernel_size))
            side = (side - 1) * stride + size
    return side


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors, or from a file of torch.save that holds nothing but tensors.

    Raises: ValueError for a file that is neither.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} can't be read as safetensors ({error})") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler and the zip reader raise many kinds
        text = str(error).partition("\n")[0]
        raise ValueError(f"{path} can't be read as a file of torch.save with tensors only ({text})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds {type(state).__name__}, expected a state dict: name -> tensor")
    return state
