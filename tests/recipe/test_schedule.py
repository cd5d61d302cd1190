"""Numbers that change during a run."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hybridgen.recipe.schedule import schedule


@pytest.mark.parametrize(
    ("value", "expected"),  # expected at steps 1, 3, 6, 10 of 10
    [
        (2.5, [2.5] * 4),
        (0, [0.0] * 4),
        ({"from": 0.0, "to": 1.0, "over": 10}, [0.0, 0.2, 0.5, 0.9]),
        ({"from": 0.0, "to": 1.0, "over": 1.0}, [0.0, 0.2, 0.5, 0.9]),
        ({"from": 0.0, "to": 1.0, "over": 0.2}, [0.0, 1.0, 1.0, 1.0]),
        ({"from": 1.0, "to": 0.0, "over": 5}, [1.0, 0.6, 0.0, 0.0]),
        ({"from": 0.0, "to": 1.0, "over": 10, "shape": "cosine"}, [(1 - math.cos(math.pi * s / 10)) / 2 for s in (0, 2, 5, 9)]),
        ({"to": 3.0, "start": 5}, [0.0, 0.0, 3.0, 3.0]),
        ({"to": 3.0, "stop": 0.5}, [3.0, 3.0, 0.0, 0.0]),
        ({"from": 0.0, "to": 1.0, "over": 4, "start": 2}, [0.0, 0.0, 0.75, 1.0]),
        ({"to": 1.0, "cycle": 4, "ratio": 0.5}, [0.0, 1.0, 0.5, 0.5]),  # 0, .5, 1, 1, 0, .5, ...
    ],
)
def test_values(value: Any, expected: list[float]) -> None:
    made = schedule(value)
    assert [made.at(step, 10) for step in (1, 3, 6, 10)] == pytest.approx(expected)
    again = schedule(made.plain())
    assert [again.at(step, 10) for step in range(1, 11)] == [made.at(step, 10) for step in range(1, 11)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.0", "expected a number or a table"),
        (True, "expected a number or a table"),
        (math.inf, "expected a finite number"),
        ({"from": 0.0}, "a schedule needs `to`"),
        ({"to": 1.0, "ovr": 3}, "did you mean `over`"),
        ({"to": 1.0, "over": 1.5}, "expected steps .an integer. or a fraction"),
        ({"to": 1.0, "over": -3}, "expected steps .an integer. or a fraction"),
        ({"to": 1.0, "from": 0.0, "over": 3, "shape": "cubic"}, "'linear' or 'cosine'"),
    ],
)
def test_what_is_refused(value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        schedule(value)
