"""The bounded sample of a stream: uniform, the same however the stream is batched, and never larger than promised."""

from __future__ import annotations

import torch

from hybridgen_metrics.reservoir import Reservoir


def fed(stream: torch.Tensor, most: int, batch: int, seed: int = 0) -> Reservoir:
    reservoir = Reservoir(most, seed)
    for piece in stream.split(batch):
        reservoir.add(piece)
    return reservoir


def test_a_short_stream_is_kept_whole_and_in_order() -> None:
    stream = torch.randn(37, 2, 3)
    reservoir = fed(stream, 40, 5)
    assert reservoir.seen == 37
    assert torch.equal(reservoir.rows()[0], stream)


def test_every_row_is_kept_as_often_as_any_other() -> None:
    """5 of 25 rows, 4,000 seeds: each is kept 800 times with a standard deviation of 25.3."""
    kept = torch.cat([fed(torch.arange(25), 5, 4, seed).rows()[0] for seed in range(4000)])
    counts = kept.bincount(minlength=25).double()
    assert counts.sum() == 4000 * 5
    assert (counts - 800).abs().max() < 4.5 * 25.3
    chi_squared = ((counts - 800) ** 2 / (800 * 0.8)).sum() * 24 / 25  # 24 degrees of freedom, rows without replacement
    assert 5 < chi_squared < 60


def test_pairs_of_neighbours_are_kept_together_no_more_often_than_others() -> None:
    together = sum(len({3, 4} & set(fed(torch.arange(10), 5, 3, s).rows()[0].tolist())) == 2 for s in range(3000))
    assert abs(together / 3000 - 5 / 10 * 4 / 9) < 0.035


def test_the_batching_of_the_stream_changes_nothing() -> None:
    stream = torch.randn(500, 3)
    kept = [fed(stream, 50, batch).rows()[0] for batch in (1, 7, 100, 500)]
    assert len(kept[0]) == 50
    assert all(torch.equal(kept[0], other) for other in kept[1:])


def test_asking_in_between_changes_nothing() -> None:
    stream = torch.randn(300, 3)
    asked = Reservoir(40, 0)
    for piece in stream.split(30):
        asked.add(piece)
        asked.rows()
    assert torch.equal(asked.rows()[0], fed(stream, 40, 30).rows()[0])


def test_rows_of_several_tensors_stay_together_with_their_kind() -> None:
    number = torch.arange(400)
    reservoir = Reservoir(30, 1)
    for piece in number.split(64):
        reservoir.add(piece, piece[:, None] * 2.0, piece % 2 == 0)
    index, doubled, even = reservoir.rows()
    assert (index.dtype, doubled.dtype, even.dtype) == (torch.int64, torch.float32, torch.bool)
    assert torch.equal(doubled[:, 0], index * 2.0)
    assert torch.equal(even, index % 2 == 0)
    assert torch.equal(index, index.sort().values)


def test_50000_rows_never_take_more_than_twice_the_bound() -> None:
    reservoir, largest = Reservoir(1000, 0), 0
    for piece in torch.randn(50_000, 8).split(100):
        reservoir.add(piece)
        held = sum(len(rows[0]) for rows in reservoir._rows)
        largest = max(largest, held)
    assert 1000 < largest <= 2000
    assert reservoir.seen == 50_000
    assert len(reservoir.rows()[0]) == 1000


def test_what_is_kept_does_not_follow_the_batch_it_came_from() -> None:
    batch = torch.ones(4, 2)
    reservoir = Reservoir(10, 0)
    reservoir.add(batch)
    batch.zero_()
    assert torch.equal(reservoir.rows()[0], torch.ones(4, 2))


def test_an_empty_reservoir_has_no_rows() -> None:
    assert Reservoir(10, 0).rows() == []
