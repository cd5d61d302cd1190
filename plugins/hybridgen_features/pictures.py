"""What networks for photographs ask of a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

PIECE: Final = 50
"""Pictures at a time: at 299x299 the first activations of one take 5 MB."""


def check(sample_shape: tuple[int, ...], output_activation: str, name: str) -> None:
    """Raises ValueError for data that are no grey or coloured pictures in [-1, 1]."""
    if len(sample_shape) != 3 or output_activation != "tanh":
        raise ValueError(
            f"{name}: it sees pictures (c h w) in [-1, 1]; these samples are of {tuple(sample_shape)} with the activation "
            f'\'{output_activation}\'; write `use = "classifier"` or `use = "raw"`'
        )
    if sample_shape[0] not in (1, 3):
        raise ValueError(
            f"{name}: it sees pictures of 3 channels, or grey ones, which are repeated; these have {sample_shape[0]}; "
            'write `use = "classifier"` or `use = "raw"`'
        )


def to_bytes(x: Tensor) -> Tensor:
    """Values in [-1, 1] as the bytes that a picture file would hold, 0 to 255, still float32."""
    return ((x.float() + 1.0) * 127.5).round().clamp(0.0, 255.0)


def three_channels(x: Tensor) -> Tensor:
    """Grey pictures repeated. Shapes: `b 1 h w` or `b 3 h w` -> `b 3 h w`."""
    return x.expand(-1, 3, -1, -1)


def in_pieces(function: Callable[[Tensor], tuple[Tensor, Tensor | None]], x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A network of a batch, PIECE pictures at a time, so that memory does not grow with the batch."""
    found = [function(piece) for piece in x.split(PIECE)]
    embeddings, logits = zip(*found, strict=True)
    return torch.cat(embeddings), None if logits[0] is None else torch.cat(logits)
