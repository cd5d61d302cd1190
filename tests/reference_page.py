"""plugins/REFERENCE.md, written from the tables: `python tests/reference_page.py` writes it anew, a test compares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hybridgen.names import (
    API,
    ATTRIBUTES,
    CONTRACTS,
    CRITIC_QUANTITIES,
    FACTS,
    FEATURE_QUANTITIES,
    KINDS,
    QUANTITIES,
    RESERVED,
)
from hybridgen.recipe import tables
from hybridgen.registry import hooks
from hybridgen.signature import constructor
from hybridgen.testing import BY_KIND

PAGE = Path(__file__).parent.parent / "plugins" / "REFERENCE.md"
HEAD = f"""# Reference for plugin authors

Every name of plugin interface {API} that hybridgen reads or gives. This page is written from the tables in `hybridgen/names.py`
and `hybridgen/hookspecs.py` (`python tests/reference_page.py`, and tests compare); [README.md](README.md) says how they go
together. `hybridgen show kind loss`, `show quantity recon`, `show fact levels`, `show attribute draws` and `show hook recipes`
print the same.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Hooks\n", "What a manifest may implement, each marked with `hybridgen.hookimpl`; `HYBRIDGEN_API` beside"]
    parts[-1] += f" them is the number of the interface that it was written for ({API} where it says nothing).\n"
    parts.append(table(("hook", "what it does"), ((_call(name), _text(hook)) for name, hook in hooks().items())))
    parts += ["## Kinds\n", "`(self, ...)` stands for parameters that name quantities.\n"]
    parts += [kind(name) for name in KINDS]
    parts += ["## Attributes\n", "What a component may say of itself, on the class or set in its constructor.\n"]
    rows = ((f"`{n}`", ", ".join(a.kinds), a.meaning, a.default) for n, a in ATTRIBUTES.items())
    parts.append(table(("attribute", "of", "what it says", "without it"), rows))
    parts += ["## Quantities\n", "What parameters of methods may be called.\n"]
    parts.append(table(("quantity", "what it is"), ((f"`{name}`", what) for name, what in QUANTITIES.items())))
    parts.append(f"Of one discriminator (the recipe's `discriminator = NAME` says which): {_listed(CRITIC_QUANTITIES)}.\n")
    parts.append(f"Through a feature network (a metric's `features = NAME` says which): {_listed(FEATURE_QUANTITIES)}.\n")
    parts += ["## Facts\n", "What positional parameters of constructors may be called.\n"]
    rows = ((f"`{n}`", what, ", ".join(k for k, c in CONTRACTS.items() if n in c.facts)) for n, what in FACTS.items())
    parts.append(table(("fact", "what it is", "for"), rows))
    parts += ["## Reserved keys\n", "Keys of a recipe that belong to hybridgen: no option may be called like one.\n"]
    parts.append(table(("key", "what it says; where"), ((f"`{key}`", what) for key, what in RESERVED.items())))
    own = ", ".join(f"`{name}`" for name in constructor(tables.data, reserved=()).options)
    parts.append(f"Beside them stand in [data]: {own}.\n")
    parts += ["## Checks\n", "What `hybridgen check-plugin` and `hybridgen.testing.checks` ask, beside loading each recipe.\n"]
    asked = {f: [k for k, functions in BY_KIND.items() if f in functions] for one in BY_KIND.values() for f in one}
    rows = ((f"`{f.__name__}`", "all" if len(of) == len(KINDS) else ", ".join(of), _expected(f)) for f, of in asked.items())
    parts.append(table(("check", "of", "what it expects"), rows))
    return "\n".join(parts)


def kind(name: str) -> str:
    """The section of one kind."""
    contract = CONTRACTS[name]
    lines = [f"### {name}\n", f"{KINDS[name][0].upper()}{KINDS[name][1:]}. Written as {contract.form}.\n"]
    lines += [f"* `{member}`: {meaning}." for member, meaning in contract.must.items()]
    lines += [f"* `{member}`, optional: {meaning}." for member, meaning in contract.may.items()]
    declared = [attribute for attribute, one in ATTRIBUTES.items() if name in one.kinds]
    lines.append("")
    if declared:
        lines.append(f"Attributes that it may declare: {_listed(declared)}.\n")
    lines.append(
        f"Facts for its constructor: {_listed(contract.facts)}.\n" if contract.facts else "There are no facts for it.\n"
    )
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)]) + "\n"


def _expected(check: Callable[..., None]) -> str:
    """What a check expects: the first paragraph of its docstring."""
    return " ".join((inspect.getdoc(check) or "").partition("\n\n")[0].split())


def _listed(names: Iterable[str]) -> str:
    known: Mapping[str, object] = {**QUANTITIES, **FACTS, **ATTRIBUTES}
    chosen = set(names)
    return ", ".join(f"`{name}`" for name in known if name in chosen)


def _call(name: str) -> str:
    return f"`{name}({', '.join(inspect.signature(hooks()[name]).parameters)})`"


def _text(hook: object) -> str:
    return " ".join(inspect.cleandoc(hook.__doc__ or "").split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
