"""plugins/SHELF.md, written from the docstrings: `python tests/shelf_page.py` writes it anew, a test compares."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from hybridgen.names import KINDS
from hybridgen.registry import Component, load_registry

PAGE = Path(__file__).parent.parent / "plugins" / "SHELF.md"
HEAD = """# The shelf

What hybridgen ships, by kind. This page is written from the docstrings (`python tests/shelf_page.py`, and a test compares);
`hybridgen show loss r1` prints the whole of one: formula, shapes, options with bounds and defaults, when to use it, what a
healthy value looks like, and where it comes from. [recipes/README.md](../recipes/README.md) shows how they go together.
"""


def page() -> str:
    """The whole page."""
    components = [c for c in load_registry().components() if c.distribution == "hybridgen"]
    parts = [HEAD]
    for kind in KINDS:
        found = sorted((c for c in components if c.kind == kind), key=lambda c: c.name)
        if found:
            parts.append(f"## {kind}\n\n| name | what it is | source |\n|---|---|---|\n" + "\n".join(map(row, found)) + "\n")
    return "\n".join(parts)


def row(component: Component) -> str:
    """One line of a table: name, the docstring's first paragraph, its source."""
    text = inspect.cleandoc(component.load().__doc__ or "")
    what = " ".join(text.partition("\n\n")[0].split())
    source = re.search(r"^Source: (.*?)(?:\n\n|\n[A-Z]\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    cells = (f"`{component.name}`", what, " ".join(source[1].split()) if source else "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
