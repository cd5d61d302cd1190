"""`hybridgen resume`: go on with a run."""

from __future__ import annotations

import click

from hybridgen.cli import bringing_torch, registry_of
from hybridgen.cli.run import REPORTS


@click.command(
    "resume",
    epilog="""\b
Examples:
  hybridgen resume runs/vagan-digits-20260101-120000-1a2b
  hybridgen resume --auto                    the newest unfinished run below runs/
""",
)
@click.argument("run", required=False)
@click.option("--auto", is_flag=True, help="Take the newest unfinished run.")
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--report", default="auto", show_default=True, type=REPORTS, help="How to tell what happens (stderr).")
@click.pass_context
def command(ctx: click.Context, run: str | None, auto: bool, runs: str, report: str) -> None:
    """Go on with RUN from its newest checkpoint, bit for bit as if it had never stopped."""
    from hybridgen.errors import RunError
    from hybridgen.run_folder import find_run, latest_unfinished

    if auto == (run is not None):
        raise click.UsageError("name a run, or write --auto for the newest unfinished one")
    found = latest_unfinished(runs) if auto else find_run(str(run), runs)
    if found is None:
        raise RunError(f"no unfinished run below {runs}/; `hybridgen ls runs --runs {runs}` lists them all")
    registry = registry_of(ctx)
    from hybridgen.allocator import keep_freed_memory

    with bringing_torch():
        from hybridgen.loop import resume

    keep_freed_memory()
    outcome = resume(found, report=report, registry=registry)
    click.echo(str(outcome.path))
