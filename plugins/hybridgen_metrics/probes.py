"""What a simple reader finds of the labels in the codes: probes trained and tested within the held-out examples."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.reservoir import Reservoir

Folds = Annotated[int, Field(ge=2, description="parts; each is tested by a probe that the others trained")]
Most = Annotated[int, Field(ge=10, description="examples that are kept, drawn evenly")]


def random_state(seed: int) -> int:
    """A seed as scikit-learn takes it."""
    return seed % 2**32


def codes_and_labels(kept: Reservoir) -> tuple[np.ndarray, np.ndarray]:
    """Codes `n d` and labels `n`. Raises Unmeasurable where fewer than two classes occur."""
    if not kept.seen:
        raise Unmeasurable("there are no held-out examples; measure more samples")
    codes, labels = (rows.numpy() for rows in kept.rows())
    if len(np.unique(labels)) < 2:
        raise Unmeasurable(
            f"all {len(labels)} held-out examples are of one class, so there is nothing to tell apart; "
            "measure more samples, or another split"
        )
    return codes, labels


def cross_validated(
    codes: np.ndarray, labels: np.ndarray, folds: int, seed: int, probe: Callable[[], Any]
) -> tuple[dict[str, float], list[Any]]:
    """The share of right answers over all folds, and that of always saying the commonest class; and the fitted probes.

    Raises Unmeasurable where a class has fewer examples than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        rare = classes[counts.argmin()]
        raise Unmeasurable(
            f"class {rare} has {counts.min()} held-out examples, and {folds} folds need {folds} of each class; "
            "measure more samples" + (", or lower folds" if counts.min() > 1 else "")
        )
    right, fitted = 0, []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=random_state(seed)).split(codes, labels):
        one = probe().fit(codes[train], labels[train])
        right += int((one.predict(codes[test]) == labels[test]).sum())
        fitted.append(one)
    return {"accuracy": right / len(labels), "chance": float(counts.max() / len(labels))}, fitted


class LinearProbe:
    """Accuracy of a linear classifier from posterior means to labels, on examples that it was not trained on; higher is better.

    Codes are brought to mean 0 and variance 1; then multinomial logistic regression, ridge penalty 1 / `strength`; stratified
    cross-validation within the held-out examples, so the encoder saw neither side. `chance`: always the commonest class.

    Shapes: posterior.mean `b d` or `b d h w`; label `b`. At most `most` examples are kept.
    Raises: Unmeasurable for one class only, or fewer examples of a class than folds.
    When: labels exist and codes are to be used further; against "knn-probe", which asks for closeness, not for directions.
    Healthy: on digits above 0.9. At chance: the code has collapsed. Compare only with the same number of examples: few train
        a poor probe.
    Source: Alain & Bengio 2016 (arXiv:1610.01644).
    """

    unit = "share"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"accuracy": True, "chance": None}

    def __init__(
        self,
        seed: int,
        *,
        folds: Folds = 5,
        strength: Annotated[float, Field(gt=0, description="inverse of the ridge penalty (scikit-learn's C)")] = 1.0,
        iterations: Annotated[int, Field(ge=1, description="of the optimiser, at most")] = 1000,
        most: Most = 10_000,
    ) -> None:
        self.seed, self.folds, self.strength, self.iterations, self.most = seed, folds, strength, iterations, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)
        self.remarks: list[str] = []

    def update(self, posterior: Any, label: Tensor) -> None:
        self.kept.add(posterior.mean.flatten(1), label)

    def compute(self) -> dict[str, float]:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        def probe() -> Any:
            return make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=self.iterations))

        codes, labels = codes_and_labels(self.kept)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found, fitted = cross_validated(codes.astype(np.float64), labels, self.folds, self.seed, probe)
        stopped = sum(bool(one[-1].n_iter_.max() >= self.iterations) for one in fitted)
        self.remarks = [f"{stopped} of {self.folds} probes did not converge; raise iterations"] if stopped else []
        return found


class KNNProbe:
    """Accuracy of the `neighbours` nearest codes' majority label, on examples that aren't among them; higher is better.

    Euclidean distance of posterior means as they are: scaling each dimension to variance 1 would make silent ones as loud as
    the rest. Stratified cross-validation within the held-out examples. `chance`: always the commonest class.

    Shapes: posterior.mean `b d` or `b d h w`; label `b`. At most `most` examples are kept.
    Raises: Unmeasurable for one class only, or fewer examples of a class than folds.
    When: labels exist; codes are to be searched or clustered. Against "linear-probe": it sees classes that no plane parts.
    Healthy: on digits above 0.9. Far below the linear probe: class is in the code, but other things spread it more.
    Source: Cover & Hart 1967 ("Nearest neighbor pattern classification"); as a probe Wu et al. 2018 (arXiv:1805.01978).
    """

    unit = "share"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"accuracy": True, "chance": None}

    def __init__(
        self,
        seed: int,
        *,
        neighbours: Annotated[int, Field(ge=1, description="codes that vote")] = 5,
        folds: Folds = 5,
        most: Most = 10_000,
    ) -> None:
        self.seed, self.neighbours, self.folds, self.most = seed, neighbours, folds, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)

    def update(self, posterior: Any, label: Tensor) -> None:
        self.kept.add(posterior.mean.flatten(1), label)

    def compute(self) -> dict[str, float]:
        from sklearn.neighbors import KNeighborsClassifier

        codes, labels = codes_and_labels(self.kept)
        least = len(labels) * (self.folds - 1) // self.folds
        if self.neighbours > least:
            raise Unmeasurable(
                f"{self.neighbours} neighbours among {least} examples outside a fold; measure more samples, or lower neighbours"
            )
        found, _ = cross_validated(codes, labels, self.folds, self.seed, lambda: KNeighborsClassifier(self.neighbours))
        return found


class Clustering:
    """How well clusters of the codes agree with the labels: `nmi` and `ari`, 1 where they are the same; higher is better.

    k-means on posterior means as they are, as many clusters as classes occur, the best of `starts` starts. nmi = mutual
    information of cluster and label over the mean of their entropies, 0 to 1. ari = share of pairs treated alike, corrected
    for chance: 0 for a random labelling, whatever the number of clusters; nmi isn't corrected, and few examples raise it.

    Shapes: posterior.mean `b d` or `b d h w`; label `b`. At most `most` examples are kept.
    Raises: Unmeasurable for one class only, or fewer different codes than classes.
    When: labels exist, but the use won't have any: do classes fall apart by themselves? A probe's accuracy is no answer.
    Healthy: on digits nmi 0.5 to 0.8. High probes and low nmi: class is there, but is not what varies most.
    Source: Strehl & Ghosh 2002 (JMLR 3), nmi; Hubert & Arabie 1985 ("Comparing partitions"), ari.
    """

    unit = "agreement"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"nmi": True, "ari": True}

    def __init__(
        self,
        seed: int,
        *,
        starts: Annotated[int, Field(ge=1, description="of k-means; the tightest clusters count")] = 10,
        most: Most = 10_000,
    ) -> None:
        self.seed, self.starts, self.most = seed, starts, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)

    def update(self, posterior: Any, label: Tensor) -> None:
        self.kept.add(posterior.mean.flatten(1), label)

    def compute(self) -> dict[str, float]:
        from sklearn.cluster import KMeans
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        codes, labels = codes_and_labels(self.kept)
        classes, different = len(np.unique(labels)), len(np.unique(codes, axis=0))
        if different < classes:
            raise Unmeasurable(
                f"{different} different codes can't make {classes} clusters: it has collapsed; weigh the KL less"
            )
        means = KMeans(classes, n_init=self.starts, random_state=random_state(self.seed))
        clusters = means.fit_predict(codes.astype(np.float64))
        nmi, ari = normalized_mutual_info_score(labels, clusters), adjusted_rand_score(labels, clusters)
        return {"nmi": float(nmi), "ari": float(ari)}
