"""What metrics see through where a recipe names no features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from hybridgen.data import Arrays, SampleSpec
from hybridgen_features.classifier import Classifier
from hybridgen_features.raw import Raw

MOST: Final = 256
"""Values in an unlabelled sample up to which they are compared themselves."""


class Auto(nn.Module):
    """A classifier of the data at hand where they have labels, the values themselves where they are few.

    The protocol names the one that was chosen, as if it had been written.

    Shapes: x `b ...`; returns the embedding `b e` and the logits `b k`, or None.
    Raises: ValueError for large samples without labels, whose features have to be named.

    When: always, until others have to get the same numbers: then name the features, and their weights.
    Healthy: as the chosen one, "classifier" or "raw".
    Source: none.
    """

    def __init__(self, sample_shape: tuple[int, ...], num_classes: int | None = None) -> None:
        super().__init__()
        self.chosen: Classifier | Raw
        if num_classes is not None and num_classes > 1:
            self.chosen = Classifier(sample_shape, num_classes)
        elif math.prod(sample_shape) <= MOST:
            self.chosen = Raw(sample_shape)
        else:
            raise ValueError(
                f"without labels (two classes or more) no features of samples of {tuple(sample_shape)} can be trained; "
                'write [features.NAME] with `use = "inception"`, "timm" or "classifier" and `weights`, or `use = "raw"`'
            )
        self.classes = self.chosen.classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.chosen(x)

    def prepare(self, train: Arrays, held_out: Arrays | None, spec: SampleSpec, data: str, tell: Callable[[str], None]) -> None:
        """As the chosen one does."""
        if isinstance(self.chosen, Classifier):
            self.chosen.prepare(train, held_out, spec, data, tell)

    def describe(self) -> dict[str, Any]:
        """The chosen one's protocol."""
        return self.chosen.describe()
