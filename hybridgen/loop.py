"""The training loop: data in, steps, log points, checkpoints, pictures, evaluation; and how a run ends.

The step itself is in step.py. This module owns time: what happens after which step, what a signal does, what is written
when. Nothing here reads a tensor between two log points.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hybridgen import pictures, randomness
from hybridgen.checkpoint import checkpoints, forget_after, latest, load_checkpoint, prune, save_checkpoint
from hybridgen.environment import environment
from hybridgen.errors import DivergedError, HybridgenError, Interrupted, RunError, UnavailableError
from hybridgen.evaluation import direction_of
from hybridgen.graph import couples_batch
from hybridgen.health import EARLY, findings
from hybridgen.notes import noting
from hybridgen.precision import Choices
from hybridgen.protocol import differences, protocol_of, told_apart
from hybridgen.recipe import load_recipe, resolved_toml
from hybridgen.registry import Plugins, Registry, registry_with
from hybridgen.report import save_report
from hybridgen.run_folder import create_run, find_run, open_run
from hybridgen.session import Prepared, Session, restore
from hybridgen.step import train_step
from hybridgen.timing import Clock, Every, Meter
from hybridgen.use import GenerativeModel, changed_files, saved_recipe

EARLY_ROWS = (1, 10, 100)
"""Steps that have a row whatever `log_every` says, so that a person sees at once that something happens."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, the last step, and the last evaluation's values."""

    path: Path
    step: int
    values: Mapping[str, float]


def train(
    recipe: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    runs: str | Path = "runs",
    report: str = "quiet",
    registry: Registry | None = None,
    plugins: Plugins = (),
) -> Outcome:
    """Train a recipe (a built-in name or a path) into a new folder below `runs`.

    overrides: `["train.steps=500"]` or `{"train.steps": 500}`.
    report: "auto", "tty", "plain", "jsonl" or "quiet".
    plugins: beside those that are installed, `hybridgen.components(loss={"mine": Mine})`, a plugin's file, or several.
    Raises RecipeError with every problem, DataError, DivergedError (a non-finite value) and Interrupted (a signal; the
    state is saved first).
    """
    registry = registry_with(plugins, registry)
    loaded = load_recipe(recipe, overrides, registry=registry)
    with noting(loaded):
        prepared = Prepared(loaded)
    with prepared.numerics():
        folder = create_run(
            Path(runs),
            loaded.name,
            recipe_toml=resolved_toml(loaded),
            sources=loaded.sources,
            plugins=[plugin.file for plugin in registry.plugins if plugin.file is not None],
            environment=environment(registry=registry, seed=loaded.train.seed, device=prepared.choices.device),
        )
        with folder.released_on_failure():
            session = prepared.session(folder, report)
        return _run(session)


def resume(run: str | Path, *, report: str = "quiet", registry: Registry | None = None, plugins: Plugins = ()) -> Outcome:
    """Go on with a run from its newest checkpoint, bit for bit as if it had never stopped.

    plugins: what `train` was given. A file that has changed since is told, and used as it is now.
    Raises RunError when there is no such run or it is done, and what `train` raises.
    """
    registry = registry_with(plugins, registry)
    folder = open_run(find_run(run))
    with folder.released_on_failure():
        loaded = saved_recipe(folder.path, registry)
        found = latest(folder.checkpoints)
        saved = load_checkpoint(found, device=torch.device("cpu"), training=True) if found else None
        if saved is None and checkpoints(folder.checkpoints):
            raise RunError(f"every checkpoint in {folder.checkpoints} is damaged; remove them to start this run from step 0")
        if saved is not None and saved.step >= loaded.train.steps:
            raise RunError(
                f"{folder.path} is done: {saved.step} of {loaded.train.steps} steps; to train longer, start a new run with "
                f"`hybridgen run {folder.path / 'recipe.toml'} train.steps=...`"
            )
        with noting(loaded):
            prepared = Prepared(loaded, Choices(**saved.metadata["choices"]) if saved else None)
        prepared.notes += tuple(changed_files(folder.path, registry))
        session = prepared.session(folder, report, saved.step if saved else 0)
        if saved is not None:
            forget_after(folder.checkpoints, saved.step)
            restore(session, saved)
    with prepared.numerics():
        return _run(session, resumed=True)


# -- the run -----------------------------------------------------------------------------------------------------------


def _run(session: Session, *, resumed: bool = False) -> Outcome:
    """The loop, and an end that is told whatever happens: event, summary, report files."""
    status, message, step = "done", "", session.start_step
    clock = Clock(session.seconds)
    try:
        with torch.random.fork_rng(), _signals() as asked:
            session.emit("start", **_header(session, resumed))
            with noting(session.recipe, session.model.parts, session.state.averaged):
                for step in _steps(session, clock, asked):  # noqa: B007  (the last one is told below)
                    pass
            if asked and step < session.recipe.train.steps:
                status, message = "interrupted", f"{asked[0]} received; the state after step {step} is saved"
    except DivergedError as error:
        status, message, step = "diverged", str(error), error.step
        raise
    except KeyboardInterrupt:
        status, message = "interrupted", "stopped at once; what was saved before is intact"
        raise Interrupted(message) from None
    except HybridgenError as error:
        status, message = "error", str(error)
        raise
    except BaseException as error:
        status, message = "error", f"{type(error).__name__}: {error}"
        raise
    finally:
        # a disk that is full must not hide why the run stopped
        with contextlib.suppress(*([RunError] if status in ("error", "diverged") else [])):
            _close(session, status=status, step=step, seconds=clock.seconds, message=message)
    if status == "interrupted":
        raise Interrupted(f"{message}; go on with `hybridgen resume {session.folder.path}`")
    return Outcome(session.folder.path, step, session.evaluations[-1]["values"] if session.evaluations else {})


def _close(session: Session, **end: Any) -> None:
    """Tell the end, let listeners draw the last report, save it, and let go of the folder."""
    where = str(session.checkpoint.relative_to(session.folder.path)) if session.checkpoint else ""
    try:
        session.emit("end", **end, checkpoint=where)
    finally:
        session.log.close()
        for listener in session.listeners:
            close = getattr(listener, "close", None)
            if close is not None:
                close()
        session.folder.release()
    save_report(session.folder.path)


def _steps(session: Session, clock: Clock, asked: list[str]) -> Iterator[int]:
    """Steps one after the other, each followed by what is due after it."""
    train, data = session.recipe.train, session.data
    log, save = Every(train.log_every), Every(train.checkpoint_every)
    evaluate, draw = Every(train.evaluate_every), Every(train.samples_every)
    meter = Meter(session.recipe.data.batch_size * train.critic_steps)
    for step in range(session.start_step + 1, train.steps + 1):
        meter.begin()
        batches = data.of_step(step, train.critic_steps)
        meter.fetched()
        session.record.add(train_step(session.state, batches, step))
        meter.stepped()
        _fallen_back(session, step)
        for listener in session.listeners:
            progress = getattr(listener, "progress", None)
            if progress is not None:
                progress(step)
        stop = bool(asked)  # read once: a signal that comes later than this stops the next step
        final = step == train.steps or stop
        due = log.due(step) or step in EARLY_ROWS or step == train.steps
        if due or stop:
            _log(session, step, clock, meter, keep=not due)
        improved = False
        if session.evaluation.measures and (evaluate.due(step) or step == train.steps):
            improved = _evaluate(session, step)
        if draw.due(step) or step in EARLY_ROWS[:1] or final:
            _draw(session, step)
        if save.due(step) or final or improved:
            _save(session, step, clock, improved)
        yield step
        if stop:
            return


def _log(session: Session, step: int, clock: Clock, meter: Meter, *, keep: bool = False) -> None:
    """One row: the only place where the loop waits for the device. Raises DivergedError for a latched value.

    keep: a row that only an interruption makes, which leaves the sums for the row that is due later.
    """
    recipe, state = session.recipe, session.state
    values = session.record.mean(keep=keep)
    fault = state.fault()
    meter.synchronised()
    steps = recipe.train.steps
    for loss in recipe.losses.values():
        values[f"weight.{loss.name}"] = loss.weight.at(step, steps)
        if any(term.name == loss.name and term.side == "discriminator" for term in session.model.terms):
            values[f"weight.{loss.name}.discriminator"] = loss.discriminator_weight.at(step, steps)
    for player in (p for p, parameters in state.parameters.items() if parameters):
        values[f"lr.{player}"] = recipe.optim[player].lr.at(step, steps)
        values[f"total.{player}"] = _total(session, player, values)
    values |= meter.read()
    if session.choices.compile:
        values["graphs"] = float(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    session.rows.append(session.emit("row", step=step, values=values, seconds=clock.seconds))
    if fault is not None:
        _not_finite(session, *fault)
    _diagnose(session, step)


def _fallen_back(session: Session, step: int) -> None:
    """What torch could not compile, once each: it runs eagerly, and the run goes on."""
    for what, why in session.state.fallbacks.items():
        code = f"compile.{what}"
        if code not in session.uncompiled:
            session.uncompiled.add(code)
            message = f"{what} can't be compiled and runs eagerly, the rest is compiled: {why}"
            session.emit("health", step=step, code=code, message=message)


def _total(session: Session, player: str, values: Mapping[str, float]) -> float:
    """The weighted sum of a player's terms, as far as they took part since the last row."""
    total = 0.0
    for term in session.model.terms:
        if term.side == player and f"loss.{term.label}" in values:
            factor = values.get(f"state.loss.{term.label}.balance", 1.0)
            total += values[f"loss.{term.label}"] * values.get(f"weight.{term.label}", 0.0) * factor
    return total


def _not_finite(session: Session, step: int, culprit: str) -> None:
    """Stop (the default), or say that updates were skipped and unlatch."""
    saved = session.checkpoint
    last = f"the last good checkpoint is {saved}" if saved else "no checkpoint was saved before"
    if session.recipe.train.nonfinite == "stop":
        message = (
            f"{culprit} became NaN or infinite in step {step}; {last}. Lower the learning rate, clip gradients "
            f"(`optim.clip_norm=1.0`) or bound what the term takes the logarithm or exponential of"
        )
        if session.choices.precision == "fp16":
            message += "; float16 ends at 65,504: `train.precision=bf16` has float32's range"
        session.emit("health", step=step, code="non-finite", message=message)
        raise DivergedError(message, step=step, term=culprit)
    message = f"{culprit} was not finite in step {step}: that update was skipped"
    session.emit("health", step=step, code="skipped", message=message)
    session.state.unlatch()


def _diagnose(session: Session, step: int) -> None:
    """Health in words; a finding is told when it appears, not again while it lasts."""
    found = findings(session.rows, session.evaluations, session.recipe.train.steps, session.diversity)
    for finding in found:
        if finding.code not in session.told:
            session.emit("health", step=step, code=finding.code, message=finding.message)
    cleared = session.told - {finding.code for finding in found}
    for code in sorted(cleared):
        session.emit("health", step=step, code=code, message="")
    session.told = {finding.code for finding in found}


def _evaluate(session: Session, step: int) -> bool:
    """Every metric on the recipe's split; whether the one that names the best checkpoint improved."""
    if not session.splits.get(session.recipe.evaluate.split):
        return False
    started = time.monotonic()
    failed = set(session.evaluation.failed)
    units, better = session.evaluation.units, session.evaluation.higher_is_better
    try:
        found = session.evaluation.run(
            session.state.refresh_averaged(), session.splits, step, device=session.state.device, progress=session.busy
        )
    finally:
        session.busy("")
    event = session.emit(
        "evaluation",
        step=step,
        values=found.values,
        units=units,
        higher_is_better=better,
        refused=found.refused,
        remarks=found.remarks,
        protocol=found.protocol,
        seconds=time.monotonic() - started,
    )
    session.evaluations.append(event)
    for metric in sorted(set(session.evaluation.failed) - failed):
        why = f"metric {metric} failed and is left out from now on: {session.evaluation.failed[metric]}"
        session.emit("health", step=step, code=f"metric.{metric}", message=why)
    return _is_best(session, event)


def _is_best(session: Session, event: Mapping[str, Any]) -> bool:
    """Whether an evaluation is the best so far; values of another protocol (features trained anew) are not compared."""
    name, step = session.best_by, event["step"]
    value = event["values"].get(name, math.nan)
    direction = direction_of(event["higher_is_better"], name)
    if direction is None or not math.isfinite(value):
        return False
    protocol = protocol_of(event, name.partition(".")[0])
    apart = differences(protocol, session.best_protocol) if session.best is not None else {}
    if apart:
        why = f"the best {name} so far was measured under another protocol ({told_apart(apart)}); the best is chosen anew"
        session.emit("health", step=step, code="protocol", message=why)
        session.best = None
    improved = session.best is None or (value > session.best if direction else value < session.best)
    if improved:
        session.best, session.best_protocol = value, protocol
        session.emit("best", step=step, metric=name, value=value)
    return improved


def _save(session: Session, step: int, clock: Clock, best: bool) -> None:
    """A checkpoint, unless a non-finite value is latched: then the next row stops the run at the last good one."""
    state = session.state
    if session.recipe.train.nonfinite == "stop" and state.fault() is not None:
        return  # the next row stops the run; with "skip" no update took the value in
    started = time.monotonic()
    averaged = {
        f"{path}/{k}": v
        for path, module in state.averaged.items()
        if session.model.owner[path] == "generator"
        for k, v in module.state_dict().items()
    }
    path = save_checkpoint(
        session.folder.checkpoints,
        step,
        weights=session.model.state_dict(),
        ema=averaged if state.average is not None else None,
        training={"state": state.state_dict(), "record": session.record.state_dict()},
        metadata={
            "recipe": session.recipe.name,
            "spec": session.model.spec.to_dict(),
            "label_frequencies": session.frequencies,
            "choices": asdict(session.choices),
            "seconds": clock.seconds,
            "best": session.best,
            "best_protocol": session.best_protocol,
            "is_best": best,
        },
    )
    session.checkpoint = path
    if best:
        session.folder.mark_best(path)
    prune(session.folder.checkpoints, session.recipe.train.keep, protect=session.folder.best())
    took = time.monotonic() - started
    session.emit("checkpoint", step=step, path=str(path.relative_to(session.folder.path)), best=best, seconds=took)


def _draw(session: Session, step: int) -> None:
    """Pictures of samples and of reconstructions, on latents and examples that stay the same throughout the run."""
    model = GenerativeModel(session.model, session.state.refresh_averaged(), session.frequencies)
    count = session.recipe.report.samples
    for kind, path, cells in pictures.draw(model, session.validation, session.folder.samples, step, count):
        where = str(path.relative_to(session.folder.path))
        session.emit("samples", step=step, path=where, kind=kind, **({"cells": cells} if cells else {}))
    late = step > EARLY * session.recipe.train.steps
    session.diversity = _diversity(session, model) if session.recipe.critics and late else None


def _diversity(session: Session, model: GenerativeModel) -> float | None:
    """How far samples spread against real data: the ratio of their root mean variances. None without samples."""
    if session.validation is None:
        return None
    count = min(len(session.validation), 256)
    try:
        made = model.sample(count, seed=0)
    except UnavailableError:
        return None
    chosen = torch.randperm(len(session.validation), generator=randomness.generator(torch.device("cpu"), 0, "diversity"))
    spec = session.model.spec
    real = spec.to_model(session.validation.x[chosen[:count]])
    if spec.kind == "tokens":  # a distribution over tokens varies less than tokens do
        made = spec.to_model(spec.to_stored(made))
    spread = [float(x.float().flatten(1).var(0).mean().sqrt()) for x in (made, real)]
    return spread[0] / max(spread[1], 1e-12)


def _header(session: Session, resumed: bool) -> dict[str, Any]:
    """What the report's head shows; with it `metrics.jsonl` alone can draw the report again."""
    recipe, model = session.recipe, session.model
    parts = {p.path: p for p in (recipe.encoder, recipe.decoder, recipe.latent) if p is not None}
    parts |= {critic.path: critic for critic in recipe.critics.values()}
    plan = session.state.planner.plan(model.terms)
    notes = [*session.choices.notes, *session.notes]
    notes += [f"metric {name} is unavailable: {why}" for name, why in session.evaluation.unavailable.items()]
    if recipe.train.accumulate > 1:
        coupled = ", ".join(path for path, module in model.parts.items() if couples_batch(module))
        if coupled:
            notes.append(f"layers that couple samples ({coupled}) see micro-batches, so accumulation is not one whole batch")
    if not session.splits.get(session.recipe.evaluate.split):
        notes.append(f"no {session.recipe.evaluate.split} split: nothing is evaluated")
    elif session.best_by:
        chosen = "" if recipe.evaluate.best else ", the default for this family"
        notes.append(f"best checkpoint by {session.best_by}{chosen}")
    header: dict[str, Any] = {
        "recipe": recipe.name,
        "description": recipe.description,
        "run": str(session.folder.path),
        "steps": recipe.train.steps,
        "batch_size": recipe.data.batch_size,
        "seed": recipe.train.seed,
        "device": session.choices.device,
        "precision": session.choices.precision,
        "compile": session.choices.compile,
        "parameters": model.counts(),
        "parts": {path: f"{p.component.name} ({p.component.plugin})" for path, p in parts.items()},
        "passes": ", ".join(f"{part} {count}" for part, count in plan.traversals().items()),
        "data": {
            "use": recipe.data.component.name,
            "count": session.data.count,
            "shape": list(model.spec.shape),
            "classes": list(model.spec.classes),
        },
        "terms": [
            {"name": t.label, "side": t.side, "trains": list(t.trains), "first": t.first(recipe.train.steps)}
            for t in model.terms
        ],
        "notes": notes,
    }
    if resumed:
        header["resumed_from"] = session.start_step
    return header


@contextlib.contextmanager
def _signals() -> Iterator[list[str]]:
    """The first SIGINT or SIGTERM is noted (the step is finished, then saved); a second Ctrl-C stops at once."""
    asked: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: Any) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
