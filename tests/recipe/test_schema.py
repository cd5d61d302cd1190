"""The JSON Schema accepts every sound recipe and underlines what an editor can know to be wrong."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import jsonschema
import pytest
from common import FAMILIES, SHIPPED, needs

from hybridgen.recipe import load_recipe, resolved_toml
from hybridgen.recipe.schema import json_schema
from hybridgen.registry import Registry, load_registry


@pytest.fixture(scope="module")
def validator(registry: Registry) -> Any:
    schema = json.loads(json.dumps(json_schema(registry), default=str))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_as_written_and_in_full(name: str, validator: Any) -> None:
    path = load_registry().recipes()[name].path
    validator.validate(tomllib.loads(path.read_text(encoding="utf-8")))
    validator.validate(tomllib.loads(resolved_toml(load_recipe(name, needs(name)))))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_valid(family: str, validator: Any) -> None:
    validator.validate(tomllib.loads(FAMILIES[family]))


@pytest.mark.parametrize(
    "text",
    [
        "[trian]\nsteps = 3",
        "[train]\nstepps = 3",
        "[train]\nsteps = 0",
        '[encoder]\nuse = "conv"\nwidht = 3',
        '[encoder]\nuse = "nothing"',
        '[loss.kl]\nuse = "kl"\nweight = { to = 1.0, ovr = 3 }',
        '[optim]\nlr = "fast"',
        "family = 3",
        '[encoder]\nuse = "mlp"\nwidth = []',
        '[encoder]\nuse = "mlp"\nwidth = [64, 0]',
        '[encoder]\nuse = "mlp"\nwidth = [64, 3.5]',
    ],
)
def test_what_an_editor_underlines(text: str, validator: Any) -> None:
    assert not validator.is_valid(tomllib.loads(text))


def test_an_editor_takes_a_width_for_all_layers_or_one_for_each(validator: Any) -> None:
    for width in ("64", "[64]", "[64, 32]"):
        validator.validate(tomllib.loads(f'family = "mine"\n[encoder]\nuse = "mlp"\nwidth = {width}'))


def test_options_carry_their_descriptions_and_defaults(registry: Registry) -> None:
    encoders = json_schema(registry)["properties"]["encoder"]["anyOf"]
    conv = next(e for e in encoders if "conv" in e.get("properties", {}).get("use", {}).get("enum", []))
    assert conv["properties"]["use"]["enum"] == ["conv", "nets:conv"]
    width = conv["properties"]["width"]
    assert (width["type"], width["minimum"], width["default"]) == ("integer", 1, 32)
    assert "channels" in width["description"]
