"""A JSON Schema of recipes for the plugins that are installed: what editors complete and underline by.

It says less than `load_recipe` checks: a child recipe is valid here without what its parent brings, and what one table means
for another is beyond it.

It is JSON Schema draft 7, not 2020-12, for the editors' sake. Taplo, which is behind Even Better TOML and most other editors'
TOML support, documents draft 4 and reads drafts 4, 6 and 7; a newer `$schema` it takes for draft 7, where `prefixItems` is no
keyword and what stands beside a `$ref` is ignored. So tuples are written with `items`, `minItems` and `maxItems`, and what
pydantic would define apart is written in place. What is left means the same in draft 2020-12; the tests validate under both.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import PydanticUserError, TypeAdapter

from hybridgen.errors import PluginError
from hybridgen.files import write_atomically
from hybridgen.names import RESERVED
from hybridgen.recipe import tables
from hybridgen.recipe.schedule import table_schema
from hybridgen.registry import Component, Registry
from hybridgen.signature import REQUIRED, Option, constructor

Schema = dict[str, Any]

NAMES: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
HOLD: Schema = {"type": "string", "description": "a quantity that leaves this part's update out where it is above 0"}
SAMPLE: Schema = {"anyOf": [{"type": "string"}, NAMES]}
SHARES: Schema = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]}
SCHEDULE: Schema = {"anyOf": [{"type": "number"}, {"$ref": "#/definitions/schedule"}]}

SEVERAL: Schema = {
    "minProperties": 1,
    "propertyNames": {"not": {"enum": list(RESERVED)}},
    "additionalProperties": {"type": "object"},
}
"""A [discriminator] that is a table of named ones."""

FILE: Final = "hybridgen.schema.json"
"""What the schema is called beside a recipe."""


def write_beside(folder: Path, registry: Registry) -> str:
    """Write the schema into a recipe's folder if it has none; returns the recipe's first line, which names it to editors.

    Raises RunError where it can't be written.
    """
    path = folder / FILE
    if not path.exists():
        write_atomically(path, schema_text(registry).encode())
    return f"#:schema ./{FILE}\n"


def schema_text(registry: Registry) -> str:
    """The schema as a file holds it."""
    return json.dumps(json_schema(registry), indent=2) + "\n"


def json_schema(registry: Registry) -> Schema:
    """The schema, draft 7. A component that can't be imported is left out of it."""
    critic = {
        "inputs": NAMES,
        "real": SAMPLE,
        "fake": {"anyOf": [SAMPLE, {"type": "array", "items": SAMPLE}]},
        "augment": {"$ref": "#/definitions/augment"},
        "hold": HOLD,
    }
    weights = {"weight": SCHEDULE, "discriminator_weight": SCHEDULE, "trains": SHARES}
    own = {"inputs": NAMES, "hold": HOLD}
    single = {kind: _components(registry, kind, own) for kind in ("encoder", "decoder", "latent")}
    optim = {**_core(tables.optim), "lr": SCHEDULE}
    player = _table(optim)
    critics = {"$ref": "#/definitions/discriminator"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
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
        "definitions": {
            "schedule": _plain(table_schema(), {}),
            "augment": _components(registry, "provider", {}),
            "discriminator": _components(registry, "discriminator", critic),
        },
    }


def _components(registry: Registry, kind: str, own: Schema) -> Schema:
    """A table with a `use`: one alternative a component, and one for a child recipe that leaves `use` to its parent."""
    found = registry.components(kind)
    names = [component.name for component in found]
    alternatives = [_alternative(c, names.count(c.name) == 1, own) for c in found]
    other = {"anyOf": [{"required": ["use"]}, SEVERAL]} if kind == "discriminator" else {"required": ["use"]}
    return {"anyOf": [*(a for a in alternatives if a), {"type": "object", "not": other, "properties": own}]}


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
    """One option: its type and bounds as pydantic tells them, description and default. Any value where it can't tell."""
    schema: Schema = {}
    default = None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(option.annotation)
        written = adapter.json_schema()
        schema = _plain(written, written.get("$defs", {}))
        if option.default is not REQUIRED and option.default is not None:
            default = adapter.dump_python(option.default, mode="json", warnings=False)
            json.dumps(default, allow_nan=False)
    except (PydanticUserError, ValueError):  # a type without a schema; a default that JSON can't hold
        default = None
    if option.description:
        schema["description"] = option.description
    return schema if default is None else {**schema, "default": default}


def _plain(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """What pydantic writes, by keywords that mean the same in draft 7 and in 2020-12; definitions are written in place."""
    if isinstance(schema, list):
        return [_plain(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        others = {key: value for key, value in definitions.items() if key != name}  # within itself it is any value
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _plain({**definitions.get(name, {}), **beside}, others)
    plain = {key: _plain(value, definitions) for key, value in schema.items() if key not in ("$defs", "prefixItems")}
    if "prefixItems" in schema:
        entries = [_plain(one, definitions) for one in schema["prefixItems"]]
        different = [one for index, one in enumerate(entries) if one not in entries[:index]]
        plain["items"] = different[0] if len(different) == 1 else {"anyOf": different}
    return plain


def _table(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _named(table: Schema) -> Schema:
    """Tables by name; `false` removes a parent's."""
    return {"type": "object", "additionalProperties": {"anyOf": [table, {"const": False}]}}
