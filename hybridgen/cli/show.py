"""`hybridgen show`: explain one component."""

from __future__ import annotations

import inspect
from typing import Any

import click

from hybridgen.cli import registry_of
from hybridgen.names import FACTS, KINDS, QUANTITIES

METHODS = ("forward", "generator", "discriminator", "update", "generated", "posterior", "prior")


@click.command(
    "show",
    epilog="""\b
Examples:
  hybridgen show loss reconstruction
  hybridgen show encoder nets:conv
  hybridgen show quantity recon_raw
  hybridgen show quantity                every quantity, with its meaning
""",
)
@click.argument("kind", type=click.Choice([*KINDS, "quantity", "fact"]))
@click.argument("name", required=False)
@click.pass_context
def command(ctx: click.Context, kind: str, name: str | None) -> None:
    """Explain the component NAME of a KIND: what it is, its options with types and defaults, a snippet to paste."""
    if kind in ("quantity", "fact"):
        _vocabulary(kind, name)
        return
    registry = registry_of(ctx)
    if name is None:
        for component in registry.components(kind):
            click.echo(component.qualified)
        return
    component = registry.find(kind, name)
    click.echo(explain(component))


def explain(component: Any) -> str:
    """The text of `show` for one component."""
    from hybridgen.signature import REQUIRED, constructor

    loaded = component.load()
    signature = constructor(loaded)
    lines = [f"{component.kind} {component.qualified}", f"  {component.reference}", ""]
    lines += [inspect.cleandoc(loaded.__doc__ or "(no documentation)"), ""]
    lines += _asks(loaded)
    if signature.facts:
        lines += ["Facts it is given: " + ", ".join(fact.name for fact in signature.facts), ""]
    if signature.options:
        lines.append("Options:")
        for option in signature.options.values():
            lines.append(f"  {option.name}: {option.describe()}")
            if option.description:
                lines.append(f"      {option.description}")
        lines.append("")
    lines += ["To paste:", *_snippet(component, signature, REQUIRED)]
    return "\n".join(lines)


def _asks(loaded: Any) -> list[str]:
    from hybridgen.signature import asks

    if not isinstance(loaded, type):
        return ["Asks for: " + ", ".join(ask.name for ask in asks(loaded)), ""]
    found = []
    for method in METHODS:
        own = inspect.getattr_static(loaded, method, None)
        if own is None or not inspect.isfunction(own) or own.__module__.startswith("torch"):
            continue
        names = ", ".join(ask.name if ask.required else f"{ask.name} (if it exists)" for ask in asks(own))
        found.append(f"  {method}: {names or 'nothing'}")
    offered = getattr(loaded, "quantities", ())
    extra = ["Offers the quantities: " + ", ".join(offered)] if offered else []
    return ["Asks for:", *found, *extra, ""] if found else []


def _snippet(component: Any, signature: Any, required: Any) -> list[str]:
    from hybridgen.recipe import toml_value

    header = {
        "loss": f"loss.{component.name}",
        "metric": f"metric.{component.name}",
        "features": f"features.{component.name}",
        "provider": f"quantity.{component.name.replace('-', '_')}",
        "reporter": f"reporter.{component.name}",
    }.get(component.kind, component.kind)
    if component.kind == "provider" and any(fact.name == "judged_shape" for fact in signature.facts):
        header = "discriminator.augment"  # it knows what is judged: an augmentation
    lines = [f"  [{header}]", f'  use = "{component.name}"']
    for option in signature.options.values():
        if option.default is required:
            lines.append(f"  {option.name} = ...   # required")
        elif option.default is not None:
            lines.append(f"  {option.name} = {toml_value(option.default)}")
    return lines


def _vocabulary(kind: str, name: str | None) -> None:
    table = QUANTITIES if kind == "quantity" else FACTS
    if name is not None and name not in table:
        import difflib

        close = difflib.get_close_matches(name, table, n=1)
        guess = f"; did you mean '{close[0]}'?" if close else ""
        raise click.UsageError(f"there is no {kind} '{name}'{guess} Here are: {', '.join(table)}")
    for key, meaning in table.items():
        if name in (None, key):
            click.echo(f"{key}: {meaning}")
