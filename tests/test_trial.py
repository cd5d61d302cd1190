"""Whether to compile is measured, on steps that leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from common import EAGER, SPEC, VAGAN, everything, steps

from hybridgen import trial
from hybridgen.data import Arrays, Batches
from hybridgen.model import build
from hybridgen.recipe import Recipe
from hybridgen.step import Training
from hybridgen.trial import choose_compile

DATA = Batches(Arrays(torch.randint(0, 17, (64, 1, 8, 8), dtype=torch.uint8)), SPEC, 8, 0, torch.device("cpu"))
DROPS = VAGAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "batch-norm"').replace(
    '[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp"\ndropout = 0.3'
)

WARM = VAGAN.replace('[loss.kl]\nuse = "kl"', '[loss.kl]\nuse = "kl"\nweight = { from = 0.0, to = 1.0, over = 0.5 }')
LAZY = f'{WARM}\n[loss.flat]\nuse = "r1-r2"\nevery = 4\n'


def test_timed_steps_leave_no_trace(recipe: Callable[..., Recipe]) -> None:
    """Weights, batch statistics, gradients and the default generator: the run is the one without a trial."""
    tried, untried = (build(recipe(DROPS), SPEC) for _ in range(2))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    choose_compile(tried, EAGER, DATA)
    assert torch.equal(torch.rand(2), expected)
    assert all(p.grad is None for module in tried.parts.values() for p in module.parameters())
    states = [Training(model, EAGER) for model in (tried, untried)]
    for state in states:
        steps(state, 1, 3)
    a, b = (everything(state) for state in states)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("eager", "compiled", "count", "on", "words"),
    [
        (0.1, 0.06, 100, None, "100 steps take about 10 s, too few to repay 60 s of compiling"),
        (0.1, 0.06, 100_000, True, "60.0 ms compiled and 100.0 ms eager, compiling took 30 s; 100,000 steps save about 67 min"),
        (0.1, 0.0999, 100_000, False, "that is not repaid in 100,000 steps"),
        (0.1, 0.2, 100_000, False, "that is not repaid in 100,000 steps"),
    ],
)
def test_the_faster_is_taken_if_it_is_repaid(
    eager: float,
    compiled: float,
    count: int,
    on: bool | None,
    words: str,
    recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bool] = []

    def seconds(model: Any, choices: Any, data: Any, short: float) -> tuple[float, float]:
        asked.append(choices.compile)
        return (compiled, 30.0) if choices.compile else (eager, 1.0)

    monkeypatch.setattr(trial, "_seconds", seconds)
    found = choose_compile(build(recipe(VAGAN, f"train.steps={count}"), SPEC), replace(EAGER, notes=("first",)), DATA)
    assert found.compile is bool(on)
    assert asked == ([False] if on is None else [False, True])
    assert found.notes[0] == "first"
    assert found.notes[1].startswith(f"compile {'on' if on else 'off'}: ")
    assert words in found.notes[1]


@pytest.mark.parametrize(
    ("others", "count", "short", "taken"),
    [(3.0, 10, 0.0, 2), (0.9, 10, 0.0, 4), (0.1, 10, 0.0, 20), (0.1, 10, 99.0, 2), (3.0, 1_100, 0.0, 3), (3.0, 20_000, 0.0, 5)],
)
def test_the_first_step_says_nothing_of_the_others(
    others: float, count: int, short: float, taken: int, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles, or times convolutions; a slow recipe is timed on one more, in a long run on a few, in a short one on one."""
    first = 9.0
    now = [0.0]
    done: list[int] = []

    def one_step(state: Any, batches: Any, step: int) -> None:
        done.append(step)
        now[0] += first if step == 1 else others

    monkeypatch.setattr(trial, "train_step", one_step)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: now[0])
    model = build(recipe(VAGAN, f"train.steps={count}"), SPEC)
    for choices in (EAGER, replace(EAGER, compile=True)):
        done.clear()
        assert trial._seconds(model, choices, DATA, short) == (pytest.approx(others), pytest.approx(first))
        assert done == list(range(1, taken + 1))


def test_each_kind_of_step_has_a_first_and_counts_as_often_as_it_comes(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A penalty in every fourth step and a KL from the second on: three computations, each of which is compiled."""
    now = [0.0]
    lazy = build(recipe(LAZY, "train.steps=1000"), SPEC)
    known: set[tuple[str, ...]] = set()

    def one_step(state: Training, batches: Any, step: int) -> None:
        kind = tuple(state.active(step))
        now[0] += (0.3 if "flat.discriminator" in kind else 0.1) if kind in known else 9.0
        known.add(kind)

    monkeypatch.setattr(trial, "train_step", one_step)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: now[0])
    assert trial._seconds(lazy, EAGER, DATA, 0.0) == (pytest.approx((4 * 0.3 + 15 * 0.1) / 19), pytest.approx(27.0))
    assert len(known) == 3


@pytest.mark.parametrize(
    ("seconds", "count", "last", "words"),
    [
        (
            {False: 1.0, True: 0.9},
            1000,
            True,
            "layout channels-last: a step takes 1000.0 ms contiguous and 900.0 ms channels-last",
        ),
        (
            {False: 1.0, True: 0.97},
            1000,
            False,
            "layout contiguous: a step takes 1000.0 ms contiguous and 970.0 ms channels-last",
        ),
        ({False: 1.0}, 500, False, ""),  # ten minutes are not reached: the other is not tried
    ],
)
def test_a_long_run_takes_the_faster_layout(
    seconds: dict[bool, float],
    count: int,
    last: bool,
    words: str,
    recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = {of: build(recipe(VAGAN, f"train.steps={count}"), SPEC) for of in (False, True)}
    data = Batches(Arrays(torch.zeros(64, 1, 8, 8, dtype=torch.uint8)), SPEC, 8, 0, torch.device("cpu"))
    asked: list[bool] = []

    def timed(model: Any, choices: Any, batches: Any, short: float) -> tuple[float, float]:
        assert choices.channels_last == batches.last
        assert model is models[batches.last]
        asked.append(batches.last)
        return seconds[choices.channels_last] * (3.0 if len(asked) == 2 else 1.0), 9.0  # the machine is slow for a while

    monkeypatch.setattr(trial, "_seconds", timed)
    given = replace(EAGER, notes=("first", "layout guessed"))
    model, found = trial.choose_layout(models[False], lambda choices: models[choices.channels_last], given, data)
    assert asked == list(seconds) * len(seconds)  # the other layout is tried in turns, or not at all
    assert model is models[last]
    assert (found.channels_last, data.last) == (last, last)
    assert found.notes == (("first", words) if words else given.notes)
