"""`hybridgen ls`: what there is. Starts no torch."""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

import click

from hybridgen.cli import registry_of
from hybridgen.names import KINDS

PLURALS = {kind: {"data": "data", "loss": "losses", "features": "features"}.get(kind, f"{kind}s") for kind in KINDS}
WHAT = ("all", "recipes", "components", "plugins", "runs", *dict.fromkeys([*PLURALS.values(), *KINDS]))


@click.command(
    "ls",
    epilog="""\b
Examples:
  hybridgen ls                recipes, components and plugins
  hybridgen ls losses         components of one kind
  hybridgen ls runs --json    for scripts
""",
)
@click.argument("what", type=click.Choice(WHAT), default="all", metavar="[WHAT]")
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(ctx: click.Context, what: str, runs: str, as_json: bool) -> None:
    """List recipes, components (or one kind: encoders, losses, data, ...), plugins, or runs."""
    registry = registry_of(ctx)
    kind = next((one for one, plural in PLURALS.items() if what in (one, plural)), "")
    sections: dict[str, list[dict[str, Any]]] = {}
    if what in ("all", "recipes"):
        sections["recipes"] = _recipes(registry)
    if what in ("all", "components"):
        for one in KINDS:
            sections[f"{one} components"] = _components(registry, one)
    elif kind:
        sections[f"{kind} components"] = _components(registry, kind)
    if what in ("all", "plugins"):
        sections["plugins"] = _plugins(registry)
    if what == "runs":
        from hybridgen.run_folder import list_runs

        sections["runs"] = [
            {"run": r.path.name, "recipe": r.recipe, "step": f"{r.step}/{r.steps}", "status": r.status} for r in list_runs(runs)
        ]
    if as_json:
        click.echo(json.dumps(sections, indent=2))
        return
    for title, rows in _by_family(sections).items():
        if rows or what != "all":
            _table(title, rows)


def _recipes(registry: Any) -> list[dict[str, Any]]:
    from hybridgen.errors import RecipeError
    from hybridgen.recipe.merge import merge
    from hybridgen.recipe.values import description

    rows = []
    for name, file in sorted(registry.recipes().items()):
        text = file.path.read_text(encoding="utf-8", errors="replace")
        first = description(text).partition("\n")[0]
        try:
            family = merge(name, (), registry).tree.get("family", "")
        except RecipeError:  # `check` says what is wrong with it
            family = ""
        rows.append({"family": family if isinstance(family, str) else "", "name": name, "plugin": file.plugin, "what": first})
    return sorted(rows, key=lambda row: (not row["family"], row["family"], row["name"]))


def _by_family(sections: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """For people: the recipes of each family under a title of their own, those of none last."""
    rows = sections.get("recipes", [])
    families: dict[str, list[dict[str, Any]]] = {"recipes": []} if "recipes" in sections and not rows else {}
    for row in rows:
        title = f"recipes: {row['family']}" if row["family"] else "recipes"
        families.setdefault(title, []).append({key: value for key, value in row.items() if key != "family"})
    return families | {title: rows for title, rows in sections.items() if title != "recipes"}


def _components(registry: Any, kind: str) -> list[dict[str, Any]]:
    found = registry.components(kind)
    names = [component.name for component in found]
    return [
        {
            "name": c.name if names.count(c.name) == 1 else c.qualified,
            "plugin": c.plugin,
            "reference": c.place,
        }
        for c in sorted(found, key=lambda c: (c.name, c.plugin))
    ]


def _plugins(registry: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "package": plugin.origin,
            "state": plugin.state,
            "cause": "; ".join([*([plugin.cause] if plugin.cause else []), *plugin.problems]),
        }
        for plugin in registry.plugins
    ]


def _table(title: str, rows: list[dict[str, Any]]) -> None:
    click.secho(title, bold=True)
    if not rows:
        click.echo("  none")
    widths = {key: max(len(str(row[key])) for row in rows) for key in rows[0]} if rows else {}
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for row in rows:
        line = ("  " + "  ".join(str(value).ljust(widths[key]) for key, value in row.items())).rstrip()
        # a description may be cut at the terminal's edge; a name, a reference or a cause may not
        cut = "what" in row and 0 < columns < len(line)
        click.echo(f"{line[: columns - 3].rstrip()}..." if cut else line)
    click.echo()
