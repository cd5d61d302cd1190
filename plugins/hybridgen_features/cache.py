"""Where feature networks keep weights, and what tells one set of weights or of examples from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hybridgen.files import cache_folder


def folder() -> Path:
    """`features/` below hybridgen's cache; not made here."""
    return cache_folder() / "features"


def digest(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of tensors in the order of their names: names, types, shapes and every bit, whatever file they lay in."""
    found = hashlib.sha256()
    for name, tensor in sorted(dict(tensors).items()):
        held = tensor.detach().cpu().contiguous()
        found.update(f"{name} {held.dtype} {tuple(held.shape)}\n".encode())
        found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
