"""What a component may ask for: noise of its own shape, networks' weights, codes of samples, tokens, facts of the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import AE, FIXTURES, GAN, LABELLED, SPEC, VAE, VAGAN, batch, parameters
from torch import Tensor, nn

from hybridgen import hookimpl
from hybridgen.data import Arrays, Batches, SampleSpec, batches_in_order, open_data
from hybridgen.errors import DataError, RecipeError
from hybridgen.names import QUANTITIES
from hybridgen.registry import Registry, load_registry
from hybridgen.step import Training, train_step
from hybridgen.use import GenerativeModel

TOKENS = SampleSpec(kind="tokens", shape=(6, 5), count=64, levels=5, activation="softmax", padding=0)


class Points(nn.Module):
    """A loss that draws three points a sample, of both kinds, and keeps them."""

    def __init__(self, z_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.draws = {"points": ("normal", (3, *z_shape)), "coins": ("uniform", (4,))}
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, recon: Tensor, points: Tensor, coins: Tensor) -> Tensor:
        self.seen.append((points, coins))
        return recon.mean() + 0.0 * points.mean() + 0.0 * coins.mean()


class NoisyDecoder(nn.Module):
    """A decoder with noise of its own in every call."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = sample_shape
        self.draws = {"jitter": ("normal", (7,))}
        self.body = nn.Linear(z_shape[0] + 7, math.prod(sample_shape))

    def forward(self, z: Tensor, jitter: Tensor) -> Tensor:
        return self.body(torch.cat([z, jitter], 1)).unflatten(1, self.shape)


class Jitter(nn.Module):
    """An augmentation that knows the shape of what is judged."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.draws = {"jitter": ("uniform", judged_shape)}

    def forward(self, x: Tensor, jitter: Tensor) -> Tensor:
        return x + 0.1 * jitter


class Crop(nn.Module):
    """An augmentation after which samples have another shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:-1, 2:-2]


class WeightWatcher(nn.Module):
    """A loss whose state follows the decoder's last weight."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(()))

    def forward(self, recon: Tensor) -> Tensor:
        return recon.mean()

    def update(self, decoder_weights: dict[str, Tensor], x: Tensor) -> None:
        self.rows.fill_(float(len(decoder_weights["to_raw.weight"]) * 1000 + len(x)))


class Remembering(nn.Module):
    """A provider that keeps the mean of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x

    def update(self, x: Tensor) -> None:
        self.mean.copy_(x.mean())


class FromTokensAgain(nn.Module):
    """A decoder that is given the real tokens."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(sample_shape[1], 4), nn.Linear(z_shape[0] + 4, sample_shape[1])

    def forward(self, z: Tensor, tokens: Tensor) -> Tensor:
        near = self.embed(tokens)
        return self.body(torch.cat([z[:, None].expand(-1, near.shape[1], -1), near], -1))


class Decay(nn.Module):
    """Weight decay of each network, as a loss."""

    def generator(self, encoder_weights: dict[str, Tensor], decoder_weights: dict[str, Tensor]) -> Tensor:
        return sum(w.square().sum() for w in (*encoder_weights.values(), *decoder_weights.values()))

    def discriminator(self, critic_weights: dict[str, Tensor]) -> Tensor:
        return sum(w.square().sum() for w in critic_weights.values())


class Facts(nn.Module):
    """What a constructor is told of the run."""

    def __init__(self, batch_size: int, examples: int) -> None:
        super().__init__()
        self.told = (batch_size, examples)

    def forward(self, recon: Tensor) -> Tensor:
        return recon.mean()


class Recode(nn.Module):
    """The code of a sample against the latent that it was made from."""

    def forward(self, fake_code: Tensor, z_prior: Tensor) -> Tensor:
        return (fake_code[:, : z_prior.shape[1]] - z_prior).square().mean()


class Echo(nn.Module):
    """What a generated sample becomes, encoded and decoded again, kept to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, Any] = {}

    def forward(
        self, fake: Tensor, fake_code: Tensor, fake_posterior: Any, fake_z: Tensor, fake_recon_raw: Tensor, fake_recon: Tensor
    ) -> Tensor:
        self.heard = {k: v for k, v in locals().items() if k.startswith("fake")}
        return (fake - fake_recon).square().mean()


@dataclass(frozen=True)
class Shifted:
    shift: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        return noise + self.shift

    def log_prob(self, z: Tensor) -> Tensor:
        return -0.5 * (z - self.shift).square().sum(1)


class Asking(nn.Module):
    """A latent whose prior asks for the encoder."""

    def __init__(self, sample_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.code_shape, self.z_shape = (6,), (3,)
        self.point = nn.Parameter(torch.zeros(1, *sample_shape))

    def posterior(self, code: Tensor) -> Any:
        from hybridgen_latents.gaussian import DiagonalGaussian

        return DiagonalGaussian(code[:, :3], code[:, 3:])

    def prior(self, encode: Any) -> Shifted:
        return Shifted(encode(self.point)[:, :3])


def zeroed(label: Tensor) -> Tensor:
    """Every label the first."""
    return label * 0


class Pairs(nn.Module):
    """A conditional critic that keeps the pairs it was shown."""

    def __init__(self, judged_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(math.prod(judged_shape), num_classes)
        self.shown: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        self.shown.append((x.detach(), label))
        return self.body(x.flatten(1)).gather(1, label[:, None]).squeeze(1)


class Painter(nn.Module):
    """A conditional decoder whose sample shows its label, and one weight to learn."""

    def __init__(self, z_shape: tuple[int, ...], sample_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.shape, self.gain = sample_shape, nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return self.gain * (label / 10).atanh()[:, None, None, None].expand(-1, *self.shape)


class FromTokens(nn.Module):
    """An encoder that embeds tokens and leaves padding out."""

    def __init__(self, sample_shape: tuple[int, ...], code_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.code_shape = code_shape
        self.embed = nn.Embedding(sample_shape[1], math.prod(code_shape))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return (self.embed(tokens) * mask[..., None]).sum(1).unflatten(1, self.code_shape)


@hookimpl
def register_components(register: Any) -> None:
    register.loss("points", Points)
    register.loss("decay", Decay)
    register.loss("weight-watcher", WeightWatcher)
    register.provider("remembering", Remembering)
    register.decoder("from-tokens", FromTokensAgain)
    register.loss("facts", Facts)
    register.loss("recode", Recode)
    register.loss("echo", Echo)
    register.loss("twice", Twice)
    register.provider("zeroed", zeroed)
    register.decoder("noisy", NoisyDecoder)
    register.encoder("from-tokens", FromTokens)
    register.latent("asking", Asking)
    register.discriminator("pairs", Pairs)
    register.decoder("painter", Painter)
    register.provider("jitter", Jitter)
    register.provider("crop", Crop)


@pytest.fixture(scope="module")
def registry() -> Registry:
    """The fixtures' registry, which `training` loads recipes by, with this module's components."""
    mine = SimpleNamespace(register_components=register_components)
    return load_registry(extra={"fixtures": FIXTURES, "mine": mine})


# -- noise of its own ----------------------------------------------------------------------------------------------------


def test_a_part_states_what_noise_it_wants_and_gets_it_anew_each_step(training: Callable[..., Training]) -> None:
    state = training(VAE + '[loss.points]\nuse = "points"\n')
    for step in (1, 2):
        train_step(state, [batch(seed=step)], step)
    (points, coins), (later, _) = state.model.parts["loss.points"].seen[-2:]  # type: ignore[misc,index]
    assert (points.shape, coins.shape) == ((8, 3, 4), (8, 4))
    assert points.min() < 0 <= coins.min() <= coins.max() < 1
    assert not torch.equal(points, later)


def test_micro_batches_get_slices_of_it(training: Callable[..., Training]) -> None:
    text = VAE + '[loss.points]\nuse = "points"\n'
    whole, pieces = training(text), training(text, "train.accumulate=4")
    for state in (whole, pieces):
        train_step(state, [batch()], 1)
    one = whole.model.parts["loss.points"].seen[-1][0]  # type: ignore[index]
    many = [points for points, _ in pieces.model.parts["loss.points"].seen[-4:]]  # type: ignore[index,union-attr]
    torch.testing.assert_close(torch.cat(many), one, rtol=0, atol=0)


def test_a_network_draws_for_each_of_its_calls_in_training_and_in_use(training: Callable[..., Training]) -> None:
    state = training(VAGAN.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "mine:noisy"'))
    assert {"jitter@recon_raw", "jitter@fake_raw"} <= set(state.model.noise)
    train_step(state, [batch()], 1)
    model = GenerativeModel(state.model, state.averaged)
    assert not torch.equal(model.sample(4, seed=0), model.sample(4, seed=1))
    assert torch.equal(model.sample(4, seed=0), model.sample(4, seed=0))
    assert torch.equal(model.reconstruct(batch()["x"]), model.reconstruct(batch()["x"]))  # at its mean


def test_an_augmentation_is_told_the_shape_it_finds_and_the_critic_the_one_it_leaves(training: Callable[..., Training]) -> None:
    critic = 'fake = ["recon", "fake"]'
    state = training(VAGAN.replace(critic, critic + '\naugment = { use = "jitter" }'))
    shapes = {key: noise.shape for key, noise in state.model.noise.items() if key.startswith("jitter")}
    assert shapes == {f"jitter@discriminator.main.{b}.augmented": (1, 8, 8) for b in ("real", "fake.0", "fake.1")}
    state = training(VAGAN.replace(critic, critic + '\naugment = { use = "crop" }'))
    assert state.model.parts["discriminator.main"].layers[0][0].in_features == 6 * 4  # type: ignore[index,union-attr]
    train_step(state, [batch()], 1)


# -- other quantities --------------------------------------------------------------------------------------------------------


def test_weights_by_name_decay_each_network_by_its_own_player(training: Callable[..., Training]) -> None:
    text = VAGAN + '[loss.decay]\nuse = "decay"\n'
    off = ("loss.adversarial.weight=0", "loss.adversarial.discriminator_weight=0", "loss.reconstruction.weight=0")
    state = training(text, *off, "loss.kl.weight=0", "optim.use=sgd", "optim.lr=0.1")
    before = parameters(state.model)
    values = train_step(state, [batch()], 1)
    for name, value in parameters(state.model).items():
        torch.testing.assert_close(value, 0.8 * before[name])  # w - 0.1 * 2 w
    expected = sum(v.square().sum() for k, v in before.items() if k.startswith("discriminator"))
    torch.testing.assert_close(values["loss.decay.discriminator"], expected)


def test_the_code_of_samples_is_the_encoder_on_fake_in_one_call_with_that_of_x(training: Callable[..., Training]) -> None:
    state = training(VAE + '[loss.recode]\nuse = "recode"\n')
    calls: list[int] = []
    state.model.parts["encoder"].register_forward_hook(lambda m, i, out: calls.append(out.shape[0]))
    train_step(state, [batch()], 1)
    assert sorted(calls) == [8, 8]  # fake needs the decoder first: no one call for both here
    definition = state.model.graph.definitions["fake_code"]
    assert definition.arguments == (("x", "fake"),)
    with pytest.raises(RecipeError, match=r"asks for `fake_code`: there is no \[encoder\]"):
        training(GAN + '[loss.recode]\nuse = "recode"\n')


ECHO = '[loss.echo]\nuse = "echo"\n'


def heard(state: Training, data: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the term was given in step 1, and the leaves of that step."""
    leaves = state.leaves(state.planner.plan(state.model.terms), data, 1, 0)[0]
    train_step(state, [data], 1)
    return state.model.parts["loss.echo"].heard, leaves  # type: ignore[return-value]


@pytest.mark.parametrize("denoising", [False, True])
def test_a_sample_encoded_and_decoded_again_is_what_the_parts_make_of_it_by_hand(
    denoising: bool, training: Callable[..., Training]
) -> None:
    """Clean, where the encoder is bound to something else than x: what is done to real data has nothing to do with samples."""
    text = VAE + ECHO
    if denoising:
        text = text.replace("[decoder]", 'inputs = { x = "x_noisy" }\n[decoder]', 1) + '[quantity.x_noisy]\nuse = "noisy"\n'
    state = training(text, "optim.lr=0.0")
    got, leaves = heard(state, batch())
    encoder, decoder, latent = (state.model.parts[part] for part in ("encoder", "decoder", "latent"))
    assert not torch.equal(leaves["noise@fake_z"], leaves["noise@z"])
    fake = decoder(leaves["noise@z_prior"]).tanh()
    posterior = latent.posterior(encoder(fake))  # type: ignore[operator]
    z = posterior.sample(leaves["noise@fake_z"])
    expected = {
        "fake": fake,
        "fake_code": encoder(fake),
        "fake_z": z,
        "fake_recon_raw": decoder(z),
        "fake_recon": decoder(z).tanh(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=lambda m, n=name: f"{n}: {m}")
    for side in ("mean", "logvar"):
        torch.testing.assert_close(getattr(got["fake_posterior"], side), getattr(posterior, side))


def test_a_sample_keeps_its_own_label_when_it_is_encoded_and_decoded_again(training: Callable[..., Training]) -> None:
    text = VAE.replace('use = "mlp"', 'use = "mlp-conditional"') + ECHO
    state = training(text, "optim.lr=0.0", spec=LABELLED)
    got, leaves = heard(state, batch(spec=LABELLED))
    for name in ("fake_raw", "fake_code", "fake_recon_raw"):  # in training they are the batch's, in use they are asked for
        assert ("label", "fake_label") in state.model.graph.definitions[name].arguments
    label, parts = leaves["fake_label"], state.model.parts
    z = parts["latent"].posterior(parts["encoder"](got["fake"], label)).sample(leaves["noise@fake_z"])  # type: ignore[operator]
    torch.testing.assert_close(got["fake_recon"], parts["decoder"](z, label).tanh())


def test_there_is_no_such_sample_without_an_encoder_or_a_prior(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"asks for `fake_code`: there is no \[encoder\]"):
        training(GAN + ECHO)
    with pytest.raises(RecipeError, match=r"asks for `fake`: latent 'deterministic' has no prior"):
        training(AE + ECHO)


def test_every_quantity_that_hybridgen_defines_is_in_the_glossary(training: Callable[..., Training]) -> None:
    wiring = training(VAE + ECHO).model.wiring
    assert wiring._standard.keys() <= QUANTITIES.keys()
    assert {"fake_posterior", "fake_z", "fake_recon_raw", "fake_recon"} <= set(wiring.names())


def test_a_prior_may_ask_and_its_gradient_reaches_what_it_asked_for(training: Callable[..., Training]) -> None:
    state = training(VAE.replace('use = "gaussian"\ndim = 4', 'use = "asking"'))
    assert state.model.graph.definitions["prior"].arguments == (("encode", "encode"),)
    before = parameters(state.model)
    train_step(state, [batch()], 1)
    assert not torch.equal(before["latent/point"], parameters(state.model)["latent/point"])
    assert GenerativeModel(state.model, state.averaged).sample(5).shape == (5, 1, 8, 8)


class Twice(nn.Module):
    """The decoder called by name at the latent that `recon_raw` was made from."""

    def forward(self, decode: Any, z: Tensor, recon_raw: Tensor) -> Tensor:
        return (decode(z) - recon_raw).abs().max()


def test_a_callable_network_has_the_roles_that_its_recipe_binds(training: Callable[..., Training]) -> None:
    """`decode(z)` is what `recon_raw` is, with a label that the recipe rebinds as well."""
    text = VAE.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "conditional"\ninputs = { label = "other" }')
    text += '[quantity.other]\nuse = "zeroed"\n[loss.twice]\nuse = "twice"\n'
    state = training(text, spec=LABELLED)
    assert state.model.graph.definitions["decode"].arguments == (("label", "other"),)
    assert float(train_step(state, [batch(spec=LABELLED)], 1)["loss.twice"]) == 0.0


def test_what_has_no_batch_axis_is_not_laid_end_to_end(training: Callable[..., Training]) -> None:
    for accumulate in (1, 4):
        state = training(VAE + '[loss.watch]\nuse = "weight-watcher"\n', f"train.accumulate={accumulate}")
        train_step(state, [batch()], 1)
        assert float(state.model.parts["loss.watch"].rows) == 64 * 1000 + 8


def test_an_update_sees_what_its_recipe_rebinds(training: Callable[..., Training]) -> None:
    text = VAE.replace("[decoder]", 'inputs = { x = "kept" }\n[decoder]')
    text += '[quantity.kept]\nuse = "remembering"\ninputs = { x = "noise" }\n'
    state = training(text)
    train_step(state, [batch()], 1)
    leaves = state.leaves(state.planner.plan(state.model.terms), batch(), 1, 0)[0]
    expected = leaves["noise@quantity.kept"].mean()
    torch.testing.assert_close(state.model.parts["quantity.kept"].mean, expected)


def test_noise_of_an_unknown_kind_is_an_error(training: Callable[..., Training], monkeypatch: pytest.MonkeyPatch) -> None:
    before = Points.__init__

    def misspelt(self: Points, z_shape: tuple[int, ...]) -> None:
        before(self, z_shape)
        self.draws = {**self.draws, "coins": ("unifrom", (4,))}

    monkeypatch.setattr(Points, "__init__", misspelt)
    with pytest.raises(RecipeError, match=r"'unifrom'; there are \"normal\" and \"uniform\""):
        training(VAE + '[loss.points]\nuse = "points"\n')


def test_facts_of_the_run_and_the_data(training: Callable[..., Training]) -> None:
    state = training(AE + '[loss.facts]\nuse = "facts"\n', "data.validation=0.25")
    assert state.model.parts["loss.facts"].told == (8, 48)  # a quarter of 64 is held out
    own = SampleSpec(**{**SPEC.to_dict(), "split": True})
    state = training(AE + '[loss.facts]\nuse = "facts"\n', spec=own)
    assert state.model.parts["loss.facts"].told == (8, 64)


def test_a_critic_judges_each_sample_with_its_own_label(training: Callable[..., Training]) -> None:
    """Pairs stay pairs, in both updates: real samples with their labels, generated ones with what they were made for."""
    text = GAN.replace('use = "mlp"\nwidth = 16\n[latent]', 'use = "painter"\n[latent]')
    text = text.replace('[discriminator]\nuse = "mlp"\nwidth = 16', '[discriminator]\nuse = "pairs"')
    state = training(text, spec=LABELLED)
    data = batch(spec=LABELLED)
    train_step(state, [data], 1)
    shown = state.model.parts["discriminator.main"].shown[-2:]  # type: ignore[index]
    (both, labels), (fake, fake_label) = shown  # the critic's own update on both batches, the generator's on its samples
    assert torch.equal(both[:8], data["x"])
    assert torch.equal(labels[:8], data["label"])
    for samples, of in ((both[8:], labels[8:]), (fake, fake_label)):
        torch.testing.assert_close(samples.mean((1, 2, 3)), of / 10)


# -- tokens ------------------------------------------------------------------------------------------------------------------


def test_tokens_are_one_hot_with_indices_and_mask_beside(training: Callable[..., Training]) -> None:
    stored = torch.tensor([[1, 4, 2, 0, 0, 0], [3, 3, 1, 1, 2, 0]])
    made = TOKENS.batch(stored)
    assert made["x"].shape == (2, 6, 5)
    assert torch.equal(made["x"].argmax(-1), stored)
    assert float(made["x"].sum()) == 12.0
    assert torch.equal(made["tokens"], stored)
    assert torch.equal(made["mask"], stored != 0)
    assert torch.equal(TOKENS.to_stored(made["x"]), stored)
    assert SampleSpec.from_dict(TOKENS.to_dict()) == TOKENS


def test_token_data_batch_split_and_are_checked(training: Callable[..., Training]) -> None:
    class Source:
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def describe(self) -> SampleSpec:
            return TOKENS

        def load(self) -> dict[str, Arrays]:
            return {"train": Arrays(self.x)}

    data = training(VAE).model.recipe.data
    good = torch.randint(0, 5, (64, 6))
    splits = open_data(Source(good), data)
    assert {k: len(v) for k, v in splits.items()} == {"train": 58, "validation": 6}
    cpu = torch.device("cpu")
    assert set(Batches(splits["train"], TOKENS, 8, 0, cpu).batch(0)) == {"x", "tokens", "mask"}
    assert set(next(batches_in_order(splits["train"], TOKENS, 8, cpu))) == {"x", "tokens", "mask"}
    with pytest.raises(DataError, match="tokens run from 0 to 5, expected 0 to 4"):
        open_data(Source(torch.where(good == 4, 5, good)), data)
    with pytest.raises(DataError, match=r"tokens are torch.float32, expected whole numbers"):
        open_data(Source(good + 0.5), data)
    with pytest.raises(DataError, match=r"have the shape \(5,\), expected \(6,\)"):
        open_data(Source(good[:, 1:]), data)


def test_networks_take_tokens_either_way_and_samples_are_distributions(training: Callable[..., Training]) -> None:
    for encoder in ("mlp", "from-tokens"):
        width = "\nwidth = 16" if encoder == "mlp" else ""
        state = training(VAE.replace('[encoder]\nuse = "mlp"\nwidth = 16', f'[encoder]\nuse = "{encoder}"{width}'), spec=TOKENS)
        train_step(state, [batch(spec=TOKENS)], 1)
        model = GenerativeModel(state.model, state.averaged)
        torch.testing.assert_close(model.sample(3).sum(-1), torch.ones(3, 6))
        assert model.encode(batch(spec=TOKENS)["x"]).shape == (8, 4)
        assert model.reconstruct(batch(spec=TOKENS)["x"]).shape == (8, 6, 5)


def test_generated_samples_are_given_no_real_tokens(training: Callable[..., Training]) -> None:
    forced = VAE.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "from-tokens"')
    model = training(forced, spec=TOKENS).model
    assert "fake" not in model.wiring.names()
    text = VAE.replace('[encoder]\nuse = "mlp"\nwidth = 16', '[encoder]\nuse = "from-tokens"')
    with pytest.raises(RecipeError, match="those of the real batch, and generated samples have none"):
        training(text + '[loss.recode]\nuse = "recode"\n', spec=TOKENS)


def test_tokens_do_not_exist_for_pictures(training: Callable[..., Training]) -> None:
    with pytest.raises(RecipeError, match=r"asks for `tokens`: the data are no tokens \(their kind is 'image'\)"):
        training(VAE.replace('[encoder]\nuse = "mlp"\nwidth = 16', '[encoder]\nuse = "from-tokens"'), spec=LABELLED)
