"""The line of every key, however a person writes TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from hybridgen.errors import RecipeError
from hybridgen.recipe.source import index_lines, parse_source

TEXT = """\
# a comment with [brackets] and key = "value"
name = "x"          # 2
a.b.c = 1           # 3

[data]
use = 'it''s' if false else ""
"""

TRICKY = '''\
name = "quoted \\" [not.a.table]"
text = """
[not]
key = "value"
"""
[loss.kl]
use = "kl"
weight = { from = 0.0,
  to = 1.0 }
list = [ # comment ]
  "a", "]",
  { inner = 1 },
]
[loss."odd name"]
literal = \'\'\'
x = 1
\'\'\'
[[many]]
one = 1
[[many]]
two = 2
"dotted"."k e y" = 3
'''


def test_every_key_has_its_line() -> None:
    lines = index_lines(TRICKY)
    expected = {
        ("name",): 1,
        ("text",): 2,
        ("loss", "kl"): 6,
        ("loss", "kl", "use"): 7,
        ("loss", "kl", "weight"): 8,
        ("loss", "kl", "weight", "from"): 8,
        ("loss", "kl", "weight", "to"): 9,
        ("loss", "kl", "list"): 10,
        ("loss", "odd name"): 14,
        ("loss", "odd name", "literal"): 15,
        ("many", "one"): 19,
        ("many", "two"): 21,
        ("many", "dotted", "k e y"): 22,
    }
    assert {key: lines.get(key) for key in expected} == expected
    assert ("not",) not in lines
    assert ("x",) not in lines


def keys(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(tree, dict):
        return []
    return [p for key, value in tree.items() for p in [(*path, key), *keys(value, (*path, key))]]


def test_no_key_of_a_shipped_recipe_is_missed() -> None:
    import hybridgen_recipes

    for path in Path(hybridgen_recipes.__file__).parent.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        lines = index_lines(text)
        for key in keys(tomllib.loads(text)):
            if key not in lines and any(len(line) > len(key) and line[: len(key)] == key for line in lines):
                continue  # a table that only its children's headers name
            assert key in lines, f"{path.name}: {key}"
            assert key[-1] in text.splitlines()[lines[key] - 1]


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(RecipeError, match=r"mine\.toml:6: this is no valid TOML"):
        parse_source(TEXT, "mine.toml", Path("mine.toml"))
