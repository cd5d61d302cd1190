"""Weight matrices that neither stretch nor crush what passes through them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

Relaxed = Annotated[bool, Field(description="only the angles between rows cost, not their lengths")]
Skip = Annotated[
    tuple[str, ...], Field(description="leave out parameters whose name contains one of these (tables of embeddings)")
]


def departure(weights: Mapping[str, Tensor], relaxed: bool, skip: tuple[str, ...]) -> Tensor:
    """How far the weight matrices are from orthogonal, summed over them. Raises ValueError where there are none."""
    matrices = [w for name, w in weights.items() if w.ndim >= 2 and not any(part in name for part in skip)]
    if not matrices:
        raise ValueError(
            f"this network has no weight matrix besides those that skip = {list(skip)} leaves out; remove this loss"
        )
    return torch.stack([_departure(w.float().flatten(1), relaxed) for w in matrices]).sum()


def _departure(w: Tensor, relaxed: bool) -> Tensor:
    """Shapes: w `out rest`; returns a scalar."""
    if relaxed:
        gram = w @ w.T  # out out
        return (gram - torch.diag(gram.diagonal())).square().sum()
    # of a tall matrix the columns: |W W^T - I|^2 is the same but for the constant out - rest, and would never reach 0
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return (gram - torch.eye(gram.shape[0], device=w.device)).square().sum()


class Orthogonal(nn.Module):
    """The discriminator's weight matrices stay near orthogonal, so its slope is near 1 in every layer.

    loss = sum over weights of |W W^T - I|^2, W as `out rest` (of W^T W where out > rest)
    relaxed: of |W W^T * (1 - I)|^2, entry by entry: rows at right angles, of any length

    Weights of two and more axes count, flattened behind the first; biases and the gains of norms have one and don't. Tables of
    embeddings hold classes, not directions, so names with "embed" are skipped. Under spectral norm the weight
    before normalisation is meant.

    Shapes: critic_weights name -> tensor; returns a scalar, the same for every batch.
    Raises: ValueError where nothing is left to keep orthogonal.
    When: in place of spectral norm or a gradient penalty for a critic of many layers, discriminator_weight = 1e-4 (relaxed)
        to 1e-2; it needs no pass through the network.
    Healthy: falls from its start and levels off. Rising while the game gets worse: raise the weight. At 0 the critic may only
        rotate, which is too little: lower it, or write relaxed = true.
    Source: Brock et al. 2016 (arXiv:1609.07093), there of |.|, squared as in Brock et al. 2018
        (arXiv:1809.11096), equation 2; relaxed: its equation 3.
    """

    def __init__(self, *, relaxed: Relaxed = False, skip: Skip = ("embed",)) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.skip = skip

    def discriminator(self, critic_weights: dict[str, Tensor]) -> Tensor:
        return departure(critic_weights, self.relaxed, self.skip)


class OrthogonalDecoder(nn.Module):
    """The decoder's weight matrices stay near orthogonal, so no direction of the code is lost or blown up on its way.

    loss = sum over weights of |W W^T * (1 - I)|^2, W as `out rest`: rows at right angles, of any length
    relaxed = false: of |W W^T - I|^2 (of W^T W where out > rest)

    Weights of two and more axes count, flattened behind the first, which of a transposed convolution is its input; biases
    and the gains of norms have one axis and don't. Names with "embed" are skipped.

    Shapes: decoder_weights name -> tensor; returns a scalar, the same for every batch.
    Raises: ValueError where nothing is left to keep orthogonal.
    When: samples that should survive truncated z (BigGAN), weight = 1e-4.
    Healthy: falls and levels off far below its start; samples at half the prior's scale stay clean. Near 0 with dull
        samples: the weight is too large.
    Source: Brock et al. 2018 (arXiv:1809.11096), equations 2 and 3, section 3.1.
    """

    def __init__(self, *, relaxed: Relaxed = True, skip: Skip = ("embed",)) -> None:
        super().__init__()
        self.relaxed = relaxed
        self.skip = skip

    def generator(self, decoder_weights: dict[str, Tensor]) -> Tensor:
        return departure(decoder_weights, self.relaxed, self.skip)
