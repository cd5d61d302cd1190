"""The graph of named quantities: built once from what forward methods ask for, then run as plain tensor code.

A `Definition` says how one quantity comes about: which method of which part (or which pure function) with which other
quantities as arguments. `Graph` collects the definitions that a recipe needs; an unknown name is found here, before any
data is read. `nodes` turns a set of wanted quantities into an ordered list of calls in which every quantity is computed
once and calls of one network on several batches become one call, where its layers treat samples independently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Env = dict[str, Any]
SCALARS = frozenset({"step", "progress"})


@dataclasses.dataclass(frozen=True)
class Definition:
    """How one quantity is computed.

    arguments: parameter name -> key of the quantity that it receives.
    part, method: the part whose method computes it; a pure `function` otherwise.
    network: a call of an encoder, decoder or discriminator: runs under autocast and may be merged with its like.
    view: the quantity is the part itself as a function without side effects (`critic`, `decode`, `encode`).
    weights: the quantity is the part's parameters by name.
    local: cheap and without a part, so each phase computes its own instead of handing it over.
    """

    key: str
    arguments: tuple[tuple[str, str], ...]
    part: str = ""
    method: str = "forward"
    function: Callable[..., Any] | None = None
    network: bool = False
    view: bool = False
    weights: bool = False
    local: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(key for _, key in self.arguments)


@dataclasses.dataclass(frozen=True)
class Call:
    """One traversal of a part in a phase: the definitions that it serves, and whether the part is frozen in it."""

    definitions: tuple[Definition, ...]
    frozen: bool
    run: Callable[[Env], None] = dataclasses.field(repr=False, compare=False)

    @property
    def part(self) -> str:
        return self.definitions[0].part


class Graph:
    """The definitions of one recipe, and what each depends on."""

    def __init__(self, definitions: Mapping[str, Definition]) -> None:
        self.definitions = dict(definitions)
        self._parts: dict[str, frozenset[str]] = {}

    def parts_of(self, key: str) -> frozenset[str]:
        """The parts whose computation `key` depends on, directly or through other quantities."""
        if key not in self._parts:
            definition = self.definitions.get(key)
            if definition is None:  # a leaf: data, noise, step
                self._parts[key] = frozenset()
            else:
                own = frozenset({definition.part} - {""})
                self._parts[key] = own.union(*(self.parts_of(k) for k in definition.inputs))
        return self._parts[key]

    def leaves_of(self, targets: Iterable[str], given: Iterable[str] = ()) -> set[str]:
        """The leaves (data, noise, step) and given quantities that computing `targets` reads."""
        given, leaves, stack, seen = set(given), set(), list(targets), set()
        while stack:
            key = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            if key in given or key not in self.definitions:
                leaves.add(key)
            else:
                stack.extend(self.definitions[key].inputs)
        return leaves

    def batched(self, key: str) -> bool:
        """Whether a quantity has the batch's axis: weights and most priors depend on no example."""
        return bool(self.leaves_of([key]) - SCALARS)

    def order(self, targets: Iterable[str], given: Iterable[str] = ()) -> list[Definition]:
        """The definitions that `targets` need beyond `given`, each after what it asks for."""
        done, ordered = set(given), []

        def visit(key: str) -> None:
            if key in done or key not in self.definitions:
                return
            done.add(key)
            for argument in self.definitions[key].inputs:
                visit(argument)
            ordered.append(self.definitions[key])

        for key in targets:
            visit(key)
        return ordered


def couples_batch(module: nn.Module) -> bool:
    """Whether a module's output for one sample depends on the others: found for batch norm, declared otherwise."""
    return any(isinstance(m, _BatchNorm) or getattr(m, "couples_batch", False) is True for m in module.modules())


def nodes(
    graph: Graph,
    targets: Iterable[str],
    parts: Mapping[str, nn.Module],
    *,
    given: Iterable[str] = (),
    frozen: Iterable[str] = (),
    attached: Callable[[str], bool] = lambda key: True,
    autocast: torch.dtype | None = None,
) -> list[Call]:
    """The calls that compute `targets` from `given` and the leaves, in order, merged where that changes no result.

    frozen: parts that this phase must not train: their parameters are detached, so that neither eager nor compiled code
        computes a weight gradient, and their buffers are copies, so that batch statistics stay as they are.
    attached: whether a quantity carries a gradient in this phase; a frozen part judges those that do apart from those
        that don't, which then cost no backward pass.
    """
    frozen = frozenset(frozen)
    ordered = graph.order(targets, given)
    groups: list[list[Definition]] = []
    for definition in ordered:
        for group in groups:
            if _alike(group[0], definition, parts, frozen, attached) and _acyclic(
                [[*g, definition] if g is group else g for g in groups],
                [d for d in ordered if d is not definition and not any(d in g for g in groups)],
            ):
                group.append(definition)
                break
        else:
            groups.append([definition])
    return [_call(tuple(group), parts, frozen, autocast) for group in _sorted(groups)]


def _alike(
    a: Definition,
    b: Definition,
    parts: Mapping[str, nn.Module],
    frozen: frozenset[str],
    attached: Callable[[str], bool],
) -> bool:
    """Whether two definitions can be one call of one network on their batches laid end to end."""
    if not (a.network and b.network) or (a.part, a.method) != (b.part, b.method) or a.view or b.view:
        return False
    if [role for role, _ in a.arguments] != [role for role, _ in b.arguments] or couples_batch(parts[a.part]):
        return False
    return a.part not in frozen or any(map(attached, a.inputs)) == any(map(attached, b.inputs))


def _acyclic(groups: Sequence[Sequence[Definition]], others: Sequence[Definition]) -> bool:
    everything = [*groups, *([d] for d in others)]
    return len(_sorted(everything, partial=True)) == len(everything)


def _sorted(groups: Sequence[Sequence[Definition]], *, partial: bool = False) -> list[Sequence[Definition]]:
    """Groups in an order that respects what they ask of each other; a cycle leaves some out when `partial`."""
    owner = {d.key: i for i, group in enumerate(groups) for d in group}
    needs = [{owner[k] for d in group for k in d.inputs if k in owner} for group in groups]
    done: set[int] = set()
    ordered: list[Sequence[Definition]] = []
    while ready := [i for i in range(len(groups)) if i not in done and needs[i] <= done]:
        done.update(ready)
        ordered.extend(groups[i] for i in ready)
    if not partial and len(ordered) != len(groups):
        raise AssertionError("a cycle among quantities")  # excluded by construction: definitions are made depth first
    return ordered


def _call(
    group: tuple[Definition, ...], parts: Mapping[str, nn.Module], frozen: frozenset[str], autocast: torch.dtype | None
) -> Call:
    first = group[0]
    is_frozen = first.part in frozen
    if first.weights:
        run = _one(first.key, (), partial(_weights, parts[first.part], is_frozen))
    elif first.view:
        function = _view(parts[first.part], is_frozen)
        run = _one(first.key, first.arguments, lambda **others: partial(function, **others))
    elif first.part:
        invoke = _invoke(parts[first.part], first.method, is_frozen)
        if first.network:
            invoke = _under_autocast(invoke, autocast)
        run = _one(first.key, first.arguments, invoke) if len(group) == 1 else _merged(group, invoke)
    else:
        assert first.function is not None
        run = _one(first.key, first.arguments, first.function)
    return Call(group, is_frozen, run)


def _one(key: str, arguments: tuple[tuple[str, str], ...], function: Callable[..., Any]) -> Callable[[Env], None]:
    def run(env: Env) -> None:
        env[key] = function(**{name: env[k] for name, k in arguments})

    return run


def _merged(group: tuple[Definition, ...], invoke: Callable[..., Any]) -> Callable[[Env], None]:
    columns = [(role, tuple(d.arguments[i][1] for d in group)) for i, (role, _) in enumerate(group[0].arguments)]
    batched = next(keys for _, keys in columns if keys[0] not in SCALARS)

    def run(env: Env) -> None:
        sizes = [env[key].shape[0] for key in batched]
        arguments = {
            role: env[keys[0]] if keys[0] in SCALARS else torch.cat([env[key] for key in keys]) for role, keys in columns
        }
        for definition, piece in zip(group, split(invoke(**arguments), sizes), strict=True):
            env[definition.key] = piece

    return run


def split(value: Any, sizes: Sequence[int]) -> list[Any]:
    """Take a result for several batches apart again: tensors along their first axis, containers entry by entry."""
    if isinstance(value, Tensor):
        return list(value.split(list(sizes)))
    if isinstance(value, (tuple, list)):
        columns = [split(entry, sizes) for entry in value]
        return [like(value, [column[i] for column in columns]) for i in range(len(sizes))]
    raise TypeError(f"a network returned {type(value).__name__}; expected a tensor, or a tuple or list of tensors")


def like(container: Any, entries: list[Any]) -> Any:
    """Entries in a list or tuple of the same type, named tuples among them."""
    return type(container)(*entries) if hasattr(container, "_fields") else type(container)(entries)


def detach(value: Any) -> Any:
    """A quantity without its history: tensors, containers and frozen dataclasses of tensors (posteriors)."""
    return mapped(value, Tensor.detach)


def joined(pieces: Sequence[Any]) -> Any:
    """A quantity of the joint batch from its pieces (micro-batches, generated batches): laid end to end; scalars averaged."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(pieces)) if first.ndim else torch.stack(list(pieces)).mean()
    if isinstance(first, (tuple, list)):
        return like(first, [joined(column) for column in zip(*pieces, strict=True)])
    if isinstance(first, dict):
        return {name: joined([piece[name] for piece in pieces]) for name in first}
    if not dataclasses.is_dataclass(first) or isinstance(first, type):
        return first
    fields = {f.name: joined([getattr(p, f.name) for p in pieces]) for f in dataclasses.fields(first)}
    return dataclasses.replace(first, **fields)


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A quantity with every tensor in it (in containers, dictionaries, frozen dataclasses) replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, (tuple, list)):
        return like(value, [mapped(entry, function) for entry in value])
    if isinstance(value, dict):
        return {name: mapped(entry, function) for name, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: mapped(getattr(value, f.name), function) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **fields)
    return value


class Method(nn.Module):
    """A method of a module as a module's forward, for `functional_call` knows no other."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module = module
        self.method = method

    def forward(self, **arguments: Any) -> Any:
        return getattr(self.module, self.method)(**arguments)


def _invoke(module: nn.Module, method: str, frozen: bool) -> Callable[..., Any]:
    stateless = next(module.parameters(), None) is None and next(module.buffers(), None) is None
    if not frozen or stateless:
        return module if method == "forward" else getattr(module, method)
    target = module if method == "forward" else Method(module, method)

    def call(**arguments: Any) -> Any:
        return torch.func.functional_call(target, _copies(target, detached=True), (), arguments)

    return call


def _copies(module: nn.Module, *, detached: bool) -> dict[str, Tensor]:
    return _weights(module, detached) | {k: b.clone() for k, b in module.named_buffers()}


def _weights(module: nn.Module, detached: bool) -> dict[str, Tensor]:
    return {name: p.detach() if detached else p for name, p in module.named_parameters()}


def _view(module: nn.Module, frozen: bool) -> Callable[..., Any]:
    """The part as a function for terms that evaluate it at points of their own (penalties, path length).

    It runs in float32 outside autocast. Buffers are cloned inside the call: batch norm fails otherwise inside
    `torch.func.grad`, and statistics move only in the part's own update. Weights are contiguous, for `torch.vmap` takes no
    channels-last ones; the layout then follows the points. A discriminator gives its logits alone.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        tensors = {name: tensor.contiguous() for name, tensor in _copies(module, detached=frozen).items()}
        result = torch.func.functional_call(module, tensors, args, kwargs)
        return result[0] if isinstance(result, tuple) else result

    return function


def _under_autocast(invoke: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    if dtype is None:
        return invoke

    def call(**arguments: Any) -> Any:
        device = next(v.device.type for v in arguments.values() if isinstance(v, Tensor))
        with torch.autocast(device, dtype=dtype):
            result = invoke(**arguments)
        return mapped(result, lambda t: t.float() if t.is_floating_point() else t)

    return call
