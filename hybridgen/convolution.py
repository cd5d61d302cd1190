"""Convolutions on CPUs where one large matrix product beats the vendor's kernel.

With many channels at few positions oneDNN's gradients can take sixteen times as long as unfolding and one product (512 to
1,024 channels at 3x3 pixels: 0.19 s against 0.02 s), and a transposed convolution three times as long. Which is faster is
timed once for a shape and remembered on this machine, so that runs repeat. Networks need not know: their layers are told
after they are built.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridgen.environment import cpu_name
from hybridgen.errors import RunError
from hybridgen.files import cache_folder, write_atomically
from hybridgen.timing import quickest

LARGE = 1 << 17
"""Weights below which the vendor's kernel is never far behind."""

Pair = tuple[int, ...]


def install(modules: Iterable[nn.Module]) -> int:
    """Let large plain convolutions choose how they are computed in training. Returns how many were told."""
    told = 0
    for module in modules:
        for layer in module.modules():
            chooses = {nn.Conv2d: ChoosingConv2d, nn.ConvTranspose2d: ChoosingConvTranspose2d}.get(type(layer))
            if chooses is not None and _plain(layer):
                layer.__class__ = chooses
                told += 1
    return told


def _plain(layer: Any) -> bool:
    """Whether the products below are what this layer computes: one group, no dilation, zeros around it."""
    return (
        layer.weight.numel() >= LARGE
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class ChoosingConv2d(nn.Conv2d):
    """A convolution that may take its gradients from matrix products."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = _by_product(self, input, weight, bias)
        return super()._conv_forward(input, weight, bias) if found is None else found


class ChoosingConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that may be a matrix product, and take its weight's gradient from one."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        found = _by_product(self, input, self.weight, self.bias) if output_size is None else None
        return super().forward(input, output_size) if found is None else found


def _by_product(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """What a layer computes, where a product is the faster way to some of it in training; else nothing."""
    if not _in_training(x, weight):
        return None
    transposed = isinstance(layer, nn.ConvTranspose2d)
    shape = Shape(transposed, x.shape, weight.shape, layer.stride, layer.padding, layer.output_padding, _last(x))
    by = Products(*_chosen(*shape))
    return _ByProduct.apply(x, weight, bias, shape, by) if any(by) else None


class Shape(NamedTuple):
    """All that a convolution's time depends on. x: `b i H W`, transposed `b o h w`; weight: `o i k l`; last: x is `b h w c`."""

    transposed: bool
    x: torch.Size
    weight: torch.Size
    stride: Pair
    padding: Pair
    more: Pair
    last: bool

    @property
    def many(self) -> Pair:
        """The larger side's pixels: of x, or of what a transposed convolution makes of it."""
        if not self.transposed:
            return self.x[2], self.x[3]
        h, w = (
            (self.x[2 + i] - 1) * self.stride[i] - 2 * self.padding[i] + self.weight[2 + i] + self.more[i] for i in range(2)
        )
        return h, w


class Products(NamedTuple):
    """What is taken from a product: the weight's gradient; the larger side (x's gradient, or a transposed convolution)."""

    weight: bool
    larger: bool


def _in_training(x: Tensor, weight: Tensor) -> bool:
    learns = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
    return learns and weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu"


def _last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class _ByProduct(torch.autograd.Function):
    """conv2d or conv_transpose2d; the backward is made of differentiable operations, so penalties may go through it."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, by: Products) -> Tensor:
        if not shape.transposed:
            return F.conv2d(x, weight, bias, shape.stride, shape.padding)
        if not by.larger:
            return F.conv_transpose2d(x, weight, bias, shape.stride, shape.padding, shape.more)
        found = larger(x, weight, shape)
        return found if bias is None else found + bias.view(-1, 1, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.shape, ctx.by = inputs
        ctx.biased = bias is not None
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        shape, by, of_x, of_weight, of_bias = ctx.shape, ctx.by, None, None, None
        if ctx.needs_input_grad[0]:
            product = by.larger and not shape.transposed
            of_x = larger(gradient, weight, shape) if product else _vendor(gradient, x, weight, shape, 0)
        if ctx.needs_input_grad[1]:
            few, many = (x, gradient) if shape.transposed else (gradient, x)
            of_weight = weight_gradient(few, many, shape) if by.weight else _vendor(gradient, x, weight, shape, 1)
        if ctx.biased and ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None, None


def _vendor(gradient: Tensor, x: Tensor, weight: Tensor, shape: Shape, which: int) -> Tensor:
    """The gradient of x (0) or of the weight (1)."""
    given = list(shape.stride), list(shape.padding), [1, 1], shape.transposed, list(shape.more), 1
    found: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *given, [which == 0, which == 1, False])[
        which
    ]
    return found


def weight_gradient(few: Tensor, many: Tensor, shape: Shape) -> Tensor:
    """The weight's gradient as one product of the smaller side with windows of the larger one.

    Shapes: few `b o h w`, many `b i H W` with a window of the kernel's size for each of few's positions; returns `o i k l`.
    """
    size, (k, m), (down, right) = many.shape[1], shape.weight[2:], shape.padding
    padded = F.pad(many, (right, right, down, down))
    windows = padded.unfold(2, k, shape.stride[0]).unfold(3, m, shape.stride[1])[:, :, : few.shape[2], : few.shape[3]]
    rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, size * k * m)
    columns = few.permute(0, 2, 3, 1).reshape(-1, few.shape[1])
    return (columns.t() @ rows).view(shape.weight)


def larger(few: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The larger side as one product, whose windows are summed where they overlap: few `b o h w` -> `b i H W`."""
    batch, channels, h, w = few.shape
    rows = few.permute(0, 2, 3, 1).reshape(-1, channels) @ weight.flatten(1)  # (b h w) (i k l)
    windows = rows.view(batch, h * w, -1).transpose(1, 2)
    found = F.fold(windows, shape.many, shape.weight[2:], padding=shape.padding, stride=shape.stride)
    return found.contiguous(memory_format=torch.channels_last) if shape.last else found


# -- which is faster -----------------------------------------------------------------------------------------------------


@cache
def products(shape: Shape) -> Products:
    """Which products were at least a tenth faster here; timed once on this machine, then read from the cache."""
    known, key = _known(), _key(shape)
    if key not in known:
        known[key] = [ours < 0.9 * vendor for vendor, ours in _timed(shape)]
        _remember(known)
    return Products(*known[key])


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _chosen(*shape: Any) -> tuple[bool, ...]:
    """The same, as torch.compile takes the answer into its graph: it calls this once, and knows plain tuples alone."""
    return tuple(products(Shape(*shape)))


def _key(shape: Shape) -> str:
    kind = "transposed" if shape.transposed else "plain"
    sizes = " ".join(str([*numbers]) for numbers in shape[1:6])
    return f"{kind} {sizes}{' channels-last' if shape.last else ''}"


def _timed(shape: Shape) -> list[tuple[float, float]]:
    """Seconds of the vendor's way and of the product, for the weight's gradient and the larger side: the quicker of two."""
    layout = torch.channels_last if shape.last else torch.contiguous_format
    x, w = (torch.ones(size).contiguous(memory_format=layout) for size in (shape.x, shape.weight))
    forward = partial(_ByProduct.forward, x, w, None, shape, Products(False, False))
    g = forward()
    few, many = (x, g) if shape.transposed else (g, x)
    pairs = [
        (partial(_vendor, g, x, w, shape, 1), partial(weight_gradient, few, many, shape)),
        (forward if shape.transposed else partial(_vendor, g, x, w, shape, 0), partial(larger, few, w, shape)),
    ]
    return [(quickest(vendor, 2), quickest(ours, 2)) for vendor, ours in pairs]


def _file() -> Path:
    return cache_folder() / "convolutions.json"


def _machine() -> str:
    return f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@cache
def _known() -> dict[str, list[bool]]:
    """What was timed on this machine before; an unreadable file is as good as none."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(_file().read_text(encoding="utf-8")).get(_machine(), {})
        return {key: value for key, value in found.items() if isinstance(value, list) and len(value) == 2}
    return {}


def _remember(known: dict[str, list[bool]]) -> None:
    """Keep it beside what was timed under other circumstances; where nothing can be written it is timed again next time."""
    with contextlib.suppress(OSError, RunError):
        before: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(_file().read_text(encoding="utf-8"))
        _file().parent.mkdir(parents=True, exist_ok=True)
        whole = {**known, **before.get(_machine(), {})}  # what another process timed meanwhile stays as it is
        write_atomically(_file(), json.dumps({**before, _machine(): whole}, indent=1).encode())
