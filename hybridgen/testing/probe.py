"""A model evaluated the slow and obvious way, to hold components and the training step against.

Each quantity is computed by itself, in order, by the method that defines it: no phases, nothing merged, frozen or compiled.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from hybridgen.compiling import Backend, compiled
from hybridgen.data import SampleSpec
from hybridgen.graph import Graph, mapped
from hybridgen.model import Model
from hybridgen.routing import Term
from hybridgen.step import Training, train_step


@dataclass(frozen=True)
class Recorded:
    """One call of a part: which method, what it was given, what it returned."""

    part: str
    method: str
    arguments: Mapping[str, Any]
    result: Any


def batch(size: int = 8, seed: int = 0, *, spec: SampleSpec) -> dict[str, Tensor]:
    """A batch of noise shaped like data, with labels and factors where the data have them."""
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "tokens":
        made = spec.batch(torch.randint(0, spec.shape[1], (size, spec.shape[0]), generator=generator))
    else:
        made = {"x": torch.rand(size, *spec.shape, generator=generator) * 2 - 1}
    if spec.classes:
        made["label"] = torch.randint(0, len(spec.classes), (size,), generator=generator)
    if spec.factors:
        made["factors"] = torch.randint(0, 3, (size, len(spec.factors)), generator=generator)
    return made


def leaves(state: Training, given: Mapping[str, Tensor], step: int = 1) -> dict[str, Any]:
    """What a step reads: a batch, its noise, step and progress."""
    return dict(state.leaves(state.planner.plan(state.model.terms), given, step, 0)[0])


def evaluated(model: Model, env: Mapping[str, Any], targets: Iterable[str]) -> tuple[dict[str, Any], list[Recorded]]:
    """Every quantity that `targets` need, from the leaves in `env`; and each call of a part, in order."""
    known, calls = dict(env), []
    for definition in Graph(model.wiring.definitions).order(targets):
        arguments = {name: known[key] for name, key in definition.arguments}
        if definition.weights:
            known[definition.key] = dict(model.parts[definition.part].named_parameters())
        elif definition.view:
            known[definition.key] = partial(_called, model.parts[definition.part], arguments)
        elif definition.part:
            result = getattr(model.parts[definition.part], definition.method)(**arguments)
            known[definition.key] = result
            calls.append(Recorded(definition.part, definition.method, arguments, result))
        else:
            assert definition.function is not None
            known[definition.key] = definition.function(**arguments)
    return known, calls


def _called(module: nn.Module, others: dict[str, Any], *positional: Any, **named: Any) -> Any:
    """What a callable quantity gives: a part at points of the caller's, a critic's logits alone; statistics stay."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    result = functional_call(module, buffers, positional, {**others, **named})
    return result[0] if isinstance(result, tuple) else result


def isolated(state: Training, term: Term, given: Mapping[str, Tensor], step: int = 1) -> dict[str, Tensor]:
    """The gradient of one term alone with respect to every parameter, `part/name` -> tensor."""
    env, _ = evaluated(state.model, leaves(state, given, step), [term.key])
    named = {f"{p}/{k}": v for p, m in state.model.parts.items() for k, v in m.named_parameters()}
    gradients = torch.autograd.grad(env[term.key], list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, gradients, strict=True) if g is not None}


def owed(state: Training, given: Mapping[str, Tensor], step: int = 1) -> dict[str, Tensor]:
    """The gradients that a step owes to each parameter: those of its terms by themselves, where they train, as they weigh."""
    found: dict[str, Tensor] = {}
    steps = state.train.steps
    for term in state.model.terms:
        if not term.due(step, steps):
            continue
        for name, gradient in isolated(state, term, given, step).items():
            share = term.trains.get(name.partition("/")[0], 0.0)
            if share:
                found[name] = found.get(name, 0.0) + term.coefficient(step, steps) * share * gradient
    return found


def captured(state: Training, given: Mapping[str, Tensor], step: int = 1) -> dict[str, Tensor]:
    """The gradients that one step leaves for the optimisers, `part/name` -> tensor; nothing is moved.

    Raises AssertionError where a part has a gradient in the other player's update.
    """
    found: dict[str, Tensor] = {}

    def apply(player: str, *_: Any) -> dict[str, Tensor]:
        for path, module in state.model.parts.items():
            for name, parameter in module.named_parameters():
                if parameter.grad is not None:
                    assert state.model.owner[path] == player, f"{path} got a gradient in the {player}'s update"
                    found[f"{path}/{name}"] = parameter.grad.clone()
                    parameter.grad = None
        return {}

    state.apply = apply  # type: ignore[method-assign,assignment]
    train_step(state, [given], step)  # one update of each player: that is what isolated terms are compared with
    return found


def compile_by(state: Training, backend: Backend, *more: Any) -> None:
    """Let the phases of a training be compiled, by a backend that a test can afford; more: what `compiled` takes beside it."""
    state.choices = replace(state.choices, compile=True)
    state._wrap = lambda phase: compiled(phase, backend, *more)  # type: ignore[method-assign]


def steps(state: Training, first: int, last: int, size: int = 8) -> dict[str, Tensor]:
    """Steps of a run, each update on a batch of its own; returns the last one's values."""
    values: dict[str, Tensor] = {}
    for step in range(first, last + 1):
        data = [batch(size, 100 * step + i, spec=state.model.spec) for i in range(state.train.critic_steps)]
        values = train_step(state, data, step)
    return values


def everything(state: Training) -> dict[str, Tensor]:
    """Every parameter and buffer, of the model and of its average, copied."""
    kept = {k: v.detach().clone() for k, v in state.model.state_dict().items()}
    averaged = {f"ema {p}/{k}": v.clone() for p, m in state.averaged.items() for k, v in m.state_dict().items()}
    return kept | averaged


def hand_over(state: Training, other: Training) -> None:
    """What a checkpoint holds of one, through a file, into another."""
    averaged = {p: m.state_dict() for p, m in state.averaged.items()}
    saved = io.BytesIO()
    torch.save({"model": state.model.state_dict(), "ema": averaged, "training": state.state_dict()}, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=True)
    other.model.load_state_dict(loaded["model"])
    for path, module in other.averaged.items():
        module.load_state_dict(loaded["ema"][path])
    other.load_state_dict(loaded["training"])


class Reads(TorchDispatchMode):
    """Counts what is read back from the device inside it: scalars, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


# -- tensors in whatever holds them --------------------------------------------------------------------------------------


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a value, in order."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return found
