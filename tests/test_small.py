"""Small modules: records, randomness, choices of `auto`, clocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from common import EAGER, VAE

from hybridgen import randomness
from hybridgen.errors import UserError
from hybridgen.precision import SMALL, choose, numerics
from hybridgen.recipe import Recipe
from hybridgen.record import Record
from hybridgen.timing import Every, Meter

CPU = torch.device("cpu")


def test_a_record_averages_over_the_steps_that_had_a_value() -> None:
    record = Record()
    record.add({"a": torch.tensor(1.0), "b": torch.tensor(10.0)})
    record.add({"a": torch.tensor(3.0)})
    saved = record.state_dict()
    assert record.mean() == {"a": 2.0, "b": 10.0}
    assert record.mean() == {}
    again = Record()
    again.load_state_dict(saved)
    again.add({"a": torch.tensor(5.0)})
    assert again.mean() == {"a": 3.0, "b": 10.0}


def test_streams_are_functions_of_their_names() -> None:
    draw = randomness.normal((4,), CPU, 0, "noise", 3)
    assert torch.equal(draw, randomness.normal((4,), CPU, 0, "noise", 3))
    for other in ((1, "noise", 3), (0, "noise", 4), (0, "other", 3), (0, "noise", 3, "x")):
        assert not torch.equal(draw, randomness.normal((4,), CPU, *other))  # type: ignore[arg-type]
    assert randomness.stream_seed(0, "ab", "c") != randomness.stream_seed(0, "a", "bc")
    uniform = randomness.uniform((1000,), CPU, 0, "u")
    assert 0 <= float(uniform.min()) < 0.05
    assert 0.95 < float(uniform.max()) < 1


def test_drawing_leaves_the_default_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    randomness.normal((10,), CPU, 0, "x")
    assert torch.equal(torch.rand(3), expected)


def test_auto_says_what_it_chose_and_why(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choices = choose(recipe(VAE).train)
    assert (choices.device, choices.precision, choices.compile, choices.autocast) == ("cpu", "fp32", False, None)
    assert choices.notes[0].startswith("precision fp32: ")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert choose(recipe(VAE).train, 1000).threads == 1
    assert choose(recipe(VAE).train, SMALL).threads == 0
    assert choose(recipe(VAE, "train.threads=3").train, 1000).threads == 3
    assert choose(recipe(VAE, "train.precision=bf16", "train.compile=true").train).autocast is torch.bfloat16
    with pytest.raises(UserError, match=r"torch sees no CUDA device here; write train\.device = 'cpu'"):
        choose(recipe(VAE, "train.device=cuda").train)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    on_gpu = choose(recipe(VAE).train, 0, [torch.nn.Conv2d(1, 1, 3)])
    assert (on_gpu.device, on_gpu.precision, on_gpu.channels_last) == ("cuda", "bf16", True)


def test_what_is_due_when(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert [Every(3).due(step) for step in range(1, 7)] == [False, False, True, False, False, True]
    timed = Every("2.5s")
    found = []
    for _ in range(6):
        now[0] += 1
        found.append(timed.due(1))
    assert found == [False, False, True, False, False, True]


def test_the_meter_counts_waiting_for_data_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    meter = Meter(10)
    for _ in range(2):
        meter.begin()
        now[0] += 1
        meter.fetched()
        now[0] += 3
        meter.stepped()
    assert meter.read() == {"samples_per_second": 20 / 8, "data_share": 0.25}
    assert meter.read() == {}


def test_numerics_hold_for_a_run_and_not_after_it() -> None:
    before = torch.get_num_threads()
    with numerics(replace(EAGER, threads=1), deterministic=True):
        assert torch.get_num_threads() == 1
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_row_that_only_an_interruption_makes_keeps_the_sums() -> None:
    record = Record()
    record.add({"a": torch.tensor(1.0)})
    assert record.mean(keep=True) == {"a": 1.0}
    record.add({"a": torch.tensor(3.0)})
    assert record.mean() == {"a": 2.0}
