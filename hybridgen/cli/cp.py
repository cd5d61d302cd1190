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
@click.pass_context
def command(ctx: click.Context, recipe: str, target: Path, extends: bool, force: bool) -> None:
    """Copy RECIPE to TARGET (a file, or a folder) to edit it."""
    from hybridgen.errors import UserError
    from hybridgen.files import write_atomically
    from hybridgen.recipe import copy_recipe

    if target.is_dir():
        target = target / f"{Path(recipe).stem}.toml"
    if target.exists() and not force:
        raise UserError(f"{target} exists; write --force to replace it")
    text = copy_recipe(recipe, target, extends=extends, registry=registry_of(ctx))
    write_atomically(target, text.encode())
    click.echo(str(target))
