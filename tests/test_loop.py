"""Runs: exact continuation, signals, values that are not finite, what is written, what can't be."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.process
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from common import VAE, VAGAN, Events
from PIL import Image

from hybridgen.checkpoint import checkpoints, latest, load_checkpoint
from hybridgen.cli import main
from hybridgen.errors import DataError, DivergedError, Interrupted, RecipeError, RunError
from hybridgen.events import read_events
from hybridgen.loop import resume, train
from hybridgen.recipe import load_recipe
from hybridgen.registry import Registry
from hybridgen.run_folder import find_run, latest_unfinished, list_runs

RECIPES = (
    "ae-digits",
    "ae-denoising",  # noise on the encoder's side
    "vae-digits",
    "vq-vae",  # a codebook that moves by itself
    "gan-digits",
    "cgan-projection",  # labels
    "wgan-gp",  # several critic steps, each on a batch of its own
    "gan-ring",
    "vagan-digits",
    "vae-gan-larsen",  # updates that are held back
    "vagan-images",
    "soft-intro-vae",  # an encoder that is the critic
)
SMALL = {
    "gan-ring": ["data.count=600", "data.batch_size=32", "decoder.width=16", "discriminator.width=16"],
    "vagan-images": ["data.size=[9,7]", "data.batch_size=4", "latent.dim=4", "encoder.width=8", "decoder.width=8"],
}
QUICK = ["data.batch_size=16", "encoder.width=8", "decoder.width=8"]
EVERY = ["train.log_every=2", "train.checkpoint_every=2", "train.evaluate_every=3", "train.samples_every=4", "report.samples=4"]


def overrides(name: str, steps: int, folder: Path) -> list[str]:
    chosen = SMALL.get(name) or QUICK
    if name == "vagan-images":
        chosen = [*chosen, f"data.path={pictures(folder)}", "discriminator.width=8"]
    elif load_recipe(name).encoder is None:
        chosen = [o for o in chosen if not o.startswith("encoder")]
    return [*chosen, *EVERY, f"train.steps={steps}"]


def pictures(folder: Path) -> Path:
    path = folder / "pictures"
    if not path.exists():
        path.mkdir()
        for i in range(30):
            noise = torch.randint(0, 256, (12, 10, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
            Image.fromarray(noise.numpy()).save(path / f"{i}.png")
    return path


def final(run: Path) -> dict[str, Any]:
    """Everything that the newest checkpoint holds, flat."""
    found = latest(run / "checkpoints")
    assert found is not None
    saved = load_checkpoint(found)
    flat: dict[str, Any] = {"step": saved.step}
    flat |= {f"weights/{k}": v for k, v in saved.weights.items()}
    flat |= {f"ema/{k}": v for k, v in (saved.ema or {}).items()}
    assert saved.training is not None
    for player, state in saved.training["state"]["optimisers"].items():
        for index, entry in state["state"].items():
            flat |= {f"{player}/{index}/{k}": v for k, v in entry.items()}
    return flat


def assert_bit_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, f"{name} differs"


def stopping(after: int) -> Callable[..., Any]:
    """A `train_step` that asks the run to stop, as Ctrl-C does, in step `after`."""
    from hybridgen import loop

    genuine = loop.train_step

    def step(state: Any, batches: Any, number: int) -> Any:
        if number == after:
            os.kill(os.getpid(), signal.SIGINT)
        return genuine(state, batches, number)

    return step


@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_and_resumed_run_is_bit_equal_to_an_undisturbed_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N steps = k steps + stop + resume + (N - k) steps: weights, average, optimisers, and the rows of the record."""
    chosen = overrides(name, 8, tmp_path)
    whole = train(name, chosen, runs=tmp_path / "whole").path
    with monkeypatch.context() as patched:
        patched.setattr("hybridgen.loop.train_step", stopping(after=5))
        with pytest.raises(Interrupted, match=r"SIGINT received; .* step 5 is saved; go on with `hybridgen resume"):
            train(name, chosen, runs=tmp_path / "parts")
    run = latest_unfinished(tmp_path / "parts")
    assert run is not None
    resume(run)
    assert_bit_equal(final(whole), final(run))
    assert rows(whole) == rows(run)


def rows(run: Path) -> dict[int, dict[str, float]]:
    """Step -> what was measured; rates and the row that an interruption forces apart."""
    clock = ("samples_per_second", "data_share")
    found = {}
    for event in read_events(run / "metrics.jsonl"):
        if event["event"] in ("row", "evaluation") and event["step"] != 5:  # the row that the interruption made
            kept = {k: v for k, v in event["values"].items() if k not in clock}
            found[event["step"] * 10 + (event["event"] == "row")] = kept
    return found


def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(tmp_path: Path) -> None:
    chosen = overrides("vagan-digits", 3, tmp_path)
    one, same = (final(train("vagan-digits", chosen, runs=tmp_path).path) for _ in range(2))
    assert_bit_equal(one, same)
    other = final(train("vagan-digits", [*chosen, "train.seed=1"], runs=tmp_path).path)
    assert any(not torch.equal(one[k], other[k]) for k in one if k.startswith("weights/"))


@pytest.mark.parametrize(
    "extra", [["train.accumulate=2"], ["train.critic_steps=2"], ["train.updates=simultaneous"], ["encoder.dropout=0.3"]]
)
def test_continuation_is_exact_with_every_kind_of_update(
    extra: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [*overrides("vagan-digits", 6, tmp_path), *extra]
    whole = train("vagan-digits", chosen, runs=tmp_path / "whole").path
    with monkeypatch.context() as patched:
        patched.setattr("hybridgen.loop.train_step", stopping(after=3))
        with pytest.raises(Interrupted):
            train("vagan-digits", chosen, runs=tmp_path / "parts")
    assert_bit_equal(final(whole), final(resume(find_run("vagan", tmp_path / "parts")).path))


# -- kill -9 -------------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hybridgen", *arguments, "--report", "quiet"]


@pytest.mark.slow
def test_kill_at_twenty_random_moments(tmp_path: Path) -> None:
    """However often a run is killed, wherever it was, `resume --auto` goes on and ends bit-equal."""
    often = ["train.checkpoint_every=50", "train.log_every=50", "train.evaluate_every=500", "train.samples_every=1000"]
    # two runs are compared, and `auto` may compile one of so many steps and not the other when the machine is busy
    chosen = [*overrides("vagan-digits", 3000, tmp_path), *often, "train.compile=false"]
    whole = train("vagan-digits", chosen, runs=tmp_path / "whole").path
    runs = tmp_path / "killed"
    moments = random.Random(0)
    for kill in range(20):
        process = started_by_fork(chosen, runs)
        # The moment is counted from a step that the run must have reached, for what a second does differs by machine: it
        # falls into a step, a checkpoint or an evaluation, and each fourth before the first step.
        early = kill % 4 == 0
        while not early and process.is_alive() and steps_logged(runs) < kill * 125:
            process.join(0.05)
        process.join(moments.uniform(0.0, 0.5))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = started_by_fork(chosen, runs)
    process.join()
    assert process.exitcode == 0
    done = list_runs(runs)
    assert [info.status for info in done] == ["done"]
    assert_bit_equal(final(whole), final(done[0].path))


def started_by_fork(chosen: list[str], runs: Path) -> multiprocessing.process.BaseProcess:
    """The run, or what goes on with it once its folder is there, in a process that needn't import torch anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hybridgen.loop", "torchmetrics.image.fid", "scipy.stats", "torch._dynamo"])
    afresh = ["run", "vagan-digits", *chosen, "--runs", str(runs)]
    verb = afresh if latest_unfinished(runs) is None else ["resume", "--auto", "--runs", str(runs)]
    process = context.Process(target=main, args=([*verb, "--report", "quiet"],))
    process.start()
    return process


def steps_logged(runs: Path) -> int:
    """The step of the last row that any run in the folder wrote."""
    rows = [event for file in runs.glob("*/metrics.jsonl") for event in read_events(file) if event["event"] == "row"]
    return max((event["step"] for event in rows), default=0)


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    run = train("vae-digits", overrides("vae-digits", 4, tmp_path), runs=tmp_path).path
    newest = checkpoints(run / "checkpoints")[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "model.safetensors").write_bytes(bytes(content))
    found = latest(run / "checkpoints")
    assert found is not None
    assert found.name == "step-00000003"  # the best so far, by the evaluation at step 3
    with pytest.raises(RunError, match="is damaged"):
        load_checkpoint(newest)


def test_damaged_checkpoints_are_neither_kept_nor_passed_off_as_a_start(tmp_path: Path) -> None:
    chosen = [*overrides("ae-digits", 8, tmp_path), "train.keep=1", "train.evaluate_every=100"]
    run = train("ae-digits", chosen, runs=tmp_path).path
    (newest,) = checkpoints(run / "checkpoints")[-1:]
    for path in checkpoints(run / "checkpoints"):
        (path / "checkpoint.json").write_text("{}")
    with pytest.raises(RunError, match=r"every checkpoint in .* is damaged"):
        resume(run)
    assert read_events(run / "metrics.jsonl")[-1]["event"] == "end", "the record is as it was"
    assert newest.exists()


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    process = started(tmp_path)
    process.send_signal(number)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"{number.name} received" in errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    (info,) = list_runs(tmp_path)
    assert info.status == "interrupted"
    newest = latest(info.path / "checkpoints")
    assert newest is not None
    assert int(newest.name.removeprefix("step-")) == info.step
    assert (info.path / "report.txt").exists()
    assert out == ""


def started(folder: Path) -> subprocess.Popen[str]:
    """A run that has taken its first steps."""
    chosen = ["train.steps=100000", "train.checkpoint_every=100000", "train.evaluate_every=100000", *QUICK]
    chosen += ["train.compile=false"]  # a run of so many steps would begin with a trial of compiling
    arguments = ["run", "vae-digits", *chosen, "--runs", str(folder), "--report", "plain"]
    line = [sys.executable, "-m", "hybridgen", *arguments]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for text in process.stderr:
        if text.startswith("step=10/"):
            break
    return process


def test_a_second_interrupt_stops_at_once_and_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridgen import loop

    genuine = loop.train_step

    def step(state: Any, batches: Any, number: int) -> Any:
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return genuine(state, batches, number)

    chosen = [*overrides("vae-digits", 8, tmp_path), "train.log_every=3"]
    whole = train("vae-digits", chosen, runs=tmp_path / "whole").path
    with monkeypatch.context() as patched:
        patched.setattr("hybridgen.loop.train_step", step)
        with pytest.raises(Interrupted, match="stopped at once; what was saved before is intact"):
            train("vae-digits", chosen, runs=tmp_path / "parts")
    run = find_run("vae", tmp_path / "parts")
    assert [path.name for path in checkpoints(run / "checkpoints")][-1] == "step-00000004"
    resume(run)
    assert_bit_equal(final(whole), final(run))
    rows = [
        next(e["values"] for e in read_events(path / "metrics.jsonl") if e["event"] == "row" and e["step"] == 6)
        for path in (whole, run)
    ]  # the mean over steps 4, 5 and 6, the first of them from before the stop
    assert rows[0]["loss.reconstruction"] == rows[1]["loss.reconstruction"]


# -- not finite --------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_nan_stops_the_run_and_names_term_step_and_last_good_checkpoint(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path, VAE + '[loss.poison]\nuse = "poison"\nat = 5\n')
    with pytest.raises(DivergedError, match=r"loss\.poison became NaN or infinite in step 5; .*step-00000004") as caught:
        train(path, [*EVERY, "train.steps=50"], runs=tmp_path, registry=registry)
    assert (caught.value.step, caught.value.term) == (5, "loss.poison")
    run = find_run("mine", tmp_path)
    newest = latest(run / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000004"
    assert all(torch.isfinite(v).all() for v in load_checkpoint(newest).weights.values())
    assert list_runs(tmp_path)[0].status == "diverged"
    assert "loss.poison" in (run / "report.txt").read_text()


def test_skipping_goes_on_and_tells(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path, VAE + '[loss.poison]\nuse = "poison-once"\nat = 5\n')
    outcome = train(path, [*EVERY, "train.steps=8", "train.nonfinite=skip"], runs=tmp_path, registry=registry)
    assert outcome.step == 8
    told = [e for e in read_events(outcome.path / "metrics.jsonl") if e["event"] == "health" and e["code"] == "skipped"]
    assert [e["message"] for e in told] == ["loss.poison was not finite in step 5: that update was skipped"]


# -- folders, records, reporters -----------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_is_promised(tmp_path: Path) -> None:
    run = train("vagan-digits", [*overrides("vagan-digits", 6, tmp_path), "train.keep=1"], runs=tmp_path).path
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {"recipe.toml", "environment.json", "metrics.jsonl", "report.txt", "report.svg"} <= names
    assert {"source/0-vagan-digits.toml", "source/1-vae-digits.toml", "source/2-ae-digits.toml"} <= names
    assert {"samples/samples-00000004.png", "samples/reconstructions-00000006.png"} <= names
    kept = [path.name for path in checkpoints(run / "checkpoints")]
    best = (run / "checkpoints" / "best").read_text()
    assert set(kept) == {"step-00000006", best}
    assert not [name for name in names if ".tmp" in name]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["seed"] == 0
    assert {"name", "distribution", "version", "state"} == set(environment["plugins"][0])
    for file in (run / "checkpoints" / kept[-1]).glob("*.pt"):
        torch.load(file, weights_only=True)


def test_two_runs_started_at_once_do_not_collide(tmp_path: Path) -> None:
    line = command("run", "vae-digits", *overrides("vae-digits", 2, tmp_path), "--runs", str(tmp_path / "runs"))
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in both}
    assert len(paths) == 2
    assert [info.status for info in list_runs(tmp_path / "runs")] == ["done", "done"]


def test_a_run_that_is_worked_in_cannot_be_resumed(tmp_path: Path) -> None:
    process = started(tmp_path)
    (info,) = list_runs(tmp_path)
    assert info.status == "running"
    with pytest.raises(RunError, match="another process is working in"):
        resume(info.path)
    process.kill()
    process.communicate()
    assert list_runs(tmp_path)[0].status == "killed"


def test_a_finished_run_says_how_to_go_further(tmp_path: Path) -> None:
    run = train("vae-digits", overrides("vae-digits", 2, tmp_path), runs=tmp_path).path
    with pytest.raises(RunError, match=r"is done: 2 of 2 steps; to train longer, start a new run with"):
        resume(run)


def test_the_saved_recipe_runs_again_to_the_same_end(tmp_path: Path) -> None:
    first = train("vagan-digits", overrides("vagan-digits", 3, tmp_path), runs=tmp_path / "a").path
    again = train(first / "recipe.toml", runs=tmp_path / "b").path
    assert_bit_equal(final(first), final(again))


def test_what_fails_before_the_first_step_leaves_no_folder(tmp_path: Path, registry: Registry) -> None:
    for text, kind in ((VAE.replace('"kl"', '"kll"'), RecipeError), (VAGAN, DataError)):
        with pytest.raises(kind):
            train(write(tmp_path, text), ["data.batch_size=5000"], runs=tmp_path / "runs", registry=registry)
    assert not (tmp_path / "runs").exists()


def test_a_reporter_plugin_hears_every_event(tmp_path: Path, registry: Registry) -> None:
    Events.seen.clear()
    path = write(tmp_path, VAE + '[reporter.mine]\nuse = "events"\n')
    run = train(path, [*EVERY, "train.steps=2"], runs=tmp_path, registry=registry).path
    assert [e["event"] for e in Events.seen] == [e["event"] for e in read_events(run / "metrics.jsonl")]
    assert Events.seen[0]["event"] == "start"
    assert Events.seen[-1]["event"] == "end"


class Failing:
    """A metric and a reporter that raise."""

    unit = "none"
    higher_is_better = True

    def update(self, x: torch.Tensor) -> None: ...

    def reset(self) -> None: ...

    def compute(self) -> float:
        raise ZeroDivisionError("nothing to divide")

    def event(self, event: dict[str, Any]) -> None:
        raise ZeroDivisionError("nothing to hear")


def test_a_metric_or_reporter_that_fails_costs_no_training(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from hybridgen import hookimpl
    from hybridgen.registry import load_registry

    @hookimpl
    def register_components(register: Any) -> None:
        register.metric("failing", Failing)
        register.reporter("failing", Failing)

    registry = load_registry(extra={"mine": SimpleNamespace(register_components=register_components)})
    text = VAE + '[metric.m]\nuse = "failing"\n[reporter.r]\nuse = "failing"\n[metric.psnr]\nuse = "psnr"\n'
    outcome = train(write(tmp_path, text), [*EVERY, "train.steps=6"], runs=tmp_path, registry=registry)
    assert set(outcome.values) == {"psnr"}
    told = {e["code"]: e["message"] for e in read_events(outcome.path / "metrics.jsonl") if e["event"] == "health"}
    assert re.search(r"metric m failed .*ZeroDivisionError: nothing to divide \(test_loop\.py:\d+\)", told["metric.m"])
    assert "nothing to hear" in told["reporter"]


def test_training_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(11)
    expected = torch.rand(2)
    torch.manual_seed(11)
    train("vae-digits", overrides("vae-digits", 2, tmp_path), runs=tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_intervals_may_be_times(tmp_path: Path) -> None:
    chosen = [*overrides("vae-digits", 4, tmp_path), "train.log_every=0.0001s", "train.checkpoint_every=1000s"]
    run = train("vae-digits", chosen, runs=tmp_path).path
    assert len([e for e in read_events(run / "metrics.jsonl") if e["event"] == "row"]) == 4
    assert [path.name for path in checkpoints(run / "checkpoints")][-1] == "step-00000004"


def test_a_full_disk_stops_with_words_and_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridgen import checkpoint

    genuine = checkpoint.save_file

    def save(tensors: Any, path: Path) -> None:
        if "step-00000004" in str(path):
            raise OSError(28, "No space left on device")
        genuine(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save)
    with pytest.raises(RunError, match=r"no checkpoint can be written to .*: the disk is full .*earlier ones are intact"):
        train("ae-digits", overrides("ae-digits", 8, tmp_path), runs=tmp_path)
    (info,) = list_runs(tmp_path)
    assert info.status == "error"
    assert [path.name for path in (info.path / "checkpoints").iterdir() if path.is_dir()][-1].startswith("step-")
    found = latest(info.path / "checkpoints")
    assert found is not None
    assert load_checkpoint(found).step < 4


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="no run folder can be made below"):
        train("vae-digits", overrides("vae-digits", 2, tmp_path), runs=tmp_path / "file")


def test_nothing_reads_a_tensor_between_log_points(training: Callable[..., Any]) -> None:
    """On a GPU, `.item()` would wait for the device: here it is made to raise during a step."""
    from common import batch

    from hybridgen.step import train_step

    state = training(VAGAN)
    train_step(state, [batch()], 1)
    forbidden = ("item", "tolist", "__bool__", "__float__", "__int__", "numpy")
    originals = {name: getattr(torch.Tensor, name) for name in forbidden}

    def refuse(self: torch.Tensor, *_: Any, **__: Any) -> Any:
        raise AssertionError("the step read a tensor")

    try:
        for name in forbidden:
            setattr(torch.Tensor, name, refuse)
        train_step(state, [batch()], 2)
    finally:
        for name, original in originals.items():
            setattr(torch.Tensor, name, original)


def test_time_is_not_lost_by_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("hybridgen.loop.train_step", stopping(after=3))
        with pytest.raises(Interrupted):
            train("vae-digits", overrides("vae-digits", 4, tmp_path), runs=tmp_path)
    before = time.monotonic()
    run = resume(find_run("vae", tmp_path)).path
    events = read_events(run / "metrics.jsonl")
    seconds = {e["step"]: e["seconds"] for e in events if e["event"] == "row"}
    assert seconds[3] <= seconds[4] <= seconds[3] + time.monotonic() - before + 1
    assert [e.get("resumed_from") for e in events if e["event"] == "start"] == [None, 3]
