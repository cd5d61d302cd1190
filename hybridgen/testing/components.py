"""Checks that every component has to pass, whatever its kind: what it says of itself."""

from __future__ import annotations

import inspect
import tomllib

from hybridgen.errors import PluginError, RecipeError
from hybridgen.recipe import resolved_toml, toml_value
from hybridgen.recipe.values import toml
from hybridgen.signature import REQUIRED, convert
from hybridgen.testing import hosts
from hybridgen.testing.subject import Fault, Subject, fault, recipe_of


def imports(subject: Subject) -> None:
    """The reference that the manifest registers can be imported.

    Why: a component is imported only when a recipe uses it, so a wrong reference is found by a user, in the middle of a run.
    Mend: in `register.KIND("name", "package.module:Attribute")` name a module that is installed, and a class or function.
    """
    try:
        loaded = subject.loaded
    except PluginError as error:
        fault(str(error))
    if not callable(loaded):
        fault(f"{subject.component.reference} is {type(loaded).__name__}, neither a class nor a function")


def signature(subject: Subject) -> None:
    """The signature is a schema: positional parameters are facts, keyword-only parameters are options with type hints.

    Why: recipes are validated, completed by editors and documented from it; there is nothing else to read.
    Mend: name facts as `hybridgen show fact` lists them; put options after a `*`, each with a type hint; no *args, no **kwargs.
    """
    try:
        subject.signature  # noqa: B018  (reading it is the question)
    except PluginError as error:
        fault(str(error))


def documented(subject: Subject) -> None:
    """The component has a docstring whose first line says what it is, and every option has a description.

    Why: `hybridgen show`, `hybridgen ls` and the editor's completion have no other words for it.
    Mend: write a docstring, and `Annotated[float, Field(ge=0, description="what it does")]` for each option.
    """
    text = subject.loaded.__doc__ if isinstance(subject.loaded, type) else inspect.getdoc(subject.loaded)
    if not (text or "").strip():
        fault(f"{subject.component.reference} has no docstring")
    bare = [option.name for option in subject.signature.options.values() if not option.description]
    if bare:
        fault(f"without a description: {', '.join(bare)}")


def defaults(subject: Subject) -> None:
    """Every default is a value that the option's own type hint allows.

    Why: a default isn't validated when a recipe leaves it out; one that breaks its own bounds is an error only for the person
    who writes it down.
    Mend: correct the default or the bounds.
    """
    for option in subject.signature.options.values():
        if option.default is REQUIRED:
            continue
        value = toml(option.default)
        try:
            same = convert(value, option.annotation) == option.default
        except ValueError as error:
            fault(f"{option.name} = {option.default!r}: {error}")
        if not same:
            fault(f"{option.name} = {option.default!r} is read as {convert(value, option.annotation)!r}")


def round_trip(subject: Subject) -> None:
    """Every option can be written into a recipe and is read back as it was.

    Why: the resolved recipe is saved with each run and read again to resume, sample and evaluate.
    Mend: use types that TOML has (numbers, strings, booleans, lists, paths, or None for "not given").
    """
    subject.ready()
    known = subject.signature.options.values()
    written = {option.name: option.default for option in known if option.default is not REQUIRED} | dict(subject.options)
    lines = []
    for name, value in written.items():
        if value is None:
            continue
        try:
            lines.append(f"{name} = {toml_value(value)}")
            tomllib.loads(lines[-1])
        except Exception as error:
            raise Fault(f"{name} = {value!r} can't be written as TOML: {error}") from error
    read = tomllib.loads("\n".join(lines))
    for name, value in read.items():
        got = convert(value, subject.signature.options[name].annotation)
        if got != written[name] and got != convert(toml(written[name]), subject.signature.options[name].annotation):
            fault(f"{name} = {written[name]!r} is read back as {got!r}")
    if subject.component.kind in hosts.HOSTS and subject.component.kind != "metric":
        _through_a_recipe(subject)


def _through_a_recipe(subject: Subject) -> None:
    case = subject.case()
    before = next(part for part in case.recipe.parts() if part.path == case.path)
    try:
        again = recipe_of(resolved_toml(case.recipe), subject.registry)
    except RecipeError as error:
        raise Fault(f"the resolved recipe can't be read again: {error.problems[0]}") from error
    after = next(part for part in again.parts() if part.path == case.path)
    if before.options != after.options:
        changed = {k: (v, after.options.get(k)) for k, v in before.options.items() if after.options.get(k) != v}
        fault(f"options are not what they were once the resolved recipe is read again: {changed}")


def builds(subject: Subject) -> None:
    """The component is built on the meta device, and a dry run of a step goes through, in a small recipe.

    Why: hybridgen builds every model so before it reads any data; what fails here fails for every user.
    Mend: ask for names that exist (`hybridgen show quantity`), return what the kind asks for (`hybridgen show kind`), create
    tensors on the device of what you are given (`x.new_zeros`), and keep values tensors: no `.item()`, no `if` on them. Refuse
    what you can't do with a ValueError in the constructor, in words.
    """
    subject.case()
