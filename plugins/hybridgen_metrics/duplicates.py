"""Generated samples that repeat one another, or a real example."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.embeddings import Sides
from hybridgen_metrics.neighbours import centred, kth_squared_distance, squared_distances


class Duplicates:
    """Share of generated samples that nearly repeat another one (`repeated`) or a real example (`copied`); lower is better.

    Near: closer than `share` of the median distance of real examples to their nearest real neighbour. repeated and copied
    take as many samples of either side, drawn evenly, since neighbours come closer where there are more. `real_repeated` is
    the share of real examples with a real one that near: what is natural. In d dimensions independent samples come so near by
    chance in 1 - 2^-(share^d) of cases: with 0.1 in 0.7 % for the plane, and hardly ever for pictures.

    Distances are of the data themselves, since networks see different pictures as one; pictures are averaged down to `side`
    pixels first, where a copy with noise on it is a copy still. A shifted or mirrored copy is not found.

    Shapes: x, fake `b ...`.
    Raises: Unmeasurable for fewer than 10 samples of a side, and where most real examples have an exact twin.
    When: `repeated` for collapse within modes, which "class-modes" misses; s samples with one pair that repeats speak of
        about s^2 different ones. `copied` with the training split as the real side for memorisation; held-out examples give
        its baseline.
    Healthy: both as low as real_repeated. repeated near 1: collapse.
    Source: Arora & Zhang 2017 (arXiv:1706.08224), section 3, the birthday paradox test; here counted, not looked at.
    """

    unit = "share"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"repeated": False, "copied": False, "real_repeated": None}

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        seed: int,
        *,
        share: Annotated[float, Field(gt=0, lt=1, description="of the median nearest distance of real examples")] = 0.1,
        side: Annotated[int, Field(ge=1, description="pixels a side that pictures are averaged down to")] = 32,
        most: Annotated[int, Field(ge=10, description="samples of a side that are kept, drawn evenly")] = 10_000,
        chunk: Annotated[
            int, Field(ge=1, description="samples compared at once with all others: memory, not the result")
        ] = 1024,
    ) -> None:
        self.picture = len(sample_shape) == 3
        self.seed, self.share, self.side, self.most, self.chunk = seed, share, side, most, chunk
        self.reset()

    def reset(self) -> None:
        self.sides = Sides(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, x: Tensor) -> None:
        self.sides.add_real(self._small(x))

    def generated(self, fake: Tensor) -> None:
        self.sides.add_fake(self._small(fake))

    def compute(self) -> dict[str, float]:
        real, fake = self.sides.rows(least=10, why="a share")
        count = min(len(real), len(fake))
        random = torch.Generator().manual_seed(self.seed)
        real, fake = (rows[torch.randperm(len(rows), generator=random)[:count]] for rows in (real, fake))
        real, fake, equal = centred(real, fake, self.sides.device)
        of_real = kth_squared_distance(real, 1, self.chunk)
        median = float(of_real.median())
        if median <= equal:
            raise Unmeasurable(
                "most real examples have an exact twin, so no distance says what is near; leave duplicates out of the data"
            )
        near = self.share**2 * median
        copied = torch.cat([squared_distances(piece, real).amin(1) for piece in fake.split(self.chunk)])
        self.remarks = [f"{count} samples of a side: shares below {1 / count:.1%} stay unseen"] if count < 100 else []
        shares = {"repeated": kth_squared_distance(fake, 1, self.chunk), "copied": copied, "real_repeated": of_real}
        return {name: float((distance < near).double().mean()) for name, distance in shares.items()}

    def _small(self, x: Tensor) -> Tensor:
        """Shapes: `b ...` -> `b d`."""
        if self.picture and max(x.shape[2:]) > self.side:
            x = F.adaptive_avg_pool2d(x, (min(x.shape[2], self.side), min(x.shape[3], self.side)))
        return x.flatten(1)
