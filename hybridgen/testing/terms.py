"""Checks of losses and of providers: what a step makes of them."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch

from hybridgen.errors import RecipeError
from hybridgen.model import build
from hybridgen.recipe import resolved_toml
from hybridgen.step import Training, train_step
from hybridgen.testing.probe import Reads, batch, captured, evaluated, everything, hand_over, leaves, owed, steps, tensors
from hybridgen.testing.subject import EAGER, Case, Subject, fault, over_batch, recipe_of, skip, trying


def finite(subject: Subject) -> None:
    """The loss is a finite scalar on the first batch of an untrained model, and still after a few steps.

    Why: a first step that is not a number ends the run.
    Mend: look at logarithms, square roots (their slope at 0) and divisions; clamp what may be 0.
    """
    case = subject.case()
    state = case.training()
    for step in (1, 2, 3):
        with trying("a step"):
            values = steps(state, step, step)
        wrong = [name for name, value in values.items() if not bool(torch.isfinite(value))]
        if wrong:
            fault(f"after step {step} not finite: {', '.join(wrong)}")


def duplicated(subject: Subject) -> None:
    """A batch that holds every sample twice gives the same value: the term is a mean over the batch.

    Why: batches are cut into micro-batches and spread over processes, and a sum would make the learning rate depend on that.
    Mend: sum over each sample, average over the batch. Where samples meet (all pairs, say) set `couples_batch = True`.
    """
    case = subject.case()
    state = case.training()
    if getattr(state.model.parts.get(case.path), "couples_batch", False):
        skip("it declares that it couples the samples of a batch")
    size = 4
    env = leaves(state, batch(size, spec=case.spec))
    twice = over_batch(env, size, lambda t: torch.cat([t, t]))
    for term in _own(case, state):
        torch.manual_seed(0)
        one = evaluated(state.model, env, [term.key])[0][term.key]
        torch.manual_seed(0)
        other = evaluated(state.model, twice, [term.key])[0][term.key]
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True):
            fault(f"{term.label} is {one.item():.6g} on a batch and {other.item():.6g} on the batch twice over")


def routed(subject: Subject) -> None:
    """The step's gradients are those of the terms by themselves, at the parts that they train and nowhere else.

    Why: a term that reaches what it doesn't train spoils another term's work in silence.
    Mend: compute from what you ask for alone; no `.backward()`, no graph kept from an earlier call, nothing changed in place.
    """
    case = subject.case()
    given = batch(spec=case.spec)
    state = case.training()
    if _spectral(state):
        skip("a network's spectral norm moves with each pass, so two evaluations differ")
    expected = owed(state, given)
    with trying("a step"):
        got = captured(state, given)
    for name in sorted(got.keys() | expected.keys()):
        one, other = got.get(name), expected.get(name)
        if one is None or other is None:
            whole = other if one is None else one
            if whole is not None and bool(whole.any()):
                fault(f"{name} has a gradient {'in the step only' if other is None else 'of the terms only'}")
            continue
        scale = max(float(other.abs().max()), 1e-3)
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-4 * max(scale, 1.0), equal_nan=True):
            fault(f"{name}: the step's gradient differs from that of the terms by {float((one - other).abs().max()):.3g}")


def _spectral(state: Any) -> bool:
    return any("parametrizations" in name for module in state.model.parts.values() for name, _ in module.named_modules())


def free_at_zero(subject: Subject) -> None:
    """With weight 0 none of the component's code runs in a step.

    Why: a term that is scheduled to start later, or switched off, must not cost a pass.
    Mend: work in the methods that ask by name; put no hooks on other modules and start nothing in the constructor.
    """
    case = subject.case()
    off = {f"{case.path}.weight": 0, f"{case.path}.discriminator_weight": 0}
    try:
        recipe = recipe_of(resolved_toml(case.recipe), subject.registry, off)
        state = Training(build(recipe, case.spec), EAGER)
    except RecipeError as error:
        skip(f"its host is nothing without it: {error.problems[0].what}")
    module = state.model.parts.get(case.path)
    own = {f.__code__ for one in type(module).__mro__ for f in vars(one).values() if inspect.isfunction(f)}
    own -= {f.__code__ for f in vars(torch.nn.Module).values() if inspect.isfunction(f)}
    called: list[str] = []

    def watch(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in own and frame.f_locals.get("self") is module:
            called.append(frame.f_code.co_name)

    given = [batch(spec=case.spec)] * state.train.critic_steps
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        train_step(state, given, 1)
    finally:
        sys.setprofile(before)
    if called:
        fault(f"with weight 0 a step calls {', '.join(sorted(set(called)))}")


def unread(subject: Subject) -> None:
    """A step reads no value back from the device.

    Why: on a GPU each read makes the host wait until everything before it is done.
    Mend: no `.item()`, `float(tensor)`, `bool(tensor)`, `.tolist()`, `.nonzero()` or print in what is called each step.
    """
    case = subject.case()
    state = case.training()
    given = [batch(spec=case.spec)] * state.train.critic_steps
    with Reads() as reads, trying("a step"):
        train_step(state, given, 1)
    if reads.count:
        fault(f"a step reads {reads.count} values from the device")


def resumes(subject: Subject) -> None:
    """Four steps are two steps, a checkpoint, and two steps, bit for bit.

    Why: runs are interrupted; what a component keeps between steps has to be in the checkpoint.
    Mend: keep state in buffers and write it in `update`; keep no Python numbers, lists or generators that change.
    """
    case = subject.case()
    whole, first, second = case.training(), case.training(), case.training()
    with trying("a step"):
        steps(whole, 1, 4)
    steps(first, 1, 2)
    with trying("a checkpoint"):
        hand_over(first, second)
    steps(second, 3, 4)
    one, other = everything(whole), everything(second)
    changed = [name for name in one if not torch.equal(one[name], other[name]) and not bool(one[name].isnan().any())]
    if changed:
        fault(f"after resuming these differ: {', '.join(changed[:8])}")


def repeatable(subject: Subject) -> None:
    """A provider gives the same for the same arguments: its randomness is what it asks for.

    Why: a quantity is computed anew in each phase and again after a resume; a draw of its own would be another one each time.
    Mend: ask for `noise`, `noise_z` or `uniform`, or name noise of another shape in the attribute `draws`.
    """
    case = subject.case()
    state = case.training()
    env = leaves(state, batch(4, spec=case.spec))
    targets = [term.key for term in state.model.terms]
    results = []
    for seed in (0, 1):
        for part in state.model.parts.values():
            part.eval()
        state.model.parts.get(case.path, torch.nn.Identity()).train()
        torch.manual_seed(seed)
        known, calls = evaluated(state.model, env, targets)
        own = [call.result for call in calls if call.part == case.path] or [_value(case, known)]
        results.append([t for value in own for t in tensors(value)])
    if not all(torch.equal(a, b) or bool(a.isnan().any()) for a, b in zip(*results, strict=True)):
        fault("two calls with the same arguments give different results")


def _value(case: Case, known: Any) -> Any:
    name = case.path.rpartition(".")[2]
    return next((value for key, value in known.items() if key == name or key.startswith(f"{name}@")), ())


def identity(subject: Subject) -> None:
    """An augmentation of what a critic judges leaves samples as they are in eval mode.

    Why: metrics look through it at real and generated samples.
    Mend: `if not self.training: return x`.
    """
    case = subject.case()
    if not case.path.endswith(".augment"):
        skip("it stands in [quantity] here; one that asks for the fact `judged_shape` is tried as an augmentation")
    state = case.training()
    for part in state.model.parts.values():
        part.eval()
    for call in case.calls(state):
        if not torch.equal(call.result, call.arguments["x"]):
            fault("in eval mode its result is not what it was given as `x`")


def _own(case: Case, state: Any) -> list[Any]:
    name = case.path.rpartition(".")[2]
    return [term for term in state.model.terms if term.name == name]
