"""What `auto` means for this machine: device, number format, compilation; each choice with its reason.

Networks run under autocast; losses, log-variances, penalties and EMA stay in float32 (graph.py casts every network's
result back).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybridgen.errors import UserError
from hybridgen.recipe import Train

LONG_RUN = 5000
"""Steps from which compiling on a GPU pays: about a minute of compilation against milliseconds a step."""


@dataclass(frozen=True)
class Choices:
    """What was decided before step 1: recorded with the run, replayed by `resume`."""

    device: str
    precision: str
    compile: bool
    notes: tuple[str, ...]

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.precision == "bf16" else None


def choose(train: Train) -> Choices:
    """Decide what the recipe leaves to `auto`. Raises UserError for a device that is not there."""
    notes = []
    device = train.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"train.device = '{device}', but torch sees no CUDA device here; write train.device = 'auto'")
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
    return Choices(device, precision, bool(compiled), tuple(notes))
