"""Convolutions on CPUs where one large matrix product beats the vendor's kernel.

With many channels at few positions oneDNN's gradients can take sixteen times as long as unfolding and one product (512 to
1,024 channels at 3x3 pixels: 0.19 s against 0.02 s), a transposed convolution and a convolution itself three times as long.
Which is faster is timed once for a shape and remembered on this machine, so that runs repeat. Networks need not know: their
layers are told after they are built.
"""

from __future__ import annotations

import contextlib
import json
import math
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
    """A convolution that may be a matrix product, and take its gradients from others."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = _by_product(self, input, weight, bias)
        return super()._conv_forward(input, weight, bias) if found is None else found


class ChoosingConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution that may be a matrix product, and take its gradients from others."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        found = _by_product(self, input, self.weight, self.bias) if output_size is None else None
        return super().forward(input, output_size) if found is None else found


def _by_product(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """What a layer computes, where a product is the faster way to some of it in training; else nothing."""
    learns = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
    if not ((layer.training or learns) and _can(x, weight)):  # pictures for the critic alone are made as the others are
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

    @property
    def few(self) -> Pair:
        """The smaller side's pixels: of what a convolution makes of x, or of a transposed one's x."""
        if self.transposed:
            return self.x[2], self.x[3]
        h, w = ((self.x[2 + i] + 2 * self.padding[i] - self.weight[2 + i]) // self.stride[i] + 1 for i in range(2))
        return h, w

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.last else torch.contiguous_format

    @property
    def kernel_last(self) -> bool:
        """Whether a product's rows keep a weight's order, its channels before its pixels: in a plain layout the other way
        round is a copy of the weight, which is more than all windows where it has more outputs than there are positions."""
        return not self.last and self.weight[0] > self.x[0] * self.few[0] * self.few[1]


class Products(NamedTuple):
    """What is taken from a product: the weight's gradient; the larger side (x's gradient, or a transposed convolution); the
    smaller side (a convolution, or the gradient of a transposed one's x)."""

    weight: bool
    larger: bool
    smaller: bool


def _can(x: Tensor, weight: Tensor) -> bool:
    return weight.dtype == x.dtype == torch.float32 and weight.device.type == "cpu" and x.dim() == 4


def _last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class _ByProduct(torch.autograd.Function):
    """conv2d or conv_transpose2d; the backward is made of differentiable operations, so penalties may go through it."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape, by: Products) -> Tensor:
        if by.larger and shape.transposed:
            found = larger(x, weight, shape)
        elif by.smaller and not shape.transposed:
            found = smaller(x, weight, shape)
        elif shape.transposed:
            return F.conv_transpose2d(x, weight, bias, shape.stride, shape.padding, shape.more)
        else:
            return F.conv2d(x, weight, bias, shape.stride, shape.padding)
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
            side, product = (smaller, by.smaller) if shape.transposed else (larger, by.larger)
            of_x = side(gradient, weight, shape) if product else _vendor(gradient, x, weight, shape, 0)
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

    Shapes: few `b o h w`, many `b i H W`; returns `o i k l`.
    """
    outputs, channels, *kernel = shape.weight
    found = _pixels(few).t() @ _Windows.apply(many.permute(0, 2, 3, 1), shape, False)
    return found.view(shape.weight) if shape.kernel_last else found.view(outputs, *kernel, channels).permute(0, 3, 1, 2)


def smaller(many: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The smaller side as one product with windows of the larger one: many `b i H W` -> `b o h w`."""
    found = _Windows.apply(many.permute(0, 2, 3, 1), shape, False) @ _kernels(weight, shape).t()
    return _laid_out(found.view(len(many), *shape.few, -1), shape)


def larger(few: Tensor, weight: Tensor, shape: Shape) -> Tensor:
    """The larger side as one product, whose windows are summed where they overlap: few `b o h w` -> `b i H W`."""
    return _laid_out(_Windows.apply(_pixels(few) @ _kernels(weight, shape), shape, True), shape)


def _pixels(x: Tensor) -> Tensor:
    """`b c h w` -> `(b h w) c`."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _kernels(weight: Tensor, shape: Shape) -> Tensor:
    """`o i k l` -> `o (k l i)`, or `o (i k l)` where the kernel comes last."""
    return (weight if shape.kernel_last else weight.permute(0, 2, 3, 1)).flatten(1)


def _laid_out(x: Tensor, shape: Shape) -> Tensor:
    """`b h w c` -> `b c h w`, in memory as the layer's input is."""
    return x.permute(0, 3, 1, 2).contiguous(memory_format=shape.layout)


# -- windows ---------------------------------------------------------------------------------------------------------------


class _Windows(torch.autograd.Function):
    """What the kernel sees of the larger side from each position of the smaller one: `b H W i` -> `(b h w) (k l i)`; `back`:
    such windows laid over one another where the kernel saw them, and summed. Each is linear and the other's derivative.

    What they do is of operations of their own, which compiled code calls as they are: its loops for them are no faster and
    take a minute to compile.
    """

    @staticmethod
    def forward(x: Tensor, shape: Shape, back: bool) -> Tensor:
        sizes = [*shape.many], [*shape.few], [*shape.weight[2:]], [*shape.stride], [*shape.padding]
        found: Tensor = (_overlap if back else _cut)(x, *sizes, shape.kernel_last)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.shape, ctx.back = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Windows.apply(gradients[0], ctx.shape, not ctx.back), None, None


SIZES = "int[] many, int[] few, int[] kernel, int[] stride, int[] padding, bool kernel_last"


@torch.library.custom_op("hybridgen::windows", mutates_args=(), schema=f"(Tensor x, {SIZES}) -> Tensor")
def _cut(x: Tensor, many: Pair, few: Pair, kernel: Pair, stride: Pair, padding: Pair, kernel_last: bool) -> Tensor:
    """With channels last whole rows of memory are copied, in half the time of a kernel's pixels and less."""
    (h, w), (k, m), (down, right) = few, kernel, padding
    padded = F.pad(x, (0, 0, right, right, down, down))
    found = padded.unfold(1, k, stride[0]).unfold(2, m, stride[1])[:, :h, :w]  # b h w i k l
    found = found if kernel_last else found.permute(0, 1, 2, 4, 5, 3)
    return found.clone(memory_format=torch.contiguous_format).view(-1, k * m * x.shape[3])


@torch.library.custom_op("hybridgen::overlapped", mutates_args=(), schema=f"(Tensor rows, {SIZES}) -> Tensor")
def _overlap(rows: Tensor, many: Pair, few: Pair, kernel: Pair, stride: Pair, padding: Pair, kernel_last: bool) -> Tensor:
    channels = rows.shape[1] // math.prod(kernel)
    if kernel_last:
        windows = rows.reshape(-1, *few, channels, *kernel).permute(0, 1, 2, 4, 5, 3)
    else:
        windows = rows.reshape(-1, *few, *kernel, channels)
    found = rows.new_zeros(len(windows), *many, channels)
    down, right = (
        [_meeting(tap, *along) for tap in range(k)] for k, *along in zip(kernel, many, few, stride, padding, strict=True)
    )
    for i, (here, there) in enumerate(down):
        for j, (across, beyond) in enumerate(right):
            found[:, there, beyond] += windows[:, here, across, i, j]
    return found


def _meeting(tap: int, many: int, few: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Along one axis: the positions of the smaller side whose kernel has its `tap` inside the larger one, and where that is."""
    offset = tap - padding
    first = max(0, -(offset // stride))
    last = max(first, min(few, -((offset - many) // stride)))
    return slice(first, last), slice(first * stride + offset, max(0, (last - 1) * stride + offset + 1), stride)


@_cut.register_fake
def _(x: Tensor, many: Pair, few: Pair, kernel: Pair, *_: Any) -> Tensor:
    return x.new_empty(len(x) * math.prod(few), x.shape[3] * math.prod(kernel))


@_overlap.register_fake
def _(rows: Tensor, many: Pair, few: Pair, kernel: Pair, *_: Any) -> Tensor:
    return rows.new_empty(len(rows) // math.prod(few), *many, rows.shape[1] // math.prod(kernel))


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
    """Seconds of the vendor's way and of the product, for each of `Products`: the quicker of two."""
    x, w = (torch.ones(size).contiguous(memory_format=shape.layout) for size in (shape.x, shape.weight))
    forward = partial(_ByProduct.forward, x, w, None, shape, Products(False, False, False))
    g = forward()
    backward = partial(_vendor, g, x, w, shape, 0)
    few, many, to_larger, to_smaller = (x, g, forward, backward) if shape.transposed else (g, x, backward, forward)
    pairs = [
        (partial(_vendor, g, x, w, shape, 1), partial(weight_gradient, few, many, shape)),
        (to_larger, partial(larger, few, w, shape)),
        (to_smaller, partial(smaller, many, w, shape)),
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
        return {key: value for key, value in found.items() if isinstance(value, list) and len(value) == len(Products._fields)}
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
