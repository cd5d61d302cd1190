"""The routing contract: each term's gradient reaches exactly the parts that it trains, with the value that an isolated
`autograd.grad` gives, and changes no other parameter's gradient by one bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import (
    AE,
    FAMILIES,
    GAN,
    LARSEN,
    VAE,
    VAGAN,
    batch,
    captured,
    isolated,
    parameters,
)
from torch import Tensor

from hybridgen.errors import RecipeError
from hybridgen.routing import groups
from hybridgen.step import Training, train_step


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_weighted_sums_of_isolated_ones(family: str, training: Callable[..., Training]) -> None:
    state = training(FAMILIES[family])
    expected: dict[str, Tensor] = {}
    for term in state.model.terms:
        for name, gradient in isolated(state, term).items():
            share = term.trains.get(name.partition("/")[0], 0.0)
            if share:
                piece = term.coefficient(1, 1) * share * gradient
                expected[name] = expected.get(name, 0.0) + piece
    got = captured(state)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weight_of_a_term_moves_no_gradient_of_a_part_that_it_does_not_train(
    family: str, training: Callable[..., Training]
) -> None:
    plain = captured(training(FAMILIES[family]))
    for term in training(FAMILIES[family]).model.terms:
        key = "weight" if term.side == "generator" else "discriminator_weight"
        other = captured(training(FAMILIES[family], f"loss.{term.name}.{key}=7.5"))
        changed = {name.partition("/")[0] for name in plain if not torch.equal(plain[name], other[name])}
        assert changed == set(term.trains), f"{term.label} trains {set(term.trains)}, but changed {changed}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trainable_parameter_moves_in_one_step(family: str, training: Callable[..., Training]) -> None:
    state = training(FAMILIES[family])
    before = parameters(state.model)
    train_step(state, [batch()], 1)
    still = [name for name, value in parameters(state.model).items() if torch.equal(value, before[name])]
    assert still == []


@pytest.mark.parametrize("family", FAMILIES)
def test_no_gradient_is_left_after_a_step(family: str, training: Callable[..., Training]) -> None:
    state = training(FAMILIES[family])
    for step in (1, 2):
        train_step(state, [batch(seed=step)], step)
        assert all(p.grad is None for m in state.model.parts.values() for p in m.parameters())


def test_larsen_needs_two_backward_passes_and_the_rest_one(training: Callable[..., Training]) -> None:
    for family, text in FAMILIES.items():
        state = training(text)
        count = len(groups("generator", state.model.terms, state.model.parts))
        assert count == (2 if family == "larsen" else 1), family


def test_larsen_routes_as_the_paper_says(training: Callable[..., Training]) -> None:
    terms = {term.label: dict(term.trains) for term in training(LARSEN).model.terms}
    assert terms["kl"] == {"encoder": 1.0}
    assert terms["adversarial"] == {"decoder": 1.0}
    assert terms["features"] == {"encoder": 1.0, "decoder": 1e-3}
    assert terms["adversarial.discriminator"] == {"discriminator.main": 1.0}


def test_a_moved_part_learns_from_its_new_player(training: Callable[..., Training]) -> None:
    """Introspection: the encoder plays the discriminator's side."""
    text = VAE + '[players]\ndiscriminator = ["encoder"]\n[loss.push]\nuse = "push"\n'
    state = training(text)
    assert state.model.owner["encoder"] == "discriminator"
    got = captured(state)
    assert any(name.startswith("encoder/") for name in got)
    trained = {term.label: set(term.trains) for term in state.model.terms}
    assert trained == {"reconstruction": {"decoder"}, "kl": set(), "push.discriminator": {"encoder"}}


def test_parameters_of_a_loss_train_with_the_player_that_uses_them(training: Callable[..., Training]) -> None:
    state = training(VAE, "loss.reconstruction.learn_scale=true")
    assert "loss.reconstruction" in next(t for t in state.model.terms if t.name == "reconstruction").trains
    before = parameters(state.model)["loss.reconstruction/log_scale"]
    train_step(state, [batch()], 1)
    assert not torch.equal(parameters(state.model)["loss.reconstruction/log_scale"], before)


def test_trains_outside_a_terms_reach_is_an_error(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"cannot train 'decoder'.*it can train: encoder"):
        training(VAE + '[loss.more]\nuse = "kl"\ntrains = ["decoder"]\n')


def test_a_term_of_a_side_that_nobody_plays_is_an_error(training: Callable[..., Training]) -> None:
    """Else a game's recipe without its critic trains half of what it says, and looks as if all were well."""
    text = VAE + '[loss.push]\nuse = "push"\n'
    refused = (
        r"test.toml:\d+  loss.push: nothing learns from loss 'push\.discriminator': no part that it reaches plays the "
        r"discriminator's side; it reaches encoder, latent: name what shall learn from it in `\[players\] discriminator"
    )
    with pytest.raises(RecipeError, match=refused):
        training(text)
    with pytest.raises(RecipeError, match=r"nothing learns from loss 'push\.discriminator'"):
        training(VAGAN + '[loss.push]\nuse = "push"\n')  # a critic elsewhere is none of its own
    training(text + '[players]\ndiscriminator = ["encoder"]\n')


def test_a_part_that_nothing_trains_is_an_error(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"no loss trains \[discriminator.main\].*remove it"):
        training(VAGAN, "loss.adversarial=false")


@pytest.mark.parametrize(
    ("family", "minimum"),
    [
        ("ae", {"encoder": 1, "decoder": 1}),
        ("vae", {"encoder": 1, "decoder": 1}),
        ("gan", {"decoder": 1, "discriminator.main": 2}),
        ("vagan", {"encoder": 1, "decoder": 1, "discriminator.main": 2}),
        # real features need no gradient: a call of their own in the generator's phase
        ("larsen", {"encoder": 1, "decoder": 1, "discriminator.main": 3}),
        ("adversarial-ae", {"encoder": 1, "decoder": 1, "discriminator.main": 2}),
        ("bigan", {"encoder": 1, "decoder": 1, "discriminator.main": 2}),
        ("two-critics", {"encoder": 1, "decoder": 1, "discriminator.data": 2, "discriminator.latent": 2}),
    ],
)
def test_a_step_traverses_each_network_as_seldom_as_possible(
    family: str, minimum: dict[str, int], training: Callable[..., Training]
) -> None:
    state = training(FAMILIES[family])
    assert traversals(state) == minimum
    assert state.planner.plan(state.model.terms).traversals() == minimum


def traversals(state: Training, step: int = 1) -> dict[str, int]:
    """Calls of each network in one step, counted where they happen."""
    count: dict[str, int] = {}
    handles = []
    for path, module in state.model.parts.items():
        if path in ("encoder", "decoder") or path.startswith("discriminator."):

            def hook(*_: Any, path: str = path) -> None:
                count[path] = count.get(path, 0) + 1

            handles.append(module.register_forward_hook(hook))
    train_step(state, [batch(spec=state.model.spec)], step)
    for handle in handles:
        handle.remove()
    return count


def test_a_vae_runs_no_critic_and_a_gan_no_encoder(training: Callable[..., Training]) -> None:
    assert "fake" not in training(VAE).model.graph.definitions
    assert not {"code", "posterior", "z"} & set(training(GAN).model.graph.definitions)
    assert "z_prior" not in training(AE).model.graph.definitions


class Weighing(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes whether each convolution's backward computed its weight's gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[tuple[int, ...], bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append((tuple(args[2].shape), args[10][1]))
        return func(*args, **(kwargs or {}))


def test_the_frozen_side_costs_no_weight_gradient(training: Callable[..., Training]) -> None:
    conv = GAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "conv"\nwidth = 7')
    state = training(conv)
    shapes = {
        tuple(m.weight.shape) for m in state.model.parts["discriminator.main"].modules() if isinstance(m, torch.nn.Conv2d)
    }
    with Weighing() as seen:
        train_step(state, [batch()], 1)
    weighed = [mask for shape, mask in seen.masks if shape in shapes]
    assert weighed.count(True) == len(shapes)  # once, in its own update
    assert weighed.count(False) == len(shapes)  # the generator's update passes through without
