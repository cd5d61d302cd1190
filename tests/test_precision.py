"""Number formats and layouts: what is scaled is scaled back, what overflows is skipped and counted, and nothing else moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from common import EAGER, SGD, VAGAN, batch, close, everything, hand_over, parameters, run, steps
from torch import nn

from hybridgen import precision
from hybridgen.data import Arrays, Batches, SampleSpec
from hybridgen.errors import UserError
from hybridgen.precision import choose, numerics
from hybridgen.recipe import Recipe
from hybridgen.step import Training, train_step

FP16 = replace(EAGER, precision="fp16")
LAST = replace(EAGER, channels_last=True)
CONV = VAGAN.replace('"mlp"\nwidth = 16', '"conv"\nwidth = 8')


def test_scaling_changes_no_update(training: Callable[..., Training]) -> None:
    """float32 networks with float16's scaling: the gradients are those without, to the rounding of a power of two."""
    scaled = training(VAGAN, *SGD, choices=FP16)
    scaled.planner.autocast = None
    close(run(scaled, 3), run(training(VAGAN, *SGD), 3), rtol=1e-5, atol=1e-7)


def test_a_balanced_term_is_compared_without_the_scale(training: Callable[..., Training]) -> None:
    text = VAGAN.replace("[loss.adversarial]", '[loss.adversarial]\nbalance = ["reconstruction"]')
    scaled, plain = training(text, *SGD, choices=FP16), training(text, *SGD)
    scaled.planner.autocast = None
    values = [train_step(state, [batch()], 1)["state.loss.adversarial.balance"] for state in (scaled, plain)]
    torch.testing.assert_close(*values)


def test_an_overflow_is_skipped_and_counted_and_no_fault(training: Callable[..., Training]) -> None:
    state = training(VAGAN, *SGD, choices=FP16)
    state.scalers["generator"] = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # every gradient is beyond float32
    before = parameters(state.model)
    values = train_step(state, [batch()], 1)
    after = parameters(state.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split("/")[0] for name in moved} == {"discriminator.main"}
    assert float(values["state.generator.overflow"]) == 1.0
    assert float(values["state.discriminator.overflow"]) == 0.0
    assert state.fault() is None
    assert state.scalers["generator"].get_scale() == 2.0**126


def test_without_a_scale_to_lower_an_infinite_gradient_is_a_fault(training: Callable[..., Training]) -> None:
    state = training(VAGAN, *SGD, choices=FP16)
    state.scalers["generator"] = torch.amp.GradScaler("cpu", init_scale=1.0)
    next(state.model.parts["encoder"].parameters()).register_hook(lambda g: g * torch.inf)
    train_step(state, [batch()], 1)
    assert state.fault() == (1, "the gradient of the generator side")


def test_float16_resumes_bit_for_bit(training: Callable[..., Training]) -> None:
    def make() -> Training:
        state = training(VAGAN, choices=FP16)
        for player in state.scalers:
            state.scalers[player] = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        return state

    whole = make()
    steps(whole, 1, 8)
    first, second = make(), make()
    steps(first, 1, 4)
    hand_over(first, second)
    steps(second, 5, 8)
    assert second.scalers["generator"].get_scale() == whole.scalers["generator"].get_scale() > 1024.0
    a, b = everything(whole), everything(second)
    assert all(torch.equal(a[name], b[name]) for name in a)


def laid_out(state: Training) -> Training:
    """As a run does with its networks before it starts."""
    for module in state.model.parts.values():
        module.to(memory_format=torch.channels_last)
    return state


def test_channels_last_moves_as_contiguous_does_and_stays(training: Callable[..., Training]) -> None:
    state = laid_out(training(CONV, *SGD, choices=LAST))
    seen: list[bool] = []
    for module in state.model.parts["decoder"].modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last)))
    moved = run(state, 3)
    assert seen
    assert all(seen)
    close(moved, run(training(CONV, *SGD), 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "more", ['[loss.iwae]\nuse = "iwae"\n', '[loss.r1]\nuse = "r1"\n', '[loss.penalty]\nuse = "gradient-penalty"\n']
)
def test_terms_that_evaluate_networks_themselves_agree_in_both_layouts(more: str, training: Callable[..., Training]) -> None:
    state = laid_out(training(CONV + more, *SGD, choices=LAST))
    close(run(state, 2), run(training(CONV + more, *SGD), 2), rtol=1e-4, atol=1e-5)


def test_batches_come_in_the_layout_of_the_run() -> None:
    spec = SampleSpec(kind="image", shape=(3, 6, 4), count=32, low=0, high=255, levels=256, activation="tanh")
    arrays = Arrays(torch.randint(0, 256, (32, 3, 6, 4), dtype=torch.uint8))
    made = [Batches(arrays, spec, 8, 0, torch.device("cpu"), flip=True, channels_last=last).batch(3)["x"] for last in (0, 1)]
    assert torch.equal(*made)
    assert made[1].is_contiguous(memory_format=torch.channels_last)
    assert not made[0].is_contiguous(memory_format=torch.channels_last)


def test_auto_takes_bfloat16_on_a_cpu_that_is_faster_with_it(
    recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = recipe(VAGAN, "train.device=cpu").train
    monkeypatch.setattr(precision, "gain_of_bfloat16", lambda: 6.0)
    assert choose(train, precision.SMALL).precision == "bf16"
    assert choose(train, precision.SMALL - 1).precision == "fp32"
    monkeypatch.setattr(precision, "gain_of_bfloat16", lambda: 1.2)
    found = choose(train, precision.SMALL)
    assert found.precision == "fp32"
    assert "precision fp32: a matrix product is 1.2 times as fast in bfloat16 here" in found.notes


@pytest.mark.parametrize(
    ("precision", "layers", "last"),
    [
        ("fp32", [nn.Conv2d(1, 1, 3)], True),
        ("fp32", [nn.ConvTranspose2d(1, 1, 3), nn.GroupNorm(1, 1)], True),
        ("fp32", [nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)], False),
        ("bf16", [nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)], True),
        ("bf16", [nn.Linear(1, 1), nn.Conv1d(1, 1, 3)], False),
    ],
)
def test_the_layout_follows_the_networks(
    precision: str, layers: list[nn.Module], last: bool, recipe: Callable[..., Recipe]
) -> None:
    train = recipe(VAGAN, "train.device=cpu", f"train.precision={precision}").train
    found = choose(train, 0, [nn.Sequential(*layers)])
    assert found.channels_last is last
    assert any(note.startswith("layout channels-last: ") for note in found.notes) is last
    assert choose(replace(train, layout="channels-last"), 0, []).channels_last
    assert not choose(replace(train, layout="contiguous"), 0, [nn.Sequential(*layers)]).channels_last


def test_the_gain_of_bfloat16_is_timed() -> None:
    assert 0.001 < precision.gain_of_bfloat16() < 1000
    assert precision.gain_of_bfloat16() == precision.gain_of_bfloat16()  # once a process


def test_tf32_is_refused_on_a_cpu_and_fp32_means_fp32(recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match="tf32' is a format of CUDA devices; on a CPU write fp32, bf16 or auto"):
        choose(recipe(VAGAN, "train.device=cpu", "train.precision=tf32").train)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for name, allowed in (("tf32", True), ("fp32", False), ("bf16", False)):
        with numerics(replace(EAGER, precision=name), deterministic=False):
            assert torch.backends.cudnn.allow_tf32 is allowed
            assert (torch.get_float32_matmul_precision() == "high") is allowed
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
