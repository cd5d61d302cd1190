"""`hybridgen doctor`: what is wrong with this installation, this machine, or what a recipe needs of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from hybridgen.cli import bringing_torch, registry_of

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


@click.command(
    "doctor",
    epilog="""\b
Examples:
  hybridgen doctor
  hybridgen doctor vagan-images data.path=~/pictures
  hybridgen doctor --json                             for scripts
""",
)
@click.argument("recipe", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--runs", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(ctx: click.Context, recipe: str | None, overrides: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Look over versions, devices, compiler, plugins, folders and terminal; with RECIPE, over what it needs as well.

    Nothing is downloaded and nothing left behind. Exits with 2 where there is a problem; a note is none.
    """
    registry = registry_of(ctx)

    with bringing_torch():
        from hybridgen.doctor import examine, examine_recipe

    findings: Iterable[Any] = examine(registry, runs=runs)
    found = [_told(finding, as_json) for finding in findings]
    if recipe is not None:
        found += [_told(finding, as_json) for finding in examine_recipe(recipe, overrides, registry)]
    counts = {state: sum(finding.state == state for finding in found) for state in COLOURS}
    if as_json:
        table = [dataclasses.asdict(finding) for finding in found]
        click.echo(json.dumps({"healthy": not counts["problem"], **counts, "findings": table}, indent=2))
    else:
        click.echo(f"\n{_counted(counts['problem'], 'problem')}, {_counted(counts['note'], 'note')}")
    ctx.exit(2 if counts["problem"] else 0)


def _told(finding: Any, as_json: bool) -> Any:
    """A finding, shown as soon as it is there: the next one may take seconds."""
    if not as_json:
        state = click.style(f"{finding.state:<8}", fg=COLOURS[finding.state], bold=finding.state != "ok")
        click.echo(f"{state} {finding.topic:<20} {finding.text}")
        if finding.mend:
            click.echo(f"{'':<29} -> {finding.mend}")
    return finding


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
