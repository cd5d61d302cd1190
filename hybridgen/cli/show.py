"""`hybridgen show`: explain one thing that is installed, or one word of the vocabulary."""

from __future__ import annotations

import difflib
import inspect
import shlex
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from hybridgen.cli import registry_of
from hybridgen.names import ATTRIBUTES, CONTRACTS, FACTS, KINDS, QUANTITIES

METHODS = ("forward", "generator", "discriminator", "update", "generated", "posterior", "prior")
WORDS = ("quantity", "fact", "attribute", "kind", "hook", "plugin", "recipe")
WHAT = (*KINDS, *WORDS)
TABLES = {"loss": "loss", "metric": "metric", "features": "features", "provider": "quantity", "reporter": "reporter"}
"""Kinds whose tables carry a name of their own in a recipe: [loss.NAME]."""


@click.command(
    "show",
    epilog="""\b
Examples:
  hybridgen show loss reconstruction
  hybridgen show encoder nets:conv
  hybridgen show recipe vagan-digits     where it comes from, what it is made of
  hybridgen show plugin losses           its state, and what it offers
  hybridgen show kind metric             what a component of that kind has to offer
  hybridgen show quantity                every quantity, with its meaning
""",
)
@click.argument("kind", metavar="KIND")
@click.argument("name", required=False)
@click.pass_context
def command(ctx: click.Context, kind: str, name: str | None) -> None:
    """Explain NAME, a component of a KIND (encoder, decoder, discriminator, loss, latent, data, metric, features, provider,
    reporter): what it is, its options with types and defaults, a snippet to paste.

    KIND may be quantity, fact, attribute, kind, hook, plugin or recipe as well. Without NAME: everything of that kind.
    """
    if kind not in WHAT:
        raise click.UsageError(_no_kind(kind, name, registry_of(ctx)), ctx)
    if kind in KINDS:
        registry = registry_of(ctx)
        if name is None:
            click.echo("\n".join(component.qualified for component in registry.components(kind)))
        else:
            click.echo(explain(registry.find(kind, name)))
    elif kind in ("plugin", "recipe"):
        click.echo(_plugin(name, registry_of(ctx)) if kind == "plugin" else _recipe(name, registry_of(ctx)))
    else:
        click.echo(_word(kind, name))


def _no_kind(kind: str, name: str | None, registry: Any) -> str:
    """What to write in place of a first word that is no kind: perhaps it is the name of something."""
    owners = [c.kind for c in registry.components() if c.name == kind] if name is None else []
    tables: dict[str, Iterable[str]] = {"quantity": QUANTITIES, "fact": FACTS, "attribute": ATTRIBUTES}
    tables |= {"recipe": registry.recipes(), "plugin": [plugin.name for plugin in registry.plugins]}
    owners += [word for word, table in tables.items() if kind in table] if name is None else []
    if owners:
        return f"write {' or '.join(f'`hybridgen show {owner} {kind}`' for owner in dict.fromkeys(owners))}"
    return f"'{kind}' is no kind of thing{_guess(kind, WHAT)} There are: {', '.join(WHAT)}"


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else "."


def _indented(text: str, by: str = "  ") -> str:
    return textwrap.fill(text, 110, initial_indent=by, subsequent_indent=by)


# -- components --------------------------------------------------------------------------------------------------------


def explain(component: Any) -> str:
    """The text of `show` for one component."""
    from hybridgen.signature import REQUIRED, constructor

    loaded = component.load()
    signature = constructor(loaded)
    lines = [f"{component.kind} {component.qualified}", f"  {component.place}", ""]
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

    header = component.kind
    if component.kind in TABLES:
        name = component.name.replace("-", "_") if component.kind == "provider" else component.name
        header = f"{TABLES[component.kind]}.{name}"
    if component.kind == "provider" and any(fact.name == "judged_shape" for fact in signature.facts):
        header = "discriminator.augment"  # it knows what is judged: an augmentation
    lines = [f"  [{header}]", f'  use = "{component.name}"']
    for option in signature.options.values():
        if option.default is required:
            lines.append(f"  {option.name} = ...   # required")
        elif option.default is not None:
            lines.append(f"  {option.name} = {toml_value(option.default)}")
    return lines


# -- plugins and recipes -----------------------------------------------------------------------------------------------


def _plugin(name: str | None, registry: Any) -> str:
    """One plugin: its state, what it offers, what is wrong with it. Without a name: all of them in a line each."""
    if name is None:
        return "\n".join(f"{plugin.name}: {plugin.state}" for plugin in registry.plugins)
    plugin = next((plugin for plugin in registry.plugins if plugin.name == name), None)
    if plugin is None:
        known = [plugin.name for plugin in registry.plugins]
        raise click.UsageError(f"there is no plugin '{name}'{_guess(name, known)} Installed: {', '.join(known)}")
    commands = _commands(plugin)  # first, for a hook that raises is one of its problems
    package = f"{plugin.distribution} {plugin.version}".strip() or "no installed package"
    lines = [
        f"plugin {plugin.name}",
        f"  of {package}",
        f"  manifest {plugin.module}, imported in {1e3 * plugin.seconds:.1f} ms"
        if plugin.seconds
        else f"  manifest {plugin.module}",
        f"  {plugin.state}{f': {plugin.cause}' if plugin.cause else ''}",
        "",
    ]
    for problem in plugin.problems:
        lines += [f"Problem: {problem}", ""]
    if plugin.components:
        lines.append("Components:" if plugin.state == "active" else "Components that it named before it failed:")
        width = max(len(f"{c.kind} {c.name}") for c in plugin.components)
        lines += [f"  {f'{c.kind} {c.name}':<{width}}  {_first_line(c)}" for c in plugin.components]
        lines += ["", f"hybridgen show {plugin.components[0].kind} {plugin.components[0].qualified} tells all of one.", ""]
    if plugin.recipes:
        width = max(map(len, plugin.recipes))
        lines += ["Recipes:", *(f"  {recipe:<{width}}  {_opening(path)}" for recipe, path in plugin.recipes.items()), ""]
    if commands:
        lines += ["Commands:", *(f"  hybridgen {command}" for command in commands), ""]
    return "\n".join(lines).rstrip()


def _first_line(component: Any) -> str:
    from hybridgen.errors import PluginError

    try:
        return (inspect.getdoc(component.load()) or "(no documentation)").splitlines()[0]
    except PluginError as error:
        return f"PROBLEM: {error}"


def _opening(path: Path) -> str:
    from hybridgen.recipe.values import description

    return description(path.read_text(encoding="utf-8", errors="replace")).partition("\n")[0]


def _commands(plugin: Any) -> list[str]:
    from hybridgen.registry import Registry

    group = click.Group("plugin")
    Registry([plugin]).add_commands(group)
    return list(group.commands)


def _recipe(name: str | None, registry: Any) -> str:
    """One recipe: where it comes from, what it is made of, how to run and copy it. Without a name: their names."""
    from hybridgen.recipe.merge import merge
    from hybridgen.recipe.values import description

    if name is None:
        return "\n".join(sorted(registry.recipes()))
    merged = merge(name, (), registry)
    source, *parents = merged.sources
    home = next((file for file in registry.recipes().values() if file.path.resolve() == source.path.resolve()), None)
    family = merged.tree.get("family")
    lines = [
        f"recipe {name}",
        f"  {source.name}" + (f", of the plugin '{home.plugin}'" if home else ""),
        *([f"  family {family}"] if isinstance(family, str) and family else []),
        *([f"  extends {', which extends '.join(_parent_names(merged.sources))}"] if parents else []),
        "",
        description(source.text) or "(no comment opens it)",
        "",
        "Made of:",
    ]
    parts = _parts(merged.tree)
    width = max((len(part) for part in parts), default=0)
    lines += [f"  {part:<{width}}  {use}" for part, use in parts.items()]
    given = shlex.quote(name)
    lines += [
        "",
        "To go on:",
        f"  hybridgen run {given}                      train it",
        f"  hybridgen resolve {given}                  every value, with its origin",
        f"  hybridgen cp {given} mine.toml             a copy to edit",
        f"  hybridgen cp {given} mine.toml --extends   only what you change",
    ]
    return "\n".join(lines)


def _parent_names(sources: Iterable[Any]) -> list[str]:
    """What each recipe of a chain calls its parent."""
    return [str(source.values["extends"]) for source in sources if "extends" in source.values]


def _parts(tree: Mapping[str, Any]) -> dict[str, str]:
    """Table -> the component that it uses, of a merged recipe."""
    from hybridgen.recipe.merge import KEYED, SINGLE

    tables = [(kind, tree[kind]) for kind in SINGLE if kind in tree]
    for kind in KEYED:
        named = tree.get(kind)
        tables += [(f"{kind}.{name}", table) for name, table in (named if isinstance(named, dict) else {}).items()]
    return {path: str(table.get("use", "?")) if isinstance(table, dict) else "?" for path, table in tables}


# -- the vocabulary ----------------------------------------------------------------------------------------------------


def _word(what: str, name: str | None) -> str:
    """One entry of a table of the vocabulary, or all of them in short."""
    from hybridgen.registry import hooks

    found: dict[str, tuple[Mapping[str, Any], Callable[[str], str], Callable[[str], str]]] = {
        "quantity": (QUANTITIES, QUANTITIES.__getitem__, lambda key: f"{key}: {QUANTITIES[key]}"),
        "fact": (FACTS, FACTS.__getitem__, _fact),
        "attribute": (ATTRIBUTES, lambda key: ATTRIBUTES[key].meaning, _attribute),
        "kind": (KINDS, KINDS.__getitem__, _kind),
        "hook": (hooks(), lambda key: inspect.cleandoc(hooks()[key].__doc__ or "").splitlines()[0], _hook),
    }
    table, short, whole = found[what]
    if name is None:
        return "\n".join(f"{key}: {short(key)}" for key in table)
    if name not in table:
        raise click.UsageError(f"there is no {what} '{name}'{_guess(name, table)} Here are: {', '.join(table)}")
    return whole(name)


def _fact(name: str) -> str:
    kinds = ", ".join(kind for kind, contract in CONTRACTS.items() if name in contract.facts)
    return f"{name}: {FACTS[name]}\n  for the constructors of: {kinds}"


def _attribute(name: str) -> str:
    attribute = ATTRIBUTES[name]
    return "\n".join(
        [f"{name} ({', '.join(attribute.kinds)})", _indented(attribute.meaning), f"  Without it: {attribute.default}"]
    )


def _kind(name: str) -> str:
    contract = CONTRACTS[name]
    lines = [f"{name}: {KINDS[name]}", f"  {contract.form}", ""]
    for title, members in (("It must offer:", contract.must), ("It may offer:", contract.may)):
        if members:
            lines.append(title)
            for member, meaning in members.items():
                lines += [f"  {member}", _indented(meaning, "      ")]
            lines.append("")
    if declared := {key: one for key, one in ATTRIBUTES.items() if name in one.kinds}:
        lines.append("It may declare, as attributes:")
        for key, attribute in declared.items():
            lines += [f"  {key}", _indented(f"{attribute.meaning}. Without it: {attribute.default}", "      ")]
        lines.append("")
    if contract.facts:
        lines += ["Its constructor may ask for the facts:", _indented(", ".join(contract.facts)), ""]
    header = f"{TABLES[name]}.NAME" if name in TABLES else name
    lines += [
        f'A manifest names it: register.{name}("mine", "package.module:Mine")',
        f'A recipe uses it:    [{header}] and use = "mine" below it',
    ]
    return "\n".join(lines)


def _hook(name: str) -> str:
    from hybridgen.registry import hooks

    hook = hooks()[name]
    parameters = ", ".join(inspect.signature(hook).parameters)
    text = inspect.cleandoc(hook.__doc__ or "")
    code = f"from hybridgen import hookimpl\n\n@hookimpl\ndef {name}({parameters}):\n    ..."
    return f"{name}({parameters})\n" + textwrap.indent(f"{text}\n\n{code}", "  ")
