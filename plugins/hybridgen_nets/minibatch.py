"""Layers that let a discriminator compare the samples of a batch, so that a generator that repeats itself is found out.

They couple the samples of a batch (`couples_batch`): real and generated batches are then judged apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_nets.layers import activation

Minibatch = Annotated[
    Literal["none", "stddev", "discrimination"],
    Field(
        description="let it compare the samples of a batch: by standard deviation (Karras 2017) or distances (Salimans 2016)"
    ),
]

GROUP = 4
"""Samples that a standard deviation is taken over (Karras et al. 2017, released networks)."""

KERNELS, DIMS = 16, 5
"""Distances that minibatch discrimination measures, and the values that each compares."""


class MinibatchStd(nn.Module):
    """How much the samples of a batch differ, as one more channel.

    s = mean over features f and places p of sqrt(var_i(x_i,f,p) + 1e-8), within groups of at least `group` neighbours

    A batch that `group` does not divide is cut into groups of sizes that differ by one at most, each at least `group`;
    a smaller batch is one group; of a single sample s = 1e-4.

    Shapes: x `b c h w` or `b d`; returns `b (c + 1) h w` or `b (d + 1)`.
    Source: Karras et al. 2017 (arXiv:1710.10196), section 3.
    """

    couples_batch = True

    def __init__(self, *, group: int = GROUP) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        count = max(1, x.shape[0] // self.group)
        size, larger = x.shape[0] // count, x.shape[0] % count  # the first `larger` groups have one sample more
        cut = larger * (size + 1)
        groups = [x[:cut].unflatten(0, (larger, size + 1))] if larger else []
        spread = torch.cat([_spread(g) for g in (*groups, x[cut:].unflatten(0, (count - larger, size)))])
        return torch.cat([x, spread.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)).expand(-1, 1, *x.shape[2:])], 1)


def _spread(groups: Tensor) -> Tensor:
    """`n g ...` -> `(n g)`: the mean standard deviation of each group, told to each of its samples."""
    deviation = (groups.float().var(1, correction=0) + 1e-8).sqrt().flatten(1).mean(1)
    return deviation.repeat_interleave(groups.shape[1])


class MinibatchDiscrimination(nn.Module):
    """How near every other sample of the batch is, by distances that the critic learns.

    M_i = T x_i, as `kernels` rows of `dims` values;  o_i,k = sum_j exp(-|M_i,k - M_j,k|_1),  j over the whole batch

    A sample's distance to itself counts (o is at least 1), as in the paper. The o_i follow as further channels.

    Shapes: x `b *shape`; returns `b (c + kernels) ...`.
    Source: Salimans et al. 2016 (arXiv:1606.03498), section 3.2.
    """

    couples_batch = True

    def __init__(self, shape: tuple[int, ...], *, kernels: int = KERNELS, dims: int = DIMS) -> None:
        super().__init__()
        self.kernels = kernels
        self.tensor = nn.Linear(math.prod(shape), kernels * dims, bias=False)
        nn.init.normal_(self.tensor.weight, std=math.prod(shape) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.tensor(x.flatten(1)).float().unflatten(1, (self.kernels, -1))  # b k d
        distance = (rows.unsqueeze(0) - rows.unsqueeze(1)).abs().sum(3)  # b b k
        near = (-distance).exp().sum(1).to(x.dtype)  # b k
        return torch.cat([x, near.reshape(*near.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])], 1)


def minibatch(kind: str, shape: tuple[int, ...]) -> tuple[nn.Module | None, int]:
    """The layer that a discriminator's option names, for activations of `shape`, and how many channels it adds."""
    if kind == "none":
        return None, 0
    return (MinibatchStd(), 1) if kind == "stddev" else (MinibatchDiscrimination(shape), KERNELS)


def mixing(kind: str, shape: tuple[int, ...], act: str, init: Callable[[nn.Module], None]) -> nn.Module:
    """A discriminator's last layer before its head: what the batch says, mixed into the activations; nothing for "none".

    Karras et al. put a 3x3 convolution after their statistic; vectors have a linear layer instead.

    Shapes: `b *shape` -> `b *shape`.
    """
    layer, more = minibatch(kind, shape)
    if layer is None:
        return nn.Identity()
    channels = shape[0]
    mix = nn.Conv2d(channels + more, channels, 3, padding=1) if len(shape) == 3 else nn.Linear(channels + more, channels)
    init(mix)
    return nn.Sequential(layer, mix, activation(act))
