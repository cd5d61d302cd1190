"""Checks of modules: encoders, decoders, discriminators, latents, features, and losses and providers that are modules."""

from __future__ import annotations

import copy
import pickle
import random
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import SkipTest

import safetensors.torch
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridgen.graph import Method, couples_batch, mapped
from hybridgen.precision import Choices
from hybridgen.step import Training, train_step
from hybridgen.testing import hosts
from hybridgen.testing.probe import Recorded, batch, captured, compile_by, steps, tensors
from hybridgen.testing.subject import Case, Fault, Subject, fault, over_batch, skip, trying

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def shapes(subject: Subject) -> None:
    """Pictures of one, three and four channels, oblong, odd, of 8 to 64 pixels, points and text are taken or refused in words.

    Why: people point recipes at data that you never saw; a traceback from inside a convolution tells them nothing.
    Mend: raise ValueError in the constructor, saying what shape came and which are possible.
    """
    taken, refused = [], []
    for spec in hosts.SHAPES:
        for one in (spec, hosts.image(*spec.shape, classes=4) if spec.kind == "image" else spec):
            try:
                case = subject.case(one)
            except SkipTest as reason:
                refused.append(f"{spec.shape}: {reason}")
                continue
            except Fault as found:
                raise Fault(f"on samples of the shape {spec.shape}: {found}") from found
            taken.append(spec.shape)
            _sizes(subject, case)
            break
    if not taken and subject.case() is None:
        fault("it takes none of them: " + "; ".join(refused))


def _sizes(subject: Subject, case: Case) -> None:
    """Batches of one (in eval mode: batch statistics of one sample are none) and of three."""
    state = case.training()
    for size in (3, 1):
        for module in state.model.parts.values():
            module.train(size > 1)
        with torch.no_grad(), trying(f"a batch of {size} of the shape {case.spec.shape}"):
            calls = case.calls(state, size)
        for call in calls:
            _well_formed(subject, case, call, size)


def _well_formed(subject: Subject, case: Case, call: Recorded, size: int) -> None:
    where = f"`{call.method}` on a batch of {size} of the shape {case.spec.shape}"
    bad = [tuple(t.shape) for t in tensors(call.result) if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if bad:
        fault(f"{where} returns values that are NaN or infinite, of the shape {bad[0]}")
    if subject.component.kind != "discriminator":
        return
    result = call.result
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor) and isinstance(result[1], list)):
        fault(f"{where} returns {type(result).__name__}; expected the pair (logits `b ...`, list of features)")
    if result[0].shape[:1] != (size,):
        fault(f"{where} returns logits of the shape {tuple(result[0].shape)}; expected the batch first, as ({size}, ...)")


def autocast(subject: Subject) -> None:
    """Under bfloat16 the component computes finite values, its weights stay float32, and losses come out as float32.

    Why: `precision = "auto"` runs networks in bfloat16 where the machine is faster so.
    Mend: don't call `.to(torch.float32)` on inputs of a layer, create tensors as `x.new_...`, and compute losses on `.float()`.
    """
    case = subject.case()
    state = case.training(Choices("cpu", "bf16", False, ()))
    size = state.model.recipe.data.batch_size
    given = [batch(size, i, spec=case.spec) for i in range(state.train.critic_steps)]
    with trying("a step in bfloat16"):
        values = train_step(state, given, 1)
    for name, value in values.items():
        if subject.component.kind == "loss" and f"loss.{case.path.rpartition('.')[2]}" in name and value.dtype != torch.float32:
            fault(f"{name} comes out as {value.dtype}, expected float32")
        if not bool(torch.isfinite(value).all()):
            fault(f"after a step in bfloat16 `{name}` is {float(value)}")
    held = state.model.parts[case.path].named_parameters() if case.path in state.model.parts else ()
    moved = [name for name, p in held if p.dtype != torch.float32]
    if moved:
        fault(f"parameters changed their type: {', '.join(moved)}")


def moves(subject: Subject) -> None:
    """The component moves to another device with all that it holds.

    Why: `.to("cuda")` moves parameters and buffers and nothing else; a plain tensor stays behind and the first step fails.
    Mend: `self.register_buffer("name", tensor)`, with persistent=False for what can be computed again.
    """
    case = subject.case()
    state = case.training()
    module = subject.module(state)
    left = sorted(_loose(module))
    if left:
        fault(f"tensors that are neither parameters nor buffers: {', '.join(left)}")
    calls = case.calls(state)
    elsewhere = copy.deepcopy(module).to("meta")
    for call in _plain(calls):
        arguments = mapped(dict(call.arguments), lambda t: t.detach().to("meta"))
        with trying(f"`{call.method}` on another device"):
            getattr(elsewhere, call.method)(**arguments)
    if torch.cuda.is_available():
        there = copy.deepcopy(module).to("cuda")
        for call in _plain(calls):
            arguments = mapped(dict(call.arguments), lambda t: t.detach().to("cuda"))
            with trying(f"`{call.method}` on CUDA"):
                getattr(there, call.method)(**arguments)


def _loose(module: nn.Module) -> Iterator[str]:
    """Names of tensors in a module's attributes, or in lists and dictionaries there, that no `.to` moves."""
    for name, part in module.named_modules():
        known = {id(t) for t in (*part._parameters.values(), *part._buffers.values())}
        for key, value in vars(part).items():
            if key.startswith("_") and key in vars(nn.Module()):
                continue
            if any(id(t) not in known for t in tensors(value) if not isinstance(value, nn.Module)):
                yield f"{name}.{key}".lstrip(".")


def _plain(calls: list[Recorded]) -> list[Recorded]:
    """Calls that were given tensors only, no functions."""
    return [call for call in calls if not any(callable(value) for value in call.arguments.values())]


def gradients(subject: Subject) -> None:
    """Every trainable parameter gets a gradient in a step, finite, from some term.

    Why: a layer that is never used, or cut off by a detach, learns nothing and is saved, averaged and counted all the same.
    Mend: use it, remove it, or set `requires_grad_(False)` where it shall stay as it is.
    """
    case = subject.case()
    state = case.training()
    module = subject.module(state)
    with trying("a step"):
        got = captured(state, batch(spec=case.spec))
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    still = [name for name in names if f"{case.path}/{name}" not in got]
    if still:
        fault(f"no gradient reaches: {', '.join(still)}")
    wrong = [name for name in names if not bool(torch.isfinite(got[f"{case.path}/{name}"]).all())]
    if wrong:
        fault(f"gradients that are NaN or infinite: {', '.join(wrong)}")


def unshared(subject: Subject) -> None:
    """Two instances share no parameter and no buffer.

    Why: a tensor or a layer made once, in the module or as a default argument, is one for all models of a process: the average
    of the weights would be the weights themselves, and a second model would train the first.
    Mend: make every layer and tensor in `__init__`.
    """
    case = subject.case()
    one, other = case.training(), case.training()
    first, second = _storages(subject.module(one)), _storages(subject.module(other))
    shared = sorted(first[pointer] for pointer in first.keys() & second.keys())
    if shared:
        fault(f"shared by two instances: {', '.join(shared)}")


def _storages(module: nn.Module) -> dict[int, str]:
    held = [*module.named_parameters(), *module.named_buffers()]
    return {t.untyped_storage().data_ptr(): name for name, t in held if t.numel()}


def seeded(subject: Subject) -> None:
    """The same seed makes the same weights and the same results; nothing draws from Python's or numpy's random state.

    Why: a run is a function of its seed and resumes bit for bit; hybridgen seeds torch before each phase, and nothing else.
    Mend: draw with torch in `__init__`; in methods ask for `noise`, `uniform` or what your attribute `draws` names.
    """
    import numpy as np

    case = subject.case()
    before = pickle.dumps((random.getstate(), np.random.get_state()))
    one, other = case.training(), case.training()
    for name, value in _held(subject, one).items():
        if not torch.equal(value, _held(subject, other)[name]):
            fault(f"`{name}` differs between two models of one seed")
    results = []
    for state in (one, other):
        torch.manual_seed(0)
        with trying("a call"):
            results.append([tensors(call.result) for call in case.calls(state)])
    if not _equal(results[0], results[1]):
        fault("two evaluations under one seed differ")
    if pickle.dumps((random.getstate(), np.random.get_state())) != before:
        fault("it draws from Python's or numpy's random state")


def _held(subject: Subject, state: Training) -> Mapping[str, Tensor]:
    part = state.model.parts.get(subject.case().path)
    return {} if part is None else part.state_dict()


def _equal(one: list[list[Tensor]], other: list[list[Tensor]]) -> bool:
    flat = [[t for call in side for t in call] for side in (one, other)]
    return all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(*flat, strict=True))


def batch_mates(subject: Subject) -> None:
    """A sample's result doesn't depend on the others of its batch: not in eval mode, and not in training unless it is declared.

    Why: hybridgen lays batches end to end to save passes, cuts them up to save memory, and draws samples in other numbers.
    Mend: set `couples_batch = True` on the module whose training couples samples (batch norm is found by itself); in eval mode
    use fixed statistics.
    """
    case = subject.case()
    state = case.training()
    module = state.model.parts.get(case.path)
    declared = module is not None and couples_batch(module)
    size = 4
    for training in (False, True):
        if training and declared:
            continue
        for part in state.model.parts.values():
            part.train(training)
        for call in _plain(case.calls(state, size)):
            if not any(t.ndim and t.shape[0] == size for t in tensors(dict(call.arguments))):
                continue
            if declared and subject.component.kind == "discriminator" and _couples_in_eval(module):
                skip("it declares that it couples the samples of a batch, in eval mode as well")
            _by_itself(
                getattr(state.model.parts[call.part], call.method), call, size, "in training" if training else "in eval mode"
            )


def _couples_in_eval(module: nn.Module | None) -> bool:
    """Whether a declared coupling is there in eval mode too (a minibatch statistic, unlike batch norm)."""
    return module is not None and any(getattr(m, "couples_batch", False) is True for m in module.modules())


def _by_itself(function: Any, call: Recorded, size: int, when: str) -> None:
    """The first half of a batch beside another second half gives what it gave."""
    half = slice(0, size // 2)
    arguments = dict(call.arguments)
    turned = over_batch(arguments, size, lambda t: torch.cat([t[half], t[half].flip(0)]))
    results = []
    for given in (arguments, turned):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(over_batch(function(**given), size, lambda t: t[half]))
    for one, other in zip(*map(tensors, results), strict=True):
        if one.is_floating_point() and not torch.allclose(one, other, equal_nan=True, **TOLERANCE):
            fault(f"`{call.method}` {when} gives a sample another result beside other samples")


def saved(subject: Subject) -> None:
    """The state goes through a safetensors file into another instance, which then gives the same results.

    Why: checkpoints are such files; a parameter under two names, or a result that depends on what is no buffer, is lost.
    Mend: register state as parameters or buffers (persistent), one name each; keep nothing that matters in plain attributes.
    """
    case = subject.case()
    state, other = case.training(), case.training()
    module, twin = subject.module(state), subject.module(other)
    _shake(module)
    kept = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    with tempfile.TemporaryDirectory(prefix="hybridgen-") as folder:
        path = Path(folder) / "state.safetensors"
        with trying("saving its state as safetensors"):
            safetensors.torch.save_file(kept, path)
        twin.load_state_dict(safetensors.torch.load_file(path))
    for one in (module, twin):
        one.eval()
    for call in _plain(case.calls(state)):
        results = []
        for one in (module, twin):
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(tensors(getattr(one, call.method)(**call.arguments)))
        if not _equal([results[0]], [results[1]]):
            fault(f"`{call.method}` of an instance that loaded the state gives another result")


def _shake(module: nn.Module) -> None:
    """Move every parameter, so that a twin that was made from the same seed differs until it has loaded."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def copied(subject: Subject) -> None:
    """`copy.deepcopy` gives an independent twin.

    Why: the average of the weights, which samples and metrics come from, is such a copy.
    Mend: hold no handles (files, generators, lambdas over self) and no tensors that are results of a computation.
    """
    case = subject.case()
    state = case.training()
    module = subject.module(state)
    case.calls(state)  # what a call leaves behind must be copied as well
    with trying("copying it"):
        twin = copy.deepcopy(module)
    shared = _storages(module).keys() & _storages(twin).keys()
    if shared:
        fault(f"a copy shares {', '.join(_storages(module)[pointer] for pointer in shared)} with the original")
    for call in _plain(case.calls(state)):
        with trying(f"`{call.method}` of a copy"):
            getattr(twin, call.method)(**call.arguments)


def traceable(subject: Subject) -> None:
    """Methods of a step look at no values: no `.item()`, no `if` on a tensor, no shapes that depend on values.

    Why: each look makes the host wait for the device, and no graph can hold it.
    Mend: `torch.where` for a choice, tensors for counts and thresholds; `step` and `progress` are tensors.
    """
    case = subject.case()
    state = case.training()
    with torch.no_grad():
        calls = _plain(case.calls(state))
    if not calls:
        skip("no method of it is called with tensors alone")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for call in calls:
            target = Method(state.model.parts[call.part], call.method)
            state_of = target.state_dict(keep_vars=True)
            held: dict[str, Tensor] = {name: mode.from_tensor(t.detach().clone()) for name, t in state_of.items()}
            arguments = mapped(dict(call.arguments), lambda t: mode.from_tensor(t.detach().clone()))
            with trying(f"`{call.method}` on tensors without values"):
                torch.func.functional_call(target, held, (), arguments)


def compiles(subject: Subject) -> None:
    """Each phase of a step that holds the component is one graph without a break, and gives the same values.

    Why: compiled runs are up to several times faster; one part that breaks the graph costs the whole phase.
    Mend: see what torch names; penalties differentiate with `torch.func.grad`. Or declare `compiles = False` on the class: the
    part then runs eagerly, and the rest is compiled around it.
    """
    case = subject.case()
    if getattr(subject.loaded, "compiles", True) is False:
        skip("it declares compiles = False")
    eager, fast = case.training(), case.training()
    compile_by(fast, "eager")
    one = steps(eager, 1, 1)
    with trying("tracing a step as whole graphs"):
        other = steps(fast, 1, 1)
    for name, value in one.items():
        if not torch.allclose(value.float(), other[name].float(), rtol=1e-3, atol=1e-4, equal_nan=True):
            fault(f"traced, `{name}` is {float(other[name]):.6g}; eagerly it is {float(value):.6g}")


def twice(subject: Subject) -> None:
    """Logits can be differentiated with respect to the sample, and that once more with respect to the weights.

    Why: R1, R2, WGAN-GP and DRAGAN descend the size of that gradient.
    Mend: use operations with a second derivative and nothing in place; or declare `twice_differentiable = False` on the class.
    """
    if getattr(subject.loaded, "twice_differentiable", True) is False:
        skip("it declares twice_differentiable = False")
    case = subject.case()
    state = case.training()
    module = subject.module(state)
    call = next(iter(case.calls(state)))
    x, others = call.arguments["x"].detach(), {k: v for k, v in call.arguments.items() if k != "x"}

    def logits(x: Tensor) -> Tensor:
        held = dict(module.named_parameters()) | {name: b.clone() for name, b in module.named_buffers()}
        return torch.func.functional_call(module, held, (), {"x": x, **others})[0].float().sum()

    def slope() -> Tensor:
        return torch.func.grad(logits)(x).flatten(1).square().sum()

    weights = [p for p in module.parameters() if p.requires_grad]
    if not weights:
        skip("it has nothing to learn")
    with trying("the gradient of the logits"):
        size = slope()
    with trying("the gradient of that gradient"):
        found = torch.autograd.grad(size, weights, allow_unused=True)
    if all(g is None or not bool(g.any()) for g in found):
        fault("the size of the gradient at the samples depends on no weight")
    if any(g is not None and not bool(torch.isfinite(g).all()) for g in found):
        fault("the second derivative is NaN or infinite")
