"""The objects of one run, put together before its folder exists, so that what can fail fails without a trace."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hybridgen import convolution
from hybridgen.data import Arrays, Batches, SampleSpec, open_data
from hybridgen.evaluation import Evaluation, best_by, prepare
from hybridgen.events import EventLog, read_events, truncate_after
from hybridgen.examples import source_of
from hybridgen.model import Model, build, construct, load_parts, told
from hybridgen.notes import noting, told_place
from hybridgen.precision import Choices, choose, has_convolutions, numerics
from hybridgen.recipe import Recipe
from hybridgen.record import Record
from hybridgen.report import make_reporter
from hybridgen.run_folder import RunFolder
from hybridgen.step import Training
from hybridgen.trial import choose_compile, choose_layout


@dataclass
class Session:
    """The objects of one run, put together by `Prepared.session`."""

    recipe: Recipe
    folder: RunFolder
    choices: Choices
    model: Model
    state: Training
    data: Batches
    validation: Arrays | None
    splits: Mapping[str, Arrays]
    evaluation: Evaluation
    best_by: str
    frequencies: list[float] | None
    listeners: list[Any]
    log: EventLog
    record: Record
    start_step: int = 0
    seconds: float = 0.0  # training time before this process
    best: float | None = None
    best_protocol: Mapping[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    diversity: float | None = None
    told: set[str] = field(default_factory=set)
    uncompiled: set[str] = field(default_factory=set)
    checkpoint: Path | None = None

    def emit(self, event: str, **fields: Any) -> dict[str, Any]:
        """One event to metrics.jsonl and to every listener."""
        entry = {"event": event, "time": time.time(), **fields}
        self.log.append(entry)
        for listener in list(self.listeners):
            try:
                listener.event(entry)
            except Exception as error:
                if listener is self.listeners[0]:
                    raise
                self.listeners.remove(listener)  # a reporter that fails costs the run its report, not the training
                why = told(error) + told_place(error, self.recipe)
                message = f"reporter {type(listener).__name__} failed and hears no more: {why}"
                self.emit("health", step=entry.get("step", 0), code="reporter", message=message)
        return entry

    def busy(self, text: str, done: int = 0, total: int = 0) -> None:
        """What is being done between two steps, for listeners that show it; "" when it is over. Not part of the record."""
        for listener in self.listeners:
            tell = getattr(listener, "busy", None)
            if tell is not None:
                tell(text, done, total)


def laid_out(model: Model, choices: Choices) -> Model:
    """The model on its device and in its layout, its large convolutions told to choose (convolution.py)."""
    device = torch.device(choices.device)
    for module in model.parts.values():
        module.to(device).to(memory_format=choices.memory_format)  # type: ignore[call-overload]
    if device.type == "cpu" and choices.autocast is None:
        convolution.install(model.parts.values())
    return model


class Prepared:
    """Data and model of a recipe: everything that can fail before a run folder exists."""

    def __init__(self, recipe: Recipe, choices: Choices | None = None) -> None:
        self.recipe = recipe
        source = source_of(recipe)
        self.spec: SampleSpec = source.describe()
        self.model = build(recipe, self.spec)
        size = sum(self.model.counts().values())
        self.choices = choices or choose(recipe.train, size, self.model.parts.values())
        device = torch.device(self.choices.device)
        splits = open_data(source, recipe.data)
        self.notes = tuple(getattr(source, "notes", ()))  # what loading left out
        self.data = Batches(
            splits["train"],
            self.spec,
            recipe.data.batch_size,
            recipe.train.seed,
            device,
            flip=recipe.data.flip,
            channels_last=self.choices.channels_last,
        )
        laid_out(self.model, self.choices)
        if choices is None and recipe.train.layout == "auto" and has_convolutions(self.model.parts.values()):
            with noting(recipe, self.model.parts), self.numerics():
                self.model, self.choices = choose_layout(
                    self.model, lambda other: laid_out(build(recipe, self.spec), other), self.choices, self.data
                )
        held_out = splits.get("validation")
        self.validation = held_out if held_out is not None and len(held_out.x) else None
        labels = splits["train"].label
        classes = len(self.spec.classes)
        self.frequencies = (
            (torch.bincount(labels, minlength=classes) / len(labels)).tolist() if classes and labels is not None else None
        )
        if choices is None and recipe.train.compile == "auto":
            with noting(recipe, self.model.parts), self.numerics():
                self.choices = choose_compile(self.model, self.choices, self.data)
        self.state = Training(self.model, self.choices)
        self.splits = splits
        self.evaluation = prepare(self.model, frequencies=self.frequencies)

    def numerics(self) -> contextlib.AbstractContextManager[None]:
        """Threads and determinism as the run asks for them."""
        return numerics(self.choices, self.recipe.train.deterministic)

    def session(self, folder: RunFolder, report: str, resumed_from: int | None = None) -> Session:
        recipe = self.recipe
        listeners = [make_reporter(report, folder=folder.path)]
        for spec in recipe.reporters.values():
            made = construct(
                spec.component,
                spec.options,
                {"steps": recipe.train.steps},
                path=spec.path,
                where=recipe.where(spec.path),
            )
            listeners.append(made)
        if resumed_from is not None:
            truncate_after(folder.metrics, resumed_from)
        past = read_events(folder.metrics) if folder.metrics.exists() else []
        return Session(
            recipe,
            folder,
            self.choices,
            self.model,
            self.state,
            self.data,
            self.validation,
            self.splits,
            self.evaluation,
            best_by(self.evaluation),
            self.frequencies,
            listeners,
            EventLog(folder.metrics),
            Record(),
            start_step=resumed_from or 0,
            notes=self.notes,
            rows=[event for event in past if event["event"] == "row"],
            evaluations=[event for event in past if event["event"] == "evaluation"],
        )


def restore(session: Session, saved: Any) -> None:
    session.model.load_state_dict(saved.weights)
    load_parts(session.state.averaged, saved.weights | (saved.ema or {}))
    session.state.load_state_dict(saved.training["state"])
    session.record.load_state_dict(saved.training["record"])
    session.seconds = saved.metadata["seconds"]
    session.best = saved.metadata["best"]
    session.best_protocol = saved.metadata.get("best_protocol", {})
