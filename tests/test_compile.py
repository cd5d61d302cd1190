"""The step under torch.compile and autocast: whole graphs, the same moves, losses in float32."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from common import FAMILIES, GAN, SGD, VAGAN, batch, close, compile_by, parameters, run

from hybridgen.precision import Choices
from hybridgen.step import Training, train_step

COMPILED = {
    **{name: FAMILIES[name] for name in ("vae", "gan", "vagan", "larsen", "bigan", "two-critics")},
    "vagan-r1": VAGAN + '[loss.r1]\nuse = "r1"\n',
    "batch-norm": VAGAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "batch-norm"'),
    "spectral-norm": GAN.replace("[loss.adversarial]", "[loss.adversarial]").replace(
        'fake = "fake"', 'fake = "fake"\nspectral_norm = true'
    ),
    "simultaneous": VAGAN + '[train]\nupdates = "simultaneous"\n',
}


@pytest.mark.parametrize("family", COMPILED)
def test_a_compiled_step_has_no_graph_break_and_moves_as_the_eager_one(family: str, training: Callable[..., Training]) -> None:
    """`fullgraph=True` raises at a break. aot_eager traces forward and backward as inductor does, without its minutes."""
    eager = run(training(COMPILED[family], *SGD), 2)
    state = training(COMPILED[family], *SGD)
    compile_by(state, "aot_eager")
    close(run(state, 2), eager, rtol=1e-4, atol=1e-5)


def test_changing_numbers_recompile_nothing(training: Callable[..., Training]) -> None:
    graphs = 0

    def backend(module: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    state = training(VAGAN, "loss.kl.weight={from=0.1,to=1.0,over=1.0}", "train.steps=10")

    compile_by(state, backend)
    for step in range(1, 6):
        train_step(state, [batch(seed=step)], step)
    assert graphs == 3  # generate, critic, generator


@pytest.mark.parametrize("family", ["vae", "vagan", "larsen"])
def test_under_bf16_networks_round_and_losses_do_not(family: str, training: Callable[..., Training]) -> None:
    half = training(FAMILIES[family], choices=Choices("cpu", "bf16", False, ()))
    kinds: list[torch.dtype] = []
    half.model.parts["decoder"].register_forward_hook(lambda m, i, out: kinds.append(out.dtype))
    values = train_step(half, [batch()], 1)
    assert kinds == [torch.bfloat16]
    assert all(value.dtype == torch.float32 for value in values.values())
    full = train_step(training(FAMILIES[family]), [batch()], 1)
    for name, value in values.items():
        torch.testing.assert_close(value, full[name], rtol=0.1, atol=0.1)
    assert all(p.dtype == torch.float32 for p in half.model.parts["decoder"].parameters())


def test_many_variants_and_many_runs_compile_in_one_process(training: Callable[..., Training]) -> None:
    """dynamo's limit on recompilations counts by code object; phases don't share one."""
    text = VAGAN + '[loss.r1]\nuse = "r1"\nevery = 3\n'
    late = ("loss.kl.weight={to=1.0,start=1}", "loss.adversarial.weight={to=1.0,start=2}", "train.steps=20")
    for width in (8, 9):
        state = training(text, *late, f"encoder.width={width}")
        compile_by(state, "eager")
        for step in range(1, 7):
            train_step(state, [batch(seed=step)], step)
        assert len(state.variants) >= 4


LOOKS = VAGAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "looks"')


def test_a_part_that_cannot_be_compiled_is_named_and_runs_eagerly(training: Callable[..., Training]) -> None:
    """The run goes on, with the same moves and statistics; the other parts stay compiled."""
    eager = training(LOOKS, *SGD)
    state = training(LOOKS, *SGD)
    graphs: list[int] = []

    def backend(module: Any, inputs: Any) -> Any:
        graphs.append(len(list(module.graph.nodes)))
        return module.forward

    compile_by(state, backend, state.model.parts, state.fallbacks.setdefault)
    close(run(state, 3), run(eager, 3), rtol=1e-4, atol=1e-5)
    assert list(state.fallbacks) == ["discriminator.main"], state.fallbacks
    assert "data-dependent" in state.fallbacks["discriminator.main"]
    for name, buffer in eager.model.parts["discriminator.main"].named_buffers():
        torch.testing.assert_close(state.model.parts["discriminator.main"].get_buffer(name), buffer)
    before = len(graphs)
    train_step(state, [batch(seed=9)], 4)
    assert len(graphs) == before  # and is not tried again in every step


def test_a_part_that_says_so_is_left_eager_without_a_try(training: Callable[..., Training], monkeypatch: Any) -> None:
    eager, state = (training(LOOKS.replace('"looks"', '"eager"'), *SGD) for _ in range(2))
    monkeypatch.setattr("hybridgen.compiling._faults", lambda *_: pytest.fail("it was tried"))
    compile_by(state, "eager", state.model.parts, state.fallbacks.setdefault)
    close(run(state, 2), run(eager, 2), rtol=1e-4, atol=1e-5)
    assert state.fallbacks == {"discriminator.main": "it declares `compiles = False`"}


def test_a_compiler_that_fails_leaves_its_phase_eager(training: Callable[..., Training]) -> None:
    def backend(module: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    state = training(VAGAN, *SGD)
    compile_by(state, backend, state.model.parts, state.fallbacks.setdefault)
    close(run(state, 2), run(training(VAGAN, *SGD), 2), rtol=0, atol=0)
    assert list(state.fallbacks) == [f"the phase `{name}`" for name in ("generate", "critic", "generator")]
    assert "no compiler here" in state.fallbacks["the phase `critic`"]


def test_nothing_recompiles_while_schedules_penalties_and_evaluation_alternate(training: Callable[..., Training]) -> None:
    """Every set of active terms is compiled once; after that numbers change, penalties come and go, averages are read."""
    graphs = 0

    def backend(module: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return module.forward

    text = VAGAN + '[loss.r1]\nuse = "r1"\nevery = 3\n'
    state = training(
        text, "loss.kl.weight={from=0.0,to=1.0,over=1.0}", "train.steps=40", "optim.lr={from=1e-3,to=0.0,over=1.0}"
    )
    compile_by(state, backend)
    for step in range(1, 8):
        train_step(state, [batch(seed=step)], step)
    warm = graphs
    for step in range(8, 31):
        train_step(state, [batch(seed=step)], step)
        if step % 5 == 0:
            averaged = state.refresh_averaged()
            averaged["decoder"](torch.zeros(3, *state.model.parts["latent"].z_shape))
    assert graphs == warm > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor imports what torch deprecates
@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="inductor wants a C++ compiler, there is none")
def test_inductor_moves_as_eager_code_does_from_each_of_twenty_states(training: Callable[..., Training]) -> None:
    """Trajectories of two compilers drift apart, steps from one state do not."""
    conv = VAGAN.replace('"mlp"\nwidth = 16', '"conv"\nwidth = 8')
    eager = training(conv, "optim.lr=1e-3")
    fast = training(conv, "optim.lr=1e-3", choices=Choices("cpu", "fp32", True, ()))
    for step in range(1, 21):
        fast.model.load_state_dict(eager.model.state_dict())
        fast.load_state_dict(copy.deepcopy(eager.state_dict()))
        values = [train_step(state, [batch(seed=step)], step) for state in (eager, fast)]
        for name, value in values[0].items():
            torch.testing.assert_close(values[1][name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        close(parameters(fast.model), parameters(eager.model), rtol=1e-3, atol=2e-4)
    assert len(fast.variants) == 1
