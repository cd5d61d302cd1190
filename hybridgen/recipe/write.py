"""Recipes as text: resolved in full with origins, and copied to be edited."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from hybridgen.errors import PluginError
from hybridgen.recipe.merge import ATOMIC, find_recipe
from hybridgen.recipe.source import index_lines
from hybridgen.recipe.spec import Recipe
from hybridgen.registry import Registry, load_registry
from hybridgen.signature import constructor, is_path

BARE = re.compile(r"[A-Za-z0-9_-]+")


def resolved_toml(recipe: Recipe, *, origins: bool = True) -> str:
    """A recipe in full: every table with its defaults, each value's origin behind it. Loading it gives it again."""
    lines = [f"# {line}".rstrip() for line in recipe.description.splitlines()]
    _write(recipe, (), recipe.tree, lines, origins)
    return "\n".join(lines).strip() + "\n"


def _write(recipe: Recipe, path: tuple[str, ...], table: Mapping[str, Any], lines: list[str], origins: bool) -> None:
    leaves = {key: value for key, value in table.items() if not _is_table(key, value)}
    if path and (leaves or not table):
        lines += ["", f"[{'.'.join(_key(key) for key in path)}]"]
    start = len(lines)
    for key, value in leaves.items():
        lines.append(f"{_key(key)} = {toml_value(value)}")
    if origins and leaves:
        width = min(max(len(line) for line in lines[start:]), 60)
        for index, key in enumerate(leaves):
            origin = recipe.origins.get(".".join((*path, key)), "")
            lines[start + index] = f"{lines[start + index]:<{width}}  # {origin}"
    for key, value in table.items():
        if _is_table(key, value):
            _write(recipe, (*path, key), value, lines, origins)


def _is_table(key: str, value: Any) -> bool:
    return isinstance(value, dict) and key not in ATOMIC


def _key(key: str) -> str:
    return key if BARE.fullmatch(key) else tomlkit.item(key).as_string()


def toml_value(value: Any) -> str:
    """A value as TOML writes it, on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(v) for v in value) + "]"
    if isinstance(value, Path):
        value = str(value)
    return tomlkit.item(value).as_string()


def copy_recipe(source: str | Path, target: Path, *, extends: bool = False, registry: Registry | None = None) -> str:
    """The text of a recipe to edit at `target`: the whole of it, or a recipe that extends it.

    A relative parent, and relative paths among a component's options, are rewritten so that they mean the same from the new
    place. A first line that names a schema to editors (`#:schema ...`) is left out: it holds for the original's folder.
    Raises RecipeError when there is no such recipe.
    """
    registry = registry or load_registry()
    path, _ = find_recipe(source, registry)
    builtin = str(source) in registry.recipes()
    text = path.read_text(encoding="utf-8")
    if text.startswith("#:schema"):
        text = text.partition("\n")[2]
    name = target.stem
    if extends:
        parent = str(source) if builtin else _relative(path, target)
        hints = _outline(text)
        return "\n".join([f"# What differs from {source}; everything else follows it.", f"name = {toml_value(name)}",
                          f"extends = {toml_value(parent)}", "", *hints]) + "\n"  # fmt: skip
    document = tomlkit.parse(text)
    if "name" in document:
        document["name"] = name
    extended = document.get("extends")
    if isinstance(extended, str) and extended not in registry.recipes():
        document["extends"] = _relative(path.parent / extended, target)
    for table, key in [] if builtin else list(_paths(document, registry)):
        given = Path(str(table[key])).expanduser()
        if not given.is_absolute():
            table[key] = _relative(path.parent / given, target)
    return tomlkit.dumps(document)


def _paths(document: Mapping[str, Any], registry: Registry) -> Iterator[tuple[Any, str]]:
    """The tables and keys that hold a path: by the type hints of the components that they name, and `data.path`."""
    for kind, table in document.items():
        named = isinstance(table, Mapping) and "use" not in table and kind != "data"
        for one in table.values() if named else [table]:
            if isinstance(one, Mapping):
                holds = _path_options("provider" if kind == "quantity" else kind, one.get("use"), registry)
                found = [key for key, value in one.items() if isinstance(value, str) and key in holds]
                yield from ((one, key) for key in found)


def _path_options(kind: str, use: Any, registry: Registry) -> set[str]:
    try:
        options = constructor(registry.find(kind, str(use)).load()).options
    except PluginError:  # a name that its parent gives, or that is wrong: `check` will say so
        return {"path"} if kind == "data" else set()
    return {name for name, option in options.items() if is_path(option.annotation)}


def _relative(path: Path, target: Path) -> str:
    return os.path.relpath(path.resolve(), target.resolve().parent)


def _outline(text: str) -> list[str]:
    """The parent's tables and keys as comments, ready to be switched on."""
    lines = text.splitlines()
    wanted = sorted({line for path, line in index_lines(text).items() if path not in (("name",), ("extends",))})
    found = []
    for number in wanted:
        line = lines[number - 1].strip()
        found.append(f"# {line}" if not line.startswith("[") else f"\n# {line}")
    return "\n".join(found).strip().splitlines()
