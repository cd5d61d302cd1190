"""What `auto` means for this machine: device, number format, compilation; each choice with its reason.

Networks run under autocast; losses, log-variances, penalties and EMA stay in float32 (graph.py casts every network's
result back).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hybridgen.errors import UserError
from hybridgen.recipe import Train

SMALL = 1_000_000
"""Parameters under which one CPU thread is the better choice: a second gains a third on an idle machine and costs a factor
when anything else wants the cores, for threads then wait for each other at every layer."""

LONG_RUN = 5000
"""Steps from which compiling on a GPU pays: about a minute of compilation against milliseconds a step."""


@dataclass(frozen=True)
class Choices:
    """What was decided before step 1: recorded with the run, replayed by `resume`. threads: 0 leaves torch's own number."""

    device: str
    precision: str
    compile: bool
    notes: tuple[str, ...]
    threads: int = 0

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bf16" else None


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


def choose(train: Train, parameters: int = 0) -> Choices:
    """Decide what the recipe leaves to `auto`, for a model of so many parameters.

    Raises UserError for a device that is not there.
    """
    notes = []
    device = train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    usable_device(device, "train.device")
    on_gpu = device.startswith("cuda")
    precision = train.precision
    if precision == "auto":
        precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
        why = "the GPU has bfloat16" if precision == "bf16" else "bfloat16 gains nothing for small networks on CPUs"
        notes.append(f"precision {precision}: {why}")
    compiled = train.compile
    if compiled == "auto":
        compiled = on_gpu and train.steps >= LONG_RUN
        if compiled:
            why = f"a GPU and {train.steps} steps repay it"
        else:
            why = f"{train.steps} steps would not repay the minute it takes" if on_gpu else "on CPUs it seldom repays"
        notes.append(f"compile {'on' if compiled else 'off'}: {why}")
    threads = 0 if train.threads == "auto" else int(train.threads)
    if train.threads == "auto" and not on_gpu and parameters < SMALL and torch.get_num_threads() > 1:
        threads = 1
        notes.append(f"threads 1: networks under {SMALL:,} parameters gain little from more")
    return Choices(device, precision, bool(compiled), tuple(notes), threads)


@contextmanager
def numerics(threads: int, deterministic: bool) -> Iterator[None]:
    """The number of threads and deterministic algorithms for a run; what was set before holds again after it."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(deterministic or before[1])
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
