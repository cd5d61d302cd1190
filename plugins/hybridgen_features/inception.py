"""Inception-v3 with the weights that FID, KID and IS are published with."""

from __future__ import annotations

import http.client
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import PluginError
from hybridgen.files import sha256
from hybridgen_features import cache
from hybridgen_features.pictures import check, in_pieces, three_channels, to_bytes
from hybridgen_losses.backbones import read_state

FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
URL: Final = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256: Final = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE: Final = 299
CLASSES: Final = 1008
TOLD_EVERY: Final = 2.0  # seconds

Step = tuple[int, int | tuple[int, int]]
"""A convolution of a branch: its channels and its kernel."""


class Norm(nn.Module):
    """Batch normalisation by the stored statistics, whatever the mode: samples never see each other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=1e-3)


class Conv(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(
        self, inside: int, outside: int, kernel: int | tuple[int, int], stride: int = 1, *, padded: bool = True
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inside, outside, sides, stride, padding, bias=False)
        self.bn = Norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """An Inception block: branches of convolutions over the same input, concatenated; "_pool" sees it pooled.

    pool: "average" of what lies inside the picture (padding is not counted), "max", or "reduce", a max pool of stride 2, and
        with it the last convolution of each branch.
    A list of two steps at the end of a branch forks it.
    """

    def __init__(
        self, inside: int, branches: Mapping[str, Sequence[Step | list[Step]]], pool: Literal["average", "max", "reduce"]
    ) -> None:
        super().__init__()
        self.pool = pool
        self.paths: dict[str, list[list[str]]] = {}
        for name, steps in branches.items():
            before = inside
            path = self.paths[name] = []
            for i, step in enumerate(steps, 1):
                stem = f"branch{name}_{i}" if len(steps) > 1 else f"branch{name}"
                fork = {f"{stem}a": step[0], f"{stem}b": step[1]} if isinstance(step, list) else {stem: step}
                reduces = pool == "reduce" and i == len(steps)
                for label, (width, kernel) in fork.items():
                    self.add_module(label, Conv(before, width, kernel, 2 if reduces else 1, padded=not reduces))
                path.append(list(fork))
                before = next(iter(fork.values()))[0]

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for name, path in self.paths.items():
            found = [self._pooled(x) if name == "_pool" else x]
            for labels in path:
                found = [self.get_submodule(label)(h) for h in found for label in labels]
            parts += found
        return torch.cat(parts, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "average":
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return F.max_pool2d(x, 3, stride=2) if self.pool == "reduce" else F.max_pool2d(x, 3, stride=1, padding=1)


def block_a(pooled: int) -> dict[str, list[Step | list[Step]]]:
    return {"1x1": [(64, 1)], "5x5": [(48, 1), (64, 5)], "3x3dbl": [(64, 1), (96, 3), (96, 3)], "_pool": [(pooled, 1)]}


def block_c(width: int) -> dict[str, list[Step | list[Step]]]:
    row, column = (1, 7), (7, 1)
    double: list[Step | list[Step]] = [(width, 1), (width, column), (width, row), (width, column), (192, row)]
    return {"1x1": [(192, 1)], "7x7": [(width, 1), (width, row), (192, column)], "7x7dbl": double, "_pool": [(192, 1)]}


BLOCK_B: Final[dict[str, list[Step | list[Step]]]] = {
    "3x3": [(384, 3)],
    "3x3dbl": [(64, 1), (96, 3), (96, 3)],
    "_pool": [],
}
BLOCK_D: Final[dict[str, list[Step | list[Step]]]] = {
    "3x3": [(192, 1), (320, 3)],
    "7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
    "_pool": [],
}
BLOCK_E: Final[dict[str, list[Step | list[Step]]]] = {
    "1x1": [(320, 1)],
    "3x3": [(384, 1), [(384, (1, 3)), (384, (3, 1))]],
    "3x3dbl": [(448, 1), (384, 3), [(384, (1, 3)), (384, (3, 1))]],
    "_pool": [(192, 1)],
}


class Trunk(nn.Module):
    """Figure 5 to 7 and table 1 of the paper, under the names of the weights' file; without the auxiliary classifier.

    Shapes: x `b 3 299 299`, (byte - 128) / 128; returns the averages over places of the activations of 64, 192, 768 and 2048
    channels, `b e` each, by their number of channels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b = Mixed(192, block_a(32), "average")
        self.Mixed_5c = Mixed(256, block_a(64), "average")
        self.Mixed_5d = Mixed(288, block_a(64), "average")
        self.Mixed_6a = Mixed(288, BLOCK_B, "reduce")
        self.Mixed_6b = Mixed(768, block_c(128), "average")
        self.Mixed_6c = Mixed(768, block_c(160), "average")
        self.Mixed_6d = Mixed(768, block_c(160), "average")
        self.Mixed_6e = Mixed(768, block_c(192), "average")
        self.Mixed_7a = Mixed(768, BLOCK_D, "reduce")
        self.Mixed_7b = Mixed(1280, BLOCK_E, "average")
        self.Mixed_7c = Mixed(2048, BLOCK_E, "max")  # as the graph of 2015-12-05 has it
        self.fc = nn.Linear(2048, CLASSES)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        first = x = F.max_pool2d(x, 3, stride=2)  # b 64 73 73
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        second = x = F.max_pool2d(x, 3, stride=2)  # b 192 35 35
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  # b 288 35 35
        third = x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # b 768 17 17
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # b 2048 8 8
        return {h.shape[1]: h.mean((2, 3)) for h in (first, second, third, x)}


class Inception(nn.Module):
    """Inception-v3 as published FID, KID and Inception scores use it: the embedding is its last pooling, 2048 numbers.

    The weights are a file of the user's own (`weights`: the published .pth or the same tensors as safetensors), or fetched
    once into the cache where the recipe says `download = true`; the file's SHA-256 is compared before it is used.

    A picture is rounded to bytes, a grey one repeated to three channels, scaled to 299x299 as TensorFlow 1 does (bilinear, no
    antialiasing, source = target * from / to), then (byte - 128) / 128. The logits are the last layer's without its bias.

    Shapes: x `b c h w` in [-1, 1], c 1 or 3; returns the embedding `b e`, e = layer, and the logits `b 1008`.
    Raises: ValueError without weights, for a file with other tensors, and for data that are no such pictures; PluginError
        where the weights can't be fetched.

    When: photographs, and numbers to compare with papers: same split, same counts, 10,000 samples or more. For digits,
        spectra or drawings "classifier" sees more.
    Healthy: `published` in the protocol is true: then the weights are those that papers use.
    Source: Szegedy et al. 2015 (arXiv:1512.00567); as features, Heusel et al. 2017 (arXiv:1706.08500); preprocessing and the
        logits without bias as in the graph `inception-2015-12-05`, for which see Parmar et al. 2022 (arXiv:2104.11222).
    """

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        output_activation: str,
        *,
        weights: Annotated[Path | None, Field(description=f"the file {FILE}, or its tensors as safetensors")] = None,
        download: Annotated[bool, Field(description="fetch that file (95 MB) from GitHub, once, into the cache")] = False,
        layer: Annotated[
            Literal[64, 192, 768, 2048], Field(description="which activations are the embedding, by their channels")
        ] = 2048,
    ) -> None:
        super().__init__()
        check(sample_shape, output_activation, "inception")
        if (weights is None) == (not download):
            problem = "there are no weights" if weights is None else "there are two sources of weights"
            raise ValueError(
                f'inception: {problem}; write `weights = "PATH/{FILE}"`, or `download = true` to fetch that file from {URL}'
            )
        self.layer, self.classes, self.dim = layer, CLASSES, layer
        self.digest = ""
        self.trunk: Trunk | None = None
        if weights is not None:
            if not weights.is_file():
                raise ValueError(f"inception: there is no file {weights}; write the path of {FILE}, from {URL}")
            self._load(weights)

    def train(self, mode: bool = True) -> Inception:
        """Stays in eval mode, whoever asks."""
        return super().train(False)

    def prepare(self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, data: str, tell: Callable[[str], None]) -> None:
        """Fetch the weights, where the recipe asks for that. Raises PluginError where that fails."""
        if self.trunk is None:
            self._load(fetched(tell))

    def _load(self, path: Path) -> None:
        with torch.device("meta"):
            trunk = Trunk()
        with torch.device("cpu"):
            state = {k: v.float() for k, v in read_state(path).items() if not k.endswith("num_batches_tracked")}
        try:
            trunk.load_state_dict(state, assign=True)
        except RuntimeError as error:
            what = " ".join(str(error).split())[:300]
            raise ValueError(
                f"inception: {path} does not hold the weights that FID uses, the tensors of {FILE} (1008 classes, no "
                f"auxiliary classifier; torchvision's own are others): {what} ..."
            ) from error
        self.digest = sha256(path)
        self.trunk = trunk
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        trunk = self.trunk
        if trunk is None:
            raise RuntimeError("inception: its weights are fetched by `prepare`, which nobody called")

        def seen(piece: Tensor) -> tuple[Tensor, Tensor | None]:
            found = trunk((resized(three_channels(to_bytes(piece)), (SIDE, SIDE)) - 128.0) / 128.0)
            return found[self.layer], found[2048] @ trunk.fc.weight.T

        return in_pieces(seen, x)

    def describe(self) -> dict[str, Any]:
        """The protocol."""
        return {
            "name": "inception",
            "dim": self.layer,
            "classes": CLASSES,
            "input": [3, SIDE, SIDE],
            "resize": "bilinear as TensorFlow 1: no antialiasing, source = target * from / to",
            "preprocessing": "rounded to bytes, grey repeated, (byte - 128) / 128",
            "logits": "without bias",
            "weights": self.digest[:16],
            "published": self.digest == SHA256,
        }


def resized(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """TensorFlow 1's bilinear scaling. Shapes: `b c h w` -> `b c` and `sides`.

    A pixel of the result lies at source = target * from / to, without the half pixel that centres would add, and is mixed
    from the pixels below and above that; above the last there is itself.
    """
    for axis, to in zip((-2, -1), sides, strict=True):
        count = x.shape[axis]
        if count == to:
            continue
        source = torch.arange(to, device=x.device, dtype=torch.float32) * (count / to)
        below = source.long().clamp(max=count - 1)
        part = (source - below).reshape((-1, 1) if axis == -2 else (-1,))
        low, high = x.index_select(axis, below), x.index_select(axis, (below + 1).clamp(max=count - 1))
        x = low + (high - low) * part
    return x


def fetched(tell: Callable[[str], None]) -> Path:
    """The published weights in the cache, fetched where they are not there yet; under their name only once they are right.

    Raises: PluginError where they can't be fetched or kept, or are not what they should be.
    """
    path = cache.folder() / FILE
    if path.is_file():
        if sha256(path) == SHA256:
            return path
        tell(f"{path} is damaged; fetching it again")
    by_hand = f'fetch it by hand and write `weights = "PATH/{FILE}"` instead of `download`'
    temporary = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(temporary, tell)
        found = sha256(temporary)
        if found != SHA256:
            raise PluginError(f"what {URL} gave is not the file it should be (SHA-256 {found}, expected {SHA256}); {by_hand}")
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise PluginError(f"Inception's weights can't be fetched from {URL} into {path.parent} ({error}); {by_hand}") from error
    finally:
        if temporary.exists():
            temporary.unlink()
    tell(f"Inception's weights are kept as {path}")
    return path


def _copy(path: Path, tell: Callable[[str], None]) -> None:
    with urllib.request.urlopen(URL, timeout=30) as answer, path.open("wb") as file:
        whole, done, told = int(answer.headers.get("Content-Length") or 0), 0, 0.0
        while piece := answer.read(1 << 20):
            file.write(piece)
            done += len(piece)
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                tell(f"fetching {FILE}: {done / 1e6:.0f} of {f'{whole / 1e6:.0f}' if whole else 'unknown'} MB")
