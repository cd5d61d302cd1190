"""How sure a classifier is of generated samples, and how varied they are."""

from __future__ import annotations

import warnings
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from hybridgen.errors import Unmeasurable
from hybridgen_metrics.embeddings import exact_device
from hybridgen_metrics.reservoir import Reservoir


class InceptionScore:
    """How many classes generated samples show, clearly and evenly: 1 to the number of classes; higher is better.

    mean = average over `splits` of exp(E_y KL(p(c | y) || p(c))), p(c) = E_y p(c | y) within the split; std is over the splits.
    High where each sample is clearly of one class and all classes occur alike. No real example is looked at.

    Shapes: fake_probabilities `b k`; at most `most` samples are kept.
    Raises: Unmeasurable for fewer than 2 samples a split.
    When: to compare with papers that report it, with Inception's own 1,000 classes. It misses collapse within a class, data of
        unequal classes can't reach k, and it can be fooled: "fid" or "kid" to judge by.
    Healthy: towards the score of real examples. 1: no class is recognised, or all samples are of one class.
    Source: Salimans et al. 2016 (arXiv:1606.03498), section 4; limits: Barratt & Sharma 2018 (arXiv:1801.01973).
    """

    unit = "effective classes"
    higher_is_better: ClassVar[dict[str, bool | None]] = {"mean": True, "std": None}

    def __init__(
        self,
        seed: int,
        *,
        splits: Annotated[int, Field(ge=2, description="parts that are scored apart")] = 10,
        most: Annotated[int, Field(ge=4, description="samples that are kept, drawn evenly")] = 50_000,
    ) -> None:
        if most < 2 * splits:
            raise ValueError(f"inception-score: most = {most} samples do not fill {splits} splits; write {2 * splits} or more")
        self.seed, self.splits, self.most = seed, splits, most
        self.reset()

    def reset(self) -> None:
        self.kept = Reservoir(self.most, self.seed)
        self.device = torch.device("cpu")
        self.remarks: list[str] = []

    def generated(self, fake_probabilities: Tensor) -> None:
        self.kept.add(fake_probabilities)
        self.device = exact_device(fake_probabilities)

    def compute(self) -> dict[str, float]:
        from torchmetrics.image.inception import InceptionScore as Score

        if self.kept.seen < 2 * self.splits:
            raise Unmeasurable(
                f"{self.kept.seen} generated samples do not fill {self.splits} splits; measure {2 * self.splits} or more"
            )
        probabilities = self.kept.rows()[0].to(self.device, torch.float64)
        each, classes = len(probabilities) // self.splits, probabilities.shape[1]
        low = each < 10 * classes
        self.remarks = [f"{each} samples a split for {classes} classes: the score is biased downwards"] if low else []
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # it warns of its buffer, which is bounded here
            warnings.simplefilter("ignore")
            score = Score(torch.nn.Identity(), splits=self.splits)
            score.update(probabilities.clamp(min=1e-300).log())  # its softmax gives the probabilities back
            torch.manual_seed(self.seed)
            mean, std = score.compute()
        return {"mean": float(mean), "std": float(std)}
