"""Codes whose dimensions no longer belong together."""

from __future__ import annotations

from torch import Tensor


def permuted(z: Tensor, noise_z: Tensor) -> Tensor:
    """Every latent dimension shuffled over the batch by itself: a sample of prod_d q(z_d), as FactorVAE's critic wants it.

    The order of independent noise along the batch is a uniformly drawn permutation. Every value of a spatial code is a
    dimension. The samples of the result depend on each other: it couples the batch.

    Shapes: z, noise_z `b ...`; returns `b ...`.
    When: as what a critic of codes judges against `z` (`[quantity.z_permuted] use = "permuted"`), for the loss `factor`.
    Healthy: each dimension keeps its values, only their rows change; a batch of 64 or more, for in a small one many
        samples stay as they were.
    Source: Kim & Mnih 2018 (arXiv:1802.05983), algorithm 1.
    """
    return z.gather(0, noise_z.argsort(0))


permuted.couples_batch = True  # type: ignore[attr-defined]
