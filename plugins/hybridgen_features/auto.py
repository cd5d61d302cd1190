"""What metrics see through where a recipe names no features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hybridgen.data import Arrays, SampleSpec
from hybridgen_features.classifier import Classifier
from hybridgen_features.raw import Raw


class Auto(nn.Module):
    """`raw` for vectors, else a `classifier` trained once on the labelled examples at hand: offline, and different for each
    set of data, so its numbers compare between models of the same data only.

    Shapes: x `b ...` -> embedding `b e`, and logits `b k` from a classifier.
    Raises: ValueError for pictures without labels, which name no features by themselves.

    When: nothing is at hand but the data. Name `inception` for numbers that compare with published ones.
    Healthy: as the features that it stands for.
    Source: as the features that it stands for.
    """

    def __init__(self, sample_shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        if len(sample_shape) > 1 and not num_classes:
            raise ValueError(
                "these data have no labels to train a classifier on; name features that bring their weights: "
                '[features.photo] use = "inception" and weights = "PATH"'
            )
        self.chosen: Raw | Classifier = Raw(sample_shape) if len(sample_shape) == 1 else Classifier(sample_shape, num_classes)
        self.classes = self.chosen.classes

    def prepare(
        self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, data: str, tell: Callable[[str], None]
    ) -> None:
        """Train the classifier, or find it in the cache."""
        if isinstance(self.chosen, Classifier):
            self.chosen.prepare(train, held_out, spec, data, tell)

    def describe(self) -> dict[str, Any]:
        """What the chosen features are, for the protocol."""
        return {"use": "classifier" if isinstance(self.chosen, Classifier) else "raw", **self.chosen.describe()}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.chosen(x)
