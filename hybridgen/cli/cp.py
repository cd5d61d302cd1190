"""`hybridgen cp`: a recipe to edit."""

from __future__ import annotations

from pathlib import Path

import click

from hybridgen.cli import registry_of


@click.command(
    "cp",
    epilog="""\b
Examples:
  hybridgen cp vagan-digits mine.toml              the whole text
  hybridgen cp vagan-digits mine.toml --extends    only what you change; the rest follows the original
""",
)
@click.argument("recipe")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--extends", is_flag=True, help="Write a recipe that extends RECIPE instead of repeating it.")
@click.option("--force", is_flag=True, help="Replace TARGET when it exists.")
@click.option("--no-schema", is_flag=True, help="Name no JSON Schema to editors, and write none beside TARGET.")
@click.pass_context
def command(ctx: click.Context, recipe: str, target: Path, extends: bool, force: bool, no_schema: bool) -> None:
    """Copy RECIPE to TARGET (a file, or a folder) to edit it."""
    from hybridgen.errors import UserError

    if target.is_dir():
        target = target / f"{Path(recipe).stem}.toml"
    if target.exists() and not force:
        raise UserError(f"{target} exists; write --force to replace it")
    write_copy(ctx, recipe, target, extends=extends, schema=not no_schema)
    click.echo(str(target))


def write_copy(ctx: click.Context, recipe: str, target: Path, *, extends: bool, schema: bool) -> None:
    """Write a copy of a recipe; with `schema` its first line names one to editors, which is written beside it if absent.

    Raises UserError where there is no such recipe or the place can't be written.
    """
    from hybridgen.errors import UserError
    from hybridgen.files import write_atomically
    from hybridgen.recipe import copy_recipe
    from hybridgen.recipe.schema import FILE, write_beside

    registry = registry_of(ctx)
    if not target.parent.is_dir():
        raise UserError(f"{target} can't be written: there is no folder {target.parent}")
    text = copy_recipe(recipe, target, extends=extends, registry=registry)
    if schema:
        beside = target.parent / FILE
        known = beside.exists()
        text = write_beside(target.parent, registry) + text
        if not known:
            again = f"hybridgen schema --out {beside}"
            click.echo(
                f"hybridgen: editors complete recipes by {beside}; once you install plugins, write it anew: {again}", err=True
            )
    write_atomically(target, text.encode())
