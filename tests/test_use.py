"""A trained run in use: what comes out, and what a model that can't says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from common import LABELLED, VAGAN, batch

import hybridgen
from hybridgen.errors import RunError, UnavailableError, UserError
from hybridgen.examples import held_out
from hybridgen.registry import Registry
from hybridgen.step import Training
from hybridgen.use import GenerativeModel

QUICK = {"train.steps": 3, "data.batch_size": 16, "decoder.width": 8, "train.ema": 0.5}


@pytest.fixture(scope="module")
def vagan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = {**QUICK, "encoder.width": 8, "discriminator.width": 8}
    return hybridgen.train("vagan-digits", chosen, runs=tmp_path_factory.mktemp("runs")).path


@pytest.fixture(scope="module")
def model(vagan: Path) -> GenerativeModel:
    return hybridgen.load(vagan)


def test_samples_are_reproducible_and_in_model_space(model: GenerativeModel) -> None:
    x = model.sample(700, seed=1)
    assert x.shape == (700, 1, 8, 8)
    assert x.dtype == torch.float32
    assert float(x.abs().max()) <= 1.0
    assert torch.equal(x, model.sample(700, seed=1))
    assert not torch.equal(x, model.sample(700, seed=2))


def test_reconstruction_is_decoding_of_the_encoding(model: GenerativeModel, vagan: Path) -> None:
    x, _ = held_out(vagan, 20)
    assert x.shape == (20, 1, 8, 8)
    z = model.encode(x)
    assert z.shape == (20, 16)
    torch.testing.assert_close(model.decode(z), model.reconstruct(x))


def test_interpolation_ends_at_the_reconstructions(model: GenerativeModel, vagan: Path) -> None:
    x, _ = held_out(vagan, 6)
    path = model.interpolate(x[:3], x[3:], steps=5)
    assert path.shape == (3, 5, 1, 8, 8)
    torch.testing.assert_close(path[:, 0], model.reconstruct(x[:3]))
    torch.testing.assert_close(path[:, -1], model.reconstruct(x[3:]))
    middle = (model.encode(x[:3]) + model.encode(x[3:])) / 2
    torch.testing.assert_close(path[:, 2], model.decode(middle))


def test_load_uses_the_average(vagan: Path, model: GenerativeModel) -> None:
    from hybridgen.checkpoint import latest, load_checkpoint

    found = latest(vagan / "checkpoints")
    assert found is not None
    saved = load_checkpoint(found)
    assert saved.ema is not None
    name = "decoder/to_raw.weight"
    assert not torch.equal(saved.ema[name], saved.weights[name])
    assert torch.equal(model._parts["decoder"].to_raw.weight, saved.ema[name])


def test_names_and_steps(vagan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(vagan.parent.parent)
    (vagan.parent.parent / "runs").symlink_to(vagan.parent) if vagan.parent.name != "runs" else None
    with pytest.raises(RunError, match="holds: step-00000003"):
        hybridgen.load(vagan, step=2)
    with pytest.raises(RunError, match="there is no run 'nowhere'"):
        hybridgen.load("nowhere")


@pytest.mark.parametrize(
    ("recipe", "verb", "expected"),
    [
        ("gan-digits", "encode", r"cannot encode: there is no \[encoder\].*Add an encoder"),
        ("gan-digits", "reconstruct", r"cannot reconstruct: there is no \[encoder\]"),
        ("ae-digits", "sample", "cannot sample: latent 'deterministic' has no prior to sample from"),
    ],
)
def test_what_a_model_cannot_offer_says_what_would_make_it_possible(
    recipe: str, verb: str, expected: str, tmp_path: Path
) -> None:
    made = hybridgen.load(hybridgen.train(recipe, QUICK, runs=tmp_path).path)
    with pytest.raises(UnavailableError, match=expected):
        getattr(made, verb)(1 if verb == "sample" else torch.zeros(1, 1, 8, 8))


def test_wrong_input_is_told(model: GenerativeModel) -> None:
    with pytest.raises(UserError, match=r"float tensor of examples in model space, of shape b 1 8 8, got torch.uint8"):
        model.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"got torch.float32 of shape \(2, 64\)"):
        model.reconstruct(torch.zeros(2, 64))
    with pytest.raises(UserError, match=r"got ndarray; torch\.from_numpy makes a tensor"):
        model.encode(torch.zeros(1, 1, 8, 8).numpy())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"of latents, of shape b 16, got torch.float32 of shape \(2, 5\)"):
        model.decode(torch.zeros(2, 5))
    with pytest.raises(UserError, match="at least 1, got 0"):
        model.sample(0)
    with pytest.raises(UnavailableError, match="is not conditional"):
        model.sample(2, label=3)
    with pytest.raises(UserError, match="at least 2 steps"):
        model.interpolate(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), steps=1)


def test_labels_of_a_conditional_model(training: Callable[..., Training], registry: Registry) -> None:
    text = VAGAN.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "conditional"')
    state = training(text, spec=LABELLED)
    frequencies = [0.0] * 9 + [1.0]
    made = GenerativeModel(state.model, state.refresh_averaged(), frequencies)
    drawn = made.sample(4, seed=0)
    torch.testing.assert_close(drawn, made.sample(4, seed=0, label=9))  # class 9 alone was seen
    assert not torch.allclose(drawn, made.sample(4, seed=0, label=2))
    torch.testing.assert_close(made.sample(2, label=[9, 9]), made.sample(2, label=9))
    with pytest.raises(UserError, match="class indices from 0 to 9"):
        made.sample(2, label=10)
    data = batch(3, spec=LABELLED)
    assert made.reconstruct(data["x"], label=data["label"]).shape == (3, 1, 8, 8)


def test_what_is_random_in_training_is_at_its_mean_in_use(training: Callable[..., Training]) -> None:
    """A denoising encoder sees what it is given; twice the same input has twice the same code."""
    text = VAGAN.replace("[decoder]", 'inputs = { x = "x_noisy" }\n[decoder]') + '[quantity.x_noisy]\nuse = "noisy"\n'
    state = training(text)
    made = GenerativeModel(state.model, state.refresh_averaged())
    x = batch(3)["x"]
    encoder, latent = state.averaged["encoder"], state.averaged["latent"]
    torch.testing.assert_close(made.encode(x), latent.posterior(encoder(x)).mean)


def test_a_conditional_autoencoder_decodes_and_interpolates(training: Callable[..., Training]) -> None:
    text = VAGAN.replace('[decoder]\nuse = "mlp"\nwidth = 16', '[decoder]\nuse = "conditional"')
    state = training(text, spec=LABELLED)
    made = GenerativeModel(state.model, state.refresh_averaged())
    data = batch(4, spec=LABELLED)
    x, label = data["x"], data["label"]
    path = made.interpolate(x[:2], x[2:], steps=3, label=label[:2])
    torch.testing.assert_close(path[:, 0], made.reconstruct(x[:2], label=label[:2]))
    still = made.interpolate(x[:2], x[:2], steps=3)
    torch.testing.assert_close(still[:, 0], still[:, 2])
    assert made.decode(made.encode(x), label=label).shape == x.shape


def test_of_several_runs_the_newest_that_can_be_used_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = hybridgen.train("ae-digits", {**QUICK, "encoder.width": 8}, runs=tmp_path).path
    bad = tmp_path / "ae-digits-99990101-000000-ffff"
    (bad / "checkpoints").mkdir(parents=True)
    (bad / "recipe.toml").write_text((good / "recipe.toml").read_text())
    monkeypatch.chdir(tmp_path.parent)
    assert hybridgen.load(f"{tmp_path.name}/ae-digits").recipe_name == "ae-digits"
    with pytest.raises(RunError, match="has no checkpoint"):
        hybridgen.load(bad)


def test_a_plugin_that_is_gone_is_named(tmp_path: Path) -> None:
    import json

    run = hybridgen.train("ae-digits", {**QUICK, "encoder.width": 8}, runs=tmp_path).path
    record = json.loads((run / "environment.json").read_text())
    record["plugins"].append({"name": "mine", "distribution": "hybridgen-mine", "version": "2.0", "state": "active"})
    (run / "environment.json").write_text(json.dumps(record))
    hybridgen.load(run)
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text().replace('use = "conv"', 'use = "cnn"'))
    with pytest.raises(UserError, match=r"made with a plugin that is not here: 'mine' \(hybridgen-mine 2.0\)"):
        hybridgen.load(run)


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there(device: str, vagan: Path) -> None:
    with pytest.raises(UserError, match="device = "):
        hybridgen.load(vagan, device=device)
