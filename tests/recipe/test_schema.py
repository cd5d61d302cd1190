"""The JSON Schema accepts every sound recipe and underlines what an editor can know to be wrong, under draft 7, which editors'
TOML extensions read, and under 2020-12, as which some will read it whatever it says."""

from __future__ import annotations

import enum
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from common import FAMILIES, SHIPPED, needs
from pydantic import BaseModel, Field

from hybridgen import hookimpl
from hybridgen.cli import main
from hybridgen.recipe import load_recipe, resolved_toml
from hybridgen.recipe.schema import json_schema
from hybridgen.registry import Registry, load_registry

DRAFTS = (jsonschema.Draft7Validator, jsonschema.Draft202012Validator)


@pytest.fixture(scope="module")
def schema(registry: Registry) -> Any:
    return json.loads(json.dumps(json_schema(registry), allow_nan=False))


@pytest.fixture(scope="module", params=DRAFTS, ids=lambda draft: draft.__name__)
def validator(schema: Any, request: pytest.FixtureRequest) -> Any:
    return request.param(schema)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_valid_as_written_and_in_full(name: str, schema: Any, registry: Registry) -> None:
    written = tomllib.loads(registry.recipes()[name].path.read_text(encoding="utf-8"))
    whole = tomllib.loads(resolved_toml(load_recipe(name, needs(name), registry=registry)))
    for draft in DRAFTS:
        draft(schema).validate(written)
        draft(schema).validate(whole)


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
        "[optim]\nbetas = [0.5, 1.99]",
        "[optim]\nbetas = [0.5]",
        '[discriminator]\naugment = { use = "ada", tarrget = 0.5 }',
        '[discriminator.data]\nuse = "conv"\nwidht = 3',
        '[discriminator.data]\nuse = "conv"\n[discriminator.codes]\nuse = "mlp"\nwidht = 3',
        '[discriminator]\nuse = "conv"\naugment = { use = "ada", tarrget = 0.5 }',
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


@pytest.mark.parametrize("draft", DRAFTS)
def test_it_is_a_schema(draft: Any, schema: Any) -> None:
    draft.check_schema(schema)


def test_the_drafts_that_editors_read_have_every_keyword_of_it(schema: Any) -> None:
    """Draft 7 knows no `prefixItems` and no `$defs`, and ignores what stands beside a `$ref`."""
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    seen = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            assert "$ref" not in value or len(value) == 1, value
            assert not {"$defs", "prefixItems", "unevaluatedProperties", "dependentSchemas"} & value.keys()
            seen.extend([value["$ref"]] if "$ref" in value else [])
            for one in value.values():
                walk(one)
        elif isinstance(value, list):
            for one in value:
                walk(one)

    walk(schema)
    assert {f"#/definitions/{name}" for name in schema["definitions"]} == set(seen)


class Shape(enum.Enum):
    ROUND = "round"
    SQUARE = "square"


class Tree(BaseModel):
    """A table that holds tables of its own kind."""

    depth: Annotated[int, Field(ge=1)]
    inner: Tree | None = None


class Stranger:
    """A loss of another package. Only this sentence
    and this are told."""

    def __init__(
        self,
        *,
        shape: Annotated[Shape, Field(description="of the brush")] = Shape.SQUARE,
        sides: tuple[int, float] = (3, 0.5),
        mode: Literal["a", "b"] = "a",
        limit: Annotated[float, Field(gt=0)] = math.inf,
        file: Path = Path("x.npy"),
        tree: Tree | None = None,
        call: Annotated[Callable[[int], int] | None, Field(description="of no type that a recipe could hold")] = None,
        needed: bool,
    ) -> None: ...


@pytest.fixture(scope="module")
def strange() -> Any:
    """The schema with a stranger's plugin, and its loss's table."""
    manifest = SimpleNamespace(register_components=hookimpl(lambda register: register.loss("stranger", Stranger)))
    schema = json.loads(json.dumps(json_schema(load_registry(extra={"abroad": manifest})), allow_nan=False))
    tables = schema["properties"]["loss"]["additionalProperties"]["anyOf"][0]["anyOf"]
    names = ["stranger", "abroad:stranger"]
    return schema, next(t for t in tables if t.get("properties", {}).get("use", {}).get("enum") == names)


def test_a_strangers_component_has_types_bounds_defaults_and_words(strange: Any) -> None:
    options = strange[1]["properties"]
    assert options["use"]["description"] == "A loss of another package. Only this sentence\nand this are told."
    shape = {key: options["shape"][key] for key in ("enum", "default", "description")}
    assert shape == {"enum": ["round", "square"], "default": "square", "description": "of the brush"}
    assert options["sides"]["items"] == {"anyOf": [{"type": "integer"}, {"type": "number"}]}
    assert (options["sides"]["minItems"], options["sides"]["maxItems"], options["sides"]["default"]) == (2, 2, [3, 0.5])
    assert (options["mode"]["enum"], options["mode"]["default"]) == (["a", "b"], "a")
    assert options["limit"] == {"type": "number", "exclusiveMinimum": 0}  # JSON has no infinity
    assert options["file"]["default"] == "x.npy"
    assert options["call"] == {"description": "of no type that a recipe could hold"}
    assert options["needed"] == {"type": "boolean"}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    ("options", "sound"),
    [
        ('shape = "round"', True),
        ('shape = "oval"', False),
        ("sides = [3, 0.5]", True),
        ("sides = [3]", False),
        ("tree = { depth = 1, inner = { depth = 2 } }", True),
        ("tree = { depth = 0 }", False),
        ("limit = -1.0", False),
        ('call = "anything"', True),
        ("sheep = 1", False),
    ],
)
def test_a_strangers_options_are_judged_like_our_own(draft: Any, options: str, sound: bool, strange: Any) -> None:
    recipe = tomllib.loads(f'[loss.one]\nuse = "abroad:stranger"\n{options}')
    assert draft(strange[0]).is_valid(recipe) is sound


def test_a_strangers_schema_is_one(strange: Any) -> None:
    jsonschema.Draft7Validator.check_schema(strange[0])
    jsonschema.Draft202012Validator.check_schema(strange[1])  # the whole takes this draft's validator ten seconds


def test_the_command_writes_json_that_holds_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    with pytest.raises(SystemExit, match="0"):
        main(["schema"])
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=refuse)["title"] == "hybridgen recipe"
    with pytest.raises(SystemExit, match="0"):
        main(["schema", "--out", str(tmp_path / "s.json")])
    assert (tmp_path / "s.json").read_text() == out


@pytest.mark.parametrize(
    "text",
    [
        "[discriminator]\nwidth = 8",
        '[discriminator]\nreal = { x = "x", z = "z" }',
        "[discriminator.data]\nwidth = 8\n[discriminator.codes]",
        '[discriminator.data]\nreal = { x = "x" }',
        '[discriminator]\ndata = false\ncodes = { use = "mlp" }',
        "[discriminator]",
    ],
)
def test_a_child_may_leave_what_its_parent_says(text: str, validator: Any) -> None:
    validator.validate(tomllib.loads(text))
