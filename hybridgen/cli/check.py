"""`hybridgen check`: everything that is wrong with a recipe, before any data is read."""

from __future__ import annotations

import click

from hybridgen.cli import bringing_torch, registry_of


@click.command("check", epilog="\b\nExample:\n  hybridgen check ./mine.toml train.steps=500")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def command(ctx: click.Context, recipe: str, overrides: tuple[str, ...]) -> None:
    """Check RECIPE: names, options, and a dry run of one step on tensors without memory.

    Only the headers of the data are read (its shape and labels).
    """
    registry = registry_of(ctx)
    from hybridgen.recipe import load_recipe

    with bringing_torch():
        from hybridgen.doctor import try_out
        from hybridgen.examples import describe

    loaded = load_recipe(recipe, overrides, registry=registry)
    try_out(loaded, describe(loaded))
    click.echo(f"{loaded.name}: no problem found")
