"""From a recipe to a model: parts by name, and the graph of what they compute for each other.

The model is built twice. First on the meta device, where a dry run of the whole step finds what does not fit (names,
shapes, a loss with nothing to train) before any data is read; then for real, each part initialised from a random stream
of its own, so that adding a part does not change how another one starts.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen import randomness
from hybridgen.data import SampleSpec
from hybridgen.errors import Problem, RecipeError
from hybridgen.graph import SCALARS, Env, Graph, nodes
from hybridgen.notes import place_of, shown
from hybridgen.phases import Hold, Planner
from hybridgen.quantities import Missing, Noise, Scope, Wiring
from hybridgen.recipe import Part, Recipe
from hybridgen.registry import Component
from hybridgen.routing import Term, define_terms, players, trainable
from hybridgen.signature import constructor


@dataclass
class Model:
    """The parts of a recipe and how they depend on each other.

    parts: path ("encoder", "discriminator.main", "loss.reconstruction", ...) -> module, in the recipe's order.
    owner: path -> the player that it belongs to.
    noise: leaf -> what the trainer draws for it.
    """

    recipe: Recipe
    spec: SampleSpec
    parts: dict[str, nn.Module]
    owner: dict[str, str]
    graph: Graph
    terms: tuple[Term, ...]
    noise: dict[str, Noise]
    wiring: Wiring
    state_updates: dict[str, tuple[tuple[str, str], ...]]
    holds: dict[str, Hold]

    def planner(self, autocast: torch.dtype | None = None) -> Planner:
        simultaneous = self.recipe.train.updates == "simultaneous"
        return Planner(
            self.graph,
            self.parts,
            self.owner,
            self.recipe.critics,
            simultaneous=simultaneous,
            autocast=autocast,
            state_updates=self.state_updates,
            holds=self.holds,
            decisions=self.decisions(),
        )

    def decisions(self) -> dict[str, float | None]:
        """Discriminator -> the logit above which it takes a sample for real, as the losses that play with it say.

        A loss says so in its attribute `decision`: None where only differences of logits count, and where two losses differ.
        """
        losses = {name: self.parts[f"loss.{name}"] for name in self.recipe.losses}
        games = {name: module for name, module in losses.items() if hasattr(module, "decision")}
        found: dict[str, set[float | None]] = {}
        for name, module in games.items():
            found.setdefault(self.wiring.loss_critic(name), set()).add(module.decision)  # type: ignore[arg-type]
        return {critic: one.pop() if len(one) == 1 else None for critic, one in found.items()}

    def parameters(self, player: str) -> list[nn.Parameter]:
        """The trainable parameters of one player, in the recipe's order."""
        paths = [path for path in self.parts if self.owner[path] == player]
        return [p for path in paths for p in self.parts[path].parameters() if p.requires_grad]

    def counts(self) -> dict[str, int]:
        """Part -> number of parameters, for parts that have any."""
        sizes = {path: sum(p.numel() for p in module.parameters()) for path, module in self.parts.items()}
        return {path: size for path, size in sizes.items() if size}

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter and buffer under `part/name`."""
        return {f"{path}/{k}": v for path, module in self.parts.items() for k, v in module.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        load_parts(self.parts, state)


def load_parts(parts: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Load what `Model.state_dict` gave. Raises RecipeError-free RuntimeError from torch when names don't match."""
    for path, module in parts.items():
        prefix = f"{path}/"
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if own or next(module.parameters(), None) is not None:
            module.load_state_dict(own)


def build(recipe: Recipe, spec: SampleSpec, *, checked: Model | None = None) -> Model:
    """The model of a recipe, on the CPU. Raises RecipeError with every problem that the dry run finds.

    checked: what `check` returned for these, where that is at hand: the dry run is then not repeated.
    """
    judged = _judged_shapes(checked or check(recipe, spec))
    return _assemble(recipe, spec, torch.device("cpu"), judged)


def check(recipe: Recipe, spec: SampleSpec) -> Model:
    """Build on the meta device and run every phase once; returns that model, which holds shapes and no memory.

    Raises RecipeError with all that is wrong: no data is read.
    """
    model = _assemble(recipe, spec, torch.device("meta"), None)
    _dry_run(model)
    return model


# -- parts -----------------------------------------------------------------------------------------------------------


def _assemble(recipe: Recipe, spec: SampleSpec, device: torch.device, judged: Mapping[str, tuple[int, ...]] | None) -> Model:
    """Construct parts in the order in which they state facts for each other: latent, networks, critics, losses."""
    make = partial(_construct, recipe, device=device)
    facts = _facts(recipe, spec)
    parts: dict[str, Any] = {}
    if recipe.latent is not None:
        parts["latent"] = make(recipe.latent, facts)
        facts |= _latent_facts(recipe, parts["latent"])
    for part in (recipe.encoder, recipe.decoder, *recipe.quantities.values()):
        if part is not None:
            parts[part.path] = make(part, facts)
    problems: list[Problem] = []
    shapes: dict[str, tuple[int, ...]] = {}
    wiring = Wiring(recipe, spec, parts)
    for name, critic in recipe.critics.items():
        try:
            if critic.augment is not None:  # it is given the shape that it finds, and the critic the one it leaves
                found = judged[critic.augment.path] if judged else _judged_shape(wiring, parts, name)
                parts[critic.augment.path] = make(critic.augment, facts | {"judged_shape": found})
            shape = judged[critic.path] if judged else _judged_shape(wiring, parts, name)
        except Missing as missing:
            problems.append(wiring.problem(critic.path, f"discriminator '{name}'", missing))
            continue
        parts[critic.path] = make(critic, facts | {"judged_shape": shape})
        shapes[critic.path] = shape
    if problems:
        raise RecipeError(problems)
    for loss in recipe.losses.values():
        critic_name = wiring.loss_critic(loss.name)
        own = {"judged_shape": shapes[f"discriminator.{critic_name}"]} if critic_name else {}
        parts[loss.path] = make(loss, facts | own)
    return _wire(recipe, spec, parts)


def _wire(recipe: Recipe, spec: SampleSpec, parts: dict[str, Any]) -> Model:
    wiring = Wiring(recipe, spec, parts)
    modules = {path: part for path, part in parts.items() if isinstance(part, nn.Module)}
    owner = players(recipe, modules)
    terms, problems = define_terms(recipe, wiring, modules, owner)
    updates = {}
    for path, module in modules.items():
        if callable(getattr(module, "update", None)):
            scope = Scope(path, recipe.inputs_of(path), wiring.critic_of(path))
            try:
                updates[path] = wiring.joint_arguments(module.update, scope)  # type: ignore[arg-type]
            except Missing as missing:
                problems.append(wiring.problem(path, f"[{path}]'s update", missing))
        problems += _unreported(recipe, path, module)
    holds, unheld = _holds(recipe, wiring, modules)
    problems += unheld
    if problems:
        raise RecipeError(problems)
    graph = Graph(wiring.definitions)
    return Model(recipe, spec, modules, owner, graph, tuple(terms), wiring.noise, wiring, updates, holds)


def _holds(recipe: Recipe, wiring: Wiring, modules: Mapping[str, nn.Module]) -> tuple[dict[str, Hold], list[Problem]]:
    """Part -> what leaves its update out: a provider of the recipe, on all generated batches at once; or a quantity."""
    found: dict[str, Hold] = {}
    problems = []
    for part in (recipe.latent, recipe.encoder, recipe.decoder, *recipe.critics.values()):
        if part is None or part.hold is None:
            continue
        critic, path = wiring.critic_of(part.path), f"quantity.{part.hold}"
        if not trainable(modules[part.path]) and not hasattr(modules[part.path], "update"):
            what = f"[{part.path}] has nothing that learns, so there is no update to hold back"
            problems.append(Problem(what, recipe.where(f"{part.path}.hold"), f"{part.path}.hold", "remove it"))
            continue
        try:
            if part.hold in recipe.quantities:
                function = wiring.parts[path]
                asking = function.forward if isinstance(function, nn.Module) else function
                scope = Scope(path, recipe.quantities[part.hold].inputs, critic)
                found[part.path] = Hold(function, wiring.joint_arguments(asking, scope))
            else:
                wiring.key(part.hold, Scope(part.path, critic=critic))  # a name that is none is told as it was written
                scope = Scope(part.path, {"value": part.hold}, critic)
                found[part.path] = Hold(_itself, wiring.joint_arguments(_itself, scope))
        except Missing as missing:
            path = f"{part.path}.hold"
            what = f"[{part.path}] is held by `{part.hold}`: {missing}"
            hint = f'a provider makes a signal: write [quantity.{part.hold}] and use = "critic-ahead" below it, or another'
            problems.append(Problem(what, recipe.where(path), path, hint))
    return found, problems


def _itself(value: Tensor) -> Tensor:
    return value


def _unreported(recipe: Recipe, path: str, module: nn.Module) -> list[Problem]:
    """Names in a part's `reports` that are no scalar buffers."""
    buffers = dict(module.named_buffers())
    named = getattr(module, "reports", ())
    wrong = [f"`{name}`, which is no scalar buffer" for name in named if name not in buffers or buffers[name].ndim]
    wrong += [f"`{name}`, which is hybridgen's own word there" for name in named if name in ("balance", "held")]
    return [Problem(f"`reports` names {what}", recipe.where(path), path) for what in wrong]


def _facts(recipe: Recipe, spec: SampleSpec) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "sample_shape": spec.shape,
        "output_activation": spec.activation,
        "steps": recipe.train.steps,
        "batch_size": recipe.data.batch_size,
        "examples": spec.count - (0 if spec.split else round(spec.count * recipe.data.validation)),
    }
    if spec.levels is not None:
        facts["levels"] = spec.levels
    if spec.classes:
        facts["num_classes"] = len(spec.classes)
    return facts


def shared_facts(model: Model) -> dict[str, Any]:
    """The facts that any component of this model may ask for (a discriminator's own shape aside)."""
    facts = _facts(model.recipe, model.spec)
    return facts | (_latent_facts(model.recipe, model.parts["latent"]) if "latent" in model.parts else {})


def _latent_facts(recipe: Recipe, latent: Any) -> dict[str, Any]:
    missing = [name for name in ("code_shape", "z_shape") if not isinstance(getattr(latent, name, None), tuple)]
    if missing:
        raise RecipeError(
            [
                Problem(
                    f"the latent states no {' and no '.join(missing)}; a latent has the attributes code_shape and z_shape",
                    recipe.where("latent"),
                    "latent",
                    plugin=recipe.latent.component.plugin if recipe.latent else "",
                )
            ]
        )
    size = 1
    for side in latent.z_shape:
        size *= side
    return {"code_shape": latent.code_shape, "z_shape": latent.z_shape, "latent_dim": size}


def _construct(recipe: Recipe, part: Part, facts: Mapping[str, Any], *, device: torch.device) -> Any:
    """One component with its facts and options; what its constructor refuses becomes a Problem at its table."""
    return construct(
        part.component,
        part.options,
        facts,
        path=part.path,
        where=recipe.where(part.path),
        seed=recipe.train.seed,
        device=device,
    )


def construct(
    component: Component,
    options: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    path: str,
    where: str,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Any:
    """A component with the facts that it asks for and its options; a function keeps its options for later.

    Raises RecipeError when a fact does not exist here or the constructor refuses (ValueError).
    """
    loaded = component.load()
    if not isinstance(loaded, type):
        return partial(loaded, **options)
    wanted = constructor(loaded).facts
    missing = [fact.name for fact in wanted if fact.required and fact.name not in facts]
    if missing:
        reasons = {
            "num_classes": "the data has no labels",
            "levels": "the data are continuous",
            "seed": "it exists for metrics",
            "code_shape": "there is no [latent]",
            "z_shape": "there is no [latent]",
            "latent_dim": "there is no [latent]",
            "judged_shape": "there is no discriminator that it belongs to",
        }
        why = "; ".join(f"`{name}`: {reasons.get(name, 'it does not exist here')}" for name in missing)
        what = f"{component.kind} '{component.name}' needs the fact {why}"
        raise RecipeError([Problem(what, where, path, plugin=component.plugin)])
    given = {fact.name: facts[fact.name] for fact in wanted if fact.name in facts}
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(randomness.stream_seed(seed, "init", path))
            return loaded(**given, **options)
    except ValueError as error:
        raise RecipeError([Problem(str(error), where, path, plugin=component.plugin)]) from error
    except Exception as error:  # a fault of the component's own: say where, for whoever writes it
        what = f"{component.kind} '{component.name}' can't be constructed: {told(error)}"
        what += f"; it comes from {component.origin}" if component.origin else ""
        told_given = ", ".join(f"{name}: {shown(value)}" for name, value in {**given, **options}.items())
        what += f"; it was given {told_given}" if told_given else ""
        raise RecipeError([Problem(what, where, path, plugin=component.plugin)]) from error


# -- the dry run -----------------------------------------------------------------------------------------------------

META_BATCH = 2


def meta_leaves(spec: SampleSpec, noise: Mapping[str, Noise], keys: Iterable[str]) -> Env:
    """Stand-ins without memory for what the trainer feeds: data, labels, noise, step."""
    made: Env = {}
    for key in keys:
        if key == "x":
            made[key] = torch.empty(META_BATCH, *spec.shape, device="meta")
        elif key in ("label", "fake_label"):
            made[key] = torch.empty(META_BATCH, dtype=torch.long, device="meta")
        elif key == "factors":
            made[key] = torch.empty(META_BATCH, len(spec.factors), dtype=torch.long, device="meta")
        elif key in ("tokens", "mask"):
            kind = torch.long if key == "tokens" else torch.bool
            made[key] = torch.empty(META_BATCH, spec.shape[0], dtype=kind, device="meta")
        elif key in SCALARS:
            made[key] = torch.empty((), device="meta")
        else:
            made[key] = torch.empty(META_BATCH, *noise[key].shape, device="meta")
    return made


def _judged_shape(wiring: Wiring, parts: Mapping[str, Any], name: str) -> tuple[int, ...]:
    critic = wiring.recipe.critics[name]
    judged = wiring.judged(critic, "real")
    key = judged.get("x") or next(iter(judged.values()))
    graph = Graph(wiring.definitions)
    env = meta_leaves(wiring.spec, wiring.noise, graph.leaves_of([key]))
    modules = {path: part for path, part in parts.items() if isinstance(part, nn.Module)}
    for call in nodes(graph, [key], modules):
        with _explained(wiring.recipe, call.part or key, modules):
            call.run(env)
    return tuple(env[key].shape[1:])


def _judged_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """What each discriminator sees, and each augmentation before it, by path."""
    found = {}
    for name, critic in model.recipe.critics.items():
        found[critic.path] = _judged_shape(model.wiring, model.wiring.parts, name)
        if critic.augment is not None:
            bare = {path: part for path, part in model.wiring.parts.items() if path != critic.augment.path}
            found[critic.augment.path] = _judged_shape(Wiring(model.recipe, model.spec, bare), bare, name)
    return found


def _dry_run(model: Model) -> None:
    """Run every term's phase on meta tensors; shapes that don't fit are named where they arise."""
    plan = model.planner().plan(model.terms)
    problems: list[Problem] = []
    env: Env = {}
    for phase in plan.phases:
        env |= meta_leaves(model.spec, model.noise, [key for key in phase.reads if key not in env])
        for call in phase.calls:
            try:
                with _explained(model.recipe, call.part or call.definitions[0].key, model.parts):
                    call.run(env)
            except RecipeError as error:
                raise RecipeError([*problems, *error.problems]) from error
            problems += [p for d in call.definitions if (p := _misshapen(model, d.key, d.part, env[d.key]))]
            if problems:  # what follows would only repeat it in other words
                raise RecipeError(problems)
    problems += [p for term in model.terms if (p := _not_scalar(model, term, env))]
    for path, arguments in plan.state_updates.items():
        with _explained(model.recipe, path, model.parts), torch.no_grad():
            model.parts[path].update(**{name: env[key] for name, key in arguments})  # type: ignore[operator]
    problems += [p for path, hold in plan.holds.items() if (p := _not_a_signal(model, path, hold, env))]
    if problems:
        raise RecipeError(problems)


def _not_a_signal(model: Model, path: str, hold: Hold, env: Env) -> Problem | None:
    """What is wrong with the quantity that holds a part back, if anything."""
    where = f"{path}.hold"
    with _explained(model.recipe, where, model.parts):
        value = hold.function(**{name: env[key] for name, key in hold.arguments})
    if isinstance(value, Tensor) and value.ndim == 0:
        return None
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    return Problem(f"what holds [{path}] back is {got}; expected a scalar tensor", model.recipe.where(where), where)


def _misshapen(model: Model, key: str, part: str, value: Any) -> Problem | None:
    latent = model.parts.get("latent")
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "recon_raw": (model.spec.shape, "the data's shape"),
        "fake_raw": (model.spec.shape, "the data's shape"),
    }
    if latent is not None:
        code, z = tuple(latent.code_shape), tuple(latent.z_shape)  # type: ignore[arg-type]
        expected["code"] = (code, "what the latent asks for (code_shape)")
        expected |= dict.fromkeys(("z", "z_prior"), (z, "the latent's z_shape"))
    if key not in expected or not isinstance(value, Tensor):
        return None
    shape, meaning = expected[key]
    if tuple(value.shape[1:]) == shape:
        return None
    path = part or "latent"
    return Problem(
        f"`{key}` has the shape {('b', *value.shape[1:])}, expected {('b', *shape)}: {meaning}".replace("'b'", "b"),
        model.recipe.where(path),
        path,
    )


def _not_scalar(model: Model, term: Term, env: Env) -> Problem | None:
    value = env.get(term.key)
    if isinstance(value, Tensor) and value.ndim == 0:
        return None
    got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    path = f"loss.{term.name}"
    return Problem(
        f"loss '{term.label}' returned {got}; expected a scalar tensor (the mean over the batch)",
        model.recipe.where(path),
        path,
    )


@contextmanager
def _explained(recipe: Recipe, path: str, parts: Mapping[str, nn.Module]) -> Any:
    """Turn what a part raises in the dry run into a Problem at the part's table, which says whose code it was."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:
        what, plugin = f"it fails in the dry run of a step: {told(error)}", ""
        place = place_of(error, recipe, parts)
        if place is not None:
            what, plugin = f"{what}; {place.line()}", place.component.plugin
        raise RecipeError([Problem(what, recipe.where(path), path, plugin=plugin)]) from error


def told(error: Exception) -> str:
    """An exception in one line, with the place outside torch that raised it."""
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)
    ours = (f"{os.sep}torch{os.sep}", str(Path(__file__).parent) + os.sep)
    place = next((f for f in reversed(frames) if not any(folder in f.filename for folder in ours)), None)
    return f"{type(error).__name__}: {text}" + (f" ({Path(place.filename).name}:{place.lineno})" if place else "")
