"""The training step: start reading here.

`train_step` is the algorithm: the discriminator side learns from detached samples, then the generator side learns from
the updated discriminator on the same samples. What each phase computes is planned in phases.py; who learns from which
term in routing.py. Nothing here waits for the device: values stay tensors until a log point reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen import randomness
from hybridgen.compiling import compiled
from hybridgen.graph import Env, Graph, joined
from hybridgen.model import Model
from hybridgen.optim import Average, averaged_copy, clip, gradient_norm, limit_weights, optimiser, set_learning_rate
from hybridgen.phases import Phase, PhaseFunction, Plan, Result, Weights, functions, inputs, without_history
from hybridgen.precision import Choices
from hybridgen.routing import Term, last_weight

Batch = Mapping[str, Tensor]
BALANCE_EPSILON = 1e-6
NEVER = torch.iinfo(torch.long).max


def train_step(state: Training, batches: Sequence[Batch], step: int) -> dict[str, Tensor]:
    """Step `step` (from 1): one update of the discriminator side a batch, then one of the generator side.

    The last batch's samples serve the generator; the updates before it (`train.critic_steps` above 1) have data and
    noise of their own. Returns detached scalars by name, on the device.
    """
    plan, phase, weights = state.variant(step)
    values: dict[str, Tensor] = {}
    held: dict[str, Tensor] = {}
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
            held = holding(state.model.graph, plan, kept)
            values |= state.apply("discriminator", plan, kept, [], held, step)
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
        if plan.critic is None:
            held = holding(state.model.graph, plan, kept)
        if plan.critic is None and any(group.player == "discriminator" for group in plan.generate.groups):
            values |= state.apply("discriminator", plan, kept, early, held, step)  # simultaneous: both from one evaluation
        if any(group.player == "generator" for group in (plan.generator or plan.generate).groups):
            values |= state.apply("generator", plan, kept, early, held, step)
    return values


class Training:
    """What a step moves: parameters, optimiser states, the average, and the latch of the first non-finite value.

    `latched` holds NEVER, or what was not finite first: its step times the number of `suspects`, plus its place among
    them. From then on (with `train.nonfinite = "stop"`) every update is skipped, on the device, until a log point reads it.
    """

    def __init__(self, model: Model, choices: Choices) -> None:
        recipe = model.recipe
        self.model = model
        self.train = recipe.train
        self.device = torch.device(choices.device)
        self.choices = choices
        self.planner = model.planner(choices.autocast)
        self.parameters = {player: model.parameters(player) for player in ("generator", "discriminator")}
        self.paths = {player: [path for path in model.parts if model.owner[path] == player] for player in self.parameters}
        self.trainable = {path: [p for p in part.parameters() if p.requires_grad] for path, part in model.parts.items()}
        self.optim = recipe.optim
        self.optimisers = {
            player: optimiser(recipe.optim[player], parameters)
            for player in self.parameters
            if (parameters := [p for path in self.paths[player] if path not in model.holds for p in self.trainable[path]])
        }
        self.held_optimisers = {  # a part that may be held back has an optimiser of its own, for that can be skipped
            path: optimiser(recipe.optim[model.owner[path]], parameters)
            for path in model.holds
            if (parameters := self.trainable[path])
        }
        self.scalers = {
            player: torch.amp.GradScaler(self.device.type, enabled=choices.precision == "fp16") for player in self.parameters
        }
        self.one = torch.ones((), device=self.device)
        self.averaged = averaged_copy(model.parts)
        side = {path: module for path, module in model.parts.items() if model.owner[path] == "generator"}
        self.average = Average(side, self.averaged, recipe.train.ema) if recipe.train.ema else None
        self.latched = torch.full((), NEVER, dtype=torch.long, device=self.device)
        self.suspects = [  # in the order in which a step looks at them
            name
            for player in ("discriminator", "generator")
            for name in [
                *(f"loss.{term.label}" for term in model.terms if term.side == player),
                f"the gradient of the {player} side",
            ]
        ]
        kept = [p for p in model.parts if recipe.train.nonfinite == "skip" or self._holder(p)]
        self.statistics = {p: [b.clone() for b in model.parts[p].buffers()] for p in kept}
        self.reports = {
            player: [(path, name) for path in paths for name in getattr(model.parts[path], "reports", ())]
            for player, paths in self.paths.items()
        }
        self.places: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        self.fallbacks: dict[str, str] = {}  # what could not be compiled -> why
        self.weighed: tuple[dict[str, float], dict[str, Tensor]] = {}, {}
        self.variants: dict[tuple[str, ...], tuple[Plan, dict[str, PhaseFunction]]] = {}

    # -- what is active in a step ------------------------------------------------------------------------------------

    def variant(self, step: int) -> tuple[Plan, dict[str, PhaseFunction], Weights]:
        """The phases for the terms that take part in this step, compiled once each, and their weights."""
        active = self.active(step)
        key = tuple(active)
        if key not in self.variants:
            plan = self.planner.plan(tuple(active.values()))
            self.variants[key] = plan, functions(plan, self._wrap)
        plan, phase = self.variants[key]
        return plan, phase, self._weights(active, step)

    def active(self, step: int) -> dict[str, Term]:
        """The terms that take part in this step, by label."""
        return {term.label: term for term in self.model.terms if term.due(step, self.train.steps)}

    def _weights(self, active: Mapping[str, Term], step: int) -> Weights:
        numbers = {label: term.coefficient(step, self.train.steps) for label, term in active.items()}
        if not self.choices.compile or not active:
            return numbers
        if numbers != self.weighed[0]:  # else those of the step before
            weights = torch.tensor([*numbers.values()], dtype=torch.float32).to(self.device).unbind()
            self.weighed = numbers, dict(zip(numbers, weights, strict=True))
        return self.weighed[1]

    def _wrap(self, phase: Phase) -> PhaseFunction:
        if not self.choices.compile:
            return phase
        return compiled(phase, "inductor", self.model.parts, self.fallbacks.setdefault)

    # -- what a phase reads ------------------------------------------------------------------------------------------

    def leaves(self, plan: Plan, batch: Batch, step: int, update: int) -> list[Env]:
        """Data, labels, noise and step for each micro-batch. Noise is drawn for the whole batch, then sliced."""
        count = self.train.accumulate
        size = batch["x"].shape[0]
        whole: Env = dict(batch)
        if "label" in whole:
            whole["fake_label"] = whole["label"]
        for key in sorted(plan.reads & self.model.noise.keys()):
            noise = self.model.noise[key]
            draw = randomness.uniform if noise.kind == "uniform" else randomness.normal
            whole[key] = draw((size, *noise.shape), self.device, self.train.seed, "noise", step, update, key)
        numbers = {"step": float(step), "progress": step / self.train.steps}
        scalars = {key: torch.tensor(number, device=self.device) for key, number in numbers.items() if key in plan.reads}
        if count == 1:
            return [whole | scalars]
        pieces = {key: value.chunk(count) for key, value in whole.items()}
        return [{key: piece[i] for key, piece in pieces.items()} | scalars for i in range(count)]

    def reseed(self, step: int, update: int, micro: int) -> None:
        """Dropout and its like draw from the default generator, which is re-derived each time."""
        randomness.seed_default(self.device, self.train.seed, "layers", step, update, micro)

    # -- what follows a phase ----------------------------------------------------------------------------------------

    def backward(self, phase: Phase, result: Result, share: float) -> None:
        """Each group's sum into the gradients of its parts and of nothing else."""
        factors = self._balanced(result)
        for index, (group, total, apart) in enumerate(zip(phase.groups, result.totals, result.apart, strict=True)):
            for label, term in apart.items():  # 0 where all that it is compared to is off
                total = total + factors.get(label, 0.0) * term
            moved = [p for path in group.parts for p in self.trainable[path]]
            more = index < len(phase.groups) - 1
            total = self.scalers[group.player].scale(total * share if share != 1.0 else total)
            torch.autograd.backward(total, inputs=moved, retain_graph=more)

    def _balanced(self, result: Result) -> dict[str, Tensor]:
        """The factor of each balanced term: |gradient of what it is compared to| / |its own|, at the decoder's last layer.

        Source: Esser et al. 2020 (arXiv:2012.09841), equation 7.
        """
        factors = {}
        scaler = self.scalers["generator"]
        for label, (term, others) in result.compared.items():
            last = last_weight(self.model.parts["decoder"])
            assert last is not None  # checked when the model was built
            own, other = (slope(scaler.scale(value), last).norm() / scaler.scale(self.one) for value in (term, others))
            limit = next(t.limit for t in self.model.terms if t.label == label)
            factors[label] = (other / (own + BALANCE_EPSILON)).clamp(max=limit)
            result.values[f"state.loss.{label}.balance"] = factors[label]
        return factors

    def apply(
        self,
        player: str,
        plan: Plan,
        results: Sequence[Result],
        early: Sequence[Result],
        held: Mapping[str, Tensor],
        step: int,
    ) -> dict[str, Tensor]:
        """The optimisers' step of one player, skipped on the device where a value is not finite or a part is held back;
        then what follows it.

        Returns the results' values (averaged over micro-batches), the sum descended and the gradient's norm.
        """
        spec, parameters = self.optim[player], self.parameters[player]
        values = mean_of([_of(player, r.values) for r in results])
        scaled = self._unscale(player)
        # a critic without parameters only judges, but may keep a state
        norm = gradient_norm(parameters) if parameters else torch.zeros((), device=self.device)
        overflow = ~torch.isfinite(norm) & (self.scalers[player].scale(self.one) > 1) if scaled else None
        skipped = self._latch(player, values, norm, step, overflow)
        skips = {path: self._skip(path, skipped, held) for path in self.paths[player]}
        clip(spec, parameters, norm)
        for path, optim in self._optimisers_of(player):
            set_learning_rate(optim, spec.lr.at(step, self.train.steps))
            skip = skips.get(path, skipped)
            optim.found_inf = skip  # type: ignore[attr-defined]
            optim.step()
            if spec.clip_weights is not None:
                limit_weights(spec.clip_weights, [p for group in optim.param_groups for p in group["params"]], skip)
        for parameter in parameters:
            parameter.grad = None
        if overflow is not None:
            values[f"state.{player}.overflow"] = overflow.float()
            values[f"state.{player}.loss_scale"] = self.scalers[player].scale(self.one)
            self.scalers[player].update()
        self._restore_statistics(skips)
        self._update_states(player, plan, results, early, skips)
        self._remember_statistics(player)
        if player == "generator" and self.average is not None:
            self.average.update(step, skipped)
        if parameters:
            values |= {f"grad_norm.{player}": norm}
        return values | self._reported(player, held)

    def _unscale(self, player: str) -> bool:
        """float16 alone: gradients were made of a scaled sum, so that small ones don't vanish. Whether there are any."""
        scaler, scaled = self.scalers[player], False
        for _, optim in self._optimisers_of(player):
            if scaler.is_enabled() and any(p.grad is not None for group in optim.param_groups for p in group["params"]):
                scaler.unscale_(optim)
                scaled = True
        return scaled

    def _skip(self, path: str, skipped: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        """1.0 where the update of one part is left out: its player's is skipped, or the part is held back."""
        holder = self._holder(path)
        return torch.maximum(skipped, held[holder]) if holder in held else skipped

    def _holder(self, path: str) -> str:
        """The part whose hold counts for `path`: itself, or the discriminator that an augmentation belongs to."""
        return next((held for held in self.model.holds if path == held or path == f"{held}.augment"), "")

    def _optimisers_of(self, player: str) -> list[tuple[str, torch.optim.Optimizer]]:
        """The optimisers of one player: that of the parts nothing holds back, and those of the others with their paths."""
        shared = [(player, self.optimisers[player])] if player in self.optimisers else []
        return [*shared, *(pair for pair in self.held_optimisers.items() if self.model.owner[pair[0]] == player)]

    def _reported(self, player: str, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scalar buffers that a player's parts want in every row, and how often a part was held back."""
        found = {f"state.{path}.held": value for path, value in held.items() if self.model.owner[path] == player}
        for path, name in self.reports[player]:
            found[f"state.{path}.{name}"] = self.model.parts[path].get_buffer(name).detach().clone()
        return found

    def _latch(
        self, player: str, values: Mapping[str, Tensor], norm: Tensor, step: int, overflow: Tensor | None = None
    ) -> Tensor:
        """1.0 where this update must be skipped; remembers the first step and term that were not finite.

        overflow: whether the gradient is beyond float16 because of its scale, which the next update lowers: no fault.
        """
        mine = tuple(name for name in self.suspects if name in values)
        finite = torch.stack([*(values[name] for name in mine), norm]).isfinite()
        if overflow is not None:
            finite[-1] |= overflow
        found = torch.where(finite, NEVER, self._places(player, mine) + step * len(self.suspects)).amin()
        self.latched = torch.minimum(self.latched, found)
        bad = (self.latched if self.train.nonfinite == "stop" else found) < NEVER
        if overflow is not None:
            bad = bad | overflow
        return bad.float()

    def _places(self, player: str, names: tuple[str, ...]) -> Tensor:
        """The places of some terms among the suspects, and of the gradient after them; made once."""
        if (player, names) not in self.places:
            found = [self.suspects.index(name) for name in (*names, f"the gradient of the {player} side")]
            self.places[player, names] = torch.tensor(found, device=self.device)
        return self.places[player, names]

    def fault(self) -> tuple[int, str] | None:
        """The step in which something first was not finite, and its name. Waits for the device."""
        found = int(self.latched)
        if found == NEVER:
            return None
        step, place = divmod(found, len(self.suspects))
        return step, self.suspects[place]

    def unlatch(self) -> None:
        """Forget a non-finite value that was read and told."""
        self.latched.fill_(NEVER)

    def _restore_statistics(self, skips: Mapping[str, Tensor]) -> None:
        """Batch statistics that a skipped or held update saw don't count."""
        for path, before in self.statistics.items():
            if path in skips:
                for buffer, old in zip(self.model.parts[path].buffers(), before, strict=True):
                    buffer.copy_(torch.where(skips[path].bool(), old, buffer))

    def _remember_statistics(self, player: str) -> None:
        """What a skipped update of this player goes back to."""
        for path, before in self.statistics.items():
            if self.model.owner[path] == player:
                for buffer, old in zip(self.model.parts[path].buffers(), before, strict=True):
                    old.copy_(buffer)

    def _update_states(
        self,
        player: str,
        plan: Plan,
        results: Sequence[Result],
        early: Sequence[Result],
        skips: Mapping[str, Tensor],
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
            given = {name: together(self.model.graph, key, envs) for name, key in arguments}
            with torch.no_grad():
                module.update(**given)  # type: ignore[operator]
            for buffer, old in zip(module.buffers(), before, strict=True):
                buffer.copy_(torch.where(skips[path].bool(), old, buffer))

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All but the weights and their average: what `load_state_dict` needs to go on bit for bit."""
        every = {**self.optimisers, **self.held_optimisers}
        return {
            "optimisers": {name: optim.state_dict() for name, optim in every.items()},
            "scalers": {player: scaler.state_dict() for player, scaler in self.scalers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, optim in {**self.optimisers, **self.held_optimisers}.items():
            optim.load_state_dict(state["optimisers"][name])
        for player, saved in state.get("scalers", {}).items():
            self.scalers[player].load_state_dict(saved)
        for player in self.parameters:
            self._remember_statistics(player)

    @torch.no_grad()
    def refresh_averaged(self) -> dict[str, Any]:
        """The modules for evaluation: the averaged generator side, everything else as it is now."""
        for path, module in self.model.parts.items():
            if self.average is None or self.model.owner[path] != "generator":
                self.averaged[path].load_state_dict(module.state_dict())
        return self.averaged


def _of(player: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a phase that serves both players, the values that belong to one."""

    def mine(name: str) -> bool:
        critics = name.removeprefix("loss.").endswith(".discriminator") or name.startswith("critic.")
        return critics == (player == "discriminator")

    return {name: value for name, value in values.items() if mine(name)}


def holding(graph: Graph, plan: Plan, results: Sequence[Result]) -> dict[str, Tensor]:
    """Part -> 1.0 where it is held back, judged on the joint batch."""
    if not plan.holds:
        return {}
    envs = [without_history(result.kept) for result in results]
    found = {}
    for part, hold in plan.holds.items():
        given = {name: together(graph, key, envs) for name, key in hold.arguments}
        with torch.no_grad():
            found[part] = (hold.function(**given) > 0).any().float()
    return found


def together(graph: Graph, key: str, envs: Sequence[Env]) -> Any:
    """A quantity of the joint batch; what has no batch axis is the same in every micro-batch."""
    return joined([env[key] for env in envs]) if graph.batched(key) else envs[0][key]


def slope(value: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a value at one weight; zeros where it doesn't reach it. The graph stays."""
    (found,) = torch.autograd.grad(value, weight, retain_graph=True, allow_unused=True)
    return torch.zeros_like(weight) if found is None else found


def mean_of(values: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    if len(values) == 1:
        return dict(values[0])
    return {name: torch.stack([v[name] for v in values]).mean() for name in values[0]}
