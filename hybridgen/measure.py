"""Measure a run after training: its own metrics and every other that its model allows, each number with its protocol."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridgen.data import SampleSpec, open_data
from hybridgen.errors import DataError, PluginError, RunError, UserError
from hybridgen.evaluation import Progress, prepare
from hybridgen.events import writable
from hybridgen.examples import source_of
from hybridgen.files import write_atomically
from hybridgen.notes import noting
from hybridgen.precision import choose, numerics, usable_device
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import Plugins, Registry, registry_with
from hybridgen.run_folder import RunFolder, find_run
from hybridgen.signature import REQUIRED, constructor
from hybridgen.use import restored, saved_checkpoint, saved_recipe

FREE = ("metric", "features", "evaluate", "data")
"""Tables that an evaluation may override; any other would make another model."""

FIXED = ("data.validation", "data.split_seed")
"""What must stay as it was in training: another split would call training examples held out."""


def evaluate(
    run: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    metrics: Sequence[str] = (),
    step: int | None = None,
    best: bool = False,
    device: str = "cpu",
    registry: Registry | None = None,
    plugins: Plugins = (),
    progress: Progress = lambda text, done, total: None,
) -> dict[str, Any]:
    """Every metric that the model of a run allows, on its averaged weights; the result is stored in the run's folder.

    overrides: of the tables metric, features, evaluate and data, e.g. `["evaluate.samples=10000"]`.
    metrics: only these, names of the recipe's metrics or of components. step, best: a checkpoint other than the newest.
    plugins: what `train` was given, and others that metrics of yours come from.
    Returns what `RUN/evaluations/*.json` holds: values, units, higher_is_better, refused and unavailable (metric -> why),
    remarks, protocol. Raises RunError, RecipeError and DataError.
    """
    registry = registry_with(plugins, registry)
    folder = find_run(run, trained=True)
    _only_measuring(overrides)
    # "kid.mean" is a value of the metric "kid"
    metrics = [name.partition(".")[0] for name in ([metrics] if isinstance(metrics, str) else metrics)]
    named = saved_recipe(folder, registry)
    extra = [name for name in metrics if name not in named.metrics] if metrics else _others(named, registry)
    recipe = _with_metrics(folder, overrides, extra, registry)
    if metrics:
        chosen = [name.rpartition(":")[2] for name in metrics]
        recipe = dataclasses.replace(recipe, metrics={name: recipe.metrics[name] for name in chosen})
    if best and RunFolder(folder).best() is None:
        raise UserError(f"{folder} has no best checkpoint: no metric named one; leave --best away, or write --step N")
    where = usable_device(device)
    at = RunFolder(folder).best() if best else None
    checkpoint = saved_checkpoint(folder, int(at.name.removeprefix("step-")) if at else step)
    model = restored(recipe, checkpoint, where)
    source = source_of(recipe)
    with noting(recipe):
        _same_kind(source.describe(), model.spec)
        splits = open_data(source, recipe.data)
    if not splits.get(recipe.evaluate.split):
        raise DataError(f"these data have no {recipe.evaluate.split} split; write evaluate.split=train")
    optional = () if metrics else [name.rpartition(":")[2] for name in extra]
    evaluation = prepare(model, frequencies=checkpoint.metadata.get("label_frequencies"), optional=optional)
    units, better = evaluation.units, evaluation.higher_is_better
    started = time.monotonic()
    choices = choose(dataclasses.replace(recipe.train, device=device, precision="fp32"), sum(model.counts().values()))
    with noting(recipe, model.parts), numerics(choices, deterministic=False):
        found = evaluation.run(model.parts, splits, checkpoint.step, device=where, progress=progress)
    record = {
        "event": "evaluation",
        "time": time.time(),
        "recipe": recipe.name,
        "step": checkpoint.step,
        "values": dict(found.values),
        "units": units,
        "higher_is_better": better,
        "refused": dict(found.refused),
        "unavailable": {name: why.partition("; here exist")[0] for name, why in evaluation.unavailable.items()},
        "remarks": {name: list(said) for name, said in found.remarks.items()},
        "protocol": dict(found.protocol),
        "seconds": time.monotonic() - started,
    }
    _store(folder, record)
    return record


def _with_metrics(
    folder: Path, overrides: Sequence[str] | Mapping[str, Any], extra: Sequence[str], registry: Registry
) -> Recipe:
    """The run's recipe with further metrics, each under its component's name."""
    added = {f"metric.{name.rpartition(':')[2]}.use": name for name in extra}
    given = dict(overrides) if isinstance(overrides, Mapping) else list(overrides)
    if isinstance(given, dict):
        return load_recipe(folder / "recipe.toml", {**added, **given}, registry=registry)
    return load_recipe(folder / "recipe.toml", [*(f"{k}={v}" for k, v in added.items()), *given], registry=registry)


def _others(recipe: Recipe, registry: Registry) -> list[str]:
    """Metrics that are installed, need no option, and are not in the recipe yet."""
    used = {m.component.qualified for m in recipe.metrics.values()} | set(recipe.metrics)
    found = []
    for component in registry.components("metric"):
        if component.qualified in used or component.name in used:
            continue
        try:
            options = constructor(component.load()).options.values()
        except PluginError:
            continue
        if not any(option.default is REQUIRED for option in options):
            found.append(component.qualified)
            used.add(component.name)
    return found


def _only_measuring(overrides: Sequence[str] | Mapping[str, Any]) -> None:
    for text in overrides:
        key = str(text).partition("=")[0].strip()
        if key in FIXED:
            raise UserError(
                f"{key} can't be overridden here: another split would hold out examples that the model was trained on"
            )
        if key.partition(".")[0] not in FREE:
            raise UserError(
                f"{key} can't be overridden here, for it belongs to how the model was made; an evaluation takes keys of "
                f"{', '.join(FREE)}, such as evaluate.samples=10000"
            )


def _same_kind(found: SampleSpec, trained: SampleSpec) -> None:
    if (found.kind, found.shape, found.classes) != (trained.kind, trained.shape, trained.classes):
        here, there = (f"{s.kind}s of {'x'.join(map(str, s.shape))} with {len(s.classes)} classes" for s in (found, trained))
        raise DataError(f"these data are {here}, the model was trained on {there}")
    for name in ("low", "high", "levels", "vocabulary", "padding"):
        if getattr(found, name) != getattr(trained, name):
            raise DataError(
                f"these data are stored otherwise than those that the model was trained on: {name} is {getattr(found, name)}, "
                f"it was {getattr(trained, name)}; store them alike, or say so with the data's own options"
            )


def _store(folder: Path, record: Mapping[str, Any]) -> None:
    try:
        (folder / "evaluations").mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder / 'evaluations'} can't be made: {error.strerror or error}") from error
    name = f"step-{record['step']:08d}-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1000:03d}.json"
    write_atomically(folder / "evaluations" / name, (json.dumps(writable(record), indent=2) + "\n").encode())
