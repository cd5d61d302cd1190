"""Metrics over a held-out split: on the averaged weights, in eval mode, with noise of their own.

A metric asks for quantities by name as a loss does. What does not exist in a recipe makes a metric unavailable, with
the reason, rather than wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import randomness
from hybridgen.errors import Problem, RecipeError
from hybridgen.graph import Env, Graph, nodes
from hybridgen.model import Model, construct, shared_facts, told
from hybridgen.quantities import Missing, Scope


@dataclass
class Measure:
    """One metric of a recipe: the object, and what its `update` receives, once for each generated batch it asks for."""

    name: str
    metric: Any
    arguments: tuple[tuple[tuple[str, str], ...], ...]


@dataclass
class Evaluation:
    """The metrics of a recipe that exist for its model, ready to run; `unavailable` says why the others don't.

    failed: metrics that raised, with what they said; they are left out from then on.
    """

    model: Model
    measures: list[Measure] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, Any]:
        return {m.name: getattr(m.metric, "unit", "") for m in self.measures}

    @property
    def higher_is_better(self) -> dict[str, Any]:
        return {m.name: getattr(m.metric, "higher_is_better", None) for m in self.measures}

    @torch.no_grad()
    def run(self, parts: Mapping[str, nn.Module], batches: Iterable[Mapping[str, Tensor]], step: int) -> dict[str, float]:
        """Every metric over `batches`: name -> value, or "name.entry" where a metric gives several."""
        model = self.model
        graph = Graph(model.wiring.definitions)
        targets = sorted({key for m in self.measures for one in m.arguments for _, key in one})
        calls = nodes(graph, targets, parts)
        leaves = graph.leaves_of(targets)
        for measure in self.measures:
            measure.metric.reset()
        for index, batch in enumerate(batches):
            env = evaluation_leaves(model, batch, leaves, step, index)
            for call in calls:
                call.run(env)
            for measure in self.measures:
                with self._told(measure):
                    for arguments in measure.arguments:
                        measure.metric.update(**{name: env[key] for name, key in arguments})
        values: dict[str, float] = {}
        for measure in self.measures:
            with self._told(measure):
                values |= _flat(measure.name, measure.metric.compute())
        self.measures = [measure for measure in self.measures if measure.name not in self.failed]
        return values

    @contextmanager
    def _told(self, measure: Measure) -> Iterator[None]:
        """A metric that raises costs the run its number, not the training."""
        try:
            yield
        except Exception as error:
            self.failed.setdefault(measure.name, told(error))


def prepare(model: Model) -> Evaluation:
    """Construct a recipe's metrics and resolve what they ask for."""
    evaluation = Evaluation(model)
    recipe, wiring = model.recipe, model.wiring
    for name, spec in recipe.metrics.items():
        metric = construct(spec.component, spec.options, shared_facts(model), path=spec.path, where=recipe.where(spec.path))
        critic = next(iter(recipe.critics)) if len(recipe.critics) == 1 else ""
        critic = getattr(spec, "discriminator", None) or critic
        count = wiring.times(metric.update, spec.inputs, critic)
        try:
            arguments = tuple(
                wiring.arguments(metric.update, Scope(spec.path, spec.inputs, critic, fake)) for fake in range(count)
            )
        except Missing as missing:
            if missing.ambiguous:
                raise RecipeError([wiring.problem(spec.path, f"metric '{spec.component.name}'", missing)]) from None
            evaluation.unavailable[name] = str(missing)
            continue
        evaluation.measures.append(Measure(name, metric, arguments))
    _check_best(evaluation)
    return evaluation


def _check_best(evaluation: Evaluation) -> None:
    """A metric that names the best checkpoint must say which direction is better."""
    recipe = evaluation.model.recipe
    name, _, entry = (recipe.best or "").partition(".")
    for measure in evaluation.measures:
        direction = getattr(measure.metric, "higher_is_better", None)
        direction = direction.get(entry) if isinstance(direction, Mapping) else direction
        if measure.name == name and direction is None:
            what = f"metric '{recipe.best}' does not say whether higher is better, so it can't name the best checkpoint"
            raise RecipeError([Problem(what, recipe.where("evaluate.best"), "evaluate.best", "name another, or remove it")])


def evaluation_leaves(model: Model, batch: Mapping[str, Tensor], leaves: Iterable[str], step: int, index: int) -> Env:
    """Data and noise of one evaluation batch; the noise is the same at every evaluation, so that values compare."""
    device = batch["x"].device
    size = batch["x"].shape[0]
    env: Env = dict(batch)
    if "label" in env:
        env["fake_label"] = env["label"]
    env["step"] = torch.tensor(float(step), device=device)
    env["progress"] = torch.tensor(step / model.recipe.train.steps, device=device)
    for key in leaves:
        if key in model.noise:
            noise = model.noise[key]
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal
            env[key] = draw((size, *noise.shape), device, model.recipe.train.seed, "evaluate", index, key)
    return env


def _flat(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {f"{name}.{entry}": float(v) for entry, v in value.items()}
    return {name: float(value)}
