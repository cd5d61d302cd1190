"""`hybridgen check-plugin`: the conformance kit from the command line."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import click

from hybridgen.cli import bringing_torch, registry_of


@click.command(
    "check-plugin",
    epilog="""\b
Examples:
  hybridgen check-plugin mine                             every check of a plugin
  hybridgen check-plugin mine --only loss:hinge           of one component
  hybridgen check-plugin mine --set data:folder.path=~/pictures
""",
)
@click.argument("name")
@click.option("--only", multiple=True, metavar="KIND:NAME", help="One component; may be given several times.")
@click.option("--check", "wanted", multiple=True, metavar="CHECK", help="One check, e.g. gradients; several times for more.")
@click.option("--set", "given", multiple=True, metavar="KIND:NAME.OPTION=VALUE", help="An option that has no default.")
@click.option("--verbose", "-v", is_flag=True, help="A line for each check, those that pass as well.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    only: tuple[str, ...],
    wanted: tuple[str, ...],
    given: tuple[str, ...],
    verbose: bool,
    as_json: bool,
) -> None:
    """Hold everything that the plugin NAME registers to what its kind promises. Exit code 2 where something fails."""
    with bringing_torch():
        from hybridgen.testing import checks, run_checks

    found = checks(name, options=_options(given), registry=registry_of(ctx), only=only)
    known = sorted({check.name for check in found})
    if unknown := sorted(set(wanted) - set(known)):
        raise click.UsageError(f"there is no check {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [check for check in found if not wanted or check.name in wanted]

    after: Counter[tuple[str, str]] = Counter()

    def tell(check: Any, outcome: str, reason: str) -> None:
        if as_json or (outcome == "passed" and not verbose):
            return
        if outcome == "skipped" and reason.startswith("`") and reason.endswith("` failed") and not verbose:
            after[check.subject, reason] += 1
            return
        click.echo(f"{outcome:8}{check}" + (f": {reason}" if outcome == "skipped" else ""))
        if outcome == "failed":
            click.echo("  " + reason.replace("\n", "\n  ") + "\n")

    results = run_checks(chosen, tell)
    for (subject, reason), count in after.items():
        click.echo(f"skipped {count} checks of {subject}: {reason}")
    if as_json:
        click.echo(json.dumps({"passed": results.passed, "skipped": results.skipped, "failed": results.failed}, indent=2))
    else:
        click.echo(f"{name}: {len(chosen)} checks: {results}")
    if results.failed:
        ctx.exit(2)


def _options(given: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """ "data:folder.path=x" -> {"data:folder": {"path": "x"}}, values as in TOML where they are TOML, else text."""
    import tomllib

    found: dict[str, dict[str, Any]] = {}
    for one in given:
        path, equals, text = one.partition("=")
        component, dot, option = path.rpartition(".")
        if not equals or not dot or ":" not in component:
            raise click.UsageError(f"--set {one}: expected KIND:NAME.OPTION=VALUE, e.g. data:folder.path=~/pictures")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        found.setdefault(component, {})[option] = value
    return found
