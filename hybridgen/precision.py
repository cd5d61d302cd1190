"""What `auto` means for this machine: device, number format, layout, compilation; each choice with its reason.

Networks run under autocast; losses, log-variances, penalties and EMA stay in float32 (graph.py casts every network's
result back).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import nn

from hybridgen.errors import UserError
from hybridgen.recipe import Train
from hybridgen.timing import quickest

SMALL = 1_000_000
"""Parameters under which one CPU thread is the better choice: a second gains a third on an idle machine and costs a factor
when anything else wants the cores, for threads then wait for each other at every layer."""


GAIN = 1.5
"""How much faster a matrix product must be in bfloat16 before `auto` takes it: casts eat what a smaller gain would bring."""

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Choices:
    """What was decided before step 1: recorded with the run, replayed by `resume`.

    threads: 0 leaves torch's own number. channels_last: pictures and convolutions' weights are laid out `b h w c`.
    """

    device: str
    precision: str
    compile: bool
    notes: tuple[str, ...]
    threads: int = 0
    channels_last: bool = False

    @property
    def autocast(self) -> torch.dtype | None:
        return AUTOCAST.get(self.precision)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


def usable_device(name: str, asker: str = "device") -> torch.device:
    """A device that is here. Raises UserError for one that is not, or is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{asker} = '{name}' is no device; write cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{asker} = '{name}', but torch sees no CUDA device here; write {asker} = 'cpu'")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"{asker} = '{name}', but there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def choose(train: Train, parameters: int = 0, modules: Iterable[nn.Module] = ()) -> Choices:
    """Decide what the recipe leaves to `auto`, for a model of so many parameters; whether compiling pays is for trial.py.

    modules: its networks, of which the layout depends.

    Raises UserError for a device that is not there.
    """
    notes = []
    device = train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    usable_device(device, "train.device")
    on_gpu = device.startswith("cuda")
    precision, why = _precision(train.precision, on_gpu, parameters)
    notes += [f"precision {precision}: {why}"] if why else []
    threads = 0 if train.threads == "auto" else int(train.threads)
    if train.threads == "auto" and not on_gpu and parameters < SMALL and torch.get_num_threads() > 1:
        threads = 1
        notes.append(f"threads 1: networks under {SMALL:,} parameters gain little from more")
    last = train.layout == "channels-last"
    if train.layout == "auto":
        last, why = _layout(precision, on_gpu, list(modules))
        notes += [f"layout channels-last: {why}"] if last else []
    return Choices(device, precision, train.compile is True, tuple(notes), threads, last)


def _precision(wanted: str, on_gpu: bool, parameters: int) -> tuple[str, str]:
    """The number format, and why where it was `auto`'s choice. Raises UserError for one that this device has not."""
    if wanted == "tf32" and not on_gpu:
        raise UserError("train.precision = 'tf32' is a format of CUDA devices; on a CPU write fp32, bf16 or auto")
    if wanted != "auto":
        return wanted, ""
    if on_gpu:
        return ("bf16", "the GPU has bfloat16") if torch.cuda.is_bf16_supported() else ("fp32", "the GPU has no bfloat16")
    if parameters < SMALL:
        return "fp32", f"bfloat16 gains nothing for networks under {SMALL:,} parameters on CPUs"
    gain = gain_of_bfloat16()
    return ("bf16" if gain >= GAIN else "fp32"), f"a matrix product is {gain:.1f} times as fast in bfloat16 here"


def _layout(precision: str, on_gpu: bool, modules: Sequence[nn.Module]) -> tuple[bool, str]:
    """Whether channels-last pays: on CPUs for float32 convolutions too, unless batch norm, which is slow in it, eats that."""
    if not has_convolutions(modules):
        return False, ""
    if precision in AUTOCAST:
        return True, f"convolutions in {precision} are made for it"
    normalised = any(isinstance(layer, nn.BatchNorm2d) for module in modules for layer in module.modules())
    return not on_gpu and not normalised, "convolutions on CPUs are faster in it"


def has_convolutions(modules: Iterable[nn.Module]) -> bool:
    """Whether a layout of pictures matters to them."""
    return any(isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) for module in modules for layer in module.modules())


@cache
def gain_of_bfloat16(size: int = 512, repeats: int = 5) -> float:
    """How many times as fast a matrix product on this CPU is in bfloat16: the quickest of some, timed once a process."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(size, size, dtype=dtype)
        seconds[dtype] = quickest(partial(torch.mm, a, a), repeats)
    return seconds[torch.float32] / seconds[torch.bfloat16]


@contextmanager
def numerics(choices: Choices, deterministic: bool) -> Iterator[None]:
    """Threads, float32 or TF32 products, and deterministic algorithms for a run; what was set before holds again after it."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    products = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(deterministic or before[1])
    if choices.threads:
        torch.set_num_threads(choices.threads)
    tf32 = choices.precision == "tf32"  # torch's own default has it for convolutions, also where fp32 was asked for
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_float32_matmul_precision(products[0])
        torch.backends.cudnn.allow_tf32 = products[1]
