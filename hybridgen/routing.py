"""Who learns from what: the terms of a recipe, the parts that each trains, and how many backward passes that takes.

The contract: a term's gradient reaches exactly the parts that it trains, and no other parameter's gradient changes by
one bit. Parts are grouped, not terms: two parts share a backward pass if every term that reaches both weighs them
alike. A term whose coefficient for a group is 0 is left out of that group's sum, never multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hybridgen.errors import Problem
from hybridgen.graph import Definition, Graph
from hybridgen.quantities import Missing, Scope, Wiring
from hybridgen.recipe import Loss, Recipe, Schedule


@dataclass(frozen=True)
class Term:
    """One side of one loss.

    key: the quantity that holds its value, a scalar.
    reach: the trainable parts of its player that its value depends on.
    trains: part -> how strongly this term's gradient counts there (1, or the recipe's number).
    balance: labels of the terms that its gradient at the decoder's last layer is scaled to; limit: of that factor.
    """

    name: str
    side: str  # "generator" or "discriminator"
    key: str
    reach: tuple[str, ...]
    trains: Mapping[str, float]
    weight: Schedule
    every: int
    balance: tuple[str, ...]
    limit: float

    @property
    def label(self) -> str:
        """Its name in rows and messages: "kl", "adversarial.discriminator"."""
        return self.name if self.side == "generator" else f"{self.name}.discriminator"

    def due(self, step: int, steps: int) -> bool:
        """Whether it takes part in this step: its weight is not 0, and its lazy interval is up."""
        return (step - 1) % self.every == 0 and self.weight.at(step, steps) != 0.0

    def first(self, steps: int) -> int | None:
        """The first step it takes part in; None for one that never does."""
        return next((step for step in range(1, steps + 1) if self.due(step, steps)), None)

    def coefficient(self, step: int, steps: int) -> float:
        """Its weight in a step it takes part in: a lazy term joins every k-th update, k times as strong."""
        return self.weight.at(step, steps) * self.every


@dataclass(frozen=True)
class Group:
    """Parts of one player that share a backward pass, and term label -> coefficient of the sum they descend."""

    player: str
    parts: tuple[str, ...]
    coefficients: Mapping[str, float]


def methods(module: nn.Module) -> dict[str, str]:
    """Side -> method of a loss: `generator`, `discriminator`, or a plain `forward` for the generator's side."""
    found = {side: side for side in ("generator", "discriminator") if callable(getattr(module, side, None))}
    if "generator" not in found and type(module).forward is not nn.Module.forward:
        found["generator"] = "forward"
    return found


def players(recipe: Recipe, parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """Part -> the player it belongs to: discriminators and critic-only losses to one, all else to the other."""
    found = {}
    for path, module in parts.items():
        critic_only = path.startswith("loss.") and "generator" not in methods(module)
        found[path] = "discriminator" if path.startswith("discriminator.") or critic_only else "generator"
    for player, moved in recipe.players.items():
        for path in moved:
            found[path] = player
    return found


def define_terms(
    recipe: Recipe, wiring: Wiring, parts: Mapping[str, nn.Module], owner: Mapping[str, str]
) -> tuple[list[Term], list[Problem]]:
    """The terms of every loss, their definitions recorded in `wiring`; with everything that is wrong about them."""
    terms: list[Term] = []
    problems: list[Problem] = []
    for loss in recipe.losses.values():
        module = parts[loss.path]
        sides = methods(module)
        if not sides:
            problems.append(
                Problem(
                    f"loss '{loss.component.name}' defines none of forward, generator, discriminator",
                    recipe.where(loss.path),
                    loss.path,
                    plugin=loss.component.plugin,
                )
            )
        for side, method in sides.items():
            weight = loss.weight if side == "generator" else loss.discriminator_weight
            try:
                key = _define(wiring, loss, side, method, module)
            except Missing as missing:
                problems.append(wiring.problem(loss.path, f"loss '{loss.component.name}'", missing))
                continue
            reach = _reach(Graph(wiring.definitions), key, side, parts, owner)
            trains = _trained(loss, reach)
            kept = {part: share for part, share in trains.items() if share}
            balance = loss.balance if side == "generator" else ()
            terms.append(Term(loss.name, side, key, reach, kept, weight, loss.every, balance, loss.balance_limit))
    if not problems:
        problems += (
            _unplayed(recipe, wiring, terms, owner) + _misrouted(recipe, terms, parts) + _unbalanced(recipe, terms, parts)
        )
    return terms, problems


def _define(wiring: Wiring, loss: Loss, side: str, method: str, module: nn.Module) -> str:
    critic = wiring.loss_critic(loss.name)
    function = getattr(module, method)
    base = f"term.{loss.name}.{side}"
    count = wiring.times(function, loss.inputs, critic)
    keys = []
    for fake in range(count):
        arguments = wiring.arguments(function, Scope(loss.path, loss.inputs, critic, fake))
        key = base if count == 1 else f"{base}.{fake}"
        wiring.definitions[key] = Definition(key, arguments, loss.path, method)
        keys.append(key)
    if count > 1:  # a term averages over the generated batches, each against the real one
        arguments = tuple((str(i), key) for i, key in enumerate(keys))
        wiring.definitions[base] = Definition(base, arguments, function=_mean)
    return base


def _mean(**terms: Tensor) -> Tensor:
    return torch.stack(list(terms.values())).mean()


def _trained(loss: Loss, reach: Sequence[str]) -> dict[str, float]:
    """Part -> share of the term's gradient. `trains` narrows the side whose parts it names and leaves the other whole:
    `trains = ["decoder"]` of an adversarial loss says nothing about its discriminator."""
    named = loss.trains or {}
    if not any(part in named for part in reach):
        return dict.fromkeys(reach, 1.0)
    return {part: named.get(part, 1.0 if part == loss.path else 0.0) for part in reach}


def _reach(graph: Graph, key: str, side: str, parts: Mapping[str, nn.Module], owner: Mapping[str, str]) -> tuple[str, ...]:
    """The trainable parts of the term's player that its quantities depend on, in the recipe's order."""
    touched = graph.parts_of(key)
    return tuple(path for path, module in parts.items() if path in touched and owner[path] == side and trainable(module))


def trainable(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def _misrouted(recipe: Recipe, terms: Sequence[Term], parts: Mapping[str, nn.Module]) -> list[Problem]:
    problems = []
    for loss in recipe.losses.values():
        own = [term for term in terms if term.name == loss.name]
        reachable = sorted({part for term in own for part in term.reach})
        for part in loss.trains or {}:
            if part not in reachable:
                path = f"{loss.path}.trains"
                problems.append(
                    Problem(
                        f"loss '{loss.name}' cannot train '{part}': none of its terms reaches it",
                        recipe.where(path),
                        path,
                        f"it can train: {', '.join(reachable) or 'nothing'}",
                    )
                )
    for path, module in parts.items():
        if trainable(module) and not any(path in term.trains for term in terms):
            problems.append(
                Problem(
                    f"no loss trains [{path}], so its parameters would stay as they were drawn",
                    recipe.where(path),
                    path,
                    f"remove it (`{path}=false` on the command line), or add a loss that reaches it",
                )
            )
    return problems


def _unplayed(recipe: Recipe, wiring: Wiring, terms: Sequence[Term], owner: Mapping[str, str]) -> list[Problem]:
    """Terms of the discriminator's side that depend on no part of that side, so that nothing would learn from them."""
    problems = []
    graph = Graph(wiring.definitions)
    for term in terms:
        path = f"loss.{term.name}"
        touched = graph.parts_of(term.key) - {path}
        if term.side == "generator" or term.reach or any(owner.get(part) == term.side for part in touched):
            continue
        reached = ", ".join(part for part in ("encoder", "decoder", "latent") if part in touched)
        what = f"nothing learns from loss '{term.label}': no part that it reaches plays the discriminator's side"
        hint = f"it reaches {reached or 'nothing'}: name what shall learn from it in `[players] discriminator = [...]`"
        problems.append(Problem(what, recipe.where(path), path, hint))
    return problems


def _unbalanced(recipe: Recipe, terms: Sequence[Term], parts: Mapping[str, nn.Module]) -> list[Problem]:
    """Terms that can't be balanced: both sides must reach the decoder, and none may wait for the other's factor."""
    problems = []
    generator = {term.name: term for term in terms if term.side == "generator"}
    for name, loss in recipe.losses.items():
        for other in loss.balance:
            what = ""
            if any(n not in generator or "decoder" not in generator[n].trains for n in (name, other)):
                n = next(n for n in (name, other) if n not in generator or "decoder" not in generator[n].trains)
                what = f"`balance` compares gradients at the decoder's last layer, but loss '{n}' does not train the decoder"
            elif recipe.losses[other].balance:
                what = f"it is balanced against '{other}', which is balanced itself"
            elif recipe.losses[other].every > 1:
                what = f"it is balanced against '{other}', which is lazy (every = {recipe.losses[other].every})"
            elif last_weight(parts["decoder"]) is None:
                what = "`balance` compares gradients at the decoder's last layer, but this decoder has no trainable matrix"
            elif recipe.train.accumulate > 1:
                what = "`balance` compares gradients of whole batches, not of micro-batches; write train.accumulate = 1"
            if what:
                path = f"{loss.path}.balance"
                problems.append(Problem(what, recipe.where(path), path, "name losses that train the decoder as they are"))
                break
    return problems


def last_weight(module: nn.Module) -> Tensor | None:
    """The weight at which `balance` compares gradients: that of the attribute `last_layer`, else the network's last trainable
    parameter that is a matrix or more, in the order of definition; None where there is none."""
    module = getattr(module, "last_layer", module)
    return next((p for p in reversed(list(module.parameters())) if p.ndim >= 2 and p.requires_grad), None)


def groups(player: str, terms: Iterable[Term], parts: Iterable[str]) -> list[Group]:
    """The fewest groups of parts such that, within one, every term that reaches two parts weighs them alike.

    A part that no active term trains is left out. Greedy colouring in the recipe's order: exact for the handful of
    parts that a recipe has, unless three or more differ pairwise in a pattern that no known family shows.
    """
    terms = [term for term in terms if term.side == player]
    found: list[list[str]] = []
    for part in parts:
        if not any(part in term.trains for term in terms):
            continue
        for group in found:
            if all(_agree(terms, part, other) for other in group):
                group.append(part)
                break
        else:
            found.append([part])
    return [Group(player, tuple(group), _coefficients(terms, group)) for group in found]


def _agree(terms: Sequence[Term], a: str, b: str) -> bool:
    return all(term.trains.get(a, 0.0) == term.trains.get(b, 0.0) or not _reaches_both(term, a, b) for term in terms)


def _reaches_both(term: Term, a: str, b: str) -> bool:
    return a in term.reach and b in term.reach


def _coefficients(terms: Sequence[Term], group: Sequence[str]) -> dict[str, float]:
    shares = {term.label: next((term.trains[p] for p in group if p in term.trains), 0.0) for term in terms}
    return {label: share for label, share in shares.items() if share}
