"""Randomness as a function of (seed, step, purpose): nothing to save, and no stream disturbs another.

Each named stream is re-derived where it is drawn, so an exact resume has no random state to restore, and adding a loss
term does not change what another one draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for the stream that `purpose` names: `stream_seed(0, "order", epoch)`."""
    text = "\x1f".join([str(seed), *(str(part) for part in purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(device: torch.device, seed: int, *purpose: str | int) -> torch.Generator:
    """A fresh generator on `device` at the start of the stream that `purpose` names."""
    import torch

    return torch.Generator(device=device).manual_seed(stream_seed(seed, *purpose))


def normal(shape: Sequence[int], device: torch.device, seed: int, *purpose: str | int) -> torch.Tensor:
    """Standard normal float32 noise of `shape` from the named stream."""
    import torch

    return torch.randn(tuple(shape), device=device, generator=generator(device, seed, *purpose))


def uniform(shape: Sequence[int], device: torch.device, seed: int, *purpose: str | int) -> torch.Tensor:
    """Uniform [0, 1) float32 noise of `shape` from the named stream."""
    import torch

    return torch.rand(tuple(shape), device=device, generator=generator(device, seed, *purpose))


def seed_default(device: torch.device, seed: int, *purpose: str | int) -> None:
    """Put the default generators of the CPU and of `device` at the start of the stream that `purpose` names.

    Where no GPU is in use `torch.manual_seed` keeps every call with its traceback for one that might be later: that costs
    milliseconds a step, and memory that grows.
    """
    import torch

    number = stream_seed(seed, *purpose)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
