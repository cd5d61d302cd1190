"""How many of the data's modes generated samples reach."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.embeddings import exact_device
from hybridgen_metrics.reservoir import Reservoir


class ClassModes:
    """Classes that generated samples fall into (`modes`, higher is better), and how unevenly (`kl` in nats, lower is better).

    Each sample counts for its most likely class. A class is reached with `share` of the uniform share of the samples, or more.
    kl = sum over classes of p_g log(p_g / p_r), p_g and p_r the class histograms of generated and real samples; a class without
    a real example counts as half an example. `classes` is their number.

    Shapes: fake_probabilities, real_probabilities `b k`.
    Raises: Unmeasurable for fewer generated samples than classes / share, where one of them would settle a class.
    When: for labelled data, beside "fid": missing modes by name. It says nothing of variety within a class: "duplicates" does.
    Healthy: all classes, kl below 0.05. kl = log(classes) on balanced data: one class only.
    Source: Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761), section 5; Metz et al. 2016 (arXiv:1611.02163), section 3.3.
    """

    unit = "classes, nats"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"modes": True, "classes": None, "kl": False}

    def __init__(
        self, *, share: Annotated[float, Field(gt=0, le=1, description="of the uniform share that makes a class reached")] = 0.1
    ) -> None:
        self.share = share
        self.reset()

    def reset(self) -> None:
        self.real: Tensor | None = None
        self.fake: Tensor | None = None
        self.remarks: list[str] = []

    def update(self, real_probabilities: Tensor) -> None:
        self.real = _counted(self.real, real_probabilities)

    def generated(self, fake_probabilities: Tensor) -> None:
        self.fake = _counted(self.fake, fake_probabilities)

    def compute(self) -> dict[str, float]:
        if self.real is None or self.fake is None:
            raise Unmeasurable("there are no real or no generated samples; measure more samples")
        classes, count = len(self.fake), float(self.fake.sum())
        least = math.ceil(classes / self.share)
        if count < least:
            raise Unmeasurable(
                f"{count:.0f} generated samples for {classes} classes: a single one would make a class reached; "
                f"measure {least} samples or more"
            )
        p_fake, real = self.fake / count, self.real.clamp(min=0.5)
        absent = int(((self.real == 0) & (self.fake > 0)).sum())
        self.remarks = [f"{absent} classes have no real example: kl counts half an example each"] if absent else []
        kl = torch.special.xlogy(p_fake, p_fake).sum() - torch.special.xlogy(p_fake, real / real.sum()).sum()
        reached = int((self.fake >= self.share * count / classes).sum())
        return {"modes": float(reached), "classes": float(classes), "kl": max(0.0, float(kl))}


def _counted(counts: Tensor | None, probabilities: Tensor) -> Tensor:
    """The class histogram with one more batch. Shapes: `b k` -> `k`."""
    new = probabilities.argmax(1).bincount(minlength=probabilities.shape[1]).cpu().double()
    return new if counts is None else counts + new


class MixtureModes:
    """How many modes of a labelled mixture generated points reach (`modes`), and the share that is `good`; higher is better.

    A mode has the mean and the standard deviation (over all axes alike) of the held-out points of its label. good = share of
    points within `sigmas` standard deviations of the nearest mean; a mode is reached with `least` good points nearest to it.
    `classes` is the number of modes. Real points of round Gaussians have good = P(chi^2_d < sigmas^2): 0.989 in the plane
    with 3.

    Shapes: x, fake `b d`; label `b`. At most `most` generated points are kept.
    Raises: ValueError for data that are no vectors, or of so many dimensions that less than half of real points would be
        good; Unmeasurable for fewer than 2 held-out points of a label, or points that never vary.
    When: on "toy2d" (ring, grid), where each mode is known: the classic test of mode collapse.
    Healthy: all modes and good above 0.9. Few modes and good high: collapse. All modes and good low: points between the modes.
    Source: Srivastava et al. 2017 (VEEGAN, arXiv:1705.07761), section 5; Lin et al. 2017 (PacGAN, arXiv:1712.04086), section 4.
    """

    unit = "modes, share"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"modes": True, "classes": None, "good": True}

    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int,
        seed: int,
        *,
        sigmas: Annotated[float, Field(gt=0, description="standard deviations within which a point is good")] = 3.0,
        least: Annotated[int, Field(ge=1, description="good points that make a mode reached")] = 1,
        most: Annotated[int, Field(ge=1, description="generated points that are kept, drawn evenly")] = 10_000,
    ) -> None:
        if len(sample_shape) != 1:
            raise ValueError(f'mixture-modes measures vectors, these samples have the shape {sample_shape}; use "class-modes"')
        d = sample_shape[0]
        expected = float(torch.special.gammainc(torch.tensor(d / 2, device="cpu"), torch.tensor(sigmas**2 / 2, device="cpu")))
        if expected < 0.5:
            raise ValueError(
                f"mixture-modes: in {d} dimensions only {expected:.2g} of a Gaussian lies within {sigmas} standard deviations; "
                f"write sigmas = {math.ceil(math.sqrt(d) + 2)}"
            )
        self.num_classes, self.seed, self.sigmas, self.least, self.most = num_classes, seed, sigmas, least, most
        self.d = d
        self.reset()

    def reset(self) -> None:
        self.count = torch.zeros(self.num_classes, dtype=torch.float64)
        self.sum = torch.zeros(self.num_classes, self.d, dtype=torch.float64)
        self.squares = torch.zeros(self.num_classes, self.d, dtype=torch.float64)
        self.fake = Reservoir(self.most, self.seed)

    def update(self, x: Tensor, label: Tensor) -> None:
        device = exact_device(x)
        exact, label = x.to(device, torch.float64), label.to(device)
        self.count, self.sum, self.squares = self.count.to(device), self.sum.to(device), self.squares.to(device)
        self.count = self.count + label.bincount(minlength=self.num_classes)
        self.sum = self.sum.index_add(0, label, exact)
        self.squares = self.squares.index_add(0, label, exact.square())

    def generated(self, fake: Tensor) -> None:
        self.fake.add(fake)

    def compute(self) -> dict[str, float]:
        rare = [str(i) for i in range(self.num_classes) if self.count[i] < 2]
        if rare or not self.fake.seen:
            few = f"fewer than 2 held-out points of the modes {', '.join(rare[:8])}" if rare else "no generated points"
            raise Unmeasurable(f"{few}; measure more samples")
        mean = self.sum / self.count[:, None]  # k d
        variance = (self.squares / self.count[:, None] - mean.square()) * (self.count / (self.count - 1))[:, None]
        std = variance.mean(1).clamp(min=0).sqrt()  # k
        if not bool((std > 1e-6 * mean.norm(dim=1)).all()):
            raise Unmeasurable("the held-out points of a mode are all the same, so it has no width; measure more of them")
        nearest = self._distances(self.fake.rows()[0].to(mean), mean).min(1)
        good = nearest.values <= self.sigmas * std[nearest.indices]
        hits = nearest.indices[good].bincount(minlength=self.num_classes)
        reached = float((hits >= self.least).sum())
        return {"modes": reached, "classes": float(self.num_classes), "good": float(good.double().mean())}

    @staticmethod
    def _distances(points: Tensor, means: Tensor) -> Tensor:
        return torch.cdist(points, means, compute_mode="donot_use_mm_for_euclid_dist")
