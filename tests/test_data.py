"""Splits, batches and their order: functions of the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from common import AE, LABELLED, SPEC

from hybridgen.data import Arrays, Batches, SampleSpec, batches_in_order, open_data
from hybridgen.errors import DataError
from hybridgen.recipe import Recipe

CPU = torch.device("cpu")


class Source:
    def __init__(self, arrays: Arrays, spec: SampleSpec) -> None:
        self.arrays, self.spec = arrays, spec

    def describe(self) -> SampleSpec:
        return self.spec

    def load(self) -> dict[str, Arrays]:
        return {"train": self.arrays}


def numbered(count: int = 20) -> Arrays:
    """Examples that can be told apart: number i is full of i."""
    return Arrays(torch.arange(count).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8), torch.arange(count) % 10)


def test_stored_levels_become_model_space_and_back() -> None:
    stored = torch.arange(17).to(torch.uint8)
    x = SPEC.to_model(stored)
    assert (float(x[0]), float(x[8]), float(x[16])) == (-1.0, 0.0, 1.0)
    assert torch.equal(SPEC.to_stored(x), stored.float())
    assert torch.equal(SPEC.to_stored(torch.tensor([-3.0, 0.01, 7.0])), torch.tensor([0.0, 8.0, 16.0]))


def test_each_epoch_shows_every_example_once_with_its_own_label() -> None:
    data = Batches(numbered(), LABELLED, 5, 0, CPU)
    epochs = []
    for epoch in range(2):
        seen = []
        for i in range(4):
            batch = data.batch(4 * epoch + i)
            number = ((batch["x"][:, 0, 0, 0] + 1) * 8).round().long()
            assert torch.equal(number % 10, batch["label"])
            seen += number.tolist()
        assert sorted(seen) == list(range(20))
        epochs.append(seen)
    assert epochs[0] != epochs[1]


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    one, other = (Batches(numbered(), LABELLED, 3, 7, CPU) for _ in range(2))
    for i in (5, 0, 11, 3):
        one.batch(i)
    assert torch.equal(one.batch(9)["x"], other.batch(9)["x"])
    assert not torch.equal(Batches(numbered(), LABELLED, 3, 8, CPU).batch(9)["x"], other.batch(9)["x"])


def test_flipping_mirrors_some_and_is_reproducible() -> None:
    arrays = Arrays(torch.arange(8).to(torch.uint8).expand(64, 1, 8, 8).contiguous(), None)
    plain = Batches(arrays, SPEC, 64, 0, CPU).batch(0)["x"]
    x = Batches(arrays, SPEC, 64, 0, CPU, flip=True).batch(0)["x"]
    mirrored = sum(bool(torch.equal(a, b.flip(-1))) for a, b in zip(x, plain, strict=True))
    assert 16 < mirrored < 48
    assert torch.equal(x, Batches(arrays, SPEC, 64, 0, CPU, flip=True).batch(0)["x"])


def test_the_split_is_by_its_own_seed_and_disjoint(recipe: Callable[..., Recipe]) -> None:
    def split(*overrides: str) -> set[int]:
        splits = open_data(Source(numbered(), LABELLED), recipe(AE, *overrides).data)
        train, held = (set(splits[name].x[:, 0, 0, 0].tolist()) for name in ("train", "validation"))
        assert train | held == set(range(20))
        assert not train & held
        return held

    assert len(split()) == 2
    assert len(split("data.validation=0.25")) == 5
    assert split() == split("train.seed=9")
    assert split("data.validation=0.5") != split("data.validation=0.5", "data.split_seed=1")
    assert "validation" not in open_data(Source(numbered(), LABELLED), recipe(AE, "data.validation=0").data)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        (Arrays(torch.zeros(20, 1, 8, 7), torch.zeros(20)), r"have the shape \(1, 8, 7\), expected \(1, 8, 8\)"),
        (Arrays(torch.full((20, 1, 8, 8), torch.inf), torch.zeros(20)), "20 train examples hold NaN or infinite"),
        (Arrays(torch.zeros(20, 1, 8, 8), None), "20 train examples but none labels"),
        (Arrays(torch.zeros(20, 1, 8, 8), torch.full((20,), 10)), "labels run from 10 to 10, expected 0 to 9"),
        (
            Arrays(torch.zeros(5, 1, 8, 8), torch.zeros(5)),
            "only 4 training examples; write a batch_size of at most 4",
        ),
    ],
)
def test_data_that_is_not_as_described(arrays: Arrays, expected: str, recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=expected):
        open_data(Source(arrays, LABELLED), recipe(AE).data)


def test_evaluation_sees_every_example_once() -> None:
    sizes = [len(batch["x"]) for batch in batches_in_order(numbered(), SPEC, 8, CPU)]
    assert sizes == [8, 8, 4]
