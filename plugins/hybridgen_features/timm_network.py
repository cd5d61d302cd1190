"""Networks of timm, with weights from a file."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen.files import sha256
from hybridgen_features.pictures import check, in_pieces, three_channels, to_bytes
from hybridgen_losses.backbones import read_state


class Timm(nn.Module):
    """Any network of timm by its name, with weights from a file; nothing is ever downloaded.

    The embedding is what the network gives its classifier (pooled features); the logits are those of the classifier, where the
    file has one. Pictures are rounded to bytes, grey ones repeated to three channels, scaled to the square that the network was
    trained on (or `size`) by its own interpolation with antialiasing, then (value - mean) / std with its mean and std.

    Shapes: x `b c h w` in [-1, 1], c 1 or 3; returns the embedding `b e` and the logits `b k`, or None.
    Raises: ValueError where timm can't be imported, knows no such network, or the file holds other tensors.

    When: features of photographs from another training than ImageNet's labels, e.g. DINOv2 or CLIP (network
        "vit_small_patch14_dinov2"), which see more than what tells a thousand classes apart.
    Healthy: orders models as people do more often than Inception's; compare only through the same network and weights.
    Source: Wightman 2019, github.com/huggingface/pytorch-image-models; for DINOv2 as features Stein et al. 2023
        (arXiv:2306.04675).
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        network: Annotated[str, Field(min_length=1, description='as timm calls it: "resnet18", "vit_small_patch14_dinov2"')],
        weights: Annotated[Path, Field(description="safetensors (or .pth with nothing but tensors) of that network")],
        size: Annotated[int | None, Field(ge=1, description="pixels of each side that it sees; its own if not given")] = None,
    ) -> None:
        super().__init__()
        check(sample_shape, output_activation, "timm")
        timm = imported()
        if not weights.is_file():
            raise ValueError(f"timm: there is no file {weights}; write the path of weights of '{network}' in `weights`")
        with torch.device("cpu"):
            state = read_state(weights)
        self.network: Any
        self.name, self.version, self.digest = network, timm.__version__, sha256(weights)
        self.network = constructed(timm, network, state, weights, size)
        config = self.network.pretrained_cfg
        self.classes = int(self.network.num_classes)
        self.dim = int(getattr(self.network, "head_hidden_size", self.network.num_features))
        self.size = tuple(config["input_size"][1:]) if size is None else (size, size)
        self.interpolation = "bicubic" if config.get("interpolation") == "bicubic" else "bilinear"
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config["mean"]).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).reshape(-1, 1, 1), persistent=False)
        self.eval().requires_grad_(False)
        if size is not None:
            self._try()

    def train(self, mode: bool = True) -> Timm:
        """Stays in eval mode, whoever asks."""
        return super().train(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return in_pieces(self._seen, x)

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        picture = three_channels(to_bytes(x) / 255.0)
        if picture.shape[2:] != self.size:
            picture = F.interpolate(picture, self.size, mode=self.interpolation, antialias=True).clamp(0.0, 1.0)
        features = self.network.forward_features((picture - self.mean) / self.std)
        embedding = self.network.forward_head(features, pre_logits=True).flatten(1)
        return embedding, self.network.forward_head(features) if self.classes else None

    def _try(self) -> None:
        try:
            with torch.no_grad(), torch.device("cpu"):
                self._seen(torch.zeros(1, 3, *self.size))
        except Exception as error:
            raise ValueError(
                f"timm: '{self.name}' can't see pictures of {self.size[0]}x{self.size[1]} ({error}); write another `size`, "
                "or leave it out"
            ) from error

    def describe(self) -> dict[str, Any]:
        """The protocol."""
        return {
            "name": "timm",
            "network": self.name,
            "timm": self.version,
            "dim": self.dim,
            "classes": self.classes,
            "input": [3, *self.size],
            "resize": f"{self.interpolation}, antialiased",
            "preprocessing": "rounded to bytes, grey repeated, (value - mean) / std of [0, 1]",
            "mean": [round(v, 6) for v in self.mean.flatten().tolist()],
            "std": [round(v, 6) for v in self.std.flatten().tolist()],
            "weights": self.digest[:16],
        }


def imported() -> ModuleType:
    """timm. Raises ValueError that says what to install."""
    try:
        import timm
    except Exception as error:  # torchvision, which it imports, raises RuntimeError beside a torch that it wasn't built for
        raise ValueError(
            f"timm can't be imported ({type(error).__name__}: {error}); install it with `pip install 'hybridgen[timm]'`, and "
            f"the torchvision that was built for torch {torch.__version__}"
        ) from error
    return timm


def constructed(timm: ModuleType, name: str, state: dict[str, Tensor], path: Path, size: int | None) -> Any:
    """The network with its weights, and a classifier where they have one. Raises ValueError for what doesn't fit."""
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "write one of `timm.list_models()`"
        raise ValueError(f"timm: {timm.__version__} has no network '{name}'; {hint}")
    config = timm.models.get_pretrained_cfg(name).to_dict()
    channels, *own = config["input_size"]
    if channels != 3:
        raise ValueError(f"timm: '{name}' sees pictures of {channels} channels; write a network that sees 3")
    heads = config.get("classifier") or ()  # several in distilled networks, of as many classes
    weight = state.get(f"{heads if isinstance(heads, str) else next(iter(heads), None)}.weight")
    # a transformer that is given other sides interpolates its positions
    flexible = {"dynamic_img_size": True} if config.get("fixed_input_size") and size not in (None, *own) else {}
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        try:
            network = timm.create_model(
                name, pretrained=False, num_classes=0 if weight is None else weight.shape[0], **flexible
            )
        except TypeError as error:
            raise ValueError(f"timm: '{name}' sees pictures of {own[0]}x{own[1]} only ({error}); leave `size` out") from error
    try:
        network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
    except RuntimeError as error:
        what = " ".join(str(error).split())[:300]
        raise ValueError(f"timm: {path} does not hold the weights of timm {timm.__version__}'s '{name}': {what} ...") from error
    return network
