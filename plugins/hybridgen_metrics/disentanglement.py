"""Whether each known factor of variation has a latent dimension of its own."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.probes import Most, random_state
from hybridgen_metrics.reservoir import Reservoir


def codes_and_factors(kept: Reservoir) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Codes `n d`, the factors that vary `n f`, and a remark where some don't.

    Raises Unmeasurable for one latent dimension, or where no factor varies.
    """
    if not kept.seen:
        raise Unmeasurable("there are no held-out examples; measure more samples")
    codes, factors = (rows.numpy() for rows in kept.rows())
    if codes.shape[1] < 2:
        raise Unmeasurable("one latent dimension can't hold factors apart; write latent.dim = 2 or more")
    varies = [i for i in range(factors.shape[1]) if len(np.unique(factors[:, i])) > 1]
    if not varies:
        raise Unmeasurable("no factor varies over the held-out examples; measure more samples")
    still = [str(i) for i in range(factors.shape[1]) if i not in varies]
    remarks = [f"factors that never vary are left out: number {', '.join(still)} (from 0)"] if still else []
    return codes.astype(np.float64), factors[:, varies], remarks


def binned(codes: np.ndarray, bins: int) -> np.ndarray:
    """Each dimension cut into bins of equal width from its least to its largest value. Shapes: `n d` -> `n d`, int64."""
    low, span = codes.min(0), np.ptp(codes, axis=0)
    place = (codes - low) / np.where(span > 0, span, 1.0) * bins
    return np.minimum(place.astype(np.int64), bins - 1)


def entropy(counts: np.ndarray) -> float:
    """Of a histogram, in nats."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def information(a: np.ndarray, b: np.ndarray) -> float:
    """I(a; b) = H(a) + H(b) - H(a, b) of two rows of whole numbers from 0, in nats."""
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1)
    return max(0.0, entropy(joint.sum(1)) + entropy(joint.sum(0)) - entropy(joint.ravel()))


def scores(r: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of importances `d f`, all at least 0. What has no importance at all is left out."""
    d, f = r.shape
    rows, columns = r[r.sum(1) > 0], r.T[r.sum(0) > 0]
    if not len(rows):
        return 0.0, 0.0
    apart = [1 - entropy(row) / np.log(f) for row in rows]
    whole = [1 - entropy(column) / np.log(d) for column in columns]
    return float(np.average(apart, weights=rows.sum(1))), float(np.mean(whole))


class MIG:
    """Mutual information gap: by how much the best dimension knows a factor better than the second best; higher is better.

    mig = mean over factors v of (I(z_1; v) - I(z_2; v)) / H(v),  z_1 and z_2 the dimensions that know most of v

    z is the posterior mean in `bins` bins of equal width. 1: each factor is read from one dimension alone. 0: each is
    spread over two or more, or in none; constant codes give 0. Several factors may share one dimension: "dci" sees that.

    Shapes: posterior.mean `b d` or `b d h w`; factors `b f` (whole numbers). At most `most` examples are kept.
    Raises: Unmeasurable for one latent dimension, or factors of which none varies.
    When: data with known, independent factors ("sprites", an .npz with `factors`); against "dci", which needs no bins.
    Healthy: 0.1 to 0.3 for a plain VAE on such data, above 0.4 good. Two dimensions with the same factor are worth 0 for it.
        Few examples raise every mutual information by about (bins - 1)(values - 1) / 2n nats, which blurs the gap.
    Source: Chen et al. 2018 (arXiv:1802.04942), section 4.1, equation 6; bins: Locatello et al. 2018 (arXiv:1811.12359).
    """

    unit = "share of entropy"
    higher_is_better = True

    def __init__(
        self,
        seed: int,
        *,
        bins: Annotated[int, Field(ge=2, description="bins of each dimension, of equal width")] = 20,
        most: Most = 10_000,
    ) -> None:
        self.seed, self.bins, self.most = seed, bins, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, posterior: Any, factors: Tensor) -> None:
        self.kept.add(posterior.mean.flatten(1), factors)

    def compute(self) -> float:
        codes, factors, remarks = codes_and_factors(self.kept)
        places = binned(codes, self.bins)
        gaps, bias = [], 0.0
        for factor in factors.T:
            values = np.unique(factor, return_inverse=True)[1].reshape(-1)
            known = sorted((information(place, values) for place in places.T), reverse=True)
            size = entropy(np.bincount(values))
            gaps.append((known[0] - known[1]) / size)
            bias = max(bias, (self.bins - 1) * values.max() / (2 * len(values)) / size)
        if bias > 0.1:
            remarks.append(
                f"{len(codes)} examples for {self.bins} bins: chance alone shows up to {min(bias, 1):.0%} of a factor in every "
                "dimension; measure more samples, or lower bins"
            )
        self.remarks = remarks
        return float(np.mean(gaps))


class DCI:
    """Disentanglement, completeness and informativeness of codes, each 1 at best; higher is better.

    Random forests predict each factor from the posterior mean; R_ij is the importance of dimension i for factor j.
    disentanglement  sum_i r_i (1 - H_f(R_i / sum R_i)), r_i the share of R in row i: each dimension serves one factor
    completeness     mean_j (1 - H_d(R_j / sum R_j)): each factor is read from one dimension; H_k entropies to the base k
    informativeness  share of right answers on examples outside the training fold, mean over factors; `chance` is that of always
                     saying a factor's commonest value. At chance the other two mean nothing.

    Shapes: posterior.mean `b d` or `b d h w`; factors `b f` (whole numbers). At most `most` examples are kept.
    Raises: Unmeasurable for one latent dimension, fewer than two factors that vary, constant codes, or too few examples.
    When: data with known factors; against "mig": it also sees a dimension that mixes factors, and says which half fails.
    Healthy: disentanglement 0.2 to 0.4 for a plain VAE, above 0.7 good; informativeness well above chance. Complete but not
        disentangled: a dimension holds several factors. The reverse: a factor is spread over several dimensions.
    Source: Eastwood & Williams 2018 (OpenReview By-7dz-AZ), section 2; accuracy in the place of their regression error.
    """

    unit = "share"
    higher_is_better: ClassVar[dict[str, bool | None]] = {
        "disentanglement": True, "completeness": True, "informativeness": True, "chance": None,
    }  # fmt: skip

    def __init__(
        self,
        seed: int,
        *,
        trees: Annotated[int, Field(ge=1, description="of each forest")] = 20,
        depth: Annotated[int, Field(ge=1, description="of each tree, at most")] = 10,
        folds: Annotated[int, Field(ge=2, description="parts; each is tested by forests that the others trained")] = 3,
        most: Most = 2000,
    ) -> None:
        self.seed, self.trees, self.depth, self.folds, self.most = seed, trees, depth, folds, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, posterior: Any, factors: Tensor) -> None:
        self.kept.add(posterior.mean.flatten(1), factors)

    def compute(self) -> dict[str, float]:
        codes, factors, remarks = codes_and_factors(self.kept)
        if factors.shape[1] < 2:
            raise Unmeasurable("only one factor varies, so dimensions can't serve different ones; measure other data")
        if len(codes) < 10 * self.folds:
            raise Unmeasurable(f"{len(codes)} held-out examples are too few for {self.folds} folds; measure more samples")
        if not np.ptp(codes, axis=0).any():
            raise Unmeasurable("every example has the same code: it has collapsed; weigh the KL less, or warm it up")
        found = [self._importance(codes, factor) for factor in factors.T]
        r = np.stack([importance for importance, _, _ in found], axis=1)  # d f
        accuracy, chance = np.mean([a for _, a, _ in found]), np.mean([c for _, _, c in found])
        if accuracy < chance + 0.05:
            remarks.append("the forests guess hardly better than chance: disentanglement and completeness mean nothing")
        self.remarks = remarks
        disentanglement, completeness = scores(r)
        return {
            "disentanglement": disentanglement,
            "completeness": completeness,
            "informativeness": float(accuracy),
            "chance": float(chance),
        }

    def _importance(self, codes: np.ndarray, factor: np.ndarray) -> tuple[np.ndarray, float, float]:
        """Importance of each dimension for a factor, `d`, mean over folds; the accuracy, and that of chance."""
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import StratifiedKFold

        counts = np.unique(factor, return_counts=True)[1]
        importance, right = np.zeros(codes.shape[1]), 0
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=random_state(self.seed))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The least populated class", UserWarning)  # rare values cost accuracy, no more
            pieces = list(folds.split(codes, factor)) if counts.max() >= self.folds else []
        if not pieces:
            raise Unmeasurable(f"no value of a factor has {self.folds} held-out examples; measure more samples")
        for train, test in pieces:
            # all features at each split: else a tree that may not look at the right one splits on noise
            forest = RandomForestClassifier(
                self.trees, max_depth=self.depth, max_features=None, random_state=random_state(self.seed)
            ).fit(codes[train], factor[train])
            importance += forest.feature_importances_ / self.folds
            right += int((forest.predict(codes[test]) == factor[test]).sum())
        return importance, right / len(factor), float(counts.max() / len(factor))
