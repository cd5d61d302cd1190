"""What a check looks at: one component, the recipes in small that it fits, and the models that they make."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn
from unittest import SkipTest

from torch import Tensor, nn

from hybridgen.data import SampleSpec
from hybridgen.errors import HybridgenError, PluginError, RecipeError, Unmeasurable
from hybridgen.evaluation import prepare
from hybridgen.graph import mapped
from hybridgen.model import Model, build, check, told
from hybridgen.precision import Choices
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.recipe.values import toml
from hybridgen.registry import Component, Registry
from hybridgen.signature import REQUIRED, Constructor, constructor, validate
from hybridgen.step import Training
from hybridgen.testing import hosts
from hybridgen.testing.probe import Recorded, batch, evaluated, leaves

EAGER = Choices("cpu", "fp32", False, ())


class Fault(Exception):  # noqa: N818  (an answer of a check, told with what it expected)
    """What a check found wrong, in words."""


def fault(text: str) -> NoReturn:
    raise Fault(text)


def skip(reason: str) -> NoReturn:
    """Leave a check out, with the reason: pytest and the command both count it."""
    raise SkipTest(reason)


@dataclass(frozen=True)
class Case:
    """A component in a host: where it stands there, and what it is tried on."""

    path: str
    recipe: Recipe
    spec: SampleSpec
    checked: Model

    def model(self) -> Model:
        return build(self.recipe, self.spec, checked=self.checked)

    def training(self, choices: Choices = EAGER) -> Training:
        return Training(self.model(), choices)

    def calls(self, state: Training, size: int = 4, seed: int = 0) -> list[Recorded]:
        """What the component was given in one evaluation of every term, and what it returned."""
        env = leaves(state, batch(size, seed, spec=self.spec))
        targets = [term.key for term in state.model.terms]
        return [call for call in evaluated(state.model, env, targets)[1] if call.part == self.path]


@dataclass
class Subject:
    """A component of a plugin, with options for what has no default.

    recipes: those that the plugin ships and that use it, tried where no host of the kit fits.
    """

    component: Component
    registry: Registry
    options: Mapping[str, Any] = field(default_factory=dict)
    recipes: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{self.component.kind}:{self.component.name}"

    @cached_property
    def loaded(self) -> Any:
        return self.component.load()

    @cached_property
    def signature(self) -> Constructor:
        return constructor(self.loaded)

    @property
    def table(self) -> dict[str, Any]:
        """The component's table in a recipe."""
        return {"use": self.component.qualified, **self.options}

    def missing(self) -> list[str]:
        """Options that must be given and weren't."""
        return [o.name for o in self.signature.options.values() if o.default is REQUIRED and o.name not in self.options]

    def ready(self) -> dict[str, Any]:
        """Its options as type hints have them. Raises SkipTest where some are missing, Fault where they are wrong."""
        if self.missing():
            skip(f"it can't be made without {', '.join(self.missing())}: give checks(..., options={{'{self}': {{...}}}})")
        values, problems = validate({name: toml(value) for name, value in self.options.items()}, self.signature)
        if problems:
            fault(f"the options that it was given: {problems[0].what}; {problems[0].hint}")
        return values

    # -- hosts -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _cases(self) -> dict[str, tuple[Case | None, str]]:
        return {}

    def case(self, spec: SampleSpec | None = None) -> Case:
        """The component in the first host that it fits, on data of a description.

        spec: None for whichever it takes. Raises SkipTest where it refuses these data in words, Fault where it fails.
        """
        self.ready()
        if spec is None:
            return self._first()
        key = repr(spec)
        if key not in self._cases:
            self._cases[key] = self._tried(spec)
        found, why = self._cases[key]
        return found if found is not None else skip(why)

    def _first(self) -> Case:
        reasons = []
        for spec in hosts.DATA:
            try:
                return self.case(spec)
            except SkipTest as reason:
                reasons.append(str(reason))
        if (case := next(self._shipped(), None)) is not None:
            return case
        fault(
            f"{reasons[0]} (that is the first of the kit's small recipes, and it fits none of them; where none can fit, ship a "
            "recipe that uses it on data that need no download: the kit then tries it there)"
        )

    def _shipped(self) -> Iterator[Case]:
        for path in self.recipes:
            try:
                recipe = load_recipe(path, registry=self.registry)
                source = recipe.data.component.load()(**recipe.data.options)
                spec = source.describe()
            except (HybridgenError, OSError):
                continue
            for part in recipe.parts():
                if part.component == self.component:
                    yield Case(part.path, recipe, spec, check(recipe, spec))

    def _tried(self, spec: SampleSpec) -> tuple[Case | None, str]:
        why = ""
        for tables in hosts.hosts(self.component.kind, self.table):
            text = hosts.text_of(_suited(tables, spec))
            try:
                recipe = recipe_of(text, self.registry)
                checked = check(recipe, spec)
                absent = prepare(checked).unavailable.get(hosts.HERE, "")
            except RecipeError as error:
                if broken := _broken(error):
                    fault(broken)
                mine = [p.what for p in error.problems]
                why = why or "; ".join(mine)
                continue
            if not absent:
                return Case(_path_of(recipe, self.component), recipe, spec, checked), ""
            why = why or absent
        return None, why

    # -- instances -------------------------------------------------------------------------------------------------------

    def module(self, state: Training) -> nn.Module:
        """The component's module in a model; SkipTest for a function, which holds nothing."""
        part = state.model.parts.get(self.case().path)
        return part if part is not None else skip("a function has no weights and no state")


def recipe_of(text: str, registry: Registry, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from its text. Raises RecipeError."""
    with tempfile.TemporaryDirectory(prefix="hybridgen-") as folder:
        path = Path(folder) / "host.toml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides or {}, registry=registry)


def _path_of(recipe: Recipe, component: Component) -> str:
    return next(part.path for part in reversed([*recipe.parts()]) if part.component == component)


def _suited(tables: hosts.Tables, spec: SampleSpec) -> hosts.Tables:
    """A host on tokens has their likelihood."""
    if spec.kind == "tokens" and "loss.reconstruction" in tables:
        return tables | {"loss.reconstruction": {"use": "losses:cross-entropy"}}
    return tables


def _broken(error: RecipeError) -> str:
    """What a component did wrong where it was built, "" where it only refused or found nothing to work on."""
    cause: BaseException | None = error
    while isinstance(cause, RecipeError):
        cause = cause.__cause__
    if isinstance(cause, ValueError):
        return ""
    signs = ("fails in the dry run", "can't be constructed", "returned", "has the shape", "the latent states no")
    return next((problem.what for problem in error.problems if any(sign in problem.what for sign in signs)), "")


def over_batch(value: Any, size: int, function: Callable[[Tensor], Tensor]) -> Any:
    """A call's arguments or result, with each tensor replaced whose first axis is the batch's."""
    return mapped(value, lambda t: function(t) if t.ndim and t.shape[0] == size else t)


@contextmanager
def trying(what: str) -> Iterator[None]:
    """What the component raises inside becomes a Fault that says so."""
    try:
        yield
    except (Fault, SkipTest, PluginError, Unmeasurable):
        raise
    except Exception as error:
        raise Fault(f"{what} raises {told(error)}") from error
