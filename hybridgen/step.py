"""The training step: start reading here.

`train_step` is the algorithm: the discriminator side learns from detached samples, then the generator side learns from
the updated discriminator on the same samples. What each phase computes is planned in phases.py; who learns from which
term in routing.py. Nothing here waits for the device: values stay tensors until a log point reads them.
"""

from __future__ import annotations

import dataclasses
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from hybridgen import randomness
from hybridgen.graph import Env, like
from hybridgen.model import Model
from hybridgen.optim import Average, averaged_copy, clip, gradient_norm, optimiser, set_learning_rate
from hybridgen.phases import Phase, PhaseFunction, Plan, Result, functions, inputs, without_history
from hybridgen.precision import Choices
from hybridgen.routing import Term

Batch = Mapping[str, Tensor]


def train_step(state: Training, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
    """Step `step` (from 1): one update of the discriminator side a batch, then one of the generator side.

    The last batch's samples serve the generator; the updates before it (`train.critic_steps` above 1) have data and
    noise of their own. Returns detached scalars by name, on the device.
    """
    plan, phase, weights = state.variant(step)
    values: dict[str, Tensor] = {}
    for update, batch in enumerate(batches):
        last = update == len(batches) - 1
        micro_batches = state.leaves(plan, batch, step, update)
        share = 1.0 / len(micro_batches)
        reuse = last and len(micro_batches) == 1  # else the generator's graph would have to wait in memory
        samples: list[Result] = []
        if plan.critic is not None:
            kept = []
            for micro, leaves in enumerate(micro_batches):
                state.reseed(step, update, micro)
                if reuse:
                    samples = [phase["generate"](inputs(plan.generate, leaves), weights)]
                    shown = samples[0].kept
                else:
                    with torch.no_grad():
                        shown = phase["preview"](inputs(plan.preview, leaves), weights).kept  # type: ignore[arg-type]
                env = inputs(plan.critic, leaves | without_history(shown))
                result = phase["critic"](env, weights)
                state.backward(plan.critic, result, share)
                kept.append(result)
            values |= state.apply("discriminator", plan, kept, [], step)
        if not last:
            continue
        kept, early = [], []
        for micro, leaves in enumerate(micro_batches):
            if not reuse or not samples:
                state.reseed(step, update, micro)
                samples = [phase["generate"](inputs(plan.generate, leaves), weights)]
            result, made_by = samples[0], plan.generate
            early.append(result)
            if plan.generator is not None:
                result = phase["generator"](inputs(plan.generator, leaves | result.kept), weights)
                made_by = plan.generator
            state.backward(made_by, result, share)
            kept.append(result)
        if plan.critic is None and any(group.player == "discriminator" for group in plan.generate.groups):
            values |= state.apply("discriminator", plan, kept, early, step)  # simultaneous: both from one evaluation
        if any(group.player == "generator" for group in (plan.generator or plan.generate).groups):
            values |= state.apply("generator", plan, kept, early, step)
    return values


class Training:
    """What a step moves: parameters, optimiser states, the average, and the latch of the first non-finite value.

    `latched` holds -1, or the step in which a term or gradient first was not finite; from then on (with
    `train.nonfinite = "stop"`) every update is skipped, on the device, until a log point reads it.
    """

    def __init__(self, model: Model, choices: Choices) -> None:
        recipe = model.recipe
        self.model = model
        self.train = recipe.train
        self.device = torch.device(choices.device)
        self.choices = choices
        self.planner = model.planner(choices.autocast)
        self.parameters = {player: model.parameters(player) for player in ("generator", "discriminator")}
        self.optim = recipe.optim
        self.optimisers = {
            player: optimiser(recipe.optim[player], parameters) for player, parameters in self.parameters.items() if parameters
        }
        self.averaged = averaged_copy(model.parts)
        side = {path: module for path, module in model.parts.items() if model.owner[path] == "generator"}
        self.average = Average(side, self.averaged, recipe.train.ema) if recipe.train.ema else None
        self.latched = torch.full((), -1, dtype=torch.long, device=self.device)
        self.culprit = torch.full((), -1, dtype=torch.long, device=self.device)
        skips = recipe.train.nonfinite == "skip"
        self.statistics = {p: [b.clone() for b in m.buffers()] for p, m in model.parts.items()} if skips else {}
        self.labels = [term.label for term in model.terms]
        self.variants: dict[tuple[str, ...], tuple[Plan, dict[str, PhaseFunction]]] = {}

    # -- what is active in a step ------------------------------------------------------------------------------------

    def variant(self, step: int) -> tuple[Plan, dict[str, PhaseFunction], dict[str, Tensor]]:
        """The phases for the terms that take part in this step, compiled once each, and their weights as tensors."""
        steps = self.train.steps
        active = tuple(term for term in self.model.terms if term.due(step, steps))
        key = tuple(term.label for term in active)
        if key not in self.variants:
            plan = self.planner.plan(active)
            self.variants[key] = plan, functions(plan, self._wrap)
        plan, phase = self.variants[key]
        return plan, phase, self._weights(active, step)

    def _weights(self, active: tuple[Term, ...], step: int) -> dict[str, Tensor]:
        if not active:
            return {}
        numbers = torch.tensor([term.coefficient(step, self.train.steps) for term in active], dtype=torch.float32)
        return dict(zip([term.label for term in active], numbers.to(self.device).unbind(), strict=True))

    def _wrap(self, phase: Phase) -> PhaseFunction:
        if not self.choices.compile:
            return phase
        return compiled(phase)

    # -- what a phase reads ------------------------------------------------------------------------------------------

    def leaves(self, plan: Plan, batch: Batch, step: int, update: int) -> list[Env]:
        """Data, labels, noise and step for each micro-batch. Noise is drawn for the whole batch, then sliced."""
        count = self.train.accumulate
        size = batch["x"].shape[0]
        wanted = {key for phase in plan.phases for key in phase.reads} & set(self.model.noise)
        whole: Env = dict(batch)
        if "label" in whole:
            whole["fake_label"] = whole["label"]
        for key in sorted(wanted):
            noise = self.model.noise[key]
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal
            whole[key] = draw((size, *noise.shape), self.device, self.train.seed, "noise", step, update, key)
        scalars = {
            "step": torch.tensor(float(step), device=self.device),
            "progress": torch.tensor(step / self.train.steps, device=self.device),
        }
        if count == 1:
            return [whole | scalars]
        pieces = {key: value.chunk(count) for key, value in whole.items()}
        return [{key: piece[i] for key, piece in pieces.items()} | scalars for i in range(count)]

    def reseed(self, step: int, update: int, micro: int) -> None:
        """Dropout and its like draw from the default generator, which is re-derived each time."""
        torch.manual_seed(randomness.stream_seed(self.train.seed, "layers", step, update, micro))

    # -- what follows a phase ----------------------------------------------------------------------------------------

    def backward(self, phase: Phase, result: Result, share: float) -> None:
        """Each group's sum into the gradients of its parts and of nothing else."""
        for index, (group, total) in enumerate(zip(phase.groups, result.totals, strict=True)):
            moved = [p for path in group.parts for p in self.model.parts[path].parameters() if p.requires_grad]
            more = index < len(phase.groups) - 1
            torch.autograd.backward(total * share if share != 1.0 else total, inputs=moved, retain_graph=more)

    def apply(
        self, player: str, plan: Plan, results: Sequence[Result], early: Sequence[Result], step: int
    ) -> dict[str, Tensor]:
        """The optimiser's step of one player, skipped on the device where a value is not finite; then what follows it.

        Returns the results' values (averaged over micro-batches), the sum descended and the gradient's norm.
        """
        spec, parameters = self.optim[player], self.parameters[player]
        values = mean_of([_of(player, r.values) for r in results])
        if player not in self.optimisers:  # a critic without parameters: it only judges
            return values
        norm = gradient_norm(parameters)
        skipped = self._latch(player, values, norm, step)
        clip(spec, parameters, norm)
        optim = self.optimisers[player]
        set_learning_rate(optim, spec.lr.at(step, self.train.steps))
        optim.found_inf = skipped  # type: ignore[attr-defined]
        optim.step()
        optim.zero_grad(set_to_none=True)
        self._restore_statistics(player, skipped)
        self._update_states(player, plan, results, early, skipped)
        self._remember_statistics(player)
        if player == "generator" and self.average is not None:
            self.average.update(step, skipped)
        return values | {f"grad_norm.{player}": norm}

    def _latch(self, player: str, values: Mapping[str, Tensor], norm: Tensor, step: int) -> Tensor:
        """1.0 where this update must be skipped; remembers the first step and term that were not finite."""
        mine = [label for label in self.labels if f"loss.{label}" in values]
        finite = torch.stack([*(torch.isfinite(values[f"loss.{label}"]) for label in mine), torch.isfinite(norm)])
        bad = ~finite.all()
        positions = [self.labels.index(label) for label in mine] + [len(self.labels) + (player == "discriminator")]
        first = torch.tensor(positions, device=self.device).gather(0, finite.float().argmin().view(1)).squeeze(0)
        fresh = bad & (self.latched < 0)
        self.culprit = torch.where(fresh, first, self.culprit)
        self.latched = torch.where(fresh, step, self.latched)
        if self.train.nonfinite == "stop":
            bad = bad | (self.latched >= 0)
        return bad.float()

    def unlatch(self) -> None:
        """Forget a non-finite value that was read and told."""
        self.latched.fill_(-1)
        self.culprit.fill_(-1)

    def culprit_name(self, index: int) -> str:
        """The term behind an index in `culprit`; a gradient's where every term was finite."""
        if index < len(self.labels):
            return f"loss.{self.labels[index]}"
        return f"the gradient of the {'generator' if index == len(self.labels) else 'discriminator'} side"

    @torch.no_grad()
    def _restore_statistics(self, player: str, skipped: Tensor) -> None:
        """Batch statistics that a skipped update saw don't count."""
        for path, before in self.statistics.items():
            if self.model.owner[path] == player:
                for buffer, old in zip(self.model.parts[path].buffers(), before, strict=True):
                    buffer.copy_(torch.where(skipped.bool(), old, buffer))

    @torch.no_grad()
    def _remember_statistics(self, player: str) -> None:
        """What a skipped update of this player goes back to."""
        for path, before in self.statistics.items():
            if self.model.owner[path] == player:
                for buffer, old in zip(self.model.parts[path].buffers(), before, strict=True):
                    old.copy_(buffer)

    @torch.no_grad()
    def _update_states(
        self, player: str, plan: Plan, results: Sequence[Result], early: Sequence[Result], skipped: Tensor
    ) -> None:
        """The `update` methods of parts and losses (codebooks, moving averages), on the joint batch."""
        mine = {path: arguments for path, arguments in plan.state_updates.items() if self.model.owner[path] == player}
        if not mine:
            return
        envs = [r.kept for r in results]
        if early:
            envs = [e.kept | env for e, env in zip(early, envs, strict=True)]
        envs = [without_history(env) for env in envs]
        for path, arguments in mine.items():
            module = self.model.parts[path]
            before = [buffer.clone() for buffer in module.buffers()]
            given = {name: joined([env[key] for env in envs]) for name, key in arguments}
            module.update(**given)  # type: ignore[operator]
            for buffer, old in zip(module.buffers(), before, strict=True):
                buffer.copy_(torch.where(skipped.bool(), old, buffer))

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All but the weights and their average: what `load_state_dict` needs to go on bit for bit."""
        return {"optimisers": {player: optim.state_dict() for player, optim in self.optimisers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for player, optim in self.optimisers.items():
            optim.load_state_dict(state["optimisers"][player])
            self._remember_statistics(player)

    @torch.no_grad()
    def refresh_averaged(self) -> dict[str, Any]:
        """The modules for evaluation: the averaged generator side, everything else as it is now."""
        for path, module in self.model.parts.items():
            if self.average is None or self.model.owner[path] != "generator":
                self.averaged[path].load_state_dict(module.state_dict())
        return self.averaged


def compiled(phase: Phase, backend: str | Callable[..., Any] = "inductor") -> PhaseFunction:
    """A phase as one graph without a break.

    Larsen's routing and simultaneous updates go backward through one graph twice, which donated buffers would forbid.
    """

    def call(env: Env, weights: Mapping[str, Tensor]) -> Result:
        return phase(env, weights)

    # dynamo counts recompilations by code object: each phase has its own, so that many variants, or many runs in one
    # process, don't meet a limit that was meant for one function whose inputs keep changing
    own = types.FunctionType(call.__code__.replace(), call.__globals__, phase.name, None, call.__closure__)
    function = torch.compile(own, fullgraph=True, dynamic=False, backend=backend)

    def run(env: Env, weights: Mapping[str, Tensor]) -> Result:
        with torch._functorch.config.patch(donated_buffer=False), warnings.catch_warnings():
            # dynamo looks at the .grad of the samples that one phase hands to the next, and warns of its own look
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            return function(env, weights)

    return run


def _of(player: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a phase that serves both players, the values that belong to one."""

    def mine(name: str) -> bool:
        return (name.endswith(".discriminator") or name.startswith("critic.")) == (player == "discriminator")

    return {name: value for name, value in values.items() if mine(name)}


def mean_of(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if len(values) == 1:
        return dict(values[0])
    return {name: torch.stack([v[name] for v in values]).mean() for name in values[0]}


def joined(pieces: Sequence[Any]) -> Any:
    """A quantity of the joint batch from its micro-batches: laid end to end; scalars averaged."""
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], Tensor):
        return torch.cat(list(pieces)) if pieces[0].ndim else torch.stack(list(pieces)).mean()
    if isinstance(pieces[0], (tuple, list)):
        return like(pieces[0], [joined(column) for column in zip(*pieces, strict=True)])
    if not dataclasses.is_dataclass(pieces[0]) or isinstance(pieces[0], type):
        return pieces[0]
    fields = {f.name: joined([getattr(p, f.name) for p in pieces]) for f in dataclasses.fields(pieces[0])}
    return dataclasses.replace(pieces[0], **fields)
