"""The tables of the plugin interface say what the core really reads and gives, and the page says what the tables say."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from common import LABELLED, VAGAN
from reference_page import PAGE, page

from hybridgen.data import SampleSpec
from hybridgen.names import ATTRIBUTES, CONTRACTS, FACTS, KINDS
from hybridgen.recipe import load_recipe
from hybridgen.registry import Registry, hooks, load_registry

CORE = Path(__file__).parent.parent / "hybridgen"

# attributes that the core looks for on other things than components
OF_OTHERS = {
    "HYBRIDGEN_API": "manifests; the page's chapter on hooks",
    "hybridgen_impl": "pluggy's mark of a hook",
    "hybridgen_spec": "pluggy's mark of a hook's specification",
    "_fields": "named tuples",
    "description": "pydantic's Field",
    "encoding": "streams",
    "errno": "OSError",
    "kl": "posteriors",
    "log_prob": "priors",
    "metadata": "pydantic's Field",
}


def reads(tree: ast.Module) -> Iterator[str]:
    """Names that `getattr`, `hasattr` and `getattr_static` are asked for: literals, and variables that run over literals."""
    runs: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.For, ast.comprehension)) and isinstance(node.target, ast.Name):
            runs.setdefault(node.target.id, set()).update(_strings(node.iter))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Tuple):
            runs.setdefault(node.targets[0].id, set()).update(_strings(node.value))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name not in ("getattr", "hasattr", "getattr_static"):
            continue
        asked = node.args[1]
        if isinstance(asked, ast.Constant):
            yield str(asked.value)
        elif isinstance(asked, ast.Name):
            yield from runs.get(asked.id, ())


def _strings(node: ast.expr) -> set[str]:
    elements = node.elts if isinstance(node, (ast.Tuple, ast.List)) else []
    return {e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)}


def core_reads() -> set[str]:
    found = set()
    for path in CORE.rglob("*.py"):
        found |= set(reads(ast.parse(path.read_text(encoding="utf-8"))))
    return {name for name in found if not name.startswith("__")}


def members() -> set[str]:
    """Methods and attributes of the contracts, by their bare names."""
    return {re.match(r"\w+", member)[0] for c in CONTRACTS.values() for member in (*c.must, *c.may)}  # type: ignore[index]


def test_a_read_is_found_however_it_is_written() -> None:
    text = """
METHODS = ("of_a_constant", "another")
def f(part, xs):
    a = getattr(part, "literal", 1)
    b = [hasattr(part, name) for name in ("in_a_list", "too")]
    for one in ["in_a_loop"]:
        inspect.getattr_static(part, one, None)
    for method in METHODS:
        getattr(part, method)
    return getattr(part, xs)
"""
    text = text.replace("for method in METHODS", "for METHODS in METHODS").replace("(part, method)", "(part, METHODS)")
    assert set(reads(ast.parse(text))) == {"literal", "in_a_list", "too", "in_a_loop", "of_a_constant", "another"}


def test_whatever_the_core_reads_of_components_is_in_the_tables() -> None:
    of_data = {field.name for field in dataclasses.fields(SampleSpec)}
    unknown = core_reads() - ATTRIBUTES.keys() - members() - OF_OTHERS.keys() - of_data
    assert not unknown, f"write them down in hybridgen/names.py (ATTRIBUTES): {', '.join(sorted(unknown))}"


def test_the_tables_name_nothing_that_the_core_does_not_read() -> None:
    assert core_reads() >= OF_OTHERS.keys()
    core = "\n".join(path.read_text(encoding="utf-8") for path in CORE.rglob("*.py") if path.name != "names.py")
    for name in ATTRIBUTES.keys() | members():
        assert re.search(rf"""(?:\.|["']){name}\b""", core), f"nothing reads `{name}`"


def test_the_page_says_what_the_tables_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/reference_page.py"


def test_every_kind_has_a_contract_and_every_name_in_one_exists() -> None:
    assert list(CONTRACTS) == list(KINDS)
    for contract in CONTRACTS.values():
        assert set(contract.facts) <= FACTS.keys()
    for attribute in ATTRIBUTES.values():
        assert set(attribute.kinds) <= KINDS.keys()
    assert set(hooks()) == {"register_components", "recipes", "commands"}


def test_each_kind_is_given_the_facts_that_its_contract_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    """A recipe with a component of every kind is put together, and what each constructor could have asked for is kept."""
    from hybridgen import evaluation, examples, model, session

    given: dict[str, set[str]] = {}
    genuine = model.construct

    def construct(component: Any, options: Any, facts: Any, **rest: Any) -> Any:
        given.setdefault(component.kind, set()).update(facts)
        return genuine(component, options, facts, **rest)

    for module in (evaluation, examples, model, session):
        monkeypatch.setattr(module, "construct", construct)
    text = VAGAN.replace("width = 16\nfake", 'width = 16\naugment = { use = "noisy" }\nfake')
    text += '[metric.fid]\nuse = "fid"\n[features.raw]\nuse = "raw"\n[reporter.events]\nuse = "events"\n'
    (tmp_path / "all.toml").write_text(text)
    recipe = load_recipe(tmp_path / "all.toml", registry=registry)
    assert LABELLED.levels
    evaluation.prepare(model.check(recipe, LABELLED))
    examples.describe(recipe)

    class StopHereError(Exception):
        pass

    class Folder:
        path = tmp_path

        @property
        def metrics(self) -> Path:
            raise StopHereError

    prepared = session.Prepared.__new__(session.Prepared)
    prepared.recipe = recipe
    with pytest.raises(StopHereError):  # its reporters have been made by then
        prepared.session(Folder(), "quiet", resumed_from=1)  # type: ignore[arg-type]
    assert given == {kind: set(contract.facts) for kind, contract in CONTRACTS.items()}


def test_shipped_components_offer_what_their_kind_must() -> None:
    for component in load_registry().components():
        loaded = component.load()
        if not isinstance(loaded, type):
            assert component.kind == "provider", component.qualified
            continue
        methods = [m.partition("(")[0] for m in CONTRACTS[component.kind].must if "(" in m]
        missing = [method for method in methods if not callable(getattr(loaded, method, None))]
        assert not missing, f"{component.qualified} lacks {missing}"
