"""Whether generated and real samples lie among each other: metrics of k nearest neighbours."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from hybridgen_metrics.embeddings import Sides, refuse_constant

Most = Annotated[int, Field(ge=2, description="samples of a side that are kept, drawn evenly")]
Chunk = Annotated[int, Field(ge=1, description="samples compared at once with all others: memory, not the result")]


def centred(a: Tensor, b: Tensor, device: torch.device) -> tuple[Tensor, Tensor, float]:
    """Both sets in float64 around a's mean, and below which difference two squared distances are equal.

    Centred, |a|^2 + |b|^2 - 2 ab cancels nothing that float32 values still tell apart. Shapes: `n e`, `m e`.
    """
    a, b = a.to(device, torch.float64), b.to(device, torch.float64)
    mean = a.mean(0)
    a, b = a - mean, b - mean
    largest = max(float(a.square().sum(1).amax()), float(b.square().sum(1).amax()))
    return a, b, 1e-13 * largest


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Shapes: a `n e`, b `m e` in float64, centred -> `n m`."""
    return (a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def kth_squared_distance(a: Tensor, k: int, chunk: int) -> Tensor:
    """Squared distance of each to its k-th nearest among the others. Shapes: `n e` -> `n`."""
    found = []
    for start in range(0, len(a), chunk):
        distance = squared_distances(a[start : start + chunk], a)
        itself = torch.arange(len(distance), device=a.device)
        distance[itself, itself + start] = torch.inf
        found.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(found)


def balls_hit(points: Tensor, centres: Tensor, squared_radius: Tensor, equal: float, chunk: int) -> tuple[Tensor, Tensor]:
    """In how many balls each point lies, and how many points lie in each ball; the rim belongs to the ball.

    Shapes: points `n e`, centres `m e`, squared_radius `m` -> `n`, `m`.
    """
    of_point, of_ball = [], torch.zeros(len(centres), dtype=torch.long, device=centres.device)
    for piece in points.split(chunk):
        inside = squared_distances(piece, centres) <= squared_radius + equal
        of_point.append(inside.sum(1))
        of_ball += inside.sum(0)
    return torch.cat(of_point), of_ball


class PrecisionRecall:
    """Share of generated samples that lie among real ones, and of real examples among generated; both 0 to 1, higher is better.

    precision = share of generated y within the ball of some real x, whose radius is x's distance to its `k`-th nearest real
    neighbour; recall = the same with the sides swapped. Precision is quality, recall is how much of the data is covered.

    Distances are float64, the rim belongs to the ball. At most `most` samples of a side are kept; one outlier opens a wide
    ball, so "density-coverage" is the steadier pair.

    Shapes: real_embedding, fake_embedding `b e`.
    Raises: Unmeasurable for `k` samples of a side or fewer, and real features that never vary.
    When: beside "fid", to tell blurred or wrong samples (precision) from missing modes (recall).
    Healthy: with real halves as the two sides some 0.7 to 0.95. Precision high and recall near 0: collapse, or truncated
        sampling. Recall high and precision near 0: samples all over. Both change with the count: compare equal counts.
    Source: Kynkaanniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2.
    """

    unit = "share"
    higher_is_better = True

    def __init__(
        self,
        seed: int,
        *,
        k: Annotated[int, Field(ge=1, description="which neighbour's distance is the radius")] = 3,
        most: Most = 10_000,
        chunk: Chunk = 1024,
    ) -> None:
        self.seed, self.k, self.most, self.chunk = seed, k, most, chunk
        self.reset()

    def reset(self) -> None:
        self.sides = Sides(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, real_embedding: Tensor) -> None:
        self.sides.add_real(real_embedding)

    def generated(self, fake_embedding: Tensor) -> None:
        self.sides.add_fake(fake_embedding)

    def compute(self) -> dict[str, float]:
        real, fake, equal = _measurable(self.sides, self.k)
        self.remarks = _count_remarks(len(real), len(fake))
        among_real, _ = balls_hit(fake, real, kth_squared_distance(real, self.k, self.chunk), equal, self.chunk)
        among_fake, _ = balls_hit(real, fake, kth_squared_distance(fake, self.k, self.chunk), equal, self.chunk)
        return {"precision": _share(among_real > 0), "recall": _share(among_fake > 0)}


class DensityCoverage:
    """How densely generated samples lie among real ones (about 1 at best) and the share of real examples they reach (0 to 1).

    density = mean over generated y of (real balls that y lies in) / k; coverage = share of real balls with a generated sample
    in them. The ball of a real example reaches to its `k`-th nearest real neighbour; the rim belongs to it. Higher is better.

    Only real examples have balls, so generated outliers open none. Expected for samples of the data's own distribution:
    density 1, coverage 1 - 2^-k or more. A set against itself has density (k + 1) / k, since each also lies in its own ball.

    Shapes: real_embedding, fake_embedding `b e`.
    Raises: Unmeasurable for `k` samples of a side or fewer, and real features that never vary.
    When: as "precision-recall", and steadier where there are outliers or few samples.
    Healthy: both near 1. Density above 1 with low coverage: samples crowd where real ones are dense. Coverage falls with fewer
        generated than real samples: compare equal counts.
    Source: Naeem et al. 2020 (arXiv:2002.09797), equations 3 and 4; expected values: section 3.2.
    """

    unit = "ratio, share"
    higher_is_better = True

    def __init__(
        self,
        seed: int,
        *,
        k: Annotated[int, Field(ge=1, description="which neighbour's distance is the radius")] = 5,
        most: Most = 10_000,
        chunk: Chunk = 1024,
    ) -> None:
        self.seed, self.k, self.most, self.chunk = seed, k, most, chunk
        self.reset()

    def reset(self) -> None:
        self.sides = Sides(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, real_embedding: Tensor) -> None:
        self.sides.add_real(real_embedding)

    def generated(self, fake_embedding: Tensor) -> None:
        self.sides.add_fake(fake_embedding)

    def compute(self) -> dict[str, float]:
        real, fake, equal = _measurable(self.sides, self.k)
        self.remarks = _count_remarks(len(real), len(fake))
        of_fake, of_real = balls_hit(fake, real, kth_squared_distance(real, self.k, self.chunk), equal, self.chunk)
        return {"density": float(of_fake.double().mean()) / self.k, "coverage": _share(of_real > 0)}


def _measurable(sides: Sides, k: int) -> tuple[Tensor, Tensor, float]:
    real, fake = sides.rows(least=k + 1, why=f"a neighbour number k = {k}")
    refuse_constant(real.double().var(0), real.double().square().mean(0))
    return centred(real, fake, sides.device)


def _count_remarks(real: int, fake: int) -> list[str]:
    if max(real, fake) > 2 * min(real, fake):
        return [f"{real} real and {fake} generated samples: the balls depend on the count; measure about as many of each"]
    return []


def _share(held: Tensor) -> float:
    return float(held.double().mean())
