"""The phases of a step as pure functions: what is computed where, for one set of active terms.

Alternating updates have three phases, each a function of tensors that `torch.compile` takes whole:

    generate    everything that no discriminator touches: codes, samples, and the terms that need no critic
    critic      the discriminator's terms on detached samples
    generator   the terms that need the (now updated) critic, whose parameters are detached

Without a discriminator's term, or with simultaneous updates, one phase is the whole step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.graph import Call, Env, Graph, detach, nodes
from hybridgen.recipe import Critic
from hybridgen.routing import Group, Term, groups, trainable

Weights = Mapping[str, Tensor] | Mapping[str, float]
"""By label of a term; tensors for compiled phases, which would be compiled anew for each other number."""


@dataclass
class Result:
    """What a phase hands back.

    totals: one weighted sum for each group of parts, with history.
    apart: terms that are balanced before they count: for each group, label -> weighted term.
    compared: label of a balanced term -> the term itself, and the weighted sum of those that it is scaled to.
    values: detached scalars by their name in a row ("loss.kl", "critic.main.real_accuracy").
    kept: quantities that a later phase or an `update` method reads.
    """

    totals: tuple[Tensor, ...]
    values: dict[str, Tensor]
    kept: Env
    apart: tuple[dict[str, Tensor], ...] = ()
    compared: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """A pure function of (quantities, weights), described by the calls it makes in order."""

    name: str
    calls: tuple[Call, ...]
    terms: tuple[Term, ...]
    groups: tuple[Group, ...]
    accuracies: Mapping[str, tuple[float, tuple[str, ...]]]  # "critic.main.real_accuracy" -> level, logits
    keeps: tuple[str, ...]
    reads: tuple[str, ...]  # leaves and quantities of earlier phases

    def __call__(self, env: Env, weights: Weights) -> Result:
        env = dict(env)
        for call in self.calls:
            call.run(env)
        keys = {term.label: term.key for term in self.terms}
        balanced = {term.label: [label for label in term.balance if label in keys] for term in self.terms if term.balance}
        weighted = [
            {label: weights[label] * share * env[keys[label]] for label, share in group.coefficients.items()}
            for group in self.groups
        ]
        apart = tuple({label: terms.pop(label) for label in balanced if label in terms} for terms in weighted)
        totals = tuple(sum_of(list(terms.values())) for terms in weighted)
        shares = {term.label: term.trains.get("decoder", 0.0) for term in self.terms}
        compared = {
            label: (env[keys[label]], sum_of([weights[other] * shares[other] * env[keys[other]] for other in others]))
            for label, others in balanced.items()
            if others
        }
        values = {f"loss.{term.label}": env[term.key].detach() for term in self.terms}
        for name, (level, logits) in self.accuracies.items():
            real = name.endswith("real_accuracy")
            right = [env[k].detach() > level if real else env[k].detach() < level for k in logits]
            values[name] = sum_of([r.float().mean() for r in right]) / len(right)
        return Result(totals, values, {key: env[key] for key in self.keeps}, apart, compared)


def sum_of(values: list[Tensor]) -> Tensor:
    if not values:  # a group whose only terms are balanced
        return torch.zeros(())
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


@dataclass(frozen=True)
class Hold:
    """What leaves a part's update out where it is above 0: a function of quantities of the joint batch."""

    function: Callable[..., Tensor]
    arguments: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for _, key in self.arguments)


@dataclass(frozen=True)
class Plan:
    """The phases of a step for one set of active terms; None where there is nothing to do.

    preview: `generate` for a critic update whose samples no generator update will use (all but the last of several
        critic updates, and the first pass of accumulated micro-batches): the critic's needs only, all parts frozen.
    """

    generate: Phase
    critic: Phase | None
    generator: Phase | None
    preview: Phase | None
    state_updates: Mapping[str, tuple[tuple[str, str], ...]]  # part -> arguments of its `update` method
    holds: Mapping[str, Hold] = field(default_factory=dict)  # part -> what leaves its update out

    @property
    def phases(self) -> list[Phase]:
        return [phase for phase in (self.generate, self.critic, self.generator) if phase is not None]

    @cached_property
    def reads(self) -> frozenset[str]:
        """Leaves that any of its phases reads, and what they hand each other."""
        return frozenset(key for phase in self.phases for key in phase.reads)

    def traversals(self) -> dict[str, int]:
        """Part -> forward passes in one step with one critic update and no accumulation."""
        count: dict[str, int] = {}
        for phase in self.phases:
            for call in phase.calls:
                if any(definition.network for definition in call.definitions):
                    count[call.part] = count.get(call.part, 0) + 1
        return count


class Planner:
    """Everything that a plan is made of; `plan` is a function of the active terms alone."""

    def __init__(
        self,
        graph: Graph,
        parts: Mapping[str, nn.Module],
        owner: Mapping[str, str],
        critics: Mapping[str, Critic],
        *,
        simultaneous: bool = False,
        autocast: torch.dtype | None = None,
        state_updates: Mapping[str, tuple[tuple[str, str], ...]] | None = None,
        holds: Mapping[str, Hold] | None = None,
        decisions: Mapping[str, float | None] | None = None,
    ) -> None:
        self.graph = graph
        self.parts = parts
        self.owner = owner
        self.critics = critics
        self.simultaneous = simultaneous
        self.autocast = autocast
        self.state_updates = dict(state_updates or {})
        self.holds = dict(holds or {})
        self.decisions = dict(decisions or {})
        self._side = {
            side: frozenset(part for part, player in owner.items() if player == side) for side in ("generator", "discriminator")
        }

    def plan(self, active: Iterable[Term]) -> Plan:
        """The phases that compute and train `active`, and nothing else."""
        active = tuple(active)
        critic_terms = tuple(term for term in active if term.side == "discriminator")
        generator_terms = tuple(term for term in active if term.side == "generator")
        updates = self._updates_of(active)
        # what speaks of a critic holds a part back in the steps in which that critic learns
        learning = {part for term in critic_terms for part in term.trains}
        holds = {part: hold for part, hold in self.holds.items() if self._critics_of(hold.keys) <= learning}
        held = {key for hold in holds.values() for key in hold.keys}
        if self.simultaneous or not critic_terms:
            idle = () if critic_terms else self._side["discriminator"]
            keeps = {key for arguments in updates.values() for _, key in arguments} | held
            whole = self._phase("generate", active, ("generator", "discriminator"), keeps, (), idle)
            return Plan(whole, None, None, None, updates, holds)
        late = tuple(term for term in generator_terms if self._late(term.key))
        early = tuple(term for term in generator_terms if term not in late)
        critic_extra = self._update_keys(updates, "discriminator") | held
        generator_extra = self._update_keys(updates, "generator")
        late_extra = {key for key in generator_extra if self._late(key)}
        critic_given = self._frontier([term.key for term in critic_terms] + sorted(critic_extra))
        late_given = self._frontier([term.key for term in late] + sorted(late_extra))
        generator_groups = groups("generator", generator_terms, self.parts)
        handed = critic_given | late_given | (generator_extra - late_extra)
        if late or late_extra:  # the terms that need no critic are summed with the others, after the critic's update
            handed |= {term.key for term in early}
            generate = self._phase("generate", (), (), handed, (), ())
            generator = self._phase(
                "generator",
                generator_terms,
                ("generator",),
                late_extra,
                late_given | {term.key for term in early},
                self._side["discriminator"],
            )
        else:
            generate = self._phase("generate", early, ("generator",), handed, (), ())
            generator = None
        assert generator is None or list(generator.groups) == generator_groups
        critic = self._phase("critic", critic_terms, ("discriminator",), critic_extra, critic_given, self._side["generator"])
        preview = self._phase("preview", (), (), critic_given, (), frozenset(self.parts))
        return Plan(generate, critic, generator, preview, updates, holds)

    # -- the pieces ------------------------------------------------------------------------------------------------

    def _phase(
        self,
        name: str,
        terms: tuple[Term, ...],
        players: tuple[str, ...],
        keeps: Iterable[str],
        given: Iterable[str],
        frozen: Iterable[str],
    ) -> Phase:
        given = frozenset(given)
        keeps = sorted(keeps)
        targets = [*keeps, *(term.key for term in terms)]
        calls = nodes(
            self.graph,
            targets,
            self.parts,
            given=given,
            frozen=frozen,
            attached=self._attached,
            autocast=self.autocast,
        )
        computed = {definition.key for call in calls for definition in call.definitions}
        found = [group for player in players for group in groups(player, terms, self.parts)]
        accuracies = self._accuracies(computed) if "discriminator" in players else {}
        reads = tuple(sorted(self.graph.leaves_of(targets, given)))
        return Phase(name, tuple(calls), terms, tuple(found), accuracies, tuple(keeps), reads)

    def _late(self, key: str) -> bool:
        return bool(self.graph.parts_of(key) & self._side["discriminator"])

    def _critics_of(self, keys: Iterable[str]) -> set[str]:
        touched = {part for key in keys for part in self.graph.parts_of(key) & self._side["discriminator"]}
        return {part for part in touched if trainable(self.parts[part])}

    def _attached(self, key: str) -> bool:
        return bool(self.graph.parts_of(key) & self._side["generator"])

    def _frontier(self, keys: Iterable[str]) -> set[str]:
        """The quantities that `generate` has to hand over: the first on the way down that no discriminator touches."""
        found: set[str] = set()
        stack, seen = list(keys), set()
        while stack:
            key = stack.pop()
            if key in seen or key not in self.graph.definitions:
                continue
            seen.add(key)
            definition = self.graph.definitions[key]
            if self._late(key) or definition.local:
                stack.extend(definition.inputs)
            else:
                found.add(key)
        return found

    def _accuracies(self, computed: set[str]) -> dict[str, tuple[float, tuple[str, ...]]]:
        found = {}
        for name, critic in self.critics.items():
            level = self.decisions.get(name, 0.0)
            if level is None:  # in this critic's game a logit by itself says nothing
                continue
            sides = {
                "real": (f"{critic.path}.real.logits",),
                "fake": tuple(f"{critic.path}.fake.{i}.logits" for i in range(len(critic.fake))),
            }
            for side, logits in sides.items():
                present = tuple(key for key in logits if key in computed)
                if present:
                    found[f"critic.{name}.{side}_accuracy"] = (level, present)
        return found

    def _updates_of(self, active: tuple[Term, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
        """The `update` methods that follow this step: those of parts, and of the losses that took part."""
        names = {f"loss.{term.name}" for term in active}
        players = {term.side for term in active}
        return {
            path: arguments
            for path, arguments in self.state_updates.items()
            if (path in names if path.startswith("loss.") else self.owner[path] in players)
        }

    def _update_keys(self, updates: Mapping[str, tuple[tuple[str, str], ...]], player: str) -> set[str]:
        return {key for path, arguments in updates.items() if self.owner[path] == player for _, key in arguments}


def inputs(phase: Phase, env: Env) -> Env:
    """What a phase reads, and no more: compiled code guards on every entry."""
    return {key: env[key] for key in phase.reads}


def without_history(env: Env) -> Env:
    return {key: detach(value) for key, value in env.items()}


PhaseFunction = Callable[[Env, Weights], Result]


def functions(plan: Plan, wrap: Callable[[Phase], PhaseFunction]) -> dict[str, PhaseFunction]:
    """The phases of a plan, each wrapped (compiled, or left as it is)."""
    named: dict[str, Any] = {"generate": plan.generate, "critic": plan.critic}
    named |= {"generator": plan.generator, "preview": plan.preview}
    return {name: wrap(phase) for name, phase in named.items() if phase is not None}
