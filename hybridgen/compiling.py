"""Phases under `torch.compile`: whole graphs, a way back to eager code for what can't be compiled, and what pays.

Each phase is one graph without a break. Where that fails, the parts at fault are found one by one and left eager, named to
the user; the rest of their phase is compiled around them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from hybridgen.graph import Call, Env
from hybridgen.phases import Phase, PhaseFunction, Result, Weights

Backend = str | Callable[..., Any]
Tell = Callable[[str, str], object]
DECLARED = "it declares `compiles = False`"


def compiled(
    phase: Phase,
    backend: Backend = "inductor",
    parts: Mapping[str, nn.Module] | None = None,
    tell: Tell | None = None,
) -> PhaseFunction:
    """A phase as one graph. What can't be compiled runs eagerly and is told by `tell(part or phase, why)`; without `tell`
    it raises what torch raised.

    parts: whose buffers stay as they are while the parts at fault are looked for; those that declare `compiles = False` are
    left eager without a try.
    """
    parts = parts or {}
    declared = {i: DECLARED for i, call in enumerate(phase.calls) if not getattr(parts.get(call.part), "compiles", True)}
    function = _without(phase, declared, backend) if declared else _graph(phase, backend, whole=True)
    if tell is not None:
        for index, why in declared.items():
            tell(phase.calls[index].part, why)

    def run(env: Env, weights: Weights) -> Result:
        nonlocal function
        try:
            return function(env, weights)
        except TorchDynamoException as error:
            if tell is None:
                raise
            with kept(parts), torch.random.fork_rng():
                faults = dict(_faults(phase, env)) | declared
            for index, why in faults.items():
                tell(phase.calls[index].part or phase.calls[index].definitions[0].key, why)
            if not faults:  # the graph is whole, so the compiler itself failed on it
                tell(f"the phase `{phase.name}`", _reason(error))
            function = _without(phase, faults, backend) if faults else phase
            try:
                return function(env, weights)
            except TorchDynamoException as again:
                tell(f"the phase `{phase.name}`", _reason(again))
                function = phase
                return function(env, weights)

    return run


def _graph(phase: Phase, backend: Backend, *, whole: bool) -> PhaseFunction:
    """Precautions are taken where something is compiled, not in every call: there they cost a fiftieth of a short step."""

    def call(env: Env, weights: Weights) -> Result:
        return phase(env, weights)

    function = torch.compile(_by_itself(call), fullgraph=whole, dynamic=False, backend=_keeping_saved(backend))
    met = False

    def run(env: Env, weights: Weights) -> Result:
        nonlocal met
        if met:
            return function(env, weights)
        with _quietly():
            result = function(env, weights)
        met = True
        return result

    return run


def _keeping_saved(backend: Backend) -> Backend:
    """Larsen's routing and simultaneous updates go backward through one graph twice, which donated buffers would forbid."""
    build = torch._dynamo.lookup_backend(backend)

    def compile_(module: Any, inputs: Any) -> Any:
        with torch._functorch.config.patch(donated_buffer=False):
            return build(module, inputs)

    return compile_


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """dynamo looks at the .grad of the samples that one phase hands to the next, and makes instances of autograd functions;
    torch warns of both."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        warnings.filterwarnings("ignore", message=".* should not be instantiated", category=DeprecationWarning)
        yield


def _by_itself(function: Any) -> types.FunctionType:
    """A copy with code of its own: dynamo counts recompilations by code object, and neither the many variants of a run nor
    many runs in one process are the one function with ever changing inputs that its limit is meant for."""
    copied = function.__code__.replace()
    return types.FunctionType(copied, function.__globals__, function.__name__, None, function.__closure__)


def _faults(phase: Phase, env: Env) -> Iterator[tuple[int, str]]:
    """The calls of a phase that are no whole graph, by position, each with torch's reason."""
    env = dict(env)
    for index, call in enumerate(phase.calls):
        traced = torch.compile(_by_itself(_alone(call)), fullgraph=True, dynamic=False, backend="eager")
        try:
            with _quietly():
                traced(dict(env))
        except TorchDynamoException as error:
            yield index, _reason(error)
        call.run(env)


def _alone(call: Call) -> Any:
    def run(env: Env) -> Env:
        call.run(env)
        return env

    return run


def _without(phase: Phase, faults: Mapping[int, str], backend: Backend) -> PhaseFunction:
    """The phase compiled around the calls at fault."""
    calls = [
        dataclasses.replace(call, run=torch.compiler.disable(call.run, reason=faults[i])) if i in faults else call
        for i, call in enumerate(phase.calls)
    ]
    return _graph(dataclasses.replace(phase, calls=tuple(calls)), backend, whole=False)


def _reason(error: BaseException) -> str:
    """The first lines of what torch says, which name the operation; the rest is for torch's own developers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


@contextlib.contextmanager
def kept(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Whatever happens to parameters and buffers of some modules inside, they are afterwards as they were."""
    parameters = [(p, p.detach().clone()) for module in parts.values() for p in module.parameters()]
    buffers = [(module, name, b, b.clone()) for module in parts.values() for name, b in module.named_buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in parameters:
                _put_back(parameter, value)
            for module, name, buffer, value in buffers:  # an `update` may have put a new tensor in a buffer's place
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, buffer)
                _put_back(buffer, value)


def _put_back(tensor: Tensor, value: Tensor) -> None:
    """Only where it moved: a graph that waits for its backward pass must not find what it saved written to."""
    if not torch.equal(tensor, value):
        tensor.copy_(value)
