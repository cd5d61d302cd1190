"""The signature is the schema: facts, options, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from hybridgen.errors import PluginError
from hybridgen.signature import REQUIRED, asks, constructor, convert, is_path, type_text, validate


class Example:
    def __init__(
        self,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        *,
        width: Annotated[int, Field(ge=1, description="channels")] = 64,
        norm: Literal["batch", "none"] = "batch",
        rate: float,
        size: int | tuple[int, int] = 8,
        where: Path | None = None,
        units: Annotated[
            Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...], Field(description="of each layer")
        ] = 4,
    ) -> None: ...

    def forward(self, x: Any, label: Any = None, *, length: int = 3) -> None: ...


def test_positional_parameters_are_facts_and_keyword_only_ones_are_options() -> None:
    schema = constructor(Example)
    assert [(f.name, f.required) for f in schema.facts] == [("sample_shape", True), ("num_classes", False)]
    assert list(schema.options) == ["width", "norm", "rate", "size", "where", "units"]
    assert schema.options["rate"].default is REQUIRED
    assert schema.options["width"].describe() == "int, >= 1, default 64"
    assert schema.options["width"].description == "channels"
    assert schema.options["units"].describe() == "int | list of int, >= 1, default 4"
    assert schema.options["units"].description == "of each layer"
    assert schema.options["norm"].describe() == '"batch" | "none", default \'batch\''


def test_a_method_asks_for_its_parameters() -> None:
    assert [(a.name, a.required) for a in asks(Example.forward)] == [("x", True), ("label", False)]


def test_all_that_is_wrong_is_told_at_once() -> None:
    values, problems = validate({"widht": 3, "norm": "bach", "width": 0}, constructor(Example))
    told = {problem.name: f"{problem.what} {problem.hint}" for problem in problems}
    assert set(told) == {"widht", "norm", "width", "rate"}
    assert "did you mean `width`? (int, >= 1, default 64)" in told["widht"]
    assert "'batch' or 'none'" in told["norm"]
    assert "required" in told["rate"]
    assert values["size"] == 8


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (3, int, 3),
        (3, float, 3.0),
        (True, bool, True),
        ([4, 5], int | tuple[int, int], (4, 5)),
        ("a/b", Path, Path("a/b")),
        (["x"], tuple[str, ...], ("x",)),
    ],
)
def test_conversion(value: Any, annotation: Any, expected: Any) -> None:
    got = convert(value, annotation)
    assert got == expected
    assert type(got) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [("64", int), (True, int), (1, bool), (1.5, int), ("1.0", float), (1, str), ([1, 2, 3], tuple[int, int])],
)
def test_conversion_is_strict(value: Any, annotation: Any) -> None:
    with pytest.raises(ValueError, match="got"):
        convert(value, annotation)


def test_kwargs_are_refused() -> None:
    class Any_:  # noqa: N801
        def __init__(self, **options: Any) -> None: ...

    with pytest.raises(PluginError, match="name every option"):
        constructor(Any_)


def test_an_unknown_fact_is_refused_with_a_suggestion() -> None:
    class Typo:
        def __init__(self, sampel_shape: Any) -> None: ...

    with pytest.raises(PluginError, match=r"`sampel_shape` is no fact; did you mean `sample_shape`\?"):
        constructor(Typo)


def test_an_option_without_a_type_or_with_a_reserved_name_is_refused() -> None:
    class Untyped:
        def __init__(self, *, width=3) -> None: ...  # type: ignore[no-untyped-def]

    class Reserved:
        def __init__(self, *, weight: float = 1.0) -> None: ...

    with pytest.raises(PluginError, match="width"):
        constructor(Untyped)
    with pytest.raises(PluginError, match="weight"):
        constructor(Reserved)


def test_paths_are_found_within_unions() -> None:
    assert is_path(Path | None)
    assert is_path(Annotated[Path, Field(description="x")])
    assert not is_path(str | None)


def test_types_read_as_people_say_them() -> None:
    assert type_text(int | None) == "int"
    assert type_text(Annotated[Literal["a", "b"], 0]) == '"a" | "b"'
    assert type_text(list[float]) == "list of float"
