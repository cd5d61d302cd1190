"""A JSON Schema of recipes for the plugins that are installed: what editors complete and underline by.

It says less than `load_recipe` checks: a child recipe is valid here without what its parent brings, and what one table means
for another is beyond it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import TypeAdapter

from hybridgen.errors import PluginError
from hybridgen.recipe import tables
from hybridgen.recipe.schedule import table_schema
from hybridgen.registry import Component, Registry
from hybridgen.signature import REQUIRED, Option, constructor

Schema = dict[str, Any]

NAMES: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
HOLD: Schema = {"type": "string", "description": "a quantity that leaves this part's update out where it is above 0"}
SAMPLE: Schema = {"anyOf": [{"type": "string"}, NAMES]}
SHARES: Schema = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
SCHEDULE: Schema = {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/schedule"}]}


def json_schema(registry: Registry) -> Schema:
    """The schema, draft 2020-12. A component that can't be imported is left out of it."""
    providers = _components(registry, "provider", {})
    critic = {
        "inputs": NAMES,
        "real": SAMPLE,
        "fake": {"anyOf": [SAMPLE, {"type": "array", "items": SAMPLE}]},
        "augment": providers,
        "hold": HOLD,
    }
    weights = {"weight": SCHEDULE, "discriminator_weight": SCHEDULE, "trains": SHARES}
    own = {"inputs": NAMES, "hold": HOLD}
    single = {kind: _components(registry, kind, own) for kind in ("encoder", "decoder", "latent")}
    optim = {**_core(tables.optim), "lr": SCHEDULE}
    player = _table(optim)
    critics = _components(registry, "discriminator", critic)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hybridgen recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "description": "the name of its runs; by default the file's"},
            "family": {"type": "string", "description": "what `hybridgen ls recipes` lists it under"},
            "extends": {"type": "string", "description": "one parent: a recipe's name, or a path relative to this file"},
            "data": _components(registry, "data", _core(tables.data)),
            **single,
            "discriminator": {"anyOf": [critics, _named(critics)]},
            "loss": _named(_components(registry, "loss", {"inputs": NAMES, **weights, **_core(tables.loss)})),
            "quantity": _named(_components(registry, "provider", {"inputs": NAMES})),
            "metric": _named(_components(registry, "metric", {"inputs": NAMES, **_core(tables.metric)})),
            "features": _named(_components(registry, "features", {})),
            "reporter": _named(_components(registry, "reporter", {})),
            "optim": _table({**optim, "generator": player, "discriminator": player}),
            "train": _table(_core(tables.train)),
            "players": _table(_core(tables.players)),
            "report": _table(_core(tables.report)),
            "evaluate": _table(_core(tables.evaluate)),
            "plugins": _table(_core(tables.plugins)),
        },
        "$defs": {"schedule": table_schema()},
    }


def _components(registry: Registry, kind: str, own: Schema) -> Schema:
    """A table with a `use`: one alternative a component, and one for a child recipe that leaves `use` to its parent."""
    found = registry.components(kind)
    names = [component.name for component in found]
    alternatives = [_alternative(c, names.count(c.name) == 1, own) for c in found]
    return {"anyOf": [*(a for a in alternatives if a), {"type": "object", "not": {"required": ["use"]}}]}


def _alternative(component: Component, unique: bool, own: Schema) -> Schema | None:
    try:
        loaded = component.load()
        options = constructor(loaded).options
    except PluginError:
        return None
    # options without a default aren't required here: a child recipe or the command line may give them
    names = [component.name, component.qualified] if unique else [component.qualified]
    use = {"enum": names, "description": (inspect.getdoc(loaded) or "").partition("\n\n")[0]}
    return {**_table({"use": use, **own, **_options(options.values())}), "required": ["use"]}


def _core(table: Callable[..., None]) -> Schema:
    return _options(constructor(table, reserved=()).options.values())


def _options(options: Iterable[Option]) -> Schema:
    return {option.name: _option(option) for option in options}


def _option(option: Option) -> Schema:
    schema: Schema = TypeAdapter(option.annotation).json_schema()
    if option.description:
        schema["description"] = option.description
    if option.default is not REQUIRED and option.default is not None:
        schema["default"] = list(option.default) if isinstance(option.default, tuple) else option.default
    return schema


def _table(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _named(table: Schema) -> Schema:
    """Tables by name; `false` removes a parent's."""
    return {"type": "object", "additionalProperties": {"anyOf": [table, {"const": False}]}}
