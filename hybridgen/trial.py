"""Which layout, and whether compiling, pays for this run: a few of its steps are timed before it starts, and undone.

A run that would be over before a trial is repaid starts at once. A longer one is tried both ways, and takes the faster.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import torch

from hybridgen.compiling import kept
from hybridgen.data import Batches
from hybridgen.model import Model
from hybridgen.precision import Choices
from hybridgen.step import Training, train_step

COST = 20.0
"""Seconds that compiling one phase takes on two cores, about; the trial finds out what it really takes."""

HOPE = {"cpu": 0.25, "cuda": 0.5}
"""The largest share of a step that compiling has been seen to save; a run for which even that is too little has no trial."""

TRIED, PATIENCE = 20, (2.0, 1e-3, 10.0)
"""Steps that are timed, the quickest of which counts, and the seconds for which, one step at least: a thousandth of the run,
within these bounds. Of two or three steps of seconds the quickest is still a matter of luck by a tenth."""

LONG, GAIN = 600.0, 0.05
"""Seconds from which a run is long enough to be timed in the other layout, and the share that this must save."""


def choose_layout(model: Model, make: Callable[[Choices], Model], choices: Choices, data: Batches) -> tuple[Model, Choices]:
    """The model in the layout that was the faster one, on a CPU, and the choices with it; which it is differs by processor.

    make: builds the same model in another layout: what was once laid out otherwise may keep strides of it.
    """
    if torch.device(choices.device).type != "cpu" or choices.autocast is not None:
        return model, choices
    steps = model.recipe.train.steps
    guess, _ = _seconds(model, choices, data, LONG)
    if guess * steps < LONG:
        return model, choices
    other = dataclasses.replace(choices, channels_last=not choices.channels_last)
    made = make(other)

    def again(model: Model, choices: Choices) -> float:
        data.lay_out(choices.channels_last)
        return _seconds(model, choices, data, 0.0)[0]

    found = again(made, other)  # in turns: the pace of a shared machine changes from minute to minute
    guess = min(guess, again(model, choices))
    found = min(found, again(made, other))
    model, taken = (made, other) if found < (1 - GAIN) * guess else (model, choices)
    data.lay_out(taken.channels_last)
    names = [("channels-last" if c.channels_last else "contiguous") for c in (taken, choices, other)]
    note = f"layout {names[0]}: a step takes {1e3 * guess:.1f} ms {names[1]} and {1e3 * found:.1f} ms {names[2]}"
    notes = [earlier for earlier in choices.notes if not earlier.startswith("layout ")]
    return model, dataclasses.replace(taken, notes=(*notes, note))


def choose_compile(model: Model, choices: Choices, data: Batches) -> Choices:
    """`choices` with compilation decided, and a note of the figures that decided it."""
    steps = model.recipe.train.steps
    hope = HOPE.get(torch.device(choices.device).type, 0.0)
    cost = COST * len(model.planner(choices.autocast).plan(model.terms).phases)
    eager, _ = _seconds(model, choices, data, cost / hope if hope else math.inf)
    hoped = hope * eager * steps
    if hoped < cost:
        why = f"{steps:,} steps take about {_told(eager * steps)}, too few to repay {_told(cost)} of compiling"
        return _decided(choices, False, why)
    compiled, cost = _seconds(model, dataclasses.replace(choices, compile=True), data, 0.0)
    saved = (eager - compiled) * steps
    figures = f"a step takes {1e3 * compiled:.1f} ms compiled and {1e3 * eager:.1f} ms eager, compiling took {_told(cost)}"
    if saved > cost:
        return _decided(choices, True, f"{figures}; {steps:,} steps save about {_told(saved)}")
    return _decided(choices, False, f"{figures}; that is not repaid in {steps:,} steps")


def _decided(choices: Choices, compiled: bool, why: str) -> Choices:
    note = f"compile {'on' if compiled else 'off'}: {why}"
    return dataclasses.replace(choices, compile=compiled, notes=(*choices.notes, note))


def _seconds(model: Model, choices: Choices, data: Batches, short: float) -> tuple[float, float]:
    """Seconds of a step, and those of the first steps, which compile or time convolutions and so say nothing of the others.

    There is a first step of each kind: one with a lazy penalty, say, and one without. The seconds are those of the quickest
    step of each kind, weighted by how often it comes. A kind that came but once in so few steps doesn't count.

    short: seconds that a run must take to be worth more than one such step.
    Nothing of it stays: weights, statistics and random streams are put back.
    """
    count = model.recipe.train.critic_steps
    least, share, most = PATIENCE
    first = 0.0
    taken: dict[tuple[str, ...], list[float]] = {}
    with kept(model.parts), torch.random.fork_rng():
        state = Training(model, choices)
        kinds = [tuple(state.active(step)) for step in range(1, TRIED + 1)]
        for step, kind in enumerate(kinds, 1):
            began = time.perf_counter()
            train_step(state, data.of_step(step, count), step)
            state.fault()  # waits for the device
            seconds = time.perf_counter() - began
            if kind not in taken:
                taken[kind] = []
                first += seconds
                continue
            taken[kind].append(seconds)
            run = seconds * model.recipe.train.steps
            if sum(map(sum, taken.values())) > min(max(least, share * run), most) or run < short:
                break
    often = {kind: kinds.count(kind) for kind, found in taken.items() if found}
    if not often:  # each of so many steps was another kind
        return first / TRIED, first
    return sum(often[kind] * min(taken[kind]) for kind in often) / sum(often.values()), first


def _told(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
