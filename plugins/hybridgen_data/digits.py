"""Real handwritten digits that need no download."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from hybridgen.data import Arrays, SampleSpec


class Digits:
    """1,797 handwritten digits of 43 people, 8x8 grey pixels of 17 levels, ten classes.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI; the copy that scikit-learn carries.
    """

    def describe(self) -> SampleSpec:
        """A picture 1 8 8 with stored values 0 to 16."""
        return SampleSpec(
            kind="image",
            shape=(1, 8, 8),
            count=1797,
            low=0.0,
            high=16.0,
            levels=17,
            activation="tanh",
            classes=tuple("0123456789"),
        )

    def load(self) -> dict[str, Arrays]:
        bunch = load_digits()
        x = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)  # n 1 8 8
        return {"train": Arrays(x, torch.from_numpy(bunch.target).long())}
