"""What balances the players: adaptive weights, parts that are held back, clipped weights, and state told in every row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import AE, FIXTURES, GAN, SGD, VAE, VAGAN, batch, close, compile_by, parameters
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.errors import RecipeError
from hybridgen.registry import Registry, load_registry
from hybridgen.routing import last_weight
from hybridgen.step import Training, train_step


class Late(nn.Module):
    """1 up to a step: what holds a part back until then."""

    def __init__(self, *, until: int = 2) -> None:
        super().__init__()
        self.until = until

    def forward(self, step: Tensor) -> Tensor:
        return (step <= self.until).float()


def confident(fake_logits: Tensor) -> Tensor:
    """1 where the critic gives every sample of a generated batch a negative logit."""
    return (fake_logits.max() < 0).float()


class Telling(nn.Module):
    """A loss that reports how often it was updated, and what it saw of all generated batches."""

    reports = ("seen", "count")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return 0.1 * (fake_logits.mean() - real_logits.mean())

    def update(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        self.seen.fill_(fake_logits.shape[0] / real_logits.shape[0])
        self.count += 1


class Misspelt(nn.Module):
    """A loss whose `update` is wrong."""

    def forward(self, recon: Tensor) -> Tensor:
        return recon.mean()

    def update(self, x: Tensor) -> None:
        self.runing += x.mean()


class Silent(nn.Module):
    """A loss that reports what it doesn't have."""

    reports = ("nothing",)

    def forward(self, recon: Tensor) -> Tensor:
        return recon.mean()


@hookimpl
def register_components(register: Any) -> None:
    register.provider("late", Late)
    register.provider("confident", confident)
    register.loss("telling", Telling)
    register.loss("silent", Silent)
    register.loss("misspelt", Misspelt)


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The fixtures' registry, which `training` loads recipes by, with this module's components."""
    mine = SimpleNamespace(register_components=register_components)
    return load_registry(extra={"fixtures": FIXTURES, "mine": mine})


# -- an adaptive weight ------------------------------------------------------------------------------------------------

BALANCED = VAGAN.replace("weight = 0.5", 'weight = 0.5\nbalance = ["reconstruction"]')


def test_a_balanced_term_is_scaled_to_the_gradient_of_the_others_at_the_last_layer(training: Callable[..., Training]) -> None:
    """Esser et al. 2020, equation 7: the factor, times the recipe's weight; written out with autograd.grad."""
    state = training(BALANCED, *SGD, "optim.discriminator.lr=0.0", "loss.reconstruction.weight=3.0")
    model = state.model
    data = batch()
    leaves = state.leaves(state.planner.plan(model.terms), data, 1, 0)[0]
    posterior = model.parts["latent"].posterior(model.parts["encoder"](data["x"]))
    both = [posterior.sample(leaves["noise@z"]), leaves["noise@z_prior"]]
    raw = [model.parts["decoder"](z) for z in both]
    reconstruction = 3.0 * model.parts["loss.reconstruction"](data["x"], raw[0].tanh(), raw[0])
    judged = [model.parts["discriminator.main"](r.tanh())[0] for r in raw]
    adversarial = sum(torch.nn.functional.softplus(-logits).mean() for logits in judged) / 2
    last = model.parts["decoder"].to_raw.weight
    assert last is last_weight(model.parts["decoder"])
    norms = [torch.autograd.grad(v, last, retain_graph=True)[0].norm() for v in (reconstruction, adversarial)]
    factor = norms[0] / (norms[1] + 1e-6)
    kl = posterior.kl(model.parts["latent"].prior()).mean()
    total = reconstruction + kl + 0.5 * factor.detach() * adversarial
    expected = torch.autograd.grad(total, list(model.parts["decoder"].parameters()))
    before = parameters(model)
    values = train_step(state, [data], 1)
    torch.testing.assert_close(values["state.loss.adversarial.balance"], factor.detach(), rtol=1e-4, atol=0)
    for (name, value), slope in zip(model.parts["decoder"].named_parameters(), expected, strict=True):
        torch.testing.assert_close(before[f"decoder/{name}"] - value.detach(), 0.1 * slope, rtol=1e-3, atol=1e-6)


def test_without_balance_nothing_is_scaled_and_the_factor_is_limited(training: Callable[..., Training]) -> None:
    assert not any("balance" in name for name in train_step(training(VAGAN), [batch()], 1))
    values = train_step(training(BALANCED, "loss.adversarial.balance_limit=0.25"), [batch()], 1)
    assert float(values["state.loss.adversarial.balance"]) == 0.25


def test_balance_compares_with_the_weighted_sum_of_all_that_it_names(training: Callable[..., Training]) -> None:
    text = BALANCED.replace('["reconstruction"]', '["reconstruction", "more"]') + '[loss.more]\nuse = "absolute-error"\n'
    one, two = (training(text, f"loss.more.weight={w}") for w in (1e-6, 1e3))
    factors = [float(train_step(s, [batch()], 1)["state.loss.adversarial.balance"]) for s in (one, two)]
    assert factors[1] > 10 * factors[0]


def test_a_balanced_term_alone_in_its_group_moves_its_parts(training: Callable[..., Training]) -> None:
    """The decoder has a backward pass of its own here, and every term of it is balanced, or the term it is compared to."""
    text = BALANCED.replace("weight = 0.5", 'weight = 0.5\ntrains = ["decoder"]')
    state = training(text, *SGD)
    before = parameters(state.model)
    train_step(state, [batch()], 1)
    still = [name for name, value in parameters(state.model).items() if torch.equal(value, before[name])]
    assert still == []


def test_a_balanced_step_compiles_and_agrees(training: Callable[..., Training]) -> None:
    eager, fast = training(BALANCED, *SGD), training(BALANCED, *SGD)
    compile_by(fast, "aot_eager")
    for step in (1, 2):
        one, other = (train_step(state, [batch(seed=step)], step) for state in (eager, fast))
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
    close(parameters(fast.model), parameters(eager.model), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_balanced_is_said(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"loss 'kl' does not train the decoder"):
        training(VAGAN, 'loss.adversarial.balance=["kl"]')
    with pytest.raises(RecipeError, match=r"balanced against 'reconstructon', which is no loss.*did you mean `reconstruction`"):
        training(VAGAN, 'loss.adversarial.balance=["reconstructon"]')
    with pytest.raises(RecipeError, match="balanced against itself"):
        training(VAGAN, 'loss.adversarial.balance=["adversarial"]')
    with pytest.raises(RecipeError, match=r"which is balanced itself"):
        training(BALANCED, 'loss.reconstruction.balance=["adversarial"]')
    with pytest.raises(RecipeError, match=r"which is lazy \(every = 2\)"):
        training(BALANCED, "loss.reconstruction.every=2")
    with pytest.raises(RecipeError, match=r"not of micro-batches; write train.accumulate = 1"):
        training(BALANCED, "train.accumulate=2")
    with pytest.raises(RecipeError, match=r"names a loss twice"):
        training(VAGAN, 'loss.adversarial.balance=["reconstruction", "reconstruction"]')


def test_balance_compares_with_what_the_decoder_gets_of_the_others(training: Callable[..., Training]) -> None:
    """Larsen's share of the reconstruction scales what the adversarial term is scaled to."""
    factors = []
    for share in (1.0, 1e-3):
        state = training(BALANCED, f"loss.reconstruction.trains={{encoder=1.0,decoder={share}}}")
        factors.append(float(train_step(state, [batch()], 1)["state.loss.adversarial.balance"]))
    assert factors[1] == pytest.approx(1e-3 * factors[0], rel=1e-3)


def test_a_balanced_term_counts_nothing_while_all_that_it_is_compared_to_is_off(training: Callable[..., Training]) -> None:
    state = training(BALANCED, *SGD, "loss.reconstruction.weight={to=1.0,start=2}", "train.steps=10", "loss.kl.weight=0")
    before = parameters(state.model)
    train_step(state, [batch()], 1)
    assert torch.equal(parameters(state.model)["decoder/to_raw.weight"], before["decoder/to_raw.weight"])


def test_a_decoder_may_name_its_last_layer() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.body = nn.Linear(2, 3), nn.Linear(2, 2)

    odd = Odd()
    assert last_weight(odd) is odd.body.weight
    odd.last_layer = odd.out
    assert last_weight(odd) is odd.out.weight
    assert last_weight(nn.Linear(2, 2).requires_grad_(False)) is None


# -- parts that are held back --------------------------------------------------------------------------------------------


def moved(state: Training, step: int) -> set[str]:
    before = parameters(state.model)
    train_step(state, [batch(seed=step)], step)
    return {name.partition("/")[0] for name, v in parameters(state.model).items() if not torch.equal(v, before[name])}


def test_a_held_part_alone_stays_and_its_optimiser_counts_no_step(training: Callable[..., Training]) -> None:
    text = VAGAN.replace('[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp"\nhold = "waiting"')
    state = training(text + '[quantity.waiting]\nuse = "late"\nuntil = 2\n')
    assert moved(state, 1) == {"encoder", "discriminator.main"}
    assert moved(state, 2) == {"encoder", "discriminator.main"}
    assert moved(state, 3) == {"encoder", "decoder", "discriminator.main"}
    steps = {float(s["step"]) for s in state.held_optimisers["decoder"].state.values()}
    others = {float(s["step"]) for s in state.optimisers["generator"].state.values()}
    assert (steps, others) == ({1.0}, {3.0})


def test_a_held_part_that_is_free_again_moves_as_if_it_had_an_optimiser_like_all(training: Callable[..., Training]) -> None:
    never = VAGAN.replace('[decoder]\nuse = "mlp"', '[decoder]\nuse = "mlp"\nhold = "waiting"')
    state, plain = training(never + '[quantity.waiting]\nuse = "late"\nuntil = 0\n'), training(VAGAN)
    for step in (1, 2):
        values = train_step(state, [batch(seed=step)], step)
        train_step(plain, [batch(seed=step)], step)
    assert float(values["state.decoder.held"]) == 0.0
    close(parameters(state.model), parameters(plain.model), rtol=0, atol=0)


def test_a_critic_is_held_by_what_it_says_of_any_generated_batch(training: Callable[..., Training]) -> None:
    text = VAGAN.replace("[discriminator]", '[quantity.sure]\nuse = "confident"\n[discriminator]\nhold = "sure"')
    state = training(text)
    for shift, held in ((50.0, False), (-50.0, True)):
        with torch.no_grad():
            state.model.parts["discriminator.main"].to_logit.bias.fill_(shift)
        values_before = parameters(state.model)
        values = train_step(state, [batch()], 1)
        assert bool(values["state.discriminator.main.held"]) is held
        after = parameters(state.model)
        stays = all(torch.equal(after[k], v) for k, v in values_before.items() if k.startswith("discriminator"))
        assert stays is held
        assert not torch.equal(after["decoder/to_raw.weight"], values_before["decoder/to_raw.weight"])


def test_what_holds_a_part_sees_the_joint_batch_whatever_the_micro_batches(training: Callable[..., Training]) -> None:
    """Ahead on one generated batch and behind on another is neither: judged apart, both players would wait for ever."""
    gates = '[quantity.ahead]\nuse = "critic-ahead"\n[quantity.behind]\nuse = "critic-behind"\n'
    text = VAGAN.replace("[discriminator]", '[discriminator]\nhold = "ahead"').replace(
        "[decoder]", '[decoder]\nhold = "behind"'
    )
    whole, pieces = training(text + gates), training(text + gates, "train.accumulate=4")
    shown: list[tuple[int, ...]] = []
    for path in ("quantity.ahead", "quantity.behind"):
        for state in (whole, pieces):
            state.model.parts[path].register_forward_pre_hook(
                lambda m, args, given: shown.append((len(given["real_logits"]), len(given["fake_logits"]))), with_kwargs=True
            )
    for step in (1, 2, 3):
        values = [train_step(state, [batch(seed=step)], step) for state in (whole, pieces)]
        assert [float(v["state.decoder.held"]) for v in values] == [float(values[0]["state.decoder.held"])] * 2
    assert set(shown) == {(8, 16)}


def test_holding_reads_nothing_from_the_device_and_resumes(training: Callable[..., Training]) -> None:
    text = VAGAN.replace("[discriminator]", '[quantity.sure]\nuse = "confident"\n[discriminator]\nhold = "sure"')
    whole, first, second = training(text), training(text), training(text)
    for step in (1, 2, 3, 4):
        train_step(whole, [batch(seed=step)], step)
    for step in (1, 2):
        train_step(first, [batch(seed=step)], step)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in (3, 4):
        train_step(second, [batch(seed=step)], step)
    close(parameters(second.model), parameters(whole.model), rtol=0, atol=0)


def test_a_held_part_keeps_its_state_and_its_unclipped_weights(training: Callable[..., Training]) -> None:
    text = VAGAN.replace('[latent]\nuse = "gaussian"\ndim = 4', '[latent]\nuse = "vector-quantised"\ncodes = 4\ndim = 4')
    text = text.replace('[loss.kl]\nuse = "kl"', '[loss.codes]\nuse = "quantisation"')
    text = text.replace('fake = ["recon", "fake"]', 'fake = "recon"\naugment = { use = "ada" }')
    text = text.replace('use = "mlp"\nwidth = 16\nfake', 'use = "batch-norm"\nhold = "waiting"\nfake')
    text = text.replace("[latent]", '[latent]\nhold = "waiting"') + '[quantity.waiting]\nuse = "late"\nuntil = 2\n'
    state = training(text, "optim.discriminator.clip_weights=0.01")
    held = ("latent/", "discriminator.main/", "discriminator.main.augment/")
    before = {k: v.clone() for k, v in state.model.state_dict().items() if k.startswith(held)}
    for step in (1, 2):
        train_step(state, [batch(seed=step)], step)
    for name, value in before.items():
        assert torch.equal(state.model.state_dict()[name], value), name
    train_step(state, [batch(seed=3)], 3)
    after = state.model.state_dict()
    for name in ("latent/codes", "discriminator.main/first.weight", "discriminator.main/norm.running_mean"):
        assert not torch.equal(after[name], before[name]), name


def test_a_hold_runs_no_critic_that_learns_nothing_in_a_step(training: Callable[..., Training]) -> None:
    text = GAN.replace("[discriminator]", '[quantity.sure]\nuse = "confident"\n[discriminator]\nhold = "sure"')
    off = "loss.adversarial.discriminator_weight={to=1.0,start=2}"
    state = training(text, off, "train.steps=10", "loss.adversarial.weight=0.5")
    assert "state.discriminator.main.held" not in train_step(state, [batch()], 1)
    assert "state.discriminator.main.held" in train_step(state, [batch()], 3)


def test_what_can_hold_nothing_is_said_before_the_first_step(training: Callable[..., Training]) -> None:
    for name, got in (("posterior", "DiagonalGaussian"), ("z", r"a tensor of shape \(2, 4\)")):
        with pytest.raises(RecipeError, match=got):
            training(VAE, f"decoder.hold={name}")
    with pytest.raises(RecipeError, match=r"\[latent\] has nothing that learns"):
        training(VAE, "latent.hold=progress")
    assert training(VAE.replace("[decoder]", '[decoder]\nhold = "progress"'), "decoder.hold=false").model.holds == {}


def test_an_update_that_fails_is_found_in_the_dry_run(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"loss.wrong: it fails in the dry run of a step: AttributeError.*runing"):
        training(AE + '[loss.wrong]\nuse = "misspelt"\n')


def test_a_hold_that_does_not_exist_is_an_error_where_it_stands(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"\[decoder\] is held by `critic_ahed`: there is no quantity.*a provider makes"):
        training(VAGAN, "decoder.hold=critic_ahed")
    with pytest.raises(RecipeError, match=r"held by `fake_logits`.*no \[discriminator\]"):
        training(VAE, "decoder.hold=fake_logits")


# -- clipped weights, reported state ---------------------------------------------------------------------------------------


def test_weights_are_clipped_after_each_update_of_their_player_only(training: Callable[..., Training]) -> None:
    state = training(GAN, "optim.discriminator.clip_weights=0.01")
    train_step(state, [batch()], 1)
    largest = {name.partition("/")[0]: 0.0 for name in parameters(state.model)}
    for name, value in parameters(state.model).items():
        largest[name.partition("/")[0]] = max(largest[name.partition("/")[0]], float(value.abs().max()))
    assert largest["discriminator.main"] == pytest.approx(0.01)
    assert largest["decoder"] > 0.05


def test_reported_buffers_are_in_every_row_and_an_update_sees_all_generated_batches(training: Callable[..., Training]) -> None:
    state = training(VAGAN + '[loss.telling]\nuse = "telling"\n')
    for step in (1, 2):
        values = train_step(state, [batch(seed=step)], step)
        assert float(values["state.loss.telling.count"]) == step
        assert float(values["state.loss.telling.seen"]) == 2.0  # recon and fake, laid end to end


def test_accuracies_are_counted_from_the_logit_that_decides_in_the_game(training: Callable[..., Training]) -> None:
    def accuracies(*overrides: str) -> dict[str, float]:
        state = training(GAN, *overrides)
        with torch.no_grad():  # every logit is 0.4: above 0, below least squares' one half
            for parameter in state.model.parts["discriminator.main"].to_logit.parameters():
                parameter.zero_()
            state.model.parts["discriminator.main"].to_logit.bias.fill_(0.4)
        return {k: float(v) for k, v in train_step(state, [batch()], 1).items() if k.startswith("critic.")}

    assert accuracies() == {"critic.main.real_accuracy": 1.0, "critic.main.fake_accuracy": 0.0}
    squares = accuracies("loss.adversarial.formulation=least-squares")
    assert squares == {"critic.main.real_accuracy": 0.0, "critic.main.fake_accuracy": 1.0}
    assert accuracies("loss.adversarial.formulation=wasserstein") == {}
    assert accuracies("loss.adversarial.use=relativistic") == {}


def test_reporting_what_is_no_scalar_buffer_is_an_error(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"`reports` names `nothing`, which is no scalar buffer"):
        training(AE + '[loss.silent]\nuse = "silent"\n')


def test_losses_that_disagree_on_what_a_logit_means_leave_no_accuracy(training: Callable[..., Training]) -> None:
    for first, second in (("adversarial", "relativistic"), ("relativistic", "adversarial")):
        state = training(GAN + f'[loss.a]\nuse = "{first}"\n[loss.b]\nuse = "{second}"\n')
        assert state.model.decisions() == {"main": None}


def test_a_loss_called_discriminator_is_a_loss_like_any_other(training: Callable[..., Training]) -> None:
    state = training(VAGAN + '[loss.discriminator]\nuse = "poison"\nat = 1\n')
    train_step(state, [batch()], 1)
    assert state.fault() == (1, "loss.discriminator")
