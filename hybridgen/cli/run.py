"""`hybridgen run`: train a recipe."""

from __future__ import annotations

import click

from hybridgen.cli import bringing_torch, registry_of

REPORTS = click.Choice(["auto", "tty", "plain", "jsonl", "quiet"])


@click.command(
    "run",
    epilog="""\b
Examples:
  hybridgen run vagan-digits
  hybridgen run vagan-digits train.steps=500 encoder.width=64
  hybridgen run vagan-digits loss.adversarial=false discriminator=false metric.discriminator-accuracy=false
  hybridgen run ./mine.toml --report plain
""",
)
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--report", default="auto", show_default=True, type=REPORTS, help="How to tell what happens (stderr).")
@click.pass_context
def command(ctx: click.Context, recipe: str, overrides: tuple[str, ...], runs: str, report: str) -> None:
    """Train RECIPE (a name from `hybridgen ls recipes`, or a path) and print the run's folder."""
    registry = registry_of(ctx)
    from hybridgen.allocator import keep_freed_memory

    with bringing_torch():
        from hybridgen.loop import train

    keep_freed_memory()
    outcome = train(recipe, overrides, runs=runs, report=report, registry=registry)
    click.echo(str(outcome.path))
