"""`hybridgen report`: the report of a run, drawn again from its record. Starts no torch."""

from __future__ import annotations

import click


@click.command("report", epilog="\b\nExample:\n  hybridgen report vagan-digits")
@click.argument("run")
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
def command(run: str, runs: str) -> None:
    """Draw the report of RUN from its metrics.jsonl, write report.txt and report.svg anew, and print the text."""
    from hybridgen.report import save_report
    from hybridgen.run_folder import find_run

    folder = find_run(run, runs)
    save_report(folder)
    click.echo((folder / "report.txt").read_text(encoding="utf-8"), nl=False)
