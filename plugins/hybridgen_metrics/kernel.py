"""Kernel distances between real and generated samples."""

from __future__ import annotations

import warnings
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hybridgen_metrics.embeddings import Sides, refuse_constant
from hybridgen_metrics.frechet import Same


class KID:
    """Squared kernel distance (MMD) between real and generated samples in a feature network's space; lower is better.

    kid = mean over `subsets` of E k(x, x') + E k(y, y') - 2 E k(x, y), k(a, b) = (a.b / e + 1)^3, each on `subset_size`
    samples of either side without their pairs with themselves; std is the standard deviation over the subsets. e: features.

    Unbiased, so that it compares where counts differ and there are few samples, and may fall below 0 by about std /
    sqrt(subsets).

    Shapes: real_embedding, fake_embedding `b e`; at most `most` samples of a side are kept.
    Raises: Unmeasurable for fewer samples of a side than `subset_size`, and real features that never vary.
    When: in place of "fid" below some thousands of samples; papers use 100 subsets of 1,000.
    Healthy: falls towards 0; within its noise the two sides can't be told apart by these features. Scale: the network's.
    Source: Binkowski et al. 2018 (arXiv:1801.01401), section 4.
    """

    unit = "squared MMD"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"mean": False, "std": None}

    def __init__(
        self,
        seed: int,
        *,
        subsets: Annotated[int, Field(ge=2, description="subsets that are drawn")] = 100,
        subset_size: Annotated[int, Field(ge=2, description="samples of either side in a subset")] = 100,
        most: Annotated[int, Field(ge=2, description="samples of a side that are kept, drawn evenly")] = 10_000,
    ) -> None:
        if subset_size > most:
            raise ValueError(f"kid: subset_size = {subset_size} but only most = {most} samples are kept; write a larger `most`")
        self.seed, self.subsets, self.subset_size, self.most = seed, subsets, subset_size, most
        self.reset()

    def reset(self) -> None:
        self.sides = Sides(self.most, self.seed)

    def update(self, real_embedding: Tensor) -> None:
        self.sides.add_real(real_embedding)

    def generated(self, fake_embedding: Tensor) -> None:
        self.sides.add_fake(fake_embedding)

    def compute(self) -> dict[str, float]:
        from torchmetrics.image.kid import KernelInceptionDistance

        kept = self.sides.rows(least=self.subset_size, why=f"subset_size = {self.subset_size}")
        real, fake = (rows.to(self.sides.device, torch.float64) for rows in kept)
        refuse_constant(real.var(0), real.square().mean(0))
        # it warns of its buffer, which is bounded here, and draws its subsets with torch.randperm, on the CPU
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            kid = KernelInceptionDistance(Same(real.shape[1]), subsets=self.subsets, subset_size=self.subset_size)
            kid.update(real, real=True)
            kid.update(fake, real=False)
            torch.manual_seed(self.seed)
            mean, std = kid.compute()
        return {"mean": float(mean), "std": float(std)}
