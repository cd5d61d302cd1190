"""The step: accumulation, several critic updates, simultaneous updates, clipping, averaging, skipping, states, compilation."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from common import CRITIC, FAMILIES, GAN, LABELLED, LARSEN, SGD, VAE, VAGAN, Reads, batch, close, parameters, run
from torch import Tensor

from hybridgen.errors import RecipeError
from hybridgen.graph import Graph
from hybridgen.step import Training, train_step

# -- accumulation, critic steps, simultaneous ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_accumulated_micro_batches_are_one_batch(family: str, training: Callable[..., Training]) -> None:
    whole = run(training(FAMILIES[family], *SGD), 2)
    pieces = run(training(FAMILIES[family], *SGD, "train.accumulate=4"), 2)
    close(whole, pieces, rtol=1e-4, atol=1e-5)


def test_accumulation_is_neither_a_sum_nor_one_piece(training: Callable[..., Training]) -> None:
    one = run(training(VAE, *SGD), 1, size=2)
    four = run(training(VAE, *SGD, "train.accumulate=4"), 1, size=8)
    assert any(not torch.allclose(one[name], four[name], atol=1e-4) for name in one)


def test_the_noise_of_a_micro_batch_is_a_slice_of_the_whole(training: Callable[..., Training]) -> None:
    whole = training(VAGAN)
    pieces = training(VAGAN, "train.accumulate=2")
    plan = whole.planner.plan(whole.model.terms)
    (one,) = whole.leaves(plan, batch(), 3, 0)
    halves = pieces.leaves(plan, batch(), 3, 0)
    for name in whole.model.noise:
        torch.testing.assert_close(torch.cat([half[name] for half in halves]), one[name], rtol=0, atol=0)


def test_each_critic_update_has_a_batch_and_noise_of_its_own(training: Callable[..., Training]) -> None:
    state = training(GAN, "train.critic_steps=3")
    seen: list[tuple[Tensor, Tensor]] = []
    leaves = state.leaves

    def spy(plan: Any, data: Any, step: int, update: int) -> Any:
        made = leaves(plan, data, step, update)
        seen.append((made[0]["x"], made[0]["noise@z_prior"]))
        return made

    state.leaves = spy  # type: ignore[method-assign]
    moves = count_moves(state, lambda: train_step(state, [batch(seed=i) for i in range(3)], 1))
    assert moves == {"discriminator": 3, "generator": 1}
    for one, other in ((0, 1), (1, 2)):
        assert not torch.equal(seen[one][0], seen[other][0])
        assert not torch.equal(seen[one][1], seen[other][1])


@pytest.mark.parametrize("family", ["gan", "vagan", "bigan", "two-critics"])
def test_the_critic_judges_samples_without_history(family: str, training: Callable[..., Training]) -> None:
    """Attached samples would cost a compiled critic update the whole backward pass of the generator."""
    state = training(FAMILIES[family])
    phase = state.variant(1)[1]
    seen: list[Tensor] = []

    def spy(env: dict[str, Any], weights: Any) -> Any:
        seen.extend(value for value in env.values() if isinstance(value, Tensor))
        return critic(env, weights)

    critic = phase["critic"]
    phase["critic"] = spy
    train_step(state, [batch()], 1)
    assert len(seen) >= 2
    assert not any(value.requires_grad for value in seen)


def count_moves(state: Training, act: Callable[[], Any]) -> dict[str, int]:
    count = dict.fromkeys(state.optimisers, 0)
    for player, optim in state.optimisers.items():

        def hook(*_: Any, player: str = player) -> None:
            count[player] += 1

        optim.register_step_post_hook(hook)
    act()
    return count


def test_early_critic_updates_run_the_generator_without_gradient(training: Callable[..., Training]) -> None:
    """Samples for a critic update that no generator update will use cost no backward pass of the generator."""
    state = training(GAN, "train.critic_steps=2")
    graphs: list[bool] = []
    state.model.parts["decoder"].register_forward_hook(lambda m, i, out: graphs.append(out.requires_grad))
    train_step(state, [batch(seed=0), batch(seed=1)], 1)
    assert graphs == [False, True]


def test_simultaneous_updates_evaluate_the_critic_once(training: Callable[..., Training]) -> None:
    state = training(GAN, "train.updates=simultaneous", *SGD)
    calls: list[int] = []
    state.model.parts["discriminator.main"].register_forward_hook(lambda *_: calls.append(1))
    moves = count_moves(state, lambda: train_step(state, [batch()], 1))
    assert len(calls) == 1
    assert moves == {"discriminator": 1, "generator": 1}


@pytest.mark.parametrize("family", ["gan", "vagan", "two-critics"])
def test_simultaneous_gradients_are_those_before_any_update(family: str, training: Callable[..., Training]) -> None:
    """The critic moves as in alternation; the generator as if the critic hadn't moved yet."""
    together = run(training(FAMILIES[family], *SGD, "train.updates=simultaneous"), 1)
    in_turn = run(training(FAMILIES[family], *SGD), 1)
    still = run(training(FAMILIES[family], *SGD, "optim.discriminator.lr=0.0"), 1)
    for name, value in together.items():
        expected = in_turn if name.startswith("discriminator") else still
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


# -- optimisers ---------------------------------------------------------------------------------------------------------


def test_each_player_has_its_own_learning_rate_and_schedule(training: Callable[..., Training]) -> None:
    state = training(GAN, "optim.lr=1e-2", "optim.discriminator.lr={from=1.0,to=0.0,over=4}", "train.steps=8")
    rates = []
    for step in range(1, 6):
        train_step(state, [batch(seed=step)], step)
        rates.append([state.optimisers[p].param_groups[0]["lr"] for p in ("generator", "discriminator")])
    assert [g for g, _ in rates] == [1e-2] * 5
    assert [d for _, d in rates] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_clipping_by_norm_and_by_value(training: Callable[..., Training]) -> None:
    free = training(VAE, "optim.use=sgd", "optim.lr=1.0")
    before = parameters(free.model)
    values = train_step(free, [batch()], 1)
    step = {k: before[k] - v for k, v in parameters(free.model).items()}
    norm = torch.cat([s.flatten() for s in step.values()]).norm()
    torch.testing.assert_close(values["grad_norm.generator"], norm, rtol=1e-4, atol=0)  # told before clipping
    clipped = training(VAE, "optim.use=sgd", "optim.lr=1.0", "optim.clip_norm=0.5")
    after = run_one(clipped, before)
    close(after, {k: s * (0.5 / norm) for k, s in step.items()}, rtol=1e-3, atol=1e-6)
    bounded = run_one(training(VAE, "optim.use=sgd", "optim.lr=1.0", "optim.clip_value=0.01"), before)
    close(bounded, {k: s.clamp(-0.01, 0.01) for k, s in step.items()}, rtol=1e-3, atol=1e-6)


def run_one(state: Training, before: dict[str, Tensor]) -> dict[str, Tensor]:
    train_step(state, [batch()], 1)
    return {k: before[k] - v for k, v in parameters(state.model).items()}


def test_the_average_follows_its_formula_and_is_of_the_generator_side_only(training: Callable[..., Training]) -> None:
    state = training(VAGAN, "train.ema=0.9")
    expected = {k: v for k, v in parameters(state.model).items() if not k.startswith("discriminator")}
    for step in range(1, 30):
        train_step(state, [batch(seed=step)], step)
        decay = min(0.9, (1 + step) / (10 + step))
        now = parameters(state.model)
        expected = {k: decay * v + (1 - decay) * now[k] for k, v in expected.items()}
    averaged = {f"{p}/{k}": v for p, m in state.averaged.items() for k, v in m.named_parameters() if p != "discriminator.main"}
    close(averaged, expected, rtol=1e-4, atol=1e-6)
    judge = dict(state.refresh_averaged()["discriminator.main"].named_parameters())
    for name, value in state.model.parts["discriminator.main"].named_parameters():
        assert torch.equal(judge[name], value)


def test_adding_a_term_does_not_change_what_another_draws(training: Callable[..., Training]) -> None:
    alone, together = training(VAE), training(VAGAN)
    first = alone.leaves(alone.planner.plan(alone.model.terms), batch(), 1, 0)[0]
    other = together.leaves(together.planner.plan(together.model.terms), batch(), 1, 0)[0]
    assert torch.equal(first["noise@z"], other["noise@z"])
    for name, value in parameters(alone.model).items():
        assert torch.equal(value, parameters(together.model)[name]), f"{name} starts elsewhere"


# -- values that are not finite --------------------------------------------------------------------------------------------


def test_a_nan_stops_every_later_update_and_names_the_term_and_step(training: Callable[..., Training]) -> None:
    state = training(VAE + '[loss.poison]\nuse = "poison"\nat = 3\n')
    for step in (1, 2):
        train_step(state, [batch(seed=step)], step)
    before, average = parameters(state.model), {k: v.clone() for k, v in state.averaged["decoder"].named_parameters()}
    for step in (3, 4):
        train_step(state, [batch(seed=step)], step)
    assert state.fault() == (3, "loss.poison")
    for name, value in parameters(state.model).items():
        assert torch.equal(value, before[name])
    for name, value in state.averaged["decoder"].named_parameters():
        assert torch.equal(value, average[name])


def test_skip_leaves_out_the_one_update_and_goes_on(training: Callable[..., Training]) -> None:
    state = training(VAE + '[loss.poison]\nuse = "poison-once"\nat = 2\n', "train.nonfinite=skip")
    train_step(state, [batch(seed=1)], 1)
    before = parameters(state.model)
    train_step(state, [batch(seed=2)], 2)
    for name, value in parameters(state.model).items():
        assert torch.equal(value, before[name])
    train_step(state, [batch(seed=3)], 3)
    assert any(not torch.equal(v, before[k]) for k, v in parameters(state.model).items())
    assert all(torch.isfinite(v).all() for v in parameters(state.model).values())


# -- states, schedules, lazy terms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_updates_its_state_once_a_step_on_the_joint_batch(accumulate: int, training: Callable[..., Training]) -> None:
    state = training(VAE + '[loss.counting]\nuse = "counting"\n', f"train.accumulate={accumulate}")
    seen = state.model.parts["loss.counting"]
    expected = 0.0
    for step in (1, 2, 3):
        data = batch(seed=step)
        train_step(state, [data], step)
        expected += 0.1 * (float(data["x"].mean()) - expected)
    assert float(seen.seen) == 3  # type: ignore[arg-type]
    assert float(seen.average) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]


def test_a_term_without_weight_is_not_computed(training: Callable[..., Training]) -> None:
    state = training(VAGAN, "loss.adversarial.weight={from=1.0,to=1.0,start=3}", "train.steps=10")
    assert "loss.adversarial" not in train_step(state, [batch()], 1)  # off, while its critic trains already
    assert "loss.adversarial.discriminator" in train_step(state, [batch()], 2)
    assert "loss.adversarial" in train_step(state, [batch()], 4)
    assert len(state.variants) == 2


def test_a_lazy_term_joins_every_kth_update_k_times_as_strong(training: Callable[..., Training]) -> None:
    state = training(GAN + '[loss.r1]\nuse = "r1"\nevery = 4\n')
    taking_part = [step for step in range(1, 10) if "loss.r1.discriminator" in train_step(state, [batch(seed=step)], step)]
    assert taking_part == [1, 5, 9]
    term = next(t for t in state.model.terms if t.name == "r1")
    assert term.coefficient(5, 10) == 4.0


# -- penalties, providers, augmentation, batch norm ---------------------------------------------------------------------


def test_r1_through_the_callable_critic_is_the_double_backward(training: Callable[..., Training]) -> None:
    state = training(GAN + '[loss.r1]\nuse = "r1"\n', *SGD, "loss.adversarial.discriminator_weight=0")
    critic = state.model.parts["discriminator.main"]
    x = batch()["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x)[0].sum(), x, create_graph=True)
    penalty = 0.5 * gradient.flatten(1).square().sum(1).mean()
    named = dict(critic.named_parameters())
    expected = torch.autograd.grad(penalty, list(named.values()), allow_unused=True)
    before = {k: v.detach().clone() for k, v in named.items()}
    values = train_step(state, [batch()], 1)
    torch.testing.assert_close(values["loss.r1.discriminator"], penalty.detach())
    for (name, value), slope in zip(named.items(), expected, strict=True):
        moved = torch.zeros_like(value) if slope is None else 0.1 * slope
        torch.testing.assert_close(before[name] - value.detach(), moved, rtol=1e-4, atol=1e-6)


def test_a_gradient_penalty_between_samples_leaves_the_generator_alone(training: Callable[..., Training]) -> None:
    text = GAN + '[quantity.between]\nuse = "between"\n[loss.penalty]\nuse = "penalty-between"\nweight = 1.0\n'
    state = training(text, "loss.adversarial.weight=0", *SGD)
    before = parameters(state.model)
    values = train_step(state, [batch()], 1)
    assert torch.isfinite(values["loss.penalty.discriminator"])
    after = parameters(state.model)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("decoder"))
    assert any(not torch.equal(before[k], after[k]) for k in before if k.startswith("discriminator"))


def test_a_provider_feeds_a_rebound_role(training: Callable[..., Training]) -> None:
    """A denoising autoencoder: the encoder's `x` is another quantity, the reconstruction's is not."""
    state = training(VAE.replace("[decoder]", 'inputs = { x = "x_noisy" }\n[decoder]') + '[quantity.x_noisy]\nuse = "noisy"\n')
    definitions = state.model.graph.definitions
    assert definitions["code"].arguments == (("x", "x_noisy"),)
    assert definitions["x_noisy"].inputs == ("x", "noise@quantity.x_noisy")
    (term,) = [term for term in state.model.terms if term.name == "reconstruction"]
    assert "x" in definitions[term.key].inputs
    train_step(state, [batch()], 1)


def test_one_augmentation_for_every_judged_batch_with_noise_of_its_own(training: Callable[..., Training]) -> None:
    state = training(VAGAN.replace('fake = ["recon", "fake"]', 'fake = ["recon", "fake"]\naugment = { use = "darker" }'))
    names = sorted(name for name in state.model.noise if "augmented" in name)
    assert names == [f"uniform@discriminator.main.{which}.augmented" for which in ("fake.0", "fake.1", "real")]
    before = parameters(state.model)
    train_step(state, [batch()], 1)
    assert not torch.equal(before["decoder/to_raw.weight"], parameters(state.model)["decoder/to_raw.weight"])


def test_batch_norm_judges_batches_apart_and_moves_statistics_in_its_own_update_only(
    training: Callable[..., Training],
) -> None:
    text = VAGAN.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "batch-norm"')
    state = training(text)
    critic = state.model.parts["discriminator.main"]
    plan = state.planner.plan(state.model.terms)
    assert plan.traversals()["discriminator.main"] == 5  # real, recon, fake; then recon, fake
    assert plan.generator is not None
    env: dict[str, Any] = {}
    leaves = state.leaves(plan, batch(), 1, 0)[0]
    env |= leaves | plan.generate({k: leaves[k] for k in plan.generate.reads}, {}).kept
    before = {k: v.clone() for k, v in critic.named_buffers()}
    plan.generator({k: env[k] for k in plan.generator.reads}, state.variant(1)[2])
    assert all(torch.equal(v, before[k]) for k, v in critic.named_buffers())
    train_step(state, [batch()], 1)
    assert int(critic.norm.num_batches_tracked) == 3  # type: ignore[union-attr]


def test_pairs_stay_pairs(training: Callable[..., Training]) -> None:
    """Labels travel with their samples: a conditional decoder's reconstruction has the label of its x."""
    text = VAGAN.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "conditional"')
    state = training(text, spec=LABELLED)
    definitions = state.model.graph.definitions
    assert dict(definitions["recon_raw"].arguments) == {"z": "z", "label": "label"}
    assert dict(definitions["fake_raw"].arguments) == {"z": "z_prior", "label": "fake_label"}
    plan = state.planner.plan(state.model.terms)
    leaves = state.leaves(plan, batch(spec=LABELLED), 1, 0)[0]
    assert torch.equal(leaves["fake_label"], leaves["label"])
    train_step(state, [batch(spec=LABELLED)], 1)


# -- what the build finds -------------------------------------------------------------------------------------------------


def test_an_unknown_quantity_is_a_build_error_with_a_suggestion(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"asks for `reconn`.*did you mean `recon`\?.*here exist: x, .*posterior"):
        training(VAE + '[loss.asks]\nuse = "asks"\n')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VAE.replace('use = "gaussian"', 'use = "deterministic"'), "no prior"),
        (GAN.replace('fake = "fake"', 'fake = "recon"'), r"judges `recon`.*no \[encoder\]"),
        (GAN + '[loss.kl]\nuse = "kl"\n', r"no \[encoder\]"),
        (VAE + CRITIC.replace("{fake}", '"fakes"'), "did you mean `fake`"),
        (VAE + '[loss.adversarial]\nuse = "adversarial"\n', r"no \[discriminator\]"),
    ],
)
def test_parts_that_do_not_fit_are_found_before_any_data_is_read(
    text: str, expected: str, training: Callable[..., Training]
) -> None:
    with pytest.raises(RecipeError, match=expected):
        training(text)


def test_two_critics_and_a_loss_that_names_none(training: Callable[..., Training]) -> None:
    text = FAMILIES["two-critics"].replace('discriminator = "data"\n', "")
    with pytest.raises(RecipeError, match=r'write `discriminator = ` one of "data", "latent"'):
        training(text)


def test_each_quantity_is_defined_once_however_many_ask(training: Callable[..., Training]) -> None:
    state = training(LARSEN)
    ordered = Graph(state.model.wiring.definitions).order([term.key for term in state.model.terms])
    keys = [definition.key for definition in ordered]
    assert len(keys) == len(set(keys))
    assert keys.count("recon_raw") == 1


# -- what reviews found -----------------------------------------------------------------------------------------------------


def test_sgd_with_momentum_takes_a_part_that_learns_later(training: Callable[..., Training]) -> None:
    late = ("loss.reconstruction.weight={to=1.0,start=2}", "loss.kl.weight={to=1.0,start=2}", "train.steps=10")
    state = training(VAGAN, "optim.use=sgd", "optim.momentum=0.9", "optim.lr=0.01", *late)
    before = parameters(state.model)
    for step in range(1, 5):
        train_step(state, [batch(seed=step)], step)
    after = parameters(state.model)
    assert not torch.equal(before["encoder/to_code.weight"], after["encoder/to_code.weight"])


@pytest.mark.parametrize("use", ["adam", "adamw", "sgd"])
def test_a_skipped_first_step_leaves_no_trace(use: str, training: Callable[..., Training]) -> None:
    text = VAE + '[loss.poison]\nuse = "poison-once"\nat = 1\n'
    options = ("train.nonfinite=skip", f"optim.use={use}", "optim.lr=0.01", "optim.momentum=0.9")
    poisoned, clean = training(text, *options), training(text, *options)
    train_step(poisoned, [batch(seed=1)], 1)
    for state in (poisoned, clean):
        train_step(state, [batch(seed=2)], 2)
    close(parameters(poisoned.model), parameters(clean.model), rtol=1e-5, atol=1e-7)


def test_a_skipped_step_leaves_no_batch_statistics(training: Callable[..., Training]) -> None:
    text = VAE.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "mlp"\nwidth = 16\nnorm = "batch"')
    state = training(text, "train.nonfinite=skip")
    train_step(state, [batch(seed=1)], 1)
    before = {k: v.clone() for k, v in state.model.parts["decoder"].named_buffers()}
    bad = batch(seed=2)
    bad["x"] = bad["x"] * 1e37
    train_step(state, [bad], 2)
    for name, value in state.model.parts["decoder"].named_buffers():
        assert torch.equal(value, before[name]), name
    train_step(state, [batch(seed=3)], 3)
    assert all(torch.isfinite(v).all() for v in state.averaged["decoder"].buffers())


def test_asking_what_exists_changes_nothing(training: Callable[..., Training]) -> None:
    model = training(VAE).model
    noise, definitions = model.noise, model.wiring.definitions
    before = dict(noise)
    assert "fake" in model.wiring.names()
    assert model.wiring.noise is noise
    assert model.wiring.definitions is definitions
    assert noise == before


class LeCam(torch.nn.Module):
    """A loss of both sides whose state follows the critic's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def generator(self, fake_logits: Tensor) -> Tensor:
        return -fake_logits.mean()

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return fake_logits.mean() - real_logits.mean()

    def update(self, real_logits: Tensor) -> None:
        self.mean = self.mean + real_logits.mean() + 1.0  # a new tensor in the buffer's place


def test_a_state_that_needs_the_critic_moves_while_its_term_is_off(tmp_path: Any) -> None:
    from types import SimpleNamespace

    from common import EAGER, FIXTURES, SPEC

    from hybridgen import hookimpl
    from hybridgen.model import build
    from hybridgen.recipe import load_recipe
    from hybridgen.registry import load_registry

    @hookimpl
    def register_components(register: Any) -> None:
        register.loss("lecam", LeCam)

    extra = {"fixtures": FIXTURES, "mine": SimpleNamespace(register_components=register_components)}
    path = tmp_path / "m.toml"
    text = VAGAN.replace('use = "adversarial"\nweight = 0.5', 'use = "mine:lecam"\nweight = { to = 1.0, start = 3 }')
    path.write_text(text + "[train]\nsteps = 10\nema = 0.5\n")
    state = Training(build(load_recipe(path, registry=load_registry(extra=extra)), SPEC), EAGER)
    for step in range(1, 6):
        train_step(state, [batch(seed=step)], step)
    moved = float(state.model.parts["loss.adversarial"].mean)  # type: ignore[arg-type]
    assert moved != 0.0
    assert float(state.averaged["loss.adversarial"].mean) == moved  # type: ignore[arg-type]


def test_nothing_in_a_step_waits_for_the_device(training: Callable[..., Training]) -> None:
    """Reading a scalar is `aten._local_scalar_dense`, whoever asks for it: there is none between log points."""
    state = training(LARSEN, "optim.clip_norm=1.0")
    with Reads() as reads:
        train_step(state, [batch()], 1)
    assert reads.count == 0


def test_a_network_may_return_a_named_tuple() -> None:
    from typing import NamedTuple

    from hybridgen.graph import detach, split

    class Judgement(NamedTuple):
        logits: Tensor
        features: list[Tensor]

    value = Judgement(torch.ones(4, requires_grad=True), [torch.zeros(4, 2)])
    one, other = split(value, [1, 3])
    assert (type(one), one.logits.shape, other.features[0].shape) == (Judgement, (1,), (3, 2))
    assert not detach(value).logits.requires_grad


def test_no_step_leaves_anything_for_a_gpu_that_is_not_used(training: Callable[..., Training]) -> None:
    """`torch.manual_seed` keeps each call, with a traceback, until CUDA starts: 10,000 steps of that are 100 MB."""
    state = training(VAGAN)
    run(state, 1)
    before = len(torch.cuda._queued_calls)
    run(state, 3)
    assert len(torch.cuda._queued_calls) == before


def test_the_average_is_that_of_the_formula_and_stays_where_an_update_is_skipped(training: Callable[..., Training]) -> None:
    state = training(VAE, *SGD, "train.ema=0.9")
    expected = parameters(state.model)
    for step in range(1, 4):
        train_step(state, [batch(seed=step)], step)
        decay = min(0.9, (1 + step) / (10 + step))
        now = parameters(state.model)
        expected = {name: value + (1 - decay) * (now[name] - value) for name, value in expected.items()}
    averaged = {f"{path}/{k}": p for path, module in state.averaged.items() for k, p in module.named_parameters()}
    close(averaged, expected, rtol=1e-5, atol=1e-7)
    assert state.average is not None
    state.average.update(4, torch.ones(()))
    close({f"{path}/{k}": p for path, module in state.averaged.items() for k, p in module.named_parameters()}, averaged)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory in use is read from /proc, which is not there")
def test_memory_stays_flat_over_ten_thousand_steps(training: Callable[..., Training]) -> None:
    def resident() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    state = training(VAE.replace("width = 16", "width = 2"), "train.steps=20000")
    data = batch()

    def many(first: int, count: int) -> None:
        for step in range(first, first + count):
            train_step(state, [data], step)

    many(1, 2000)
    before = resident()
    many(2001, 10000)
    assert resident() - before < 4  # MiB; a traceback a step was 60
