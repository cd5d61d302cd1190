"""How fast a recipe trains here and where its time goes: what `hybridgen bench` prints.

A figure of one machine and one hour says little by itself, so contenders alternate within one process (A B A B ...) and
what is compared is the median of the ratios of neighbouring rounds.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hybridgen.environment import cpu_name
from hybridgen.errors import UserError
from hybridgen.graph import Env
from hybridgen.notes import noting
from hybridgen.phases import Phase, PhaseFunction, Result
from hybridgen.precision import AUTOCAST, Choices
from hybridgen.recipe import Recipe
from hybridgen.record import Record
from hybridgen.session import Prepared
from hybridgen.step import Training, train_step

Loop = Callable[[Sequence[Mapping[str, Tensor]]], None]
LOOPS = Path(__file__).parents[1] / "tests" / "benchmarks" / "loops.py"
"""Hand-written loops of shipped recipes; they live beside the tests, not in the package."""


def bench(recipe: Recipe, *, steps: int = 50, rounds: int = 5, against: str = "") -> dict[str, Any]:
    """Time `rounds` rounds of `steps` steps each, and those of a second contender between them.

    against: "eager" (float32, contiguous, nothing compiled), "loop" (a hand-written loop of the same recipe), or nothing.
    Returns what was measured by name; times are seconds. Raises UserError for a contender that there isn't, and what
    preparing a run raises.
    """
    with noting(recipe):
        prepared = Prepared(recipe)
    with noting(recipe, prepared.model.parts), prepared.numerics():
        ours = Steps(prepared)
        first = _timed(ours, 1, prepared.state.device)
        warm = _warm_up(recipe)
        _timed(ours, warm, prepared.state.device)
        contenders: dict[str, Callable[[], None]] = {"hybridgen": ours}
        if against:
            contenders[against] = _other(recipe, against)
            _timed(contenders[against], warm, prepared.state.device)
        taken = alternate(contenders, steps, rounds, prepared.state.device)
        median = {name: statistics.median(seconds) for name, seconds in taken.items()}
        found: dict[str, Any] = {
            "recipe": recipe.name,
            "machine": machine(prepared.choices),
            "choices": dataclasses.asdict(prepared.choices),
            "batch_size": recipe.data.batch_size,
            "samples_per_step": recipe.data.batch_size * recipe.train.critic_steps,
            "steps": steps,
            "step": median["hybridgen"],
            "rounds": taken,
            "first_step": first,
            "split": split(prepared, min(steps, 20)),
            "flops": flops(prepared),
            "peak": peak(prepared.choices),
            "memory": memory(prepared.state.device),
        }
    if against:
        found_ratios = ratios(taken, against, "hybridgen")
        found |= {"against": against, "ratio": statistics.median(found_ratios), "ratios": found_ratios}
        if prepared.choices.compile and against == "eager" and median[against] > median["hybridgen"]:
            found["break_even"] = first / (median[against] - median["hybridgen"])
    return found


def alternate(
    contenders: Mapping[str, Callable[[], object]], steps: int, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of a step of each contender in each round, all of them in turn in every round."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            taken[name].append(_timed(run, steps, device) / steps)
    return taken


def ratios(taken: Mapping[str, Sequence[float]], slower: str, faster: str) -> list[float]:
    """How many times as fast one contender was as another, round by round."""
    return [b / a for a, b in zip(taken[faster], taken[slower], strict=True)]


# -- contenders ----------------------------------------------------------------------------------------------------------


class Steps:
    """The steps of a run, one after the other, as the loop takes them: batches, the step, the sums for the next row."""

    def __init__(self, prepared: Prepared, state: Training | None = None) -> None:
        self.state, self.data, self.record = state or prepared.state, prepared.data, Record()
        self.critic_steps, self.step = prepared.recipe.train.critic_steps, 0

    def batches(self) -> list[dict[str, Tensor]]:
        self.step += 1
        return self.data.of_step(self.step, self.critic_steps)

    def __call__(self) -> None:
        batches = self.batches()
        self.record.add(train_step(self.state, batches, (self.step - 1) % self.state.train.steps + 1))


def _other(recipe: Recipe, against: str) -> Callable[[], None]:
    if against == "eager":
        plain = dataclasses.replace(recipe.train, precision="fp32", layout="contiguous", compile=False)
        return Steps(Prepared(dataclasses.replace(recipe, train=plain)))
    if against != "loop":
        raise UserError(f"there is no contender '{against}'; write --against eager or --against loop")
    return by_hand(hand_written(recipe.name), Prepared(recipe))


def by_hand(loop: Callable[[Prepared], Loop], prepared: Prepared) -> Callable[[], None]:
    """The steps of a hand-written loop, on the batches of a run."""
    made, steps = loop(prepared), Steps(prepared)
    return lambda: made(steps.batches())


def hand_written(name: str) -> Callable[[Prepared], Loop]:
    """The hand-written loop of a shipped recipe. Raises UserError where there is none."""
    if not LOOPS.is_file():
        raise UserError(
            f"hand-written loops come with the source of hybridgen, and {LOOPS} is not there; write --against eager"
        )
    spec = importlib.util.spec_from_file_location("hybridgen_loops", LOOPS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if name not in module.LOOPS:
        raise UserError(f"there is no hand-written loop of '{name}'; there are: {', '.join(sorted(module.LOOPS))}")
    made: Callable[[Prepared], Loop] = module.LOOPS[name]
    return made


def _warm_up(recipe: Recipe) -> int:
    """Steps after which every set of terms that alternates in this recipe has been met."""
    return max([2, *(loss.every + 1 for loss in recipe.losses.values())])


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(run: Callable[[], object], times: int, device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    for _ in range(times):
        run()
    wait_for(device)
    return time.perf_counter() - began


# -- where the time goes -------------------------------------------------------------------------------------------------

PLAYER = {"generate": "generator", "generator": "generator", "critic": "discriminator", "preview": "discriminator"}


class Watched(Training):
    """A training whose parts are timed one by one: after each the device is waited for, which no run does."""

    def __init__(self, model: Any, choices: Choices) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        super().__init__(model, choices)
        if self.average is not None:
            self.average.update = self.timed("average", self.average.update)  # type: ignore[method-assign]

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            wait_for(self.device)
            began = time.perf_counter()
            result = function(*args, **kwargs)
            wait_for(self.device)
            self.seconds[name] += time.perf_counter() - began
            return result

        return call

    def _wrap(self, phase: Phase) -> PhaseFunction:
        return self.timed(f"{PLAYER[phase.name]} forward", super()._wrap(phase))

    def leaves(self, *args: Any) -> list[Env]:
        found: list[Env] = self.timed("noise", super().leaves)(*args)
        return found

    def backward(self, phase: Phase, result: Result, share: float) -> None:
        self.timed(f"{PLAYER[phase.name]} backward", super().backward)(phase, result, share)

    def apply(self, player: str, *args: Any) -> dict[str, Tensor]:
        before = self.seconds["average"]
        found: dict[str, Tensor] = self.timed(f"{player} optimiser", super().apply)(player, *args)
        self.seconds[f"{player} optimiser"] -= self.seconds["average"] - before
        return found


def split(prepared: Prepared, steps: int) -> dict[str, float]:
    """Seconds of a step by what they go to: data, noise, each player's forward, backward and optimiser, average, report."""
    state = Watched(prepared.model, prepared.choices)
    again = Steps(prepared, state)
    for _ in range(_warm_up(prepared.recipe)):
        again()
    state.seconds.clear()
    fetch = state.timed("data", again.batches)
    add = state.timed("report", again.record.add)
    whole = 0.0
    for step in range(1, steps + 1):
        began = time.perf_counter()
        add(train_step(state, fetch(), step))
        whole += time.perf_counter() - began
    found = {name: seconds / steps for name, seconds in state.seconds.items()}
    return found | {"the rest": whole / steps - sum(found.values())}


# -- what the machine could do -------------------------------------------------------------------------------------------


def flops(prepared: Prepared) -> float:
    """Floating-point operations of one step's matrix products and convolutions, forward and backward, counted by torch."""
    eager = Training(prepared.model, dataclasses.replace(prepared.choices, compile=False))
    counted = Steps(prepared, eager)
    with Counter() as counter:
        counted()
    return float(counter.operations)


class Counter(TorchDispatchMode):
    """Adds up operations by torch's formulas. Its own FlopCounterMode hooks modules too, which a penalty's gradient breaks."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **(kwargs or {}), out_val=out)
        return out


def peak(choices: Choices, size: int = 1024) -> dict[str, float]:
    """What this device reaches: operations a second in a matrix product, bytes a second in a copy."""
    device = torch.device(choices.device)
    size = size * (4 if device.type == "cuda" else 1)
    a = torch.randn(size, size, device=device, dtype=AUTOCAST.get(choices.precision, torch.float32))
    product = min(_timed(lambda: torch.mm(a, a), 3, device) / 3 for _ in range(4))
    source = torch.zeros(1 << 26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = min(_timed(lambda: target.copy_(source), 3, device) / 3 for _ in range(4))
    return {"operations": 2.0 * size**3 / product, "bytes": 2.0 * source.numel() / copy}


def memory(device: torch.device) -> int:
    """Bytes at the highest point so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def machine(choices: Choices) -> str:
    """The device in words, with the versions that a figure depends on."""
    device = torch.device(choices.device)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{cpu_name()}, {choices.threads or torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}"
