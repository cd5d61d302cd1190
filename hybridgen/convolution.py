"""Weight gradients of convolutions on CPUs, where one large matrix product beats the vendor's kernel.

With many channels at few positions oneDNN's weight gradient can take twenty times as long as unfolding the input and one
product (512 to 1,024 channels at 3x3 pixels: 1.3 s against 0.07 s). Which is faster is timed once for a shape and
remembered on this machine, so that runs repeat. Networks need not know: their layers are told after they are built.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen.environment import cpu_name
from hybridgen.errors import RunError
from hybridgen.files import cache_folder, write_atomically
from hybridgen.timing import quickest

LARGE = 1 << 17
"""Weights below which the vendor's kernel is never far behind."""

Pair = tuple[int, int]


def install(modules: Iterable[nn.Module]) -> int:
    """Let large plain convolutions choose how they compute their weight gradient. Returns how many were told."""
    told = 0
    for module in modules:
        for layer in module.modules():
            chooses = {nn.Conv2d: ChoosingConv2d, nn.ConvTranspose2d: ChoosingConvTranspose2d}.get(type(layer))
            if chooses is not None and _plain(layer):
                layer.__class__ = chooses
                told += 1
    return told


def _plain(layer: Any) -> bool:
    """Whether the product below is this layer's weight gradient: one group, no dilation, zeros around it."""
    return (
        layer.weight.numel() >= LARGE
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and set(layer.output_padding) == {0}
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class ChoosingConv2d(nn.Conv2d):
    """A convolution that may take its weight gradient from a matrix product."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _wanted(weight) or not unfolding_pays(False, input.shape, weight.shape, self.stride, self.padding):
            return super()._conv_forward(input, weight, bias)
        return _Unfolded.apply(input, weight, bias, self.stride, self.padding, False)


class ChoosingConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that may take its weight gradient from a matrix product."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _wanted(self.weight):
            return super().forward(input, output_size)
        if not unfolding_pays(True, input.shape, self.weight.shape, self.stride, self.padding):
            return super().forward(input)
        return _Unfolded.apply(input, self.weight, self.bias, self.stride, self.padding, True)


def _wanted(weight: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() and weight.requires_grad and weight.dtype == torch.float32 and weight.device.type == "cpu"


class _Unfolded(torch.autograd.Function):
    """conv2d or conv_transpose2d; the backward is made of differentiable operations, so penalties may go through it."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, transposed: bool) -> Tensor:
        function = F.conv_transpose2d if transposed else F.conv2d
        return function(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.stride, ctx.padding, ctx.transposed = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _vendor(gradient, x, weight, ctx.stride, ctx.padding, ctx.transposed, (True, False, False))[0]
        if ctx.needs_input_grad[1]:
            few, many = (x, gradient) if ctx.transposed else (gradient, x)
            of_weight = product(few, many, weight.shape, ctx.stride, ctx.padding)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None, None


def _vendor(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, transposed: bool, wanted: tuple[bool, ...]
) -> tuple[Tensor, ...]:
    shape = list(stride), list(padding), [1, 1], transposed, [0, 0], 1
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(gradient, x, weight, None, *shape, list(wanted))
    return found


def product(few: Tensor, many: Tensor, shape: torch.Size, stride: Pair, padding: Pair) -> Tensor:
    """The weight gradient as one product of `few` (a gradient, or a transposed convolution's input) with windows of `many`.

    Shapes: few `b o h w`, many `b i H W` with a window of the kernel's size for each of few's positions; returns `o i k l`.
    """
    size, (k, m) = many.shape[1], shape[2:]
    padded = F.pad(many, (padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(2, k, stride[0]).unfold(3, m, stride[1])[:, :, : few.shape[2], : few.shape[3]]
    rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, size * k * m)
    columns = few.permute(0, 2, 3, 1).reshape(-1, few.shape[1])
    return (columns.t() @ rows).view(shape)


# -- which is faster -----------------------------------------------------------------------------------------------------


@cache
def unfolding_pays(transposed: bool, x: torch.Size, weight: torch.Size, stride: Pair, padding: Pair) -> bool:
    """Whether the product was at least a tenth faster here; timed once on this machine, then read from the cache."""
    known, key = _known(), f"{'transposed ' if transposed else ''}{[*x]} {[*weight]} {[*stride]} {[*padding]}"
    if key not in known:
        vendor, ours = _timed(transposed, x, weight, stride, padding)
        known[key] = ours < 0.9 * vendor
        _remember(known)
    return known[key]


def _timed(transposed: bool, x: torch.Size, weight: torch.Size, stride: Pair, padding: Pair) -> tuple[float, float]:
    """Seconds of the vendor's weight gradient and of the product: the quicker of two each."""
    a, w = (torch.ones(s).contiguous(memory_format=torch.channels_last) for s in (x, weight))
    g = _Unfolded.forward(a, w, None, stride, padding, transposed)
    few, many = (a, g) if transposed else (g, a)
    vendor = quickest(lambda: _vendor(g, a, w, stride, padding, transposed, (False, True, False)), 2)
    return vendor, quickest(lambda: product(few, many, weight, stride, padding), 2)


def _file() -> Path:
    return cache_folder() / "convolutions.json"


def _machine() -> str:
    return f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _known() -> dict[str, bool]:
    """What was timed on this machine before; an unreadable file is as good as none."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_file().read_text(encoding="utf-8")).get(_machine(), {})
        return {key: value for key, value in found.items() if isinstance(value, bool)}
    return {}


def _remember(known: dict[str, bool]) -> None:
    """Keep it beside what was timed under other circumstances; where nothing can be written it is timed again next time."""
    with contextlib.suppress(OSError, RunError):
        before: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(_file().read_text(encoding="utf-8"))
        _file().parent.mkdir(parents=True, exist_ok=True)
        whole = {**known, **before.get(_machine(), {})}  # what another process timed meanwhile stays as it is
        write_atomically(_file(), json.dumps({**before, _machine(): whole}, indent=1).encode())
