"""Metrics: on the averaged weights, in eval mode and float32, with noise of their own; each number with its protocol.

A metric asks for quantities by name as a loss does: `update` once for each batch of held-out examples, `generated` once for
each batch of generated samples, of which there may be more or fewer. What does not exist in a recipe makes a metric
unavailable, with the reason, rather than wrong; so does a value that is not finite, and time that runs out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import randomness
from hybridgen.data import Arrays, batches_in_order
from hybridgen.errors import Problem, RecipeError, Unmeasurable, UserError
from hybridgen.files import sha256
from hybridgen.graph import Call, Env, Graph, nodes
from hybridgen.model import Model, construct, shared_facts, told
from hybridgen.names import FEATURE_QUANTITIES
from hybridgen.notes import told_place
from hybridgen.protocol import stated
from hybridgen.quantities import Missing, Scope
from hybridgen.recipe import Metric, Part
from hybridgen.signature import asks

MOST_SAMPLES = 10_000
"""Generated samples where the recipe names no number: as many as examples, but no more than this."""

REAL = frozenset({"x", "tokens", "mask", "factors"})
"""Leaves that only real examples have, so that nothing of generated samples may ask for them."""

SCHEME = 1
"""Part of every protocol: raised when the same protocol would give other numbers, so that old ones don't compare with new."""

BLOCK = 256
"""Samples whose noise is drawn at once."""

Arguments = tuple[tuple[str, str], ...]
Progress = Callable[[str, int, int], None]


@dataclass
class Measure:
    """One metric of a recipe: the object, and what its methods receive.

    update: once for each generated batch of its discriminator that it asks for; generated: the other method, where it has it.
    features: the network through which it sees, where it asks for one.
    """

    spec: Metric
    metric: Any
    update: tuple[Arguments, ...] = ()
    generated: Arguments | None = None
    features: str = ""

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Evaluated:
    """What one evaluation found.

    values: name -> value, or "name.entry" where a metric gives several.
    refused: metric -> why it has no value this time; remarks: metric -> what to know of the one it has.
    protocol: under what they were measured; hybridgen.protocol says what compares.
    """

    values: Mapping[str, float]
    refused: Mapping[str, str]
    remarks: Mapping[str, tuple[str, ...]]
    protocol: Mapping[str, Any]


@dataclass
class Evaluation:
    """The metrics of a recipe that exist for its model, ready to run; `unavailable` says why the others don't.

    networks: feature networks by name, made ready (weights read, or trained) before their first use.
    failed: metrics that raised, with what they said; they are left out from then on.
    """

    model: Model
    measures: list[Measure] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    networks: dict[str, nn.Module] = field(default_factory=dict)
    frequencies: Sequence[float] | None = None
    _ready: set[str] = field(default_factory=set)
    _digest: dict[str, str] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, Any]:
        return {m.name: getattr(m.metric, "unit", "") for m in self.measures}

    @property
    def higher_is_better(self) -> dict[str, Any]:
        return {m.name: getattr(m.metric, "higher_is_better", None) for m in self.measures}

    @torch.no_grad()
    def run(
        self,
        parts: Mapping[str, nn.Module],
        splits: Mapping[str, Arrays],
        step: int,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = lambda text, done, total: None,
    ) -> Evaluated:
        """Every metric once, over the recipe's split of `splits` and over generated samples.

        parts: the modules to measure, in eval mode. progress: told what is done, and how far it is.
        """
        device = torch.device(device)
        options = self.model.recipe.evaluate
        arrays = splits[options.split]
        refused: dict[str, str] = {}
        self._prepare_networks(splits, device, progress, refused)
        until = time.monotonic() + options.limit if options.limit is not None else None
        modules = {**parts, **{f"features.{name}": network for name, network in self.networks.items()}}
        for measure in self.measures:
            with self._told(measure, refused):
                measure.metric.reset()
        count = options.samples or min(len(arrays), MOST_SAMPLES)
        run = partial(self._pass, modules=modules, device=device, step=step, until=until, refused=refused, progress=progress)
        size = self.model.recipe.data.batch_size
        if held_out := [m for m in self.measures if m.update]:
            batches = batches_in_order(arrays, self.model.spec, size, device)
            run("held-out examples", {m.name: m.update for m in held_out}, batches, len(arrays))
        if made := [m for m in self.measures if m.generated is not None]:
            blanks = (self._labels(min(size, count - start), start, device) for start in range(0, count, size))
            run("generated samples", {m.name: (m.generated or (),) for m in made}, blanks, count)
        values: dict[str, float] = {}
        remarks: dict[str, tuple[str, ...]] = {}
        for index, measure in enumerate(self.measures):
            if measure.name not in refused and until is not None and time.monotonic() > until:
                refused[measure.name] = f"the evaluation stopped after {options.limit:g} s, before this was computed"
            if measure.name not in refused:
                progress(f"computing {measure.name}", index, len(self.measures))
                with self._told(measure, refused):
                    values |= _numbers(measure.name, measure.metric.compute())
                    if said := tuple(getattr(measure.metric, "remarks", ())):
                        remarks[measure.name] = said
        protocol = self._protocol(arrays, count)
        self.measures = [measure for measure in self.measures if measure.name not in self.failed]
        return Evaluated(values, refused, remarks, protocol)

    def _pass(
        self,
        what: str,
        wanted: Mapping[str, tuple[Arguments, ...]],
        batches: Iterable[Env],
        total: int,
        *,
        modules: Mapping[str, nn.Module],
        device: torch.device,
        step: int,
        until: float | None,
        refused: dict[str, str],
        progress: Progress,
    ) -> None:
        """One walk over held-out examples or over generated samples, for every metric that wants it."""
        graph = Graph(self.model.wiring.definitions)
        measures = [m for m in self.measures if m.name in wanted and m.name not in refused]
        targets = sorted({key for m in measures for one in wanted[m.name] for _, key in one})
        calls, leaves = nodes(graph, targets, modules), graph.leaves_of(targets)
        done, bad = 0, dict.fromkeys(targets, 0)
        for batch in batches:
            size = len(next(iter(batch.values()))) if batch else 0
            if until is not None and time.monotonic() > until:
                why = (
                    f"the evaluation stopped after {self.model.recipe.evaluate.limit:g} s, with {done:,} of {total:,} {what} "
                    "seen; raise evaluate.limit, or lower evaluate.samples"
                )
                refused.update({m.name: why for m in measures if m.name not in refused})
                return
            progress(what, done, total)
            env = evaluation_leaves(self.model, batch, leaves, step, f"evaluate {what}", done, size, device)
            self._compute(calls, env, measures, wanted, refused)
            for key in targets:
                bad[key] += _not_finite(env.get(key))
            for measure in measures:
                if measure.name in refused or any(bad[key] for one in wanted[measure.name] for _, key in one):
                    continue
                method = measure.metric.update if what == "held-out examples" else measure.metric.generated
                with self._told(measure, refused):
                    for arguments in wanted[measure.name]:
                        method(**{name: env[key] for name, key in arguments})
            done += size
        for measure in measures:
            broken = {key: bad[key] for one in wanted[measure.name] for _, key in one if bad[key]}
            if broken and measure.name not in refused:
                listed = ", ".join(f"`{key}` ({count:,} of {done:,})" for key, count in broken.items())
                refused[measure.name] = f"it would see values that are NaN or infinite: {listed}"

    def _compute(
        self,
        calls: Sequence[Call],
        env: Env,
        measures: Sequence[Measure],
        wanted: Mapping[str, tuple[Arguments, ...]],
        refused: dict[str, str],
    ) -> None:
        """Every quantity of a batch. One that fails takes the metrics that need it along, and no other."""
        lost: set[str] = set()
        for call in calls:
            if lost & {key for d in call.definitions for key in d.inputs}:
                lost |= {d.key for d in call.definitions}
                continue
            try:
                call.run(env)
            except Exception as error:
                keys = {d.key for d in call.definitions}
                lost |= keys
                graph = Graph(self.model.wiring.definitions)
                for measure in measures:
                    needed = graph.order({key for one in wanted[measure.name] for _, key in one})
                    if keys & {definition.key for definition in needed}:
                        self._fail(measure, refused, error)

    def _labels(self, size: int, start: int, device: torch.device) -> Env:
        """The classes of generated samples, drawn as often as the data have them; only the count without classes."""
        classes = len(self.model.spec.classes)
        if not classes:
            return {"": torch.empty(size, 0)}
        weights = torch.tensor(self.frequencies or [1.0] * classes)
        seed = self.model.recipe.evaluate.seed

        def block(number: int) -> Tensor:
            generator = randomness.generator(torch.device("cpu"), seed, "evaluate label", number)
            return torch.multinomial(weights, BLOCK, replacement=True, generator=generator)

        label = _of_blocks(block, start, size).to(device)
        return {"label": label, "fake_label": label}

    def _prepare_networks(
        self, splits: Mapping[str, Arrays], device: torch.device, progress: Progress, refused: dict[str, str]
    ) -> None:
        """Make feature networks ready: read or train their weights, once, then freeze them in eval mode."""
        for name in sorted({m.features for m in self.measures if m.features} - self._ready):
            network = self.networks[name]
            try:
                network.to(device)
                prepare_network = getattr(network, "prepare", None)
                if prepare_network is not None:
                    progress(f"preparing features '{name}'", 0, 0)
                    with torch.enable_grad():
                        prepare_network(
                            splits["train"],
                            splits.get("validation"),
                            self.model.spec,
                            self.model.recipe.data.component.name,
                            lambda text: progress(text, 0, 0),
                        )
                network.to(device).eval().requires_grad_(False)
                self._ready.add(name)
            except Exception as error:
                for measure in self.measures:
                    if measure.features == name:
                        self._fail(measure, refused, error)
        self.measures = [measure for measure in self.measures if measure.name not in self.failed]

    def _protocol(self, arrays: Arrays, count: int) -> dict[str, Any]:
        recipe, spec = self.model.recipe, self.model.spec
        split = recipe.evaluate.split
        if split not in self._digest:
            self._digest[split] = _digest(arrays)
        metrics = {}
        for m in self.measures:
            options = {key: _plain(value) for key, value in m.spec.options.items()}
            metrics[m.name] = {
                "use": m.spec.component.qualified,
                **({"options": options} if options else {}),
                **({"inputs": dict(m.spec.inputs)} if m.spec.inputs else {}),
                **({"generated": count} if m.generated is not None else {}),
                **({"features": m.features} if m.features else {}),
            }
        seen = {m.features for m in self.measures if m.features}
        return {
            "scheme": SCHEME,
            "split": split,
            "held_out": len(arrays),
            "seed": recipe.evaluate.seed,
            "data": {"use": recipe.data.component.name, "shape": list(spec.shape), "digest": self._digest[split]},
            "features": {name: self._described(name) for name in sorted(seen)},
            "metrics": metrics,
        }

    def _described(self, name: str) -> dict[str, Any]:
        describe = getattr(self.networks[name], "describe", dict)
        part = self.model.recipe.features.get(name) or self.model.recipe.default_features
        assert part is not None
        described = dict(describe())  # what `auto` chose says so itself, as if it had been written
        return {"use": described.pop("name", part.component.name), **described}

    @contextmanager
    def _told(self, measure: Measure, refused: dict[str, str]) -> Iterator[None]:
        """A metric that has no number says why; one that raises costs the run its number, not the training."""
        try:
            yield
        except Unmeasurable as reason:
            refused.setdefault(measure.name, str(reason))
        except Exception as error:
            self._fail(measure, refused, error)

    def _fail(self, measure: Measure, refused: dict[str, str], error: Exception) -> None:
        if isinstance(error, UserError):
            why = str(error)
        else:
            networks = {f"features.{name}": network for name, network in self.networks.items()}
            why = told(error) + told_place(error, self.model.recipe, self.model.parts, networks)
        self.failed.setdefault(measure.name, why)
        refused.setdefault(measure.name, why)


def prepare(model: Model, *, frequencies: Sequence[float] | None = None, optional: Collection[str] = ()) -> Evaluation:
    """Construct a recipe's metrics and resolve what they ask for.

    frequencies: how often each class was seen in training, for the labels of generated samples.
    optional: metrics that nobody named: what their constructor refuses makes them unavailable, where a recipe's is an error.
    """
    evaluation = Evaluation(model, frequencies=frequencies)
    for spec in model.recipe.metrics.values():
        try:
            evaluation.measures.append(_measure(evaluation, spec))
        except Missing as missing:
            if missing.ambiguous and spec.name not in optional:
                what = f"metric '{spec.component.name}'"
                raise RecipeError([model.wiring.problem(spec.path, what, missing)]) from None
            evaluation.unavailable[spec.name] = str(missing)
        except RecipeError as error:
            if spec.name not in optional:
                raise
            evaluation.unavailable[spec.name] = error.problems[0].what
        except Exception as error:  # a fault of the metric's own: say whose, and measure the others
            what = f"metric '{spec.component.name}' can't be asked: {told(error)}"
            if spec.name not in optional:
                problem = Problem(what, model.recipe.where(spec.path), spec.path, plugin=spec.component.plugin)
                raise RecipeError([problem]) from error
            evaluation.unavailable[spec.name] = what
    _check_best(evaluation)
    return evaluation


def _measure(evaluation: Evaluation, spec: Metric) -> Measure:
    """One metric with what its methods receive. Raises Missing where that does not exist, RecipeError for its constructor."""
    model, recipe, wiring = evaluation.model, evaluation.model.recipe, evaluation.model.wiring
    facts = shared_facts(model) | {"seed": recipe.evaluate.seed}
    metric = construct(spec.component, spec.options, facts, path=spec.path, where=recipe.where(spec.path))
    critic = spec.discriminator or wiring.critic_of(spec.path)
    scope = Scope(spec.path, spec.inputs, critic)
    measure = Measure(spec, metric)
    methods = [method for name in ("update", "generated") if (method := getattr(metric, name, None)) is not None]
    wanted = {scope.inputs.get(ask.name, ask.name) for method in methods for ask in asks(method) if ask.required}
    if wanted & FEATURE_QUANTITIES:
        measure.features = _features(evaluation, spec, wanted)
        scope = dataclasses.replace(scope, features=measure.features)
    if hasattr(metric, "update"):
        count = wiring.times(metric.update, spec.inputs, critic)
        measure.update = tuple(wiring.arguments(metric.update, dataclasses.replace(scope, fake=i)) for i in range(count))
    if hasattr(metric, "generated"):
        measure.generated = wiring.arguments(metric.generated, scope)
        real = Graph(wiring.definitions).leaves_of([key for _, key in measure.generated]) & REAL
        if real:
            names = ", ".join(f"`{name}`" for name in sorted(real))
            raise Missing(f"what it asks of generated samples needs {names}, which only real examples have")
    return measure


def _features(evaluation: Evaluation, spec: Metric, wanted: set[str]) -> str:
    """The name of the feature network that a metric sees through, constructed on first demand."""
    model, recipe = evaluation.model, evaluation.model.recipe
    known = recipe.features
    if not known and recipe.default_features is None:
        raise Missing("it sees through features, of which none is installed")
    if not spec.features and len(known) > 1:
        listed = ", ".join(f'"{name}"' for name in known)
        raise Missing(f"there are several features; write `features = ` one of {listed}", ambiguous=True)
    part: Part = known[spec.features or next(iter(known))] if known else recipe.default_features  # type: ignore[assignment]
    name = part.name
    if name not in evaluation.networks:
        try:
            facts = {k: v for k, v in shared_facts(model).items() if k in ("sample_shape", "num_classes", "output_activation")}
            evaluation.networks[name] = construct(
                part.component, part.options, facts, path=part.path, where=recipe.where(part.path)
            )
        except RecipeError as error:
            if known:
                raise
            raise Missing(error.problems[0].what) from None
    classes = getattr(evaluation.networks[name], "classes", 0)
    if not classes and any(name.endswith("_probabilities") for name in wanted):
        raise Missing(f"it asks for class probabilities, which the features '{part.component.name}' don't give")
    return name


DEFAULT_BEST = {
    "adversarial": ("fid", "kid.mean", "elbo", "reconstruction-error"),
    "likelihood": ("elbo", "reconstruction-error", "fid"),
    "plain": ("reconstruction-error", "fid"),
}
"""What names the best checkpoint where the recipe doesn't: what each family is for, in order of preference."""


def best_by(evaluation: Evaluation) -> str:
    """The metric that names the best checkpoint: the recipe's, or the first that exists of those that suit its family."""
    recipe = evaluation.model.recipe
    named = recipe.evaluate.best
    if named and named.partition(".")[0] not in evaluation.unavailable:
        return named
    kinds = {loss.component.name for loss in recipe.losses.values()}
    priced = kinds & {"kl", "iwae", "tc-decomposition", "free-bits", "capacity", "factor", "dip"}
    family = "adversarial" if recipe.critics else "likelihood" if priced else "plain"
    used = {m.spec.component.name: m.name for m in evaluation.measures}
    for choice in DEFAULT_BEST[family]:
        name, dot, entry = choice.partition(".")
        if name in used:
            return f"{used[name]}{dot}{entry}"
    return ""


def direction_of(better: Mapping[str, Any], metric: str) -> bool | None:
    """Whether higher is better for "fid" or "kid.mean"; None where neither is."""
    found = stated(better, metric)
    return None if found is None else bool(found)


def _check_best(evaluation: Evaluation) -> None:
    """A metric that names the best checkpoint must say which direction is better."""
    recipe = evaluation.model.recipe
    best = recipe.evaluate.best or ""
    name, _, entry = best.partition(".")
    if not best or not any(measure.name == name for measure in evaluation.measures):
        return
    direction = evaluation.higher_is_better[name]
    what, hint = "", "name another, or remove it"
    if isinstance(direction, Mapping) and entry not in direction:
        what = f"metric '{name}' has {'no value `' + entry + '`' if entry else 'several values'}"
        hint = f"write best = one of {', '.join(f'{name}.{one}' for one in direction)}"
    elif direction_of(evaluation.higher_is_better, best) is None:
        what = f"metric '{best}' does not say whether higher is better, so it can't name the best checkpoint"
    if what:
        raise RecipeError([Problem(what, recipe.where("evaluate.best"), "evaluate.best", hint)])


def evaluation_leaves(
    model: Model,
    batch: Mapping[str, Tensor],
    leaves: Iterable[str],
    step: int,
    purpose: str,
    start: int,
    size: int,
    device: torch.device,
) -> Env:
    """Data and noise of one evaluation batch, whose first sample is number `start`.

    The noise of a sample is the same at every evaluation and however the samples are batched, so that values compare.
    """
    env: Env = {name: value for name, value in batch.items() if name}
    if "label" in env:
        env.setdefault("fake_label", env["label"])
    env["step"] = torch.tensor(float(step), device=device)
    env["progress"] = torch.tensor(step / model.recipe.train.steps, device=device)
    for key in leaves:
        if key in model.noise:
            noise = model.noise[key]
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal

            def block(number: int, draw: Any = draw, noise: Any = noise, key: str = key) -> Tensor:
                return draw((BLOCK, *noise.shape), device, model.recipe.evaluate.seed, purpose, number, key)

            env[key] = _of_blocks(block, start, size)
    return env


def _of_blocks(block: Callable[[int], Tensor], start: int, size: int) -> Tensor:
    """Samples `start` to `start + size` of a stream that is drawn in blocks of BLOCK."""
    first = start // BLOCK
    whole = torch.cat([block(number) for number in range(first, (start + size - 1) // BLOCK + 1)])
    return whole[start - first * BLOCK :][:size]


def _not_finite(value: Any) -> int:
    """How many samples of a quantity hold a NaN or infinite value."""
    if isinstance(value, Tensor) and value.is_floating_point():
        finite = torch.isfinite(value)
        return int((~(finite.flatten(1).all(1) if value.ndim > 1 else finite)).sum())
    if isinstance(value, (list, tuple, dict)):
        return max(map(_not_finite, value.values() if isinstance(value, dict) else value), default=0)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return max((_not_finite(getattr(value, f.name)) for f in dataclasses.fields(value)), default=0)
    return 0


def _digest(arrays: Arrays) -> str:
    """Which examples these are: the beginning of a SHA-256 over their values and labels."""
    found = hashlib.sha256()
    for tensor in (arrays.tensor(), arrays.label):
        if tensor is not None:
            found.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    return _file(value, value.stat().st_mtime_ns) if isinstance(value, Path) and value.is_file() else value


@lru_cache(maxsize=64)
def _file(path: Path, changed: int) -> str:
    """A file that a metric reads, by name and content: where it lies makes no difference to the number."""
    return f"{path.name} {sha256(path)[:16]}"


def _numbers(name: str, value: Any) -> dict[str, float]:
    """What a metric computed, flat. Raises Unmeasurable for a NaN."""
    entries = {f"{name}.{entry}": v for entry, v in value.items()} if isinstance(value, Mapping) else {name: value}
    found = {}
    for key, v in entries.items():
        try:
            found[key] = float(v)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"`compute` gave {type(v).__name__} for {key}, expected one number ({error})") from error
    if wrong := [key for key, v in found.items() if math.isnan(v)]:
        raise Unmeasurable(f"{', '.join(wrong)} came out as NaN")
    return found
