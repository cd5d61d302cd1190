"""The signature is the schema: what a component's constructor and methods say, read once and never repeated.

Positional parameters of a constructor are facts that hybridgen provides, keyword-only parameters are options, validated
from their type hints. The parameters of a forward method are the quantities that it asks for. Imports no torch.
"""

from __future__ import annotations

import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

from hybridgen.errors import PluginError
from hybridgen.names import FACTS, RESERVED


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()


@dataclass(frozen=True)
class Option:
    """One keyword-only parameter: its type hint, default (or REQUIRED) and description."""

    name: str
    annotation: Any
    default: Any
    description: str = ""

    def describe(self) -> str:
        """What it accepts, in words: "int, >= 1, default 64"."""
        bounds = dict.fromkeys(text for m in _metadata(self.annotation) for text in _bounds(m))
        default = "required" if self.default is REQUIRED else f"default {self.default!r}"
        return ", ".join([type_text(self.annotation), *bounds, default])


@dataclass(frozen=True)
class Fact:
    name: str
    required: bool


@dataclass(frozen=True)
class Constructor:
    facts: tuple[Fact, ...]
    options: dict[str, Option]


@dataclass(frozen=True)
class Ask:
    """One quantity that a method asks for; a parameter with a default asks only if the quantity exists."""

    name: str
    required: bool


@dataclass(frozen=True)
class OptionProblem:
    name: str
    what: str
    hint: str = ""


def constructor(component: Any, *, reserved: Collection[str] = RESERVED) -> Constructor:
    """The facts and options of a class, or the options of a function (a provider, whose other parameters are quantities).

    Raises PluginError for a signature that can't be a schema: an option without a type hint, `**kwargs`, an unknown fact.
    """
    function = inspect.getattr_static(component, "__init__") if isinstance(component, type) else component
    if function is object.__init__:
        return Constructor((), {})
    name = getattr(component, "__qualname__", repr(component))
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception as error:
        raise PluginError(f"{name}: its type hints can't be read: {type(error).__name__}: {error}") from error
    facts, options = [], {}
    for parameter in list(inspect.signature(function).parameters.values())[isinstance(component, type) :]:
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            if _is_torch_base(function):
                continue
            raise PluginError(f"{name}: `*{parameter.name}` in its signature; name every option, the signature is the schema")
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[parameter.name] = _option(name, parameter, hints, reserved)
        elif isinstance(component, type):
            if parameter.name not in FACTS:
                close = difflib.get_close_matches(parameter.name, FACTS, n=1)
                hint = f"did you mean `{close[0]}`? " if close else ""
                raise PluginError(
                    f"{name}: `{parameter.name}` is no fact; {hint}positional parameters are facts "
                    f"({', '.join(FACTS)}), options stand after a `*`"
                )
            facts.append(Fact(parameter.name, parameter.default is parameter.empty))
    return Constructor(tuple(facts), options)


def _is_torch_base(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("torch")


def _option(owner: str, parameter: inspect.Parameter, hints: Mapping[str, Any], reserved: Collection[str]) -> Option:
    if parameter.name in reserved:
        raise PluginError(f"{owner}: an option can't be called `{parameter.name}`: recipes use that key themselves")
    if parameter.name not in hints:
        raise PluginError(f"{owner}: option `{parameter.name}` has no type hint, so it can't be validated")
    annotation = hints[parameter.name]
    description = next((str(m.description) for m in _metadata(annotation) if getattr(m, "description", None)), "")
    default = REQUIRED if parameter.default is parameter.empty else parameter.default
    return Option(parameter.name, annotation, default, description)


def asks(function: Callable[..., Any]) -> tuple[Ask, ...]:
    """The quantities that a method or function asks for, in order. Raises PluginError for *args and **kwargs."""
    if isinstance(function, partial):
        bound = set(function.keywords)
        return tuple(ask for ask in asks(function.func) if ask.name not in bound)
    return _asks(getattr(function, "__func__", function))


@lru_cache(maxsize=4096)
def _asks(function: Callable[..., Any]) -> tuple[Ask, ...]:
    found = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise PluginError(
                f"{getattr(function, '__qualname__', function)}: `*{name}` asks for nothing by name; name each quantity"
            )
        if name != "self" and parameter.kind is not parameter.KEYWORD_ONLY:
            found.append(Ask(name, parameter.default is parameter.empty))
    return tuple(found)


def validate(
    options: Mapping[str, Any], schema: Constructor, also: Sequence[str] = ()
) -> tuple[dict[str, Any], list[OptionProblem]]:
    """Options as the hints have them, completed with defaults; with everything that is wrong.

    also: keys that the table has beside these options, for suggestions.
    """
    values: dict[str, Any] = {}
    problems = []
    for name in options:
        if name not in schema.options:
            problems.append(_unknown(name, schema, also))
    for name, option in schema.options.items():
        if name not in options:
            if option.default is REQUIRED:
                problems.append(OptionProblem(name, f"`{name}` is required", _expected(option)))
            else:
                values[name] = option.default
            continue
        try:
            values[name] = convert(options[name], option.annotation)
        except ValueError as error:
            problems.append(OptionProblem(name, f"{error}", _expected(option)))
    return values, problems


def _expected(option: Option) -> str:
    return f"expected {option.describe()}" + (f" ({option.description})" if option.description else "")


def _unknown(name: str, schema: Constructor, also: Sequence[str]) -> OptionProblem:
    close = difflib.get_close_matches(name, [*schema.options, *also], n=1)
    if close:
        known = schema.options.get(close[0])
        hint = f"did you mean `{close[0]}`?" + (f" ({known.describe()})" if known else "")
    else:
        hint = f"its options are: {', '.join(schema.options) or 'none'}"
        hint += f"; beside them: {', '.join(also)}" if also else ""
    return OptionProblem(name, f"there is no option `{name}`", hint)


def convert(value: Any, annotation: Any) -> Any:
    """A TOML value as a type hint has it, strictly: "64" is no int, true is no int, 1 is a float.

    Raises ValueError that says what was expected and what came.
    """
    from pydantic import ValidationError

    try:
        return _adapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        texts = []
        for detail in error.errors(include_url=False):
            at = ".".join(str(part) for part in detail["loc"] if isinstance(part, int))
            message = "not of the form expected" if detail["type"] == "string_pattern_mismatch" else detail["msg"]
            texts.append(f"{'entry ' + at + ': ' if at else ''}{message[0].lower()}{message[1:]}")
        raise ValueError(f"{' or '.join(dict.fromkeys(texts))}, got {shown(value)}") from None


@lru_cache(maxsize=1024)
def _adapter_cached(annotation: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def _adapter(annotation: Any) -> Any:
    try:
        return _adapter_cached(annotation)
    except TypeError:  # an unhashable hint
        from pydantic import TypeAdapter

        return TypeAdapter(annotation)


def shown(value: Any) -> str:
    """A value as it would stand in TOML, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def is_path(annotation: Any) -> bool:
    """Whether an option holds a path, to be resolved against the recipe that gives it."""
    if typing.get_origin(annotation) is typing.Annotated:
        return is_path(typing.get_args(annotation)[0])
    if annotation is Path:
        return True
    return any(is_path(argument) for argument in typing.get_args(annotation))


def type_text(annotation: Any) -> str:
    """A type hint in words for people: "int", "'a' | 'b'", "list of float"."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin is typing.Literal:
        return " | ".join(json.dumps(a) if isinstance(a, (str, bool)) else str(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(a) for a in arguments if a is not type(None))
    if origin in (list, tuple):
        inner = [type_text(a) for a in arguments if a is not Ellipsis]
        return f"list of {inner[0]}" if len(set(inner)) == 1 else f"[{', '.join(inner)}]"
    return {Path: "path", str: "string"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _metadata(annotation: Any) -> list[Any]:
    """What is written beside a type hint, then beside those that it is made of."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        return [*arguments[1:], *_metadata(arguments[0])]
    return [m for a in arguments for m in _metadata(a)]


def _bounds(metadata: Any) -> list[str]:
    """The bounds in one piece of Annotated metadata: pydantic's Field holds several, annotated_types one."""
    inner = getattr(metadata, "metadata", None)
    if isinstance(inner, list):
        return [text for m in inner for text in _bounds(m)]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return [f"{sign} {getattr(metadata, key):g}" for key, sign in signs.items() if getattr(metadata, key, None) is not None]
