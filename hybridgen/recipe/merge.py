"""From a recipe, its parents and the command line to one tree with an origin for every value.

Tables merge key by key, a child over its parent. A change of `use` drops the options of what was there before: they
belonged to another component. `false` for a table removes it.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridgen.errors import Problem, RecipeError
from hybridgen.names import RESERVED
from hybridgen.recipe.source import Source, read_source
from hybridgen.recipe.spec import Origin
from hybridgen.registry import Registry

SINGLE = ("encoder", "decoder", "latent", "data")
KEYED = ("discriminator", "loss", "quantity", "metric", "features", "reporter")
SURVIVES = frozenset(RESERVED) | {"batch_size", "validation", "split_seed", "flip"}
ATOMIC = frozenset({"weight", "discriminator_weight", "lr", "trains", "inputs", "real", "fake", "augment", "balance"})
COMMAND_LINE = Origin("command line")


@dataclass
class Merged:
    """The merged tree, where each value was written, and the folder that each source's relative paths start from."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)

    def forget(self, path: str) -> None:
        for key in [k for k in self.origins if k == path or k.startswith(f"{path}.")]:
            del self.origins[key]


def merge(source: str | Path, overrides: Sequence[str] | Mapping[str, Any], registry: Registry) -> Merged:
    """Read a recipe and its parents, apply overrides. Raises RecipeError for what can't be read or does not exist."""
    merged = Merged(folders={COMMAND_LINE.source: Path.cwd()})
    chain = list(_chain(source, registry, merged))
    for entry in reversed(chain):
        _apply(merged, _normalised(entry.values, merged.tree), entry)
    merged.sources = chain
    problems = []
    for path, value in _pairs(overrides):
        if not path or not all(path.split(".")):
            what = f"'{value if isinstance(value, Raw) else path}' is no override"
            problems.append(Problem(what, str(COMMAND_LINE), hint="write KEY=VALUE, such as train.steps=500"))
            continue
        _override(merged, path, value)
    if problems:
        raise RecipeError(problems)
    return merged


def find_recipe(name: str | Path, registry: Registry, *, base: Path | None = None) -> tuple[Path, str]:
    """The file that a name or path means, and the distribution that ships it. Raises RecipeError with suggestions."""
    import difflib

    known = registry.recipes()
    text = str(name)
    if text in known and not text.endswith(".toml"):
        return known[text].path, known[text].distribution
    path = Path(text).expanduser()
    path = base / path if base is not None and not path.is_absolute() else path
    if path.is_file() and path.suffix == ".toml":
        home = next((r.distribution for r in known.values() if r.path.resolve() == path.resolve()), "")
        return path, home
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    what = f"{text} is no recipe: a recipe ends in .toml" if path.exists() else f"there is no recipe '{text}'"
    hint += f"recipes: {', '.join(sorted(known))}; or the path of a .toml file{registry.suspects()}"
    raise RecipeError([Problem(what, hint=hint)])


def _chain(source: str | Path, registry: Registry, merged: Merged) -> Iterator[Source]:
    """The recipe, its parent, its parent's parent, ..."""
    path, home = find_recipe(source, registry)
    seen: list[Path] = []
    while True:
        entry = read_source(path)
        if path.resolve() in seen:
            raise RecipeError([Problem("it extends itself through its parents", entry.name, "extends")])
        seen.append(path.resolve())
        merged.folders[entry.name] = path.resolve().parent
        merged.homes[entry.name] = home
        yield entry
        parent = entry.values.get("extends")
        if parent is None:
            return
        where = f"{entry.name}:{entry.lines.get(('extends',), 1)}"
        if not isinstance(parent, str):
            raise RecipeError([Problem("expected one parent: a recipe's name or path", where, "extends")])
        try:
            path, home = find_recipe(parent, registry, base=path.resolve().parent)
        except RecipeError as error:
            raise RecipeError([Problem(p.what, where, "extends", p.hint) for p in error.problems]) from None


def _normalised(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """A bare [discriminator] as [discriminator.main]."""
    values = {key: value for key, value in values.items() if key != "extends"}
    critic = values.get("discriminator")
    if isinstance(critic, dict) and _bare(critic, known):
        values["discriminator"] = {"main": critic}
    return values


def _bare(critic: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    named = known.get("discriminator")
    names = named if isinstance(named, dict) else {}
    return any(
        key in RESERVED or not (isinstance(value, dict) or (value is False and key in names)) for key, value in critic.items()
    )


def _apply(merged: Merged, values: Mapping[str, Any], source: Source) -> None:
    def origin(path: tuple[str, ...]) -> Origin:
        if path[:2] == ("discriminator", "main") and path not in source.lines:
            path = (path[0], *path[2:])
        while path and path not in source.lines:
            path = path[:-1]
        return Origin(source.name, source.lines.get(path, 1))

    _merge_table(merged, (), merged.tree, values, origin)


def _merge_table(merged: Merged, path: tuple[str, ...], into: dict[str, Any], values: Mapping[str, Any], origin: Any) -> None:
    if _is_component(path) and "use" in values and values["use"] != into.get("use"):
        old = {key: ".".join((*path, key)) for key in into if key not in SURVIVES}
        for key, name in old.items():
            if origin(path) == merged.origins.get(name) == COMMAND_LINE:
                continue  # overrides have no order: `latent.dim=2 latent.use=gaussian` means both
            del into[key]
            merged.forget(name)
    for key, value in values.items():
        here = (*path, key)
        dotted = ".".join(here)
        if value is False and (_is_component(here) or (len(here) == 1 and key in KEYED)):
            into.pop(key, None)
            merged.forget(dotted)
            continue
        if isinstance(value, dict) and key not in ATOMIC:
            if not isinstance(into.get(key), dict):
                into[key] = {}
            merged.origins[dotted] = origin(here)
            _merge_table(merged, here, into[key], value, origin)
            continue
        merged.forget(dotted)
        into[key] = copy.deepcopy(value)
        merged.origins[dotted] = origin(here)
        if isinstance(value, dict):
            for inner in value:
                merged.origins[f"{dotted}.{inner}"] = origin((*here, inner))


def _is_component(path: tuple[str, ...]) -> bool:
    return (len(path) == 1 and path[0] in SINGLE) or (len(path) == 2 and path[0] in KEYED)


# -- the command line --------------------------------------------------------------------------------------------------


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        yield from overrides.items()
        return
    for text in overrides:
        path, equals, value = text.partition("=")
        if equals and path.strip():
            yield path.strip(), Raw(value.strip())
        else:
            yield "", Raw(text)


class Raw(str):
    """A value as typed on the command line: what it means is decided by the field that it is for."""

    def parsed(self) -> Any:
        """As TOML has it, where it is valid TOML; else the text itself."""
        try:
            return tomllib.loads(f"v = {self}")["v"] if "\n" not in self else str(self)
        except tomllib.TOMLDecodeError:
            return str(self)


def _override(merged: Merged, dotted: str, value: Any) -> None:
    keys = dotted.split(".")
    if keys[0] == "discriminator" and len(keys) > 1:
        known = merged.tree.get("discriminator", {})
        # discriminator.width=8 means the only one; discriminator.latent.use="mlp" names another
        if keys[1] not in known and len(known) <= 1 and (len(keys) == 2 or keys[1] in RESERVED):
            keys.insert(1, "main")
    parsed = value.parsed() if isinstance(value, Raw) else value
    # what the field's type decides keeps its text beside its reading
    leaf = Typed(parsed, str(value)) if isinstance(value, Raw) and not isinstance(parsed, (dict, str)) else parsed
    if parsed is False and (_is_component(tuple(keys)) or (len(keys) == 1 and keys[0] in KEYED)):
        leaf = False
    inner: Any = leaf
    table = merged.tree
    for depth, key in enumerate(keys[:-1]):
        if not isinstance(table.get(key), dict):
            for later in reversed(keys[depth + 1 :]):
                inner = {later: inner}
            _merge_table(merged, tuple(keys[:depth]), table, {key: inner}, lambda path: COMMAND_LINE)
            return
        table = table[key]
    _merge_table(merged, tuple(keys[:-1]), table, {keys[-1]: leaf}, lambda path: COMMAND_LINE)


@dataclass(frozen=True)
class Typed:
    """A command-line value that reads as a number, a truth value or a list, with its text for fields that want one."""

    value: Any
    text: str
