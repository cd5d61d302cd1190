"""`hybridgen new`: a plugin or a recipe to start from."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from hybridgen.cli import registry_of
from hybridgen.names import KINDS

WHAT = {**KINDS, "recipes": "recipes and nothing else"}
PARENT = "vagan-digits"


@click.group(
    "new",
    epilog="""\b
Examples:
  hybridgen new plugin soft-edges --kind loss      a package that installs, trains and passes its tests
  hybridgen new recipe mine                        mine.toml, which extends vagan-digits
""",
)
def command() -> None:
    """Start a plugin, or a recipe."""


@command.command(
    "plugin",
    epilog="\b\nKinds:\n"
    + "\n".join(f"  {kind:<14} {what}" for kind, what in WHAT.items())
    + """

\b
Examples:
  hybridgen new plugin soft-edges --kind loss
  hybridgen new plugin pinwheel --kind data --folder ~/src/pinwheel
""",
)
@click.argument("name")
@click.option("--kind", required=True, type=click.Choice(list(WHAT)), metavar="KIND", help="What it offers; see below.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to write it [default: ./NAME].")
@click.pass_context
def plugin(ctx: click.Context, name: str, kind: str, folder: Path | None) -> None:
    """Write a small package that offers one component of a KIND, as a plugin called NAME.

    It holds a manifest, a component to edit, a recipe that trains it in seconds, and tests. Nothing is written over.
    """
    from hybridgen.scaffold import check_name, write_plugin

    check_name(name, kind, registry_of(ctx))
    folder = Path(name) if folder is None else folder.expanduser()
    for path in write_plugin(folder, name, kind):
        click.echo(str(path))
    place = str(folder) if folder.is_absolute() else f"./{folder}"
    _next(f"pip install -e {shlex.quote(place)}", f"hybridgen run {name}", f"hybridgen check-plugin {name}")


@command.command(
    "recipe",
    epilog="""\b
Examples:
  hybridgen new recipe mine                        what differs from vagan-digits
  hybridgen new recipe mine --extends gan-digits   what differs from another
  hybridgen new recipe mine --from gan-digits      the whole text of another
""",
)
@click.argument("name")
@click.option("--extends", metavar="RECIPE", help=f"Write what differs from RECIPE [default: {PARENT}].")
@click.option("--from", "source", metavar="RECIPE", help="Write the whole text of RECIPE.")
@click.option("--no-schema", is_flag=True, help="Name no JSON Schema to editors, and write none beside the recipe.")
@click.pass_context
def recipe(ctx: click.Context, name: str, extends: str | None, source: str | None, no_schema: bool) -> None:
    """Write NAME.toml, a recipe to edit. Nothing is written over."""
    from hybridgen.cli.cp import write_copy
    from hybridgen.errors import UserError

    if extends is not None and source is not None:
        raise click.UsageError("--extends and --from exclude each other: write what differs, or the whole text", ctx)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        stem = re.sub(r"[^a-z0-9_-]+", "-", name.removesuffix(".toml").lower()).strip("-_") or "mine"
        raise UserError(
            f"'{name}' is no good name for a recipe; write lower-case letters, digits, - and _, without a path or an ending, "
            f"such as '{stem}'"
        )
    target = Path(f"{name}.toml")
    if target.exists():
        raise UserError(f"nothing is written over: {target} exists; choose another name, or remove it")
    write_copy(ctx, source or extends or PARENT, target, extends=source is None, schema=not no_schema)
    click.echo(str(target))
    _next(f"hybridgen check {target}", f"hybridgen run {target}", f"hybridgen resolve {target}")


def _next(*commands: str) -> None:
    click.echo("\nNext:\n" + "\n".join(f"  {line}" for line in commands))
