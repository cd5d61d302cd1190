"""Small readings that the check of a recipe is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hybridgen.errors import Problem
from hybridgen.recipe.merge import Typed
from hybridgen.signature import Constructor, validate


def place(problem: Problem) -> tuple[str, int]:
    source, _, line = problem.where.rpartition(":")
    return (source, int(line)) if line.isdigit() else (problem.where, 0)


def guess(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(known) or 'none'}"


def roles(judged: Mapping[str, str] | None) -> str:
    return ", ".join(judged or {}) or "none"


def plain(value: Any) -> Any:
    if isinstance(value, Typed):
        return value.value
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


def read_typed(value: Any, schema: Constructor, name: str) -> Any:
    """A command-line value as its field's type decides: the text itself where the reading doesn't fit."""
    if not isinstance(value, Typed):
        return plain(value)
    if name in schema.options:
        _, problems = validate({name: value.value}, Constructor((), {name: schema.options[name]}))
        if problems and not validate({name: value.text}, Constructor((), {name: schema.options[name]}))[1]:
            return value.text
    return value.value


def toml(value: Any) -> Any:
    """A validated value as TOML holds it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [toml(v) for v in value]
    return value


def description(text: str) -> str:
    """The comment block that opens a recipe, without directives to editors (`#:schema ...`)."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if line.startswith("#:"):
            continue
        lines.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(lines).strip()


def unmet(requirement: str) -> str:
    """Why a requirement such as "hybridgen-foo>=0.2" is not met; empty when it is."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return f"'{requirement}' is no requirement that pip understands"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"the recipe needs the plugin package {requirement}, which is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"the recipe needs {requirement}, installed is {wanted.name} {version}"
    return ""
