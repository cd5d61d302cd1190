"""`hybridgen resolve`: a recipe in full."""

from __future__ import annotations

import click

from hybridgen.cli import registry_of


@click.command("resolve", epilog="\b\nExample:\n  hybridgen resolve vagan-digits encoder.width=64")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--origins/--no-origins", default=True, show_default=True, help="Say where each value comes from.")
@click.pass_context
def command(ctx: click.Context, recipe: str, overrides: tuple[str, ...], origins: bool) -> None:
    """Print RECIPE with its parents, defaults and overrides merged; the output is a recipe itself."""
    registry = registry_of(ctx)
    from hybridgen.recipe import load_recipe, resolved_toml

    click.echo(resolved_toml(load_recipe(recipe, overrides, registry=registry), origins=origins), nl=False)
