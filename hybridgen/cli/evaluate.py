"""`hybridgen evaluate`: measure a trained run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from hybridgen.cli import bringing_torch, registry_of


@click.command(
    "evaluate",
    epilog="""\b
Examples:
  hybridgen evaluate vagan-digits                                   every metric that this model allows
  hybridgen evaluate vagan-digits --metric fid evaluate.samples=5000
  hybridgen evaluate vagan-digits features.photo.use=inception features.photo.weights=~/inception.pth
  hybridgen evaluate vagan-digits --best --json
""",
)
@click.argument("run")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric; may be given several times.")
@click.option("--step", type=click.IntRange(min=0), metavar="N", help="A checkpoint other than the newest.")
@click.option("--best", is_flag=True, help="The best checkpoint, by the metric that named it.")
@click.option("--runs", default="runs", show_default=True, type=click.Path(), help="Folder that holds the runs.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The whole result as one JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    overrides: tuple[str, ...],
    metrics: tuple[str, ...],
    step: int | None,
    best: bool,
    runs: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure RUN (a folder, or the beginning of its name) on held-out data and on samples of its averaged weights.

    Overrides are of the recipe's tables metric, features, evaluate and data. Every number is printed, and stored in
    RUN/evaluations, with the protocol that it was measured under.
    """
    registry = registry_of(ctx)
    from hybridgen.events import writable
    from hybridgen.run_folder import find_run

    with bringing_torch():
        from hybridgen.measure import evaluate

    if step is not None and best:
        raise click.UsageError("--step and --best each name a checkpoint; write one of them")
    folder = find_run(run, runs, trained=True)
    with _progress() as progress:
        record = evaluate(
            folder, overrides, metrics=metrics, step=step, best=best, device=device, registry=registry, progress=progress
        )
    click.echo(json.dumps(writable(record), indent=2) if as_json else table(folder.name, record))
    if metrics and not record["values"]:
        ctx.exit(2)  # what was asked for by name has no number; the reason stands above


def table(run: str, record: Mapping[str, Any]) -> str:
    """An evaluation for people: values, protocol, what to know of them, and what has none."""
    from hybridgen.protocol import sentences
    from hybridgen.report.render import number, unit_of

    rows = [(name, number(value), unit_of(record, name)) for name, value in record["values"].items()]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    lines = [f"{run}, step {record['step']:,}, in {record['seconds']:.1f} s", ""]
    lines += [f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {unit}".rstrip() for name, value, unit in rows] or ["  no values"]
    lines += ["", *(f"  {line}" for line in sentences(record))]
    lines += [f"  {name}: {text}" for name, said in record["remarks"].items() for text in said]
    for head, found in (("No value:", record["refused"]), ("Not for this model:", record["unavailable"])):
        if found:
            lines += ["", head, *(f"  {name}: {why.removeprefix(f'{name}: ')}" for name, why in found.items())]
    return "\n".join(lines)


@contextmanager
def _progress() -> Iterator[Any]:
    """What is being done, on stderr: a line that changes in a terminal, elsewhere one every ten seconds."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("evaluating") as status:
            yield lambda text, done, total: status.update(f"{text} {done:,} of {total:,}" if total else text)
        return
    last = [0.0]

    def tell(text: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] >= 10:
            last[0] = time.monotonic()
            click.echo(f"{text} {done}/{total}" if total else text, err=True)

    yield tell
