"""`hybridgen bench`: the hand-written loops train what the recipes train, and what is measured adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.loops import LOOPS
from benchmarks.run import WORKLOADS
from benchmarks.run import prepared as workload
from click.testing import CliRunner
from torch import Tensor

from hybridgen import bench
from hybridgen.cli import cli
from hybridgen.errors import UserError
from hybridgen.precision import Choices
from hybridgen.recipe import load_recipe
from hybridgen.session import Prepared
from hybridgen.step import train_step

SMALL = {"vae-digits": ("encoder.width=8", "decoder.width=8"), "vae-mlp": ("encoder.width=32", "decoder.width=32")}
NARROW = ("decoder.width=8", "discriminator.width=8")


def prepared(name: str, *more: str) -> Prepared:
    return Prepared(load_recipe(name, [*SMALL.get(name, NARROW), "train.threads=1", *more]), Choices("cpu", "fp32", False, ()))


def agree(ours: Prepared, theirs: Prepared, loop: str, steps: int, rtol: float = 2e-3) -> None:
    """The same losses step after step, given the same noise: what is compared in speed does the same work."""
    state, drawn = ours.state, []
    leaves = state.leaves

    def remembered(plan: Any, batch: Any, step: int, update: int) -> Any:
        made = leaves(plan, batch, step, update)
        drawn.extend((state.model.noise[key].kind, made[0][key]) for key in sorted(state.model.noise) if key in made[0])
        return made

    def draw(kind: str, *shape: int) -> Tensor:
        was, noise = drawn.pop(0)
        assert noise.shape == shape
        return noise if was == kind else torch.special.ndtr(noise)  # a uniform prior is made of normal noise

    state.leaves = remembered  # type: ignore[method-assign]
    by_hand = LOOPS[loop](theirs, draw)
    for step in range(1, steps + 1):
        batches = ours.data.of_step(step, ours.recipe.train.critic_steps)
        values = train_step(state, batches, step)
        found = by_hand(batches)
        assert found.keys() >= {key for key in values if key.startswith("loss.") and key != "loss.penalty.discriminator"}
        for key in found.keys() & values.keys():  # the KL enters after the first step
            told = f"step {step}, {key}"
            torch.testing.assert_close(found[key], values[key], rtol=rtol, atol=1e-3, msg=lambda m, t=told: f"{t}: {m}")
    assert drawn == []


@pytest.mark.parametrize("name", LOOPS)
def test_a_hand_written_loop_makes_the_recipes_steps(name: str) -> None:
    agree(prepared(name), prepared(name), name, 10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, work in WORKLOADS.items() if work.loop])
def test_a_workloads_contenders_train_the_same_networks(name: str, tmp_path: Path) -> None:
    work = WORKLOADS[name]
    x = np.random.default_rng(0).integers(0, 256, (2 * work.batch * 5, *work.shape), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    ours, theirs = (workload(work, tmp_path, Choices("cpu", "fp32", False, (), 1), 1) for _ in range(2))
    assert sum(ours.model.counts().values()) > 50_000
    agree(ours, theirs, work.loop, 2, rtol=1e-2)  # two trajectories of wide networks drift apart, one update does not


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["bench", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_is_measured_adds_up() -> None:

    found = json.loads(run("vagan-digits", *NARROW, "--steps", "2", "--rounds", "3", "--against", "eager", "--json"))
    assert [len(seconds) for seconds in found["rounds"].values()] == [3, 3]
    assert found["step"] == sorted(found["rounds"]["hybridgen"])[1]
    assert found["ratios"] == [b / a for a, b in zip(found["rounds"]["hybridgen"], found["rounds"]["eager"], strict=True)]
    parts = {f"{player} {what}" for player in ("generator", "discriminator") for what in ("forward", "backward", "optimiser")}
    assert found["split"].keys() == parts | {"data", "noise", "average", "report", "the rest"}
    assert all(seconds > 0 for seconds in found["split"].values())
    assert found["samples_per_step"] == found["batch_size"] == 64


def test_operations_are_counted() -> None:
    """784-400-20 and back, batch 64: the multiply-adds of its matrices, twice again backward but for the input's gradient."""
    made = prepared("vae-mlp", "encoder.width=400", "decoder.width=400")
    weights = 64 * 400 + 400 * 40 + 20 * 400 + 400 * 64
    assert bench.flops(made) == 2 * 64 * (3 * weights - 64 * 400)


def test_operations_of_a_penalty_are_counted_too() -> None:
    """A gradient of a gradient is passes of its own: half as much again as the recipe takes without, and more."""
    few = ("decoder.width=4", "discriminator.width=4")
    assert bench.flops(prepared("wgan-gp", *few)) > 1.5 * bench.flops(prepared("wgan-gp", *few, "loss.penalty=false"))


def test_the_table_says_what_was_compared() -> None:
    text = run("vae-mlp", "encoder.width=16", "--steps", "2", "--rounds", "1", "--against", "loop")
    assert "vae-mlp: eager, fp32" in text
    assert "a loop written by hand for this recipe" in text
    assert "generator backward" in text


def test_a_loop_that_nobody_wrote_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no hand-written loop of 'lsgan'; there are: dcgan, vae-digits"):
        bench.hand_written("lsgan")
    monkeypatch.setattr(bench, "LOOPS", bench.LOOPS / "gone")
    with pytest.raises(UserError, match="come with the source"):
        bench.hand_written("dcgan")
