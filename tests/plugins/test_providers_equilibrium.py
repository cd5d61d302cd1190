"""Equilibrium margins: the truth table of two losses that are each low, balanced or high."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from common import VAGAN, batch, parameters
from torch import Tensor

from hybridgen.step import train_step
from hybridgen_providers.equilibrium import CriticAhead, CriticBehind, critic_losses

LOW, EVEN, HIGH = 0.3, 0.69, 1.1  # outside 0.693 - 0.35, between, outside 0.693 + 0.35


def logit_of(loss: float) -> float:
    """The logit whose -log(sigmoid) is `loss`."""
    return -math.log(math.expm1(loss))


def logits(real_loss: float, fake_loss: float) -> tuple[Tensor, Tensor]:
    """Batches of unequal size with these mean losses."""
    return torch.full((6,), logit_of(real_loss)), torch.full((9,), -logit_of(fake_loss))


def test_the_losses_are_the_critics_cross_entropies() -> None:
    real = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    fake = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    expected = torch.stack([-torch.sigmoid(real).log().mean(), -(1 - torch.sigmoid(fake)).log().mean()])
    losses = critic_losses(real, fake)
    torch.testing.assert_close(losses, expected.detach())
    assert not losses.requires_grad


@pytest.mark.parametrize(("real", "fake"), list(itertools.product((LOW, EVEN, HIGH), repeat=2)))
def test_who_is_held(real: float, fake: float) -> None:
    """One loss too low holds the critic, one too high the decoder; both at once hold nobody."""
    low, high = LOW in (real, fake), HIGH in (real, fake)
    held = [float(module(*logits(real, fake))) for module in (CriticAhead(), CriticBehind())]
    assert held == [float(low and not high), float(high and not low)]


@pytest.mark.parametrize("module", [CriticAhead, CriticBehind])
def test_the_margins_stand_where_the_options_put_them(module: Any) -> None:
    side = -1 if module is CriticAhead else 1
    for options, target, margin in (({}, math.log(2), 0.35), ({"target": 0.9, "margin": 0.2}, 0.9, 0.2)):
        for beyond in (-1e-3, 1e-3):
            loss = target + side * (margin + beyond)
            for pair in ((loss, target), (target, loss)):
                got = module(**options)(*logits(*pair))
                assert float(got) == float(beyond > 0), (options, pair)
                assert got.shape == ()
                assert got.dtype == torch.float32


def test_a_batch_counts_by_its_mean() -> None:
    """Half of the real samples judged with certainty, half by a coin: log(2) / 2 = 0.347."""
    sure = torch.cat([torch.full((4,), 40.0), torch.zeros(4)])
    assert float(CriticAhead()(sure, torch.zeros(3))) == 0.0  # 0.693 - 0.35 = 0.343
    assert float(CriticAhead(margin=0.34)(sure, torch.zeros(3))) == 1.0  # 0.353


def test_nan_holds_nobody() -> None:
    broken = torch.tensor([math.nan])
    for module in (CriticAhead(), CriticBehind()):
        assert float(module(broken, torch.full((3,), -9.0))) == float(module(broken, torch.full((3,), 9.0))) == 0.0


def test_a_margin_that_no_loss_can_pass_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no loss is below target - margin = 0.5 - 0.5; write a margin under 0.5"):
        CriticAhead(target=0.5, margin=0.5)
    CriticBehind(target=0.5, margin=0.5)


HELD = (
    VAGAN.replace("[discriminator]", '[discriminator]\nhold = "ahead"').replace("[decoder]", '[decoder]\nhold = "behind"')
    + '[quantity.ahead]\nuse = "critic-ahead"\n[quantity.behind]\nuse = "critic-behind"\n'
)


@pytest.mark.parametrize(
    ("overrides", "resting"),
    [
        (("quantity.ahead.target=50.0",), {"discriminator.main"}),  # the losses, near 0.69, are below 50
        (("quantity.behind.target=0.1", "quantity.behind.margin=0.05"), {"decoder"}),  # and above 0.15
        ((), set()),
    ],
)
def test_a_held_part_rests_and_the_others_learn(overrides: tuple[str, ...], resting: set[str], training: Any) -> None:
    state = training(HELD, *overrides)
    before = parameters(state.model)
    values = train_step(state, [batch()], 1)
    after = parameters(state.model)
    moved = {name.partition("/")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"encoder", "decoder", "discriminator.main"} - resting
    assert {name: float(values[f"state.{name}.held"]) for name in ("decoder", "discriminator.main")} == {
        name: float(name in resting) for name in ("decoder", "discriminator.main")
    }
