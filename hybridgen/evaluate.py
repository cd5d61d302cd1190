"""Metrics over a held-out split: on the averaged weights, in eval mode, with noise of their own.

A metric asks for quantities by name as a loss does. What does not exist in a recipe makes a metric unavailable, with
the reason, rather than wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import randomness
from hybridgen.graph import Env, Graph, nodes
from hybridgen.model import Model, construct, shared_facts
from hybridgen.quantities import Missing, Scope


@dataclass
class Measure:
    """One metric of a recipe: the object, and what its `update` receives, once for each generated batch it asks for."""

    name: str
    metric: Any
    arguments: tuple[tuple[tuple[str, str], ...], ...]


@dataclass
class Evaluation:
    """The metrics of a recipe that exist for its model, ready to run; `unavailable` says why the others don't."""

    model: Model
    measures: list[Measure] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)

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
                for arguments in measure.arguments:
                    measure.metric.update(**{name: env[key] for name, key in arguments})
        return {name: value for m in self.measures for name, value in _flat(m.name, m.metric.compute()).items()}


def prepare(model: Model) -> Evaluation:
    """Construct a recipe's metrics and resolve what they ask for."""
    evaluation = Evaluation(model)
    recipe, wiring = model.recipe, model.wiring
    for name, spec in recipe.metrics.items():
        metric = construct(spec.component, spec.options, shared_facts(model), path=spec.path, where=recipe.where(spec.path))
        critic = next(iter(recipe.critics)) if len(recipe.critics) == 1 else ""
        critic = getattr(spec, "discriminator", None) or critic
        count = 1
        if critic and wiring.per_fake(metric.update, spec.inputs):
            count = len(recipe.critics[critic].fake)
        try:
            arguments = tuple(
                wiring.arguments(metric.update, Scope(spec.path, spec.inputs, critic, fake)) for fake in range(count)
            )
        except Missing as missing:
            evaluation.unavailable[name] = str(missing)
            continue
        evaluation.measures.append(Measure(name, metric, arguments))
    return evaluation


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
