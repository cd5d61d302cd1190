"""Whose code raised: the component behind an exception, the line that names it, and what it was given.

Found in the traceback, once an exception has left the step: no code that runs, or is compiled, knows of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, nn

from hybridgen.errors import HybridgenError, PluginError
from hybridgen.recipe import Recipe
from hybridgen.registry import Component

MARK = "hybridgen: "
"""How a note begins, so that an exception that crosses several boundaries has one."""

SHOWN = 4
"""Entries of a list that are told one by one."""

Parts = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where in a recipe an exception comes from.

    paths: the tables that it may be: one, or several of the same component where nothing tells them apart.
    given: what the component was given; inner: the module inside it that raised, and what that was given.
    """

    paths: tuple[str, ...]
    component: Component
    given: str = ""
    inner: str = ""

    def line(self) -> str:
        """For an error that says where and which plugin by itself: "loss 'losses:kl' (hybridgen 0.1.0), given ..."."""
        origin = f" ({self.component.origin})" if self.component.origin else ""
        given = f", given {self.given}" if self.given else ""
        inner = f", in its {self.inner}" if self.inner else ""
        return f"{self.component.kind} '{self.component.qualified}'{origin}{given}{inner}"

    def note(self, recipe: Recipe) -> str:
        component = self.component
        origin = ", ".join(part for part in (f"plugin {component.plugin}", component.origin) if part)
        tables = " or ".join(f"{recipe.where(f'{path}.use')} [{path}]" for path in self.paths)
        lines = [f"{MARK}in {component.kind} '{component.qualified}' ({origin}), named in {tables}"]
        lines += [f"  given {self.given}"] if self.given else []
        lines += [f"  in its {self.inner}"] if self.inner else []
        return "\n".join(lines)


@contextlib.contextmanager
def noting(recipe: Recipe, *parts: Parts) -> Iterator[None]:
    """What code of a component raises in here leaves with a note that says whose it is; errors for people stay as they are.

    parts: path -> module, wherever the same paths have modules of their own (the model, its average).
    """
    try:
        yield
    except HybridgenError:
        raise
    except Exception as error:
        if not any(note.startswith(MARK) for note in getattr(error, "__notes__", ())):
            place = place_of(error, recipe, *parts)
            if place is not None:
                error.add_note(place.note(recipe))
        raise


def told_place(error: BaseException, recipe: Recipe, *parts: Parts) -> str:
    """What an error in one line says at its end: "; loss 'losses:kl' (hybridgen 0.1.0), given ...", or nothing."""
    place = place_of(error, recipe, *parts)
    return f"; {place.line()}" if place is not None else ""


def place_of(error: BaseException, recipe: Recipe, *parts: Parts) -> Place | None:
    """The innermost component whose code an exception came through; None where it came through none."""
    with contextlib.suppress(Exception):  # what is told of an error must never take its place
        return _place_of(error, recipe, parts)
    return None


def _place_of(error: BaseException, recipe: Recipe, parts: tuple[Parts, ...]) -> Place | None:
    owners = _components(recipe)
    modules = {
        id(module): (path, name)
        for one in parts
        for path, part in one.items()
        if isinstance(part, nn.Module) and path in owners
        for name, module in part.named_modules()
    }
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    frames.reverse()
    owner, inner = "", ""
    for frame in frames:
        me = _self_of(frame)
        path, name = modules.get(id(me), ("", ""))
        if path and name:
            if not inner:
                given = _arguments(frame)
                owner, inner = path, f"`{name}` ({type(me).__name__})" + (f", given {given}" if given else "")
            continue
        paths = (path,) if path else tuple(p for p, component in owners.items() if _runs(frame, me, component))
        if paths and inner and owner not in paths:  # a module of another's was called by itself
            break
        if paths:
            paths = (owner,) if inner else paths
            return Place(paths, owners[paths[0]], _arguments(frame), inner)
    if inner:
        return Place((owner,), owners[owner], inner=inner)
    for frame in frames:  # a posterior's method, a backward pass: code beside a component's own
        paths = tuple(path for path, component in owners.items() if _defined_in(component) == frame.f_globals.get("__name__"))
        if paths and len({owners[path].qualified for path in paths}) == 1:
            return Place(paths, owners[paths[0]], _arguments(frame))
    return None


def _components(recipe: Recipe) -> dict[str, Component]:
    """Path -> component, for every table that names one."""
    chosen = [recipe.default_features] if recipe.default_features is not None else []
    return {"data": recipe.data.component} | {part.path: part.component for part in (*recipe.parts(), *chosen)}


def _self_of(frame: FrameType) -> Any:
    code = frame.f_code
    return frame.f_locals.get("self") if code.co_argcount and code.co_varnames[0] == "self" else None


def _loaded(component: Component) -> Any:
    with contextlib.suppress(PluginError):
        return component.load()
    return None


def _runs(frame: FrameType, me: Any, component: Component) -> bool:
    """Whether a frame is a method on an object of the component's class, or the component itself, a function."""
    loaded = _loaded(component)
    if isinstance(loaded, type):
        return type(me) is loaded
    return loaded is not None and getattr(inspect.unwrap(loaded), "__code__", None) is frame.f_code


def _defined_in(component: Component) -> str:
    return getattr(_loaded(component), "__module__", "")


def _arguments(frame: FrameType) -> str:
    """The named arguments of a frame, "recon: float32 (16, 1, 8, 8), power: 2.0"."""
    found = inspect.getargvalues(frame)
    given = {name: found.locals[name] for name in found.args if name != "self" and name in found.locals}
    given |= found.locals.get(found.keywords or "", {})  # torch's own call, where the arguments are no forward's
    return ", ".join(f"{name}: {shown(value)}" for name, value in given.items())


def shown(value: Any) -> str:
    """A value as a note tells it: dtype and shape of tensors, plain values as they are, the type of anything else."""
    if isinstance(value, Tensor):
        where = "" if value.device.type in ("cpu", "meta") else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}{where}"
    if isinstance(value, (list, tuple)):
        more = [f"... ({len(value)})"] if len(value) > SHOWN else []
        inside = ", ".join([*(shown(entry) for entry in value[:SHOWN]), *more])
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
    if isinstance(value, dict):
        return f"dict of {len(value)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(f"{f.name}: {shown(getattr(value, f.name, None))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({fields})"
    return "a function" if callable(value) and not isinstance(value, nn.Module) else type(value).__name__
