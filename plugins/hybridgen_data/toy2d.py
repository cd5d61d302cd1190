"""Points of the plane whose distribution is known: what a generative model misses can be counted."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from hybridgen import randomness
from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import UnavailableError


class Toy2d:
    """Points `n 2` from one of four shapes, all within about [-2.5, 2.5].

    ring        `modes` Gaussians of standard deviation `std`, evenly on a circle of radius 2
    grid        `modes` Gaussians (a square number) on a grid from -2 to 2
    moons       two interleaved half circles of radius 1, with noise `std`; the label is the moon
    swiss-roll  a spiral of one and a half turns, with noise `std`

    For ring and grid the label is the mode, `modes` of them; `log_density` is exact for both.
    Raises: ValueError for a grid whose number of modes is no square.
    """

    def __init__(
        self,
        *,
        shape: Annotated[Literal["ring", "grid", "moons", "swiss-roll"], Field(description="which distribution")] = "ring",
        modes: Annotated[int, Field(ge=1, description="Gaussians of the ring (8) or grid (25)")] = 8,
        std: Annotated[float, Field(gt=0, description="standard deviation of each Gaussian, or of the noise")] = 0.05,
        count: Annotated[int, Field(ge=1, description="points drawn")] = 10000,
        seed: Annotated[int, Field(ge=0, description="which points are drawn")] = 0,
    ) -> None:
        if shape == "grid" and math.isqrt(modes) ** 2 != modes:
            raise ValueError(f"a grid wants a square number of modes, got {modes}; write {math.isqrt(modes) ** 2 or 1} or 25")
        self.shape, self.count, self.seed, self.std = shape, count, seed, std
        self.number = modes if shape in ("ring", "grid") else {"moons": 2, "swiss-roll": 0}[shape]

    def describe(self) -> SampleSpec:
        """A vector of 2 real values."""
        classes = tuple(str(i) for i in range(self.number))
        return SampleSpec(kind="vector", shape=(2,), count=self.count, activation="identity", classes=classes)

    def modes(self) -> Tensor:
        """The centres of the Gaussians, `k 2`. Raises UnavailableError for shapes that have none."""
        if self.shape == "ring":
            angle = 2 * math.pi * torch.arange(self.number) / self.number
            return 2.0 * torch.stack([angle.cos(), angle.sin()], 1)
        if self.shape == "grid":
            side = math.isqrt(self.number)
            line = torch.linspace(-2.0, 2.0, side) if side > 1 else torch.zeros(1)
            return torch.cartesian_prod(line, line).reshape(-1, 2)
        raise UnavailableError(f"'{self.shape}' has no modes; ring and grid have")

    def log_density(self, x: Tensor) -> Tensor:
        """log p(x) in nats of the ring or grid, a mixture with equal weights. Shapes: `n 2` -> `n`."""
        squared = (x[:, None] - self.modes().to(x)).square().sum(2)  # n k
        log_normal = -squared / (2 * self.std**2) - math.log(2 * math.pi * self.std**2)
        return torch.logsumexp(log_normal, 1) - math.log(self.number)

    def load(self) -> dict[str, Arrays]:
        cpu = torch.device("cpu")
        noise = self.std * randomness.normal((self.count, 2), cpu, self.seed, "toy2d", "noise")
        place = randomness.uniform((self.count,), cpu, self.seed, "toy2d", "place")
        if self.shape in ("ring", "grid"):
            label = (place * self.number).long().clamp(max=self.number - 1)
            return {"train": Arrays(self.modes()[label] + noise, label)}
        if self.shape == "moons":
            label = torch.arange(self.count) % 2
            angle = math.pi * place
            outer = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
            inner = torch.stack([0.5 - angle.cos(), 0.25 - angle.sin()], 1)
            return {"train": Arrays(torch.where(label[:, None] == 0, outer, inner) + noise, label)}
        angle = math.pi * (1.5 + 3.0 * place.sqrt())  # the root spreads points evenly along the spiral
        points = angle[:, None] / (4.5 * math.pi) * 2.2 * torch.stack([angle.cos(), angle.sin()], 1)
        return {"train": Arrays(points + noise)}
