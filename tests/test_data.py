"""Splits, batches and their order: functions of the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from common import AE, LABELLED, SPEC

from hybridgen import data as data_module
from hybridgen.data import Ahead, Arrays, Batches, Rows, SampleSpec, batches_in_order, open_data
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


# -- more than fits --------------------------------------------------------------------------------------------------------


def test_streamed_batches_are_those_of_a_set_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A view of a mapped file, read ahead by a thread: the same batches in any order, over the ends of epochs."""
    whole = numbered()
    resident = Batches(whole, LABELLED, 5, 0, CPU, flip=True)
    monkeypatch.setattr(data_module, "LARGE", 1)
    splits = [Arrays(whole.x, whole.label).subset(torch.arange(len(whole))) for _ in range(2)]
    assert all(isinstance(arrays.x, Rows) for arrays in splits)
    streamed, jumping = (Batches(arrays, LABELLED, 5, 0, CPU, flip=True) for arrays in splits)
    assert resident.resident
    assert not streamed.resident
    count = 3 * resident.per_epoch
    for i in range(count):
        a, b = resident.batch(i), streamed.batch(i)
        assert torch.equal(a["x"], b["x"])
        assert torch.equal(a["label"], b["label"])
    for i in (count, 0, 7, 3):
        assert torch.equal(resident.batch(i)["x"], jumping.batch(i)["x"])


def test_the_next_batches_are_read_ahead_and_once() -> None:
    asked: list[int] = []

    def read(index: int) -> torch.Tensor:
        asked.append(index)
        return torch.tensor(index)

    ahead = Ahead(read, depth=2)
    assert [int(ahead(i)) for i in range(5)] == [0, 1, 2, 3, 4]
    assert int(ahead(2)) == 2  # a resumed run may go back
    ahead.pool.shutdown(wait=True)
    assert asked[:7] == [0, 1, 2, 3, 4, 5, 6]


def test_what_fails_while_reading_ahead_is_raised_where_it_is_asked_for() -> None:
    def read(index: int) -> torch.Tensor:
        if index == 1:
            raise DataError("the disk went away")
        return torch.tensor(index)

    ahead = Ahead(read)
    assert int(ahead(0)) == 0
    with pytest.raises(DataError, match="the disk went away"):
        ahead(1)
    assert int(ahead(2)) == 2


def test_a_view_reads_like_the_tensor_it_shows() -> None:
    whole = torch.arange(40, dtype=torch.uint8).view(10, 4)
    rows = Rows(whole, torch.tensor([7, 2, 5]))
    shown = whole[[7, 2, 5]]
    assert (len(rows), rows.shape, rows.dtype, rows.is_floating_point()) == (3, shown.shape, torch.uint8, False)
    assert torch.equal(rows[:], shown)
    assert torch.equal(rows[1:], shown[1:])
    assert torch.equal(rows[torch.tensor([2, 0])], shown[[2, 0]])
    assert torch.equal(Arrays(rows).subset(torch.tensor([1, 2])).tensor(), shown[1:])
