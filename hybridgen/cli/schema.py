"""`hybridgen schema`: a JSON Schema of recipes, for editors."""

from __future__ import annotations

from pathlib import Path

import click

from hybridgen.cli import registry_of


@click.command(
    "schema",
    epilog="""\b
Example:
  hybridgen schema --out hybridgen.schema.json

\b
Then name it in the first line of a recipe, as the TOML extensions of editors expect (`new recipe` and `cp` do so):
  #:schema ./hybridgen.schema.json
""",
)
@click.option("--out", type=click.Path(path_type=Path), help="A file to write [default: stdout].")
@click.pass_context
def command(ctx: click.Context, out: Path | None) -> None:
    """Write a JSON Schema of recipes for the plugins that are installed."""
    from hybridgen.files import write_atomically
    from hybridgen.recipe.schema import schema_text

    text = schema_text(registry_of(ctx))
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(str(out))
