"""Real handwritten digits that need no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

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
        rows = torch.from_numpy(_rows())
        x = rows[:, :-1].reshape(-1, 1, 8, 8).contiguous()
        return {"train": Arrays(x, rows[:, -1].long())}


def _rows() -> np.ndarray:
    """64 pixels and the class of each digit, uint8: read from scikit-learn's file, for importing scikit-learn takes two seconds
    that a run would spend before its first step."""
    found = find_spec("sklearn")
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    from sklearn.datasets import load_digits  # wherever it keeps the file

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)
