"""A recipe's text: parsed by tomllib, with the line on which each key stands.

tomllib keeps no positions, so a small scanner walks the same text and notes, for every table header and every key of a
statement, its line. It need not judge the TOML: tomllib has, before.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybridgen.errors import Problem, RecipeError

Lines = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class Source:
    """One file: its name as people see it, its text, its values, and the line of each key path."""

    name: str
    path: Path
    text: str
    values: dict[str, Any] = field(hash=False)
    lines: Lines = field(hash=False)


def read_source(path: Path, name: str | None = None) -> Source:
    """Read and parse one recipe file. Raises RecipeError naming file and line."""
    name = name or shown_path(path)
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Problem(f"it is not UTF-8 text (byte {error.start})", name)]) from error
    except OSError as error:
        raise RecipeError([Problem(f"it can't be read: {error.strerror}", name)]) from error
    return parse_source(text, name, path)


def parse_source(text: str, name: str, path: Path) -> Source:
    """Parse a recipe's text. Raises RecipeError with the line of a syntax error."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"{name}:{found[1]}" if found else f"{name}:{text.count(chr(10)) + 1}"
        what = str(error).partition(" (at ")[0]
        raise RecipeError([Problem(f"this is no valid TOML: {what}", where)]) from error
    return Source(name, path, text, values, index_lines(text))


def shown_path(path: Path) -> str:
    """A path as short as it can be named from the working directory."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


_KEY = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*""")


def index_lines(text: str) -> Lines:
    """Key path -> line (from 1) of every table header and statement of a valid TOML text.

    Keys inside an inline table are found too; entries of arrays of tables carry no number in their path.
    """
    lines: Lines = {}
    table: tuple[str, ...] = ()
    position = 0
    while position < len(text):
        char = text[position]
        if char in " \t\r\n":
            position += 1
        elif char == "#":
            position = _end_of_line(text, position)
        elif char == "[":
            opening = 2 if text.startswith("[[", position) else 1
            table, position = _keys(text, position + opening)
            lines.setdefault(table, _line(text, position))
            position = _end_of_line(text, position)
        else:
            position = _statement(text, position, table, lines)
    return lines


def _statement(text: str, position: int, table: tuple[str, ...], lines: Lines) -> int:
    """One `key = value`: note its line (and those of its dotted parents), step over the value."""
    line = _line(text, position)
    keys, position = _keys(text, position)
    path = table + keys
    for length in range(len(table) + 1, len(path) + 1):
        lines.setdefault(path[:length], line)
    return _value(text, position + 1, path, lines)  # the `=` is one character


def _keys(text: str, position: int) -> tuple[tuple[str, ...], int]:
    keys = []
    while match := _KEY.match(text, position):
        basic, literal, bare = match.groups()
        keys.append(tomllib.loads(f'k = "{basic}"')["k"] if basic is not None else literal if literal is not None else bare)
        position = match.end()
        if position >= len(text) or text[position] != ".":
            break
        position += 1
    return tuple(keys), position


def _value(text: str, position: int, path: tuple[str, ...], lines: Lines) -> int:
    """Step over a value; inside inline tables, note the keys."""
    position = _blank(text, position)
    char = text[position] if position < len(text) else ""
    if char in "\"'":
        return _string(text, position)
    if char == "[":
        position = _blank(text, position + 1)
        while text[position] != "]":
            position = _blank(text, _value(text, position, path, lines))
            position = _blank(text, position + 1) if text[position] == "," else position
        return position + 1
    if char == "{":
        position = _blank(text, position + 1)
        while text[position] != "}":
            position = _blank(text, _statement(text, position, path, lines))
            position = _blank(text, position + 1) if text[position] == "," else position
        return position + 1
    while position < len(text) and text[position] not in ",]}#\r\n":
        position += 1
    return position


def _string(text: str, position: int) -> int:
    quote = text[position]
    if text.startswith(quote * 3, position):
        position += 3
        while not text.startswith(quote * 3, position):
            position += 2 if quote == '"' and text[position] == "\\" else 1
        while text.startswith(quote, position):  # up to two quotes may stand before the closing three
            position += 1
        return position
    position += 1
    while text[position] != quote:
        position += 2 if quote == '"' and text[position] == "\\" else 1
    return position + 1


def _blank(text: str, position: int) -> int:
    """Step over white space, line breaks and comments (as arrays allow them)."""
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
        elif text[position] == "#":
            position = _end_of_line(text, position)
        else:
            break
    return position


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
