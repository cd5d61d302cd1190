"""From a merged tree to a frozen recipe, or to everything that is wrong with it at once.

Each problem says where it stands (file and line), its path, what was expected, what was probably meant, and which
plugin it belongs to. The modules of the components that a recipe names are imported here, for their signatures are the
schema; nothing else of a recipe is ever imported or executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridgen.errors import PluginError, Problem, RecipeError
from hybridgen.names import QUANTITIES
from hybridgen.recipe import tables
from hybridgen.recipe.merge import KEYED, Merged, Typed, merge
from hybridgen.recipe.schedule import Schedule, schedule
from hybridgen.recipe.spec import Critic, Data, Evaluate, Loss, Metric, Optim, Origin, Part, Recipe, Report, Train
from hybridgen.recipe.values import description, guess, place, plain, read_typed, roles, toml, unmet
from hybridgen.registry import Component, LookupFailure, Registry, load_registry
from hybridgen.signature import Constructor, constructor, is_path, shown, validate

TOP = (
    "name",
    "family",
    "plugins",
    "data",
    "encoder",
    "decoder",
    "latent",
    *KEYED,
    "optim",
    "train",
    "players",
    "report",
    "evaluate",
)
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
DEFAULT = Origin("default")


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    registry: Registry | None = None,
) -> Recipe:
    """A recipe (built-in name or path), merged with its parents and overrides, checked and completed.

    Raises RecipeError with every problem at once.
    """
    registry = registry or load_registry()
    merged = merge(source, overrides, registry)
    return _Checker(merged, registry, Path(str(source)).stem).recipe()


class _Checker:
    """The state of one check: the merged tree, the problems so far, and the complete tree that is built along."""

    def __init__(self, merged: Merged, registry: Registry, stem: str) -> None:
        self.merged = merged
        self.registry = registry
        self.stem = stem
        self.problems: list[Problem] = []
        self.tree: dict[str, Any] = {}
        self.origins: dict[str, Origin] = dict(merged.origins)

    # -- the whole ---------------------------------------------------------------------------------------------------

    def recipe(self) -> Recipe:
        top = self.merged.tree
        for key in top:
            if key not in TOP:
                homes = [f"{table}.{key}" for table, schema in OWN.items() if key in schema.options]
                hint = f"did you mean `{homes[0]}`?" if homes else guess(key, TOP)
                self._problem(key, f"there is no table or key `{key}`", hint)
        self._requirements()
        name = self._name()
        family = self._family()
        data = self._data()
        latent, encoder, decoder = (self._part(kind, kind) for kind in ("latent", "encoder", "decoder"))
        critics = {n: c for n in self._named("discriminator") if (c := self._critic(n)) is not None}
        quantities = {
            n: p for n in self._named("quantity", IDENTIFIER) if (p := self._part("provider", f"quantity.{n}")) is not None
        }
        losses = {n: loss for n in self._named("loss") if (loss := self._loss(n, critics)) is not None}
        metrics = {n: m for n in self._named("metric") if (m := self._metric(n, critics)) is not None}
        features = {n: p for n in self._named("features") if (p := self._features(f"features.{n}")) is not None}
        reporters = {n: p for n in self._named("reporter") if (p := self._part("reporter", f"reporter.{n}")) is not None}
        optim = self._optim()
        train = self._train(data)
        players = self._core("players", tables.players)
        report = self._core("report", tables.report)
        evaluate = self._evaluate()
        self._across(losses, quantities, metrics, players, evaluate)
        if self.problems:
            raise RecipeError(sorted(self.problems, key=place))
        assert data is not None
        assert train is not None
        assert evaluate is not None
        return Recipe(
            name=name,
            family=family,
            description=description(self.merged.sources[0].text),
            data=data,
            encoder=encoder,
            decoder=decoder,
            latent=latent,
            critics=critics,
            losses=losses,
            quantities=quantities,
            metrics=metrics,
            features=features,
            default_features=self._default_features(),
            reporters=reporters,
            optim=optim,
            train=train,
            report=Report(**report),
            players={player: tuple(parts) for player, parts in players.items()},
            evaluate=evaluate,
            tree={key: self.tree[key] for key in TOP if key in self.tree},
            origins=self.origins,
            sources=tuple((s.path, s.text) for s in self.merged.sources),
        )

    # -- small tools -------------------------------------------------------------------------------------------------

    def _where(self, path: str) -> str:
        keys = path.split(".")
        while keys:
            origin = self.merged.origins.get(".".join(keys))
            if origin is not None:
                return str(origin)
            keys.pop()
        return self.merged.sources[0].name

    def _problem(self, path: str, what: str, hint: str = "", plugin: str = "") -> None:
        shown_as = path.replace("discriminator.main", "discriminator", 1) if self._is_bare() else path
        self.problems.append(Problem(what, self._where(path), shown_as, hint, plugin))

    def _is_bare(self) -> bool:
        critics = self.merged.tree.get("discriminator")
        return isinstance(critics, dict) and list(critics) == ["main"]

    def _table(self, path: str) -> dict[str, Any] | None:
        """The merged table at a path; a value that is no table is a problem."""
        value: Any = self.merged.tree
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or isinstance(value, dict):
            return value
        self._problem(path, f"expected a table, got {shown(plain(value))}", f"write [{path}] and its keys below it")
        return None

    def _keep(self, path: str, value: Any) -> None:
        """Put a value into the complete tree; what no file wrote has the origin "default"."""
        keys = path.split(".")
        table = self.tree
        for key in keys[:-1]:
            table = table.setdefault(key, {})
        if value is not None:
            table[keys[-1]] = value
            self.origins.setdefault(path, DEFAULT)

    def _named(self, kind: str, pattern: re.Pattern[str] = NAME) -> list[str]:
        table = self._table(kind) or {}
        for name in table:
            if not pattern.fullmatch(name):
                legal = (
                    "lower-case letters, digits and underscores"
                    if pattern is IDENTIFIER
                    else "lower-case letters, digits, - and _"
                )
                self._problem(f"{kind}.{name}", f"'{name}' is no legal name", f"use {legal}")
        return [name for name in table if pattern.fullmatch(name)]

    def _core(self, path: str, schema: Callable[..., None], table: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One of hybridgen's own tables, validated against its signature and completed."""
        return self._validated(path, _own(schema), self._table(path) or {} if table is None else table)

    def _validated(
        self,
        path: str,
        schema: Constructor,
        given: Mapping[str, Any],
        plugin: str = "",
        owner: str = "",
        also: Sequence[str] = (),
    ) -> dict[str, Any]:
        values, problems = validate({k: read_typed(v, schema, k) for k, v in given.items()}, schema, also)
        for problem in problems:
            what = f"{owner}: {problem.what}" if owner else problem.what
            self._problem(f"{path}.{problem.name}", what, problem.hint, plugin)
        for name, value in values.items():
            if is_path(schema.options[name].annotation) and value is not None:
                values[name] = self._absolute(f"{path}.{name}", value, name in given)
            self._keep(f"{path}.{name}", toml(values[name]))
        return values

    def _absolute(self, path: str, value: Any, given: bool) -> Any:
        """A path as the file that gave it means it."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._absolute(path, one, given) for one in value)
        origin = self.merged.origins.get(path)
        folder = self.merged.folders.get(origin.source, Path.cwd()) if origin else Path.cwd()
        expanded = Path(value).expanduser()
        return expanded if expanded.is_absolute() else Path(folder, expanded)

    # -- components --------------------------------------------------------------------------------------------------

    def _component(self, kind: str, path: str, table: Mapping[str, Any]) -> tuple[Component, Constructor] | None:
        use = table.get("use")
        if isinstance(use, Typed):
            use = use.text
        if not isinstance(use, str):
            what = f"`use` is required: which {kind}" if use is None else f"`use` wants a name, got {shown(use)}"
            names = ", ".join(sorted({c.name for c in self.registry.components(kind)}))
            self._problem(f"{path}.use", what, f"there are: {names}")
            return None
        origin = self.merged.origins.get(f"{path}.use")
        home = self.merged.homes.get(origin.source, "") if origin else ""
        try:
            component = self.registry.find(kind, use, home=home)
            found = component, constructor(component.load())
        except LookupFailure as failure:
            self._problem(f"{path}.use", failure.problem.what, failure.problem.hint, failure.problem.plugin)
            return None
        except PluginError as error:
            self._problem(f"{path}.use", str(error), plugin=component.plugin)
            return None
        self._keep(f"{path}.use", use if use == component.qualified else self._shortest(component))
        return found

    def _shortest(self, component: Component) -> str:
        """The name that means this component in any file: bare where it is unique."""
        same = [c for c in self.registry.components(component.kind) if c.name == component.name]
        return component.name if len(same) == 1 else component.qualified

    def _options(
        self, kind: str, path: str, table: Mapping[str, Any], reserved: Iterable[str]
    ) -> tuple[Component, dict[str, Any]] | None:
        """The component of a table and its validated options; `reserved` keys are read by the caller."""
        found = self._component(kind, path, table)
        if found is None:
            return None
        component, schema = found
        allowed = {"use", *reserved}
        given = {key: value for key, value in table.items() if key not in allowed}
        owner = f"{kind} '{component.name}'"
        return component, self._validated(path, schema, given, component.plugin, owner, tuple(sorted(allowed)))

    def _part(self, kind: str, path: str) -> Part | None:
        table = self._table(path)
        if table is None:
            return None
        inputs = self._inputs(path, table)
        hold, own = None, ["inputs"]
        if kind != "provider" and kind != "reporter":
            hold, own = self._hold(path, table), ["inputs", "hold"]
        found = self._options(kind, path, table, own)
        return None if found is None else Part(path, *found, inputs, hold=hold)

    def _hold(self, path: str, table: Mapping[str, Any]) -> str | None:
        value = plain(table.get("hold"))
        if value is False:  # takes a parent's away
            return None
        if value is not None and not isinstance(value, str):
            self._problem(f"{path}.hold", f"expected a quantity's name, got {shown(value)}", 'write hold = "critic_ahead"')
            return None
        if value:
            self._keep(f"{path}.hold", value)
        return value or None

    def _inputs(self, path: str, table: Mapping[str, Any]) -> dict[str, str]:
        value = plain(table.get("inputs", {}))
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self._problem(f"{path}.inputs", "expected a table of names", 'write inputs = { x = "x_noisy" }')
            return {}
        if value:
            self._keep(f"{path}.inputs", value)
        return value

    def _data(self) -> Data | None:
        table = self._table("data")
        if table is None:
            self._problem("data", "there is no [data]", 'write [data] and use = "digits" below it')
            return None
        own = _own(tables.data)
        core = self._validated("data", own, {k: v for k, v in table.items() if k in own.options})
        found = self._options("data", "data", table, own.options)
        if found is None or set(core) != set(own.options):
            return None
        return Data(*found, **core)

    def _critic(self, name: str) -> Critic | None:
        path = f"discriminator.{name}"
        table = self._table(path)
        if table is None:
            return None
        inputs = self._inputs(path, table)
        real = self._judged(f"{path}.real", table.get("real", "x"))
        fake = plain(table.get("fake", "fake"))
        batches = fake if isinstance(fake, list) else [fake]
        if not batches:
            self._problem(f"{path}.fake", "it has nothing to judge", 'write fake = "fake", or a list of quantities')
        fakes = [self._judged(f"{path}.fake", batch) for batch in batches]
        self._keep(f"{path}.real", plain(table.get("real", "x")))
        self._keep(f"{path}.fake", fake)
        augment = self._augment(path, table)
        if all(judged is not None for judged in (real, *fakes)):
            for judged in fakes:
                if set(judged or {}) != set(real or {}):
                    self._problem(
                        f"{path}.fake", f"a generated sample has the roles {roles(judged)}, the real one {roles(real)}"
                    )
        hold = self._hold(path, table)
        found = self._options("discriminator", path, table, ("inputs", "real", "fake", "augment", "hold"))
        if found is None:
            return None
        return Critic(path, *found, inputs, real or {}, tuple(f for f in fakes if f), augment, hold=hold)

    def _judged(self, path: str, value: Any) -> dict[str, str] | None:
        value = plain(value)
        if isinstance(value, str):
            return {"x": value}
        if isinstance(value, dict) and value and all(isinstance(v, str) for v in value.values()):
            return value
        self._problem(path, f"expected a quantity's name, got {shown(value)}", 'write "x", or { x = "x", z = "z" } for pairs')
        return None

    def _augment(self, path: str, table: Mapping[str, Any]) -> Part | None:
        value = plain(table.get("augment"))
        if value is None:
            return None
        path = f"{path}.augment"
        if not isinstance(value, dict):
            self._problem(path, "expected a table", 'write augment = { use = "..." }')
            return None
        found = self._options("provider", path, value, ())
        return None if found is None else Part(path, *found, {})

    def _loss(self, name: str, critics: Mapping[str, Critic]) -> Loss | None:
        path = f"loss.{name}"
        table = self._table(path)
        if table is None:
            return None
        own = _own(tables.loss)
        core = self._validated(path, own, {k: v for k, v in table.items() if k in own.options})
        weight = self._schedule(f"{path}.weight", table.get("weight", 1.0))
        other = self._schedule(f"{path}.discriminator_weight", table.get("discriminator_weight", 1.0))
        trains = self._trains(f"{path}.trains", table.get("trains"))
        inputs = self._inputs(path, table)
        self._known_critic(path, core.get("discriminator"), critics)
        found = self._options("loss", path, table, ("inputs", "weight", "discriminator_weight", "trains", *own.options))
        if found is None or weight is None or other is None or set(core) != set(own.options):
            return None
        if len(set(core["balance"])) < len(core["balance"]):
            self._problem(f"{path}.balance", "it names a loss twice", "write each once")
        for other_loss in core["balance"]:
            if other_loss == name or other_loss not in (self.merged.tree.get("loss") or {}):
                others = [n for n in self.merged.tree["loss"] if n != name]
                what = "itself" if other_loss == name else f"'{other_loss}', which is no loss"
                self._problem(f"{path}.balance", f"it is balanced against {what}", guess(other_loss, others))
        return Loss(path, *found, inputs, weight, other, trains, **core)

    def _metric(self, name: str, critics: Mapping[str, Critic]) -> Metric | None:
        path = f"metric.{name}"
        table = self._table(path)
        if table is None:
            return None
        own = _own(tables.metric)
        core = self._validated(path, own, {k: v for k, v in table.items() if k in own.options})
        self._known_critic(path, core.get("discriminator"), critics)
        seen, known = core.get("features"), list(self.merged.tree.get("features") or {})
        if seen is not None and seen not in known:
            self._problem(f"{path}.features", f"there is no [features.{seen}]", guess(seen, known))
        inputs = self._inputs(path, table)
        found = self._options("metric", path, table, ("inputs", *own.options))
        return None if found is None else Metric(path, *found, inputs, core.get("discriminator"), seen)

    def _features(self, path: str) -> Part | None:
        table = self._table(path)
        found = None if table is None else self._options("features", path, table, ())
        return None if found is None else Part(path, *found, {})

    def _default_features(self) -> Part | None:
        """What metrics see through where the recipe names no features; None where it isn't installed."""
        try:
            component = self.registry.find("features", "auto", home="hybridgen")
            return Part("features.auto", component, {}, {})
        except PluginError:
            return None

    def _known_critic(self, path: str, name: str | None, critics: Mapping[str, Critic]) -> None:
        written = self.merged.tree.get("discriminator")
        known = list(written) if isinstance(written, dict) else list(critics)
        if name is not None and name not in known:
            self._problem(f"{path}.discriminator", f"there is no [discriminator.{name}]", guess(name, known))

    def _schedule(self, path: str, value: Any) -> Schedule | None:
        try:
            found = schedule(plain(value))
        except ValueError as error:
            self._problem(path, str(error))
            return None
        self._keep(path, found.plain())
        return found

    def _trains(self, path: str, value: Any) -> dict[str, float] | None:
        value = plain(value)
        if value is None:
            return None
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            found = dict.fromkeys(value, 1.0)
        elif isinstance(value, dict) and all(type(v) in (int, float) for v in value.values()):
            found = {part: float(share) for part, share in value.items()}
        else:
            self._problem(path, "expected parts", 'write ["decoder"], or { encoder = 1.0, decoder = 1e-6 }')
            return None
        self._keep(path, value)
        for part in found:
            known = self._part_paths()
            if part not in known:
                self._problem(path, f"there is no part '{part}'", guess(part, known))
        return found

    def _part_paths(self) -> list[str]:
        tree = self.merged.tree
        single = [kind for kind in ("encoder", "decoder", "latent") if kind in tree]
        keyed = [(kind, name) for kind in ("discriminator", "quantity", "loss") for name in tree.get(kind) or {}]
        return single + [f"{kind}.{name}" for kind, name in keyed]

    # -- hybridgen's own tables --------------------------------------------------------------------------------------

    def _name(self) -> str:
        name = self.merged.tree.get("name", self.stem)
        name = name.text if isinstance(name, Typed) else name
        if not isinstance(name, str) or not NAME.fullmatch(name.lower()):
            self._problem("name", f"{shown(name)} is no name for a recipe", "letters, digits, - and _")
            return self.stem
        self._keep("name", name)
        return name

    def _family(self) -> str:
        family = self.merged.tree.get("family", "")
        family = family.text if isinstance(family, Typed) else family
        if not isinstance(family, str):
            self._problem("family", f"expected the name of a family of models, got {shown(family)}", 'such as "GANs"')
            return ""
        if family:
            self._keep("family", family)
        return family

    def _requirements(self) -> None:
        for text in self._core("plugins", tables.plugins).get("require", []):
            missing = unmet(text)
            if missing:
                self._problem("plugins.require", missing, f"install it: pip install '{text}'")

    def _optim(self) -> dict[str, Optim]:
        """The optimiser of each player: the shared keys, then its own."""
        table = dict(self._table("optim") or {})
        own = {player: table.pop(player, {}) for player in ("generator", "discriminator")}
        schema = _own(tables.optim)
        found = {}
        self._one_optim("optim", table, schema)
        for player, extra in own.items():
            if not isinstance(extra, dict):
                self._problem(f"optim.{player}", "expected a table", f"write [optim.{player}]")
                continue
            for key in extra:
                if key != "lr" and key not in schema.options:
                    hint = guess(key, [*schema.options, "lr"])
                    self._problem(f"optim.{player}.{key}", f"there is no option `{key}`", hint)
            shared = {key: value for key, value in {**table, **extra}.items() if key == "lr" or key in schema.options}
            made = self._one_optim(f"optim.{player}", shared, schema, quiet=set(shared) - set(extra))
            if made is not None:
                found[player] = made
        return found

    def _one_optim(
        self, path: str, table: Mapping[str, Any], schema: Constructor, quiet: set[str] | None = None
    ) -> Optim | None:
        """`quiet`: keys whose problems, and whose place in the complete tree, belong to the shared table."""
        before, tree = len(self.problems), self.tree
        if quiet is not None:
            self.tree = {}
        given = {k: v for k, v in table.items() if k != "lr"}
        values = self._validated(path, schema, given, also=("lr", "generator", "discriminator"))
        lr = self._schedule(f"{path}.lr", table.get("lr", 1e-3))
        if lr is not None and min(lr.begin, lr.end) < 0:
            self._problem(f"{path}.lr", "a learning rate can't be negative")
        made, self.tree = self.tree, tree
        if quiet is not None:
            new = self.problems[before:]
            self.problems[before:] = [p for p in new if p.path.rpartition(".")[2] not in quiet]
            player = path.rpartition(".")[2]
            kept = {k: v for k, v in made.get("optim", {}).get(player, {}).items() if k in table and k not in quiet}
            if kept:
                self.tree.setdefault("optim", {})[player] = kept
        if lr is None or set(values) != set(schema.options):
            return None
        return Optim(lr=lr, **values)

    def _evaluate(self) -> Evaluate | None:
        values = self._core("evaluate", tables.evaluate)
        if set(values) != set(_own(tables.evaluate).options):
            return None
        limit = values.pop("limit")
        values["best"] = values["best"] or None  # "" takes a parent's away
        return Evaluate(**values, limit=None if limit is None else float(limit.removesuffix("s")))

    def _train(self, data: Data | None) -> Train | None:
        values = self._core("train", tables.train)
        if set(values) != set(_own(tables.train).options):
            return None
        train = Train(**values)
        if data is not None and data.batch_size % train.accumulate:
            what = f"a batch of {data.batch_size} can't be split into {train.accumulate} equal micro-batches"
            self._problem("train.accumulate", what, "choose a divisor of data.batch_size")
        if train.updates == "simultaneous" and train.critic_steps > 1:
            what = "simultaneous updates evaluate the critic once, so critic_steps must be 1"
            self._problem("train.critic_steps", what, 'or write updates = "alternating"')
        if train.critic_steps > 1 and not self.merged.tree.get("discriminator"):
            self._problem("train.critic_steps", "there is no [discriminator], hence no critic step to repeat", "remove it")
        return train

    def _across(
        self,
        losses: Mapping[str, Loss],
        quantities: Mapping[str, Part],
        metrics: Mapping[str, Metric],
        players: Mapping[str, Any],
        evaluate: Evaluate | None,
    ) -> None:
        """What no single table shows."""
        if not self.merged.tree.get("loss"):
            self._problem("loss", "there is no loss, so nothing would be trained", "write [loss.NAME] with a `use`")
        if not any(self.merged.tree.get(kind) for kind in ("encoder", "decoder")):
            self._problem("decoder", "there is neither an [encoder] nor a [decoder]")
        for name in quantities:
            if name in QUANTITIES:
                self._problem(f"quantity.{name}", f"`{name}` is one of hybridgen's own quantities", "choose another name")
        for player, parts in players.items():
            for part in parts:
                if part not in self._part_paths():
                    self._problem(f"players.{player}", f"there is no part '{part}'", guess(part, self._part_paths()))
        best = evaluate.best if evaluate is not None else None
        written = self.merged.tree.get("metric")
        if best is not None and best.partition(".")[0] not in (written if isinstance(written, dict) else {}):
            hint = f'{guess(best, list(metrics))}; best = "" leaves it to the default'
            self._problem("evaluate.best", f"there is no [metric.{best}]", hint)


def _own(table: Callable[..., None]) -> Constructor:
    return constructor(table, reserved=())


OWN = {"train": _own(tables.train), "data": _own(tables.data), "optim": _own(tables.optim)}
