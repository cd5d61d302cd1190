"""`hybridgen compare`: evaluations of several runs, side by side where their protocols agree. Starts no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command(
    "compare",
    epilog="""\b
Examples:
  hybridgen compare vagan-digits gan-digits
  hybridgen compare runs/vagan-digits-2026* --metric fid --metric kid.mean
""",
)
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this value; may be given several times.")
@click.option("--runs", "root", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
def command(runs: tuple[str, ...], metrics: tuple[str, ...], root: str) -> None:
    """The newest evaluation of each RUN, one value a row. A value of another protocol than the first run's is refused."""
    from hybridgen.errors import UserError
    from hybridgen.protocol import agreeing, compare, holding, newest
    from hybridgen.report.render import number, unit_of
    from hybridgen.run_folder import find_run

    if len(runs) < 2:
        raise click.UsageError("compare wants at least two runs")
    folders = [find_run(run, root, trained=True) for run in runs]
    found = [_evaluated(newest(folder), folder) for folder in folders]
    ours = dict.fromkeys(name for one in found[0] for name in one["values"])
    theirs = {name for other in found[1:] for one in other for name in one["values"]}
    names = list(metrics) or [name for name in ours if name in theirs]
    rows, refused = [], []
    for name in names:
        first = holding(found[0], name)
        cells = [number(first["values"].get(name))]
        for folder, other in zip(folders[1:], found[1:], strict=True):
            try:
                cells.append(number(compare(first, agreeing(other, first, name), name)[1]))
            except UserError as error:
                cells.append("-")
                refused.append(f"{folder.name}: {error}")
        rows.append((name, *cells, unit_of(first, name)))
    if not any(cell != "-" for row in rows for cell in row[2:-1]):
        why = "\n  ".join(refused) or "they have no value in common"
        raise UserError(f"nothing of these runs compares:\n  {why}")
    head = ("", *(f"{folder.name} at {one[0]['step']:,}" for folder, one in zip(folders, found, strict=True)), "")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        name, *cells, unit = row
        values = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths[1:-1], strict=True))
        click.echo(f"{name:<{widths[0]}}  {values}  {unit}".rstrip())
    for line in dict.fromkeys(refused):
        click.echo(f"not compared: {line}", err=True)


def _evaluated(evaluations: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    from hybridgen.errors import UserError

    if not evaluations:
        raise UserError(f"{folder} was never evaluated; write: hybridgen evaluate {folder}")
    return evaluations
