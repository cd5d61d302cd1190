"""Every shipped recipe at work, with the networks that it ships: who learns from what, what a step costs, compiling, resuming.

Each is taken at a step in which all of its terms take part, for most start late or warm up from 0. What recipes learn is
`test_learning.py`'s.
"""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from math import lcm
from typing import Any

import pytest
import torch
from common import EAGER, SHIPPED, batch, captured, close, compile_by, everything, hand_over, isolated, needs, parameters, steps
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from hybridgen.data import SampleSpec
from hybridgen.examples import describe
from hybridgen.model import build
from hybridgen.precision import Choices
from hybridgen.recipe import Schedule, load_recipe
from hybridgen.registry import load_registry
from hybridgen.routing import Term, last_weight
from hybridgen.step import Training, slope, train_step

PICTURES = SampleSpec(kind="image", shape=(3, 64, 64), count=1000, low=0, high=255, levels=256, activation="tanh")
"""What a folder of pictures would be described as."""

SMALLER = {
    "vagan-images": ("encoder.width=8", "decoder.width=8", "discriminator.width=8"),  # 64 pixels, on a CPU
}
"""Overrides without which a recipe takes seconds a step."""

CRITIC = "discriminator.main"
CODES, IMAGES = "discriminator.codes", "discriminator.pictures"

PASSES: dict[str, dict[str, int]] = {
    # Autoencoders: one code a sample, one reconstruction a code, whatever the terms say of them.
    "ae-bce": {"encoder": 1, "decoder": 1},
    "ae-denoising": {"encoder": 1, "decoder": 1},  # of what is corrupted alone
    "ae-digits": {"encoder": 1, "decoder": 1},
    "ae-mse": {"encoder": 1, "decoder": 1},
    "beta-tc-vae": {"encoder": 1, "decoder": 1},
    "beta-vae": {"encoder": 1, "decoder": 1},
    "cvae": {"encoder": 1, "decoder": 1},
    "info-vae": {"encoder": 1, "decoder": 1},
    "vae-conv-2d": {"encoder": 1, "decoder": 1},
    "vae-digits": {"encoder": 1, "decoder": 1},
    "vae-mlp": {"encoder": 1, "decoder": 1},
    "vae-mlp-2d": {"encoder": 1, "decoder": 1},
    "vq-vae": {"encoder": 1, "decoder": 1},
    "wae-mmd": {"encoder": 1, "decoder": 1},
    # The term decodes its own K samples, in one vectorised call; nothing decodes z.
    "iwae": {"encoder": 1},
    # The prior is made of codes of learned inputs, which could be encoded with x.
    "vamp-vae": {"encoder": 1, "decoder": 1},
    # Games: the samples that the critic learned from serve the decoder as well. What is real and what is generated, laid end to
    # end, is one call of the critic; the generated ones another, once it has moved.
    "cgan-projection": {"decoder": 1, CRITIC: 2},
    "dragan": {"decoder": 1, CRITIC: 2},
    "gan-digits": {"decoder": 1, CRITIC: 2},
    "gan-minimax": {"decoder": 1, CRITIC: 2},
    "gan-mlp": {"decoder": 1, CRITIC: 2},
    "gan-nonsaturating": {"decoder": 1, CRITIC: 2},
    "gan-ring": {"decoder": 1, CRITIC: 2},
    "hinge-sngan": {"decoder": 1, CRITIC: 2},
    "lsgan": {"decoder": 1, CRITIC: 2},
    "wgan": {"decoder": 1, CRITIC: 2},
    "wgan-gp": {"decoder": 1, CRITIC: 2},
    # The encoder reads the code back from the same samples, and needs none of x.
    "infogan": {"encoder": 1, "decoder": 1, CRITIC: 2},
    # The decoder's term wants what the critic says of real samples, too: a call without a backward pass, hence by itself.
    "r3gan": {"decoder": 1, CRITIC: 3},
    # Batch norm, or a look at the batch, couples samples: real and generated ones are judged apart.
    "dcgan": {"decoder": 1, CRITIC: 3},
    "improved-gan": {"decoder": 1, CRITIC: 4},  # and real features for the decoder's term
    # Critics of codes and pairs: as in any game, the encoder's codes in the place of samples or beside them.
    "aae": {"encoder": 1, "decoder": 1, CODES: 2},
    "aae-supervised": {"encoder": 1, "decoder": 1, CODES: 2},
    "ali": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "bigan": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "factor-vae": {"encoder": 1, "decoder": 1, CRITIC: 2},
    # Autoencoders with a game: reconstructions and samples of the prior are one call of the decoder, and one of the critic.
    "alpha-gan": {"encoder": 1, "decoder": 1, CODES: 2, IMAGES: 2},
    "kl-autoencoder-patch": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "two-critics": {"encoder": 1, "decoder": 1, CODES: 2, IMAGES: 2},
    "vagan": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "vagan-digits": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "vagan-images": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "vagan-mlp-2d": {"encoder": 1, "decoder": 1, CRITIC: 2},
    "vqgan": {"encoder": 1, "decoder": 1, CRITIC: 2},
    # Likeness in the critic's features: those of real samples by themselves, for they have no backward pass.
    "cvae-gan": {"encoder": 1, "decoder": 1, CRITIC: 3},
    "vae-gan-larsen": {"encoder": 1, "decoder": 1, CRITIC: 3},
    # The encoder is the critic. Samples are generated once; the encoder's update encodes them and x, and decodes both codes;
    # then the moved encoder codes x, without a backward pass, and the samples, with one; x's new code is decoded.
    "soft-intro-vae": {"encoder": 3, "decoder": 3},
}
"""Recipe -> network -> calls in a step with one critic update and one generator update, all terms active: the fewest that
its formulas allow."""

POINTS: dict[str, dict[str, int]] = {
    "iwae": {"decoder": 1},
    # A penalty differentiates the critic in what it judges, which is a call by itself.
    "dragan": {CRITIC: 1},
    "r3gan": {CRITIC: 1},
    "vagan-mlp-2d": {CRITIC: 1},
    "wgan-gp": {CRITIC: 1},
}
"""Calls on top of PASSES, that a term makes at points of its own."""

DEARER: dict[str, dict[str, int]] = {
    "r3gan": {CRITIC: 1},  # r1-r2 differentiates at real and at generated samples in two calls, not in one
    "vagan-mlp-2d": {CRITIC: 1},
    "vamp-vae": {"encoder": 1},  # the learned inputs are encoded apart from x
}
"""Calls on top of both that could be spared, by the recipes that still make them."""

BACKWARDS: dict[str, dict[str, int]] = {
    "kl-autoencoder-patch": {"balance": 2},  # the balanced term, and what it is compared to
    "vae-gan-larsen": {"generator": 2},  # the features' term counts for the encoder and for the decoder differently
    "vagan": {"balance": 2},
    "vqgan": {"balance": 2},
}
"""Backward traversals of each player, where they are not one, and those to the decoder's last layer alone (`balance`)."""

UNCOUPLED: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "dcgan": (("decoder.norm=none", "discriminator.norm=none"), {"decoder": 1, CRITIC: 2}),
    "improved-gan": (("discriminator.minibatch=none",), {"decoder": 1, CRITIC: 3}),
}
"""Recipes whose layers couple the samples of a batch -> overrides that take these away, and the calls that then do."""

STILL = {name: {f"{CRITIC}/to_logit.bias"} for name in ("r3gan", "wgan", "wgan-gp")}
"""Parameters that a recipe's formulas leave where they are: what only differences of logits say doesn't depend on a shift."""

registry = cache(load_registry)


@cache
def spec_of(name: str) -> SampleSpec:
    recipe = load_recipe(name, needs(name), registry=registry())
    return PICTURES if recipe.data.component.name == "images" else describe(recipe)


def made(name: str, *overrides: str, choices: Choices = EAGER) -> Training:
    recipe = load_recipe(name, (*needs(name), *SMALLER.get(name, ()), *overrides), registry=registry())
    return Training(build(recipe, spec_of(name)), choices)


# -- steps to look at ----------------------------------------------------------------------------------------------------


def due(state: Training, step: int) -> list[Term]:
    """The terms that the recipe wants in a step."""
    return [t for t in state.model.terms if (step - 1) % t.every == 0 and t.weight.at(step, state.train.steps)]


def moments(state: Training) -> list[int]:
    """The first steps, and some over the whole run at which lazy terms are due."""
    interval = lcm(*(term.every for term in state.model.terms))
    return [1, 2, 3, *range(1, state.train.steps, interval * max(1, state.train.steps // (100 * interval)))]


def busiest(state: Training) -> int:
    """The first step in which most terms take part, and as strongly as they ever do."""

    def strength(step: int) -> tuple[int, float]:
        weights = [(t.weight.at(step, state.train.steps), max(t.weight.begin, t.weight.end, key=abs)) for t in due(state, step)]
        return len(weights), round(sum(weight / peak for weight, peak in weights), 6)

    return max(moments(state), key=strength)


def quietest(state: Training) -> int:
    """The first step in which fewest terms take part."""
    return min(moments(state), key=lambda step: len(due(state, step)))


def warm(state: Training) -> Training:
    """After a step: layers that start at zero have left it, for they shield those before them from any gradient, and moving
    averages have begun."""
    steps(state, busiest(state), busiest(state))
    return state


def latest_start(state: Training) -> int:
    return max(term.first(state.train.steps) or 1 for term in state.model.terms)


# -- routing -------------------------------------------------------------------------------------------------------------


def settled(state: Training) -> Training:
    """Without what differs between two traversals of one network: masks that are drawn, the estimate of a largest singular
    value that each traversal moves."""
    for module in (m for part in state.model.parts.values() for m in part.modules()):
        if isinstance(module, _SpectralNorm):
            module.n_power_iterations = 0
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return state


def declared(state: Training, term: Term, reached: Mapping[str, Tensor]) -> dict[str, float]:
    """Part -> share of a term's gradient, read from the recipe: all parts of its player that it reaches, but what `trains`
    says where it names one of them."""
    recipe = state.model.recipe
    loss = recipe.losses[term.name]
    moved = {path: player for player, paths in recipe.players.items() for path in paths}

    def player(path: str) -> str:
        return moved.get(path, "discriminator" if path.startswith("discriminator.") else "generator")

    parts = {path for name in reached if player(path := name.partition("/")[0]) == term.side}
    named = loss.trains or {}
    if not parts & set(named):
        return dict.fromkeys(parts, 1.0)
    return {path: named.get(path, float(path == loss.path)) for path in parts}


def summed(state: Training, alone: Mapping[str, dict[str, Tensor]], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The gradients that a step owes to each parameter, from those of isolated terms."""
    total: dict[str, Tensor] = {}
    for term in (term for term in state.model.terms if weights.get(term.label)):
        weight = weights[term.label] * (balanced(state, term, alone, weights) if term.balance else 1.0)
        for name, gradient in alone[term.label].items():
            if share := declared(state, term, alone[term.label]).get(name.partition("/")[0]):
                total[name] = total.get(name, 0.0) + weight * share * gradient
    return total


def balanced(state: Training, term: Term, alone: Mapping[str, dict[str, Tensor]], weights: Mapping[str, float]) -> Tensor:
    """|gradient of what it is compared to| / |its own| at the decoder's last layer (Esser et al. 2020, equation 7)."""
    decoder = state.model.parts["decoder"]
    (name,) = [f"decoder/{name}" for name, p in decoder.named_parameters() if p is last_weight(decoder)]
    others = sum(weights[label] * alone[label][name] for label in term.balance)
    return (others.norm() / (alone[term.label][name].norm() + 1e-6)).clamp(max=term.limit)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_gradient_of_each_term_reaches_what_the_recipe_declares_and_nothing_else(name: str) -> None:
    """Each term by itself, all others at 0 but those that it is balanced with, so that a small one hides behind none; then the
    recipe's sum."""
    state = settled(warm(made(name)))
    step = busiest(state)
    terms = due(state, step)
    assert terms == [term for term in state.model.terms if term.first(state.train.steps)], "no step has all terms in it"
    alone = {term.label: isolated(state, term, step) for term in terms}
    written = {term.label: term.weight.at(step, state.train.steps) * term.every for term in terms}
    genuine = state._weights
    for chosen in (*terms, None):
        weights = written
        if chosen:
            weights = dict.fromkeys(written, 0.0) | dict.fromkeys(chosen.balance, 0.5) | {chosen.label: 1.0}
            as_tensors = {label: torch.tensor(weight) for label, weight in weights.items()}
            state._weights = lambda *_, given=as_tensors: given  # type: ignore[misc]
        else:
            state._weights = genuine  # type: ignore[method-assign]
        got, owed = captured(state, step), summed(state, alone, weights)
        for parameter in got.keys() | owed.keys():
            message = f"{chosen.label if chosen else 'the sum'}, {parameter}"
            one, other = got.get(parameter), owed.get(parameter)
            if one is None or other is None:
                whole = one if other is None else other
                assert not whole.any(), f"{message}: a gradient on one side only"  # type: ignore[union-attr]
                continue
            scale = max(float(v.abs().max()) for k, v in owed.items() if k.partition("/")[0] == parameter.partition("/")[0])
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * scale, msg=lambda m, n=message: f"{n}: {m}")


@pytest.mark.parametrize("name", SHIPPED)
def test_each_update_moves_its_own_player_and_only_what_a_term_of_this_step_trains(name: str) -> None:
    """In the busiest step, in the quietest, and with each term off in turn."""
    state = warm(made(name))
    moved: dict[str, set[str]] = {}
    genuine = state.apply

    def apply(player: str, *rest: Any) -> dict[str, Tensor]:
        assert not changed(before, parameters(state.model)), "a parameter moved outside an update"
        values = genuine(player, *rest)
        after = parameters(state.model)
        moved[player] = changed(before, after)
        before.update(after)
        return values

    state.apply = apply  # type: ignore[method-assign]
    terms = state.model.terms
    trained: dict[str, set[str]] = {}
    for term in terms:
        alone = isolated(state, term, busiest(state))
        shares = declared(state, term, alone)
        trained[term.label] = {name for name in alone if shares.get(name.partition("/")[0])}
    every = {f"{path}/{k}" for path, part in state.model.parts.items() for k, p in part.named_parameters() if p.requires_grad}
    assert set().union(*trained.values()) == every, "a parameter that no term trains"
    for step, off in ((busiest(state), None), (quietest(state), None), *((busiest(state), term) for term in terms)):
        state.model.terms = tuple(replace(term, weight=Schedule(0.0, 0.0)) if term is off else term for term in terms)
        before = parameters(state.model)
        moved.clear()
        values = train_step(state, [batch(spec=state.model.spec)], step)
        active = due(state, step)
        assert {name for name in values if name.startswith("loss.")} == {f"loss.{term.label}" for term in active}
        for player in ("discriminator", "generator"):
            names = {name for term in active if term.side == player for name in trained[term.label]}
            held = {name for name in names if values.get(f"state.{name.partition('/')[0]}.held")}  # a gate left its update out
            message = f"step {step}{f' without {off.label}' if off else ''}, the {player}'s update"
            assert moved.get(player, set()) == names - held - STILL.get(name, set()), message


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


# -- what a step costs ---------------------------------------------------------------------------------------------------


@contextmanager
def counted(state: Training) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Calls of each network, frozen ones and those of terms among them; backward traversals of each player, and those that
    `balance` takes to the decoder's last layer."""
    calls: dict[str, int] = {}
    backwards: dict[str, int] = {}
    genuine = torch.autograd.backward

    def backward(*arguments: Any, inputs: Any, **named: Any) -> None:
        moved = {id(p) for p in inputs}
        for player, own in state.parameters.items():
            backwards[player] = backwards.get(player, 0) + any(id(p) in moved for p in own)
        genuine(*arguments, inputs=inputs, **named)

    def last_layer(*arguments: Any) -> Tensor:
        backwards["balance"] = backwards.get("balance", 0) + 1
        return slope(*arguments)

    def hook(path: str) -> Callable[..., None]:
        return lambda *_: calls.update({path: calls.get(path, 0) + 1})

    networks = {"encoder", "decoder", *(critic.path for critic in state.model.recipe.critics.values())}
    handles = [part.register_forward_hook(hook(path)) for path, part in state.model.parts.items() if path in networks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", backward)
        patch.setattr("hybridgen.step.slope", last_layer)
        yield calls, backwards
    for handle in handles:
        handle.remove()


def cost(state: Training) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """The calls that the plan has, those that a step makes, and its backward traversals."""
    step = busiest(state)
    with counted(state) as (calls, backwards):
        train_step(state, [batch(spec=state.model.spec)], step)
    return state.variant(step)[0].traversals(), calls, backwards


@pytest.mark.parametrize("name", SHIPPED)
def test_a_step_is_as_cheap_as_its_formulas_allow(name: str) -> None:
    assert name in PASSES, f'add "{name}" to PASSES: the fewest calls that its formulas allow, whatever is counted'
    state = made(name)
    planned, calls, backwards = cost(state)
    assert planned == PASSES[name]
    counts = [Counter(table.get(name, {})) for table in (PASSES, POINTS, DEARER)]
    assert Counter(calls) == sum(counts, Counter())
    players = {term.side for term in state.model.terms}
    assert backwards == {player: int(player in players) for player in state.parameters} | BACKWARDS.get(name, {})


def test_the_tables_hold_no_recipe_that_is_not_shipped() -> None:
    for table in (PASSES, POINTS, DEARER, BACKWARDS, UNCOUPLED, STILL, SMALLER):
        assert table.keys() <= set(SHIPPED)


@pytest.mark.parametrize("name", UNCOUPLED)
def test_what_coupled_samples_cost_goes_away_with_the_layers_that_couple_them(name: str) -> None:
    overrides, passes = UNCOUPLED[name]
    assert passes != PASSES[name]
    planned, calls, _ = cost(made(name, *overrides))
    assert planned == calls == passes


# -- compiled code -------------------------------------------------------------------------------------------------------

GENTLE = [
    f"optim.{player}.{key}" for player in ("generator", "discriminator") for key in ("use=sgd", "lr=1e-3", "clip_norm=10.0")
]
"""Adam divides by the gradient's size, so rounding decides where that is nearly 0; SGD moves in proportion to it. Clipped, for
a sum of nats over 12,288 values would leave every basin; the norms before clipping are compared as well."""

QUICK = ("dcgan", "factor-vae", "vae-digits", "vagan", "vq-vae")
"""Recipes whose compilation belongs to the quick suite, one of each sort: tracing takes seconds a recipe."""

INDUCTOR = ("vae-digits", "wgan-gp", "vagan", "vq-vae")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SHIPPED])
def test_compiled_phases_have_no_graph_break_and_go_where_eager_code_goes(name: str) -> None:
    """`fullgraph=True` raises at a break. A step of the fewest terms and twenty of all, on one random stream: the values
    compared in each, the rest at the end."""
    eager, fast = (made(name, *GENTLE) for _ in range(2))
    compile_by(fast, "aot_eager")
    first = busiest(eager)
    for step in (quietest(eager), *range(first, first + 20)):
        values, others = (steps(state, step, step) for state in (eager, fast))
        close(others, values, rtol=1e-4, atol=1e-5)
    close(everything(fast), everything(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports what torch deprecates
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor wants a C++ compiler, there is none")
@pytest.mark.parametrize("name", INDUCTOR)
def test_inductor_moves_as_eager_code_does_from_each_of_five_states(name: str) -> None:
    """Trajectories of two compilers drift apart, steps from one state do not."""
    eager = made(name, *GENTLE)
    fast = made(name, *GENTLE, choices=Choices("cpu", "fp32", True, ()))
    first = busiest(eager)
    for step in range(first, first + 5):
        fast.model.load_state_dict(eager.model.state_dict())
        fast.load_state_dict(copy.deepcopy(eager.state_dict()))
        values, others = (steps(state, step, step) for state in (eager, fast))
        close(others, values, rtol=1e-3, atol=1e-4)
        close(parameters(fast.model), parameters(eager.model), rtol=1e-3, atol=1e-4)


# -- resuming ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resumed_run_is_bit_equal_across_the_start_of_its_last_term(name: str) -> None:
    """Two steps, a checkpoint, two steps; a term that starts late does so in the first of the last two."""
    whole, resumed = made(name), made(name)
    start = max(1, latest_start(whole) - 2)
    steps(whole, start, start + 1)
    hand_over(whole, resumed)
    for state in (whole, resumed):
        steps(state, start + 2, start + 3)
    close(everything(resumed), everything(whole), rtol=0, atol=0)
