"""Frechet distances between two sets of embeddings."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from hybridgen_metrics.embeddings import exact_device, refuse_constant, refuse_few
from hybridgen_metrics.reservoir import Reservoir


class Same(nn.Module):
    """What torchmetrics takes as its feature network here: the embeddings are computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def covariance_remarks(counts: dict[str, int], features: int) -> list[str]:
    """What to know of a Frechet distance from few samples."""
    return [
        f"{count} {name} samples for {features} features: their covariance is singular and the distance biased upwards; "
        f"compare only at equal counts"
        for name, count in counts.items()
        if count <= features
    ]


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|mean_a - mean_b|^2 + Tr(cov_a) + Tr(cov_b) - 2 |cov_a^(1/2) cov_b^(1/2)|_*, the last a sum of singular values.

    That sum is Tr (cov_a cov_b)^(1/2), and exact to rounding for singular covariances too. The eigenvalues of the product,
    which torchmetrics takes, lose half of the digits there: zeros come back as 1e-16, whose roots are 1e-8. What can't be told
    from 0 is 0.
    Shapes: `e`, `e e` in float64.
    """
    overlap = torch.linalg.svdvals(_root(cov_a) @ _root(cov_b)).sum()
    spread = cov_a.trace() + cov_b.trace()
    distance = (mean_a - mean_b).square().sum() + spread - 2 * overlap
    rounding = len(cov_a) * torch.finfo(cov_a.dtype).eps * spread
    return float(distance) if distance > rounding else 0.0


def _root(covariance: Tensor) -> Tensor:
    """The symmetric square root; eigenvalues within rounding of 0 are 0. Shapes: `e e`."""
    values, vectors = torch.linalg.eigh(covariance)
    noise = len(values) * torch.finfo(values.dtype).eps * values.max()
    return (vectors * torch.where(values > noise, values, 0.0).sqrt()) @ vectors.mT


class FID:
    """Frechet distance between real and generated samples in a feature network's space, 0 at best; lower is better.

    fid = |m_r - m_g|^2 + Tr(C_r + C_g - 2 (C_r C_g)^(1/2)), m and C the mean and the covariance (n - 1) of the embeddings.

    Running sums (torchmetrics') and the roots are float64. The estimate is biased upwards, the more the fewer samples there
    are, and its scale is the network's: only numbers of one protocol compare.

    Shapes: real_embedding, fake_embedding `b e`.
    Raises: Unmeasurable for fewer than 2 samples of a side, and features that never vary over real examples.
    When: the usual number for generated images, at 10,000 samples or more with Inception, some thousands with a small
        network; "kid" where there are fewer. It sees a missing mode and a blur alike: "precision-recall" tells which.
    Healthy: falls through training. Judge it between two anchors of the same protocol: the distance between halves of the
        real data, and that of noise. Rising late while "precision-recall" loses recall: collapse.
    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6; bias: Binkowski et al. 2018 (arXiv:1801.01401), appendix D.
    """

    unit = "squared feature distance"
    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums: Any = None
        self.remarks: list[str] = []

    def update(self, real_embedding: Tensor) -> None:
        self.sums = _added(self.sums, real_embedding, real=True)

    def generated(self, fake_embedding: Tensor) -> None:
        self.sums = _added(self.sums, fake_embedding, real=False)

    def compute(self) -> float:
        value, self.remarks = _streamed_distance(self.sums, "generated")
        return value


class ReconstructionFID:
    """Frechet distance between held-out examples and their reconstructions in a feature network's space; lower is better.

    rfid = |m_x - m_r|^2 + Tr(C_x + C_r - 2 (C_x C_r)^(1/2)), as "fid", with the reconstructions in place of samples.

    Shapes: real_embedding, recon_embedding `b e`.
    Raises: Unmeasurable for fewer than 2 examples, and features that never vary over real examples.
    When: for autoencoders and tokenisers, whose latent another model will sample: a bound on what that model can reach.
        It compares sets, not pairs: beside "psnr" or "lpips", which hold each reconstruction to its own original.
    Healthy: well below the "fid" of samples. Reconstructions of one blur have a good "psnr" and a bad rfid.
    Source: Heusel et al. 2017 (arXiv:1706.08500), equation 6; Esser et al. 2020 (arXiv:2012.09841), table 4.
    """

    unit = "squared feature distance"
    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums: Any = None
        self.remarks: list[str] = []

    def update(self, real_embedding: Tensor, recon_embedding: Tensor) -> None:
        self.sums = _added(self.sums, real_embedding, real=True)
        self.sums = _added(self.sums, recon_embedding, real=False)

    def compute(self) -> float:
        value, self.remarks = _streamed_distance(self.sums, "reconstructed")
        return value


class MiFID:
    """Frechet distance that charges copies: "fid" divided by how far generated samples lie from real ones; lower is better.

    mifid = fid / (m + 1e-14), m = mean over generated y of min over real x of 1 - |cos(x, y)| where that is below `threshold`,
    and 1 otherwise: models that do not copy keep their fid.

    As in the paper every generated sample looks for its nearest real one. torchmetrics 1.9 goes the other way round (and in one
    piece, n^2 in memory): its class gives this number with the two sides swapped.

    Shapes: real_embedding, fake_embedding `b e`; at most `most` samples of a side are kept.
    Raises: Unmeasurable for fewer than 2 samples of a side, and features that never vary over real examples.
    When: to compare models that may have memorised their data. Held-out examples can't be memorised: it says what it was
        made to say where the evaluation's real side is the training split.
    Healthy: equal to fid. Above it: samples nearly repeat real ones, by 1 / m. `threshold` is the paper's, for Inception's
        features; for others see how far real halves lie apart.
    Source: Bai et al. 2021 (arXiv:2106.03062), section 4.
    """

    unit = "squared feature distance"
    higher_is_better = False

    def __init__(
        self,
        seed: int,
        *,
        threshold: Annotated[float, Field(gt=0, le=1, description="mean cosine distance above which nothing is charged")] = 0.1,
        most: Annotated[int, Field(ge=2, description="samples of a side that are kept, drawn evenly")] = 10_000,
        chunk: Annotated[int, Field(ge=1, description="generated samples compared at once")] = 1024,
    ) -> None:
        self.seed, self.threshold, self.most, self.chunk = seed, threshold, most, chunk
        self.reset()

    def reset(self) -> None:
        self.sums: Any = None
        self.real, self.fake = Reservoir(self.most, self.seed), Reservoir(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, real_embedding: Tensor) -> None:
        self.sums = _added(self.sums, real_embedding, real=True)
        self.real.add(real_embedding)

    def generated(self, fake_embedding: Tensor) -> None:
        self.sums = _added(self.sums, fake_embedding, real=False)
        self.fake.add(fake_embedding)

    def compute(self) -> float:
        fid, self.remarks = _streamed_distance(self.sums, "generated")
        device = self.sums.real_features_sum.device
        real, fake = (_directions(side.rows()[0].to(device, torch.float64)) for side in (self.real, self.fake))
        nearest = torch.cat([(1 - (piece @ real.T).abs()).amin(1) for piece in fake.split(self.chunk)])
        distance = max(0.0, float(nearest.mean()))
        if distance >= self.threshold:
            return fid
        if distance < 1e-6:
            self.remarks.append("nearly all generated samples are copies of real ones: how large the number is says no more")
        return fid / (distance + 1e-14)


def _directions(features: Tensor) -> Tensor:
    """Rows at length 1; rows of zeros stay (and are at distance 1 from all). Shapes: `n e`."""
    return features / features.norm(dim=1, keepdim=True).clamp(min=torch.finfo(features.dtype).tiny)


def _added(sums: Any, embedding: Tensor, *, real: bool) -> Any:
    """One batch in torchmetrics' running sums, which are made at the first batch."""
    if sums is None:
        from torchmetrics.image.fid import FrechetInceptionDistance

        sums = FrechetInceptionDistance(Same(embedding.shape[1])).to(exact_device(embedding))
    sums.update(embedding.to(exact_device(embedding), torch.float64), real=real)
    return sums


def _streamed_distance(sums: Any, other: str) -> tuple[float, list[str]]:
    """The distance of torchmetrics' running sums, and what to know of it."""
    counts = [int(getattr(sums, f"{side}_features_num_samples", 0)) for side in ("real", "fake")]
    refuse_few(*counts, least=2, why="a covariance", name=other)
    moments = []
    for side, count in zip(("real", "fake"), counts, strict=True):
        mean = getattr(sums, f"{side}_features_sum") / count
        squares = getattr(sums, f"{side}_features_cov_sum") / count
        covariance = (squares - torch.outer(mean, mean)) * (count / (count - 1))
        if side == "real":
            refuse_constant(covariance.diagonal(), squares.diagonal())
        moments += [mean, covariance]
    return frechet_distance(*moments), covariance_remarks(dict(zip(("real", other), counts, strict=True)), len(moments[0]))
