"""What plugin code raises says whose it was, which line names it, and what it was given; errors for people stay as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import EAGER, LABELLED, SPEC, batch
from torch import Tensor, nn

import hybridgen
from hybridgen.data import Arrays, SampleSpec
from hybridgen.errors import DataError, RecipeError, UserError
from hybridgen.evaluation import prepare
from hybridgen.events import read_events
from hybridgen.model import build
from hybridgen.notes import MARK, noting, place_of, shown
from hybridgen.recipe import Recipe, load_recipe
from hybridgen.registry import load_registry
from hybridgen.step import Training, train_step
from hybridgen.use import GenerativeModel


def real(x: Tensor) -> bool:
    """Not in the dry run: the fault shows on real tensors only."""
    return x.device.type != "meta"


class Faulty(nn.Module):
    """A loss that fails on real tensors."""

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, recon: Tensor, posterior: Any) -> Tensor:
        if real(recon):
            raise ValueError("no loss today")
        return recon.mean()


class Inner(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        if real(h):
            h = h[:, :3]
        return h


class Encoder(nn.Module):
    """An encoder whose second layer is handed too little."""

    def __init__(self, sample_shape: tuple[int, ...], code_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(math.prod(sample_shape), 6), Inner(), nn.Linear(6, math.prod(code_shape)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))


class Misfit(Encoder):
    """An encoder that fails on any tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Needy(nn.Module):
    """A loss whose constructor fails for a reason of its own."""

    def __init__(self, latent_dim: int, *, factor: float = 2.0) -> None:
        super().__init__()
        raise KeyError("weights")


def noisy(x: Tensor, noise: Tensor, *, sigma: float = 0.3) -> Tensor:
    """A provider that fails on real tensors."""
    if real(x):
        helper(x)
    return x + sigma * noise


def helper(y: Tensor) -> None:
    raise RuntimeError("no noise today")


class Critic(nn.Module):
    """A critic that fails where it is called, by whomever."""

    def __init__(self, judged_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.map = nn.Linear(math.prod(judged_shape), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if real(x):
            raise RuntimeError("no opinion today")
        return self.map(x.flatten(1)).squeeze(1), []


class Data:
    """Data that can't be loaded."""

    def describe(self) -> SampleSpec:
        return replace(SPEC, count=64)

    def load(self) -> dict[str, Arrays]:
        raise OSError("the disk is gone")


class Metric:
    """A metric that fails."""

    unit = ""
    higher_is_better = None

    def reset(self) -> None: ...

    def update(self, x: Tensor, recon: Tensor) -> None:
        raise ZeroDivisionError("nothing to divide")

    def compute(self) -> float:
        return 0.0


class Reporter:
    """A reporter that fails."""

    def event(self, event: dict[str, Any]) -> None:
        raise ZeroDivisionError("nothing to report")


MINE = hybridgen.components(
    "mine",
    loss={"faulty": Faulty, "needy": Needy},
    encoder={"faulty": Encoder, "misfit": Misfit},
    discriminator={"faulty": Critic},
    provider={"noisy": noisy},
    data={"faulty": Data},
    metric={"faulty": Metric},
    reporter={"faulty": Reporter},
)
BASE = """\
[data]
use = "digits"
batch_size = 16
[encoder]
use = "mlp"
width = 8
[decoder]
use = "mlp"
width = 8
[latent]
use = "gaussian"
dim = 2
[loss.reconstruction]
use = "reconstruction"
[train]
steps = 2
compile = false
"""
HERE = Path(__file__).name


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[[str], Recipe]:
    """A recipe with components of this page."""

    def make(text: str) -> Recipe:
        (tmp_path / "mine.toml").write_text(text)
        return load_recipe(tmp_path / "mine.toml", registry=load_registry(extra={"mine": MINE}))

    return make


def notes_of(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", []) if note.startswith(MARK)]


def raised_in_a_run(tmp_path: Path, text: str, kind: type[Exception]) -> str:
    """The one note of what a run raises."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(kind) as raised:
        hybridgen.train(tmp_path / "mine.toml", runs=tmp_path / "runs", plugins=MINE)
    (note,) = notes_of(raised.value)
    return note.replace(str(tmp_path), "")


# -- a run -----------------------------------------------------------------------------------------------------------------


def test_a_loss_that_raises_is_named_with_its_line_and_what_it_was_given(tmp_path: Path) -> None:
    note = raised_in_a_run(tmp_path, BASE + '[loss.more]\nuse = "faulty"\n', ValueError)
    head, given = note.split("\n")
    assert head == "hybridgen: in loss 'mine:faulty' (plugin mine), named in /mine.toml:19 [loss.more]"
    assert given.startswith("  given recon: float32 (16, 1, 8, 8), posterior: ")
    assert "float32 (16, 2)" in given


def test_of_a_network_the_layer_is_named_as_well(tmp_path: Path) -> None:
    note = raised_in_a_run(tmp_path, BASE.replace('"mlp"\nwidth = 8\n[decoder]', '"faulty"\n[decoder]'), RuntimeError)
    assert note.split("\n") == [
        "hybridgen: in encoder 'mine:faulty' (plugin mine), named in /mine.toml:5 [encoder]",
        "  given x: float32 (16, 1, 8, 8)",
        "  in its `body.2` (Linear), given input: float32 (16, 3)",
    ]


def test_a_provider_is_found_through_a_function_that_it_calls(tmp_path: Path) -> None:
    text = BASE.replace("width = 8\n[decoder]", 'width = 8\ninputs = { x = "x_noisy" }\n[decoder]')
    note = raised_in_a_run(tmp_path, text + '[quantity.x_noisy]\nuse = "noisy"\n', RuntimeError)
    assert note.split("\n")[0].endswith("in provider 'mine:noisy' (plugin mine), named in /mine.toml:20 [quantity.x_noisy]")
    assert note.split("\n")[1] == "  given x: float32 (16, 1, 8, 8), noise: float32 (16, 1, 8, 8), sigma: 0.3"


def test_of_two_alike_the_one_that_raised_is_named(recipe: Callable[[str], Recipe]) -> None:
    critics = '[discriminator.first]\nuse = "mlp"\nfake = "recon"\n[discriminator.second]\nuse = "mlp"\nfake = "fake"\n'
    games = "".join(f'[loss.{name}]\nuse = "adversarial"\ndiscriminator = "{name}"\n' for name in ("first", "second"))
    model = build(recipe(BASE + critics + games), LABELLED)
    second = model.parts["discriminator.second"]
    with pytest.raises(Exception) as raised, noting(model.recipe, model.parts):
        second(x=torch.zeros(2, 1, 4, 4))
    (note,) = notes_of(raised.value)
    assert "[discriminator.second]" in note
    assert "[discriminator.first]" not in note
    assert "given x: float32 (2, 1, 4, 4)" in note
    assert "discriminator 'nets:mlp' (plugin nets, hybridgen " in note
    with pytest.raises(Exception) as raised, noting(model.recipe):
        second(x=torch.zeros(2, 1, 4, 4))
    assert re.search(r"\[discriminator\.first\] or .*\[discriminator\.second\]", notes_of(raised.value)[0])


def test_a_critic_that_a_loss_calls_is_named_and_not_the_loss(recipe: Callable[[str], Recipe]) -> None:
    text = '[discriminator]\nuse = "faulty"\nfake = "recon"\n[loss.r1]\nuse = "r1"\n'
    state = Training(build(recipe(BASE + text), SPEC), EAGER)
    with pytest.raises(RuntimeError, match="no opinion") as raised, noting(state.model.recipe, state.model.parts):
        train_step(state, [batch(4)], 1)
    assert "in discriminator 'mine:faulty' (plugin mine)" in notes_of(raised.value)[0]


def test_data_that_raise_are_named_before_there_is_a_run(tmp_path: Path) -> None:
    text = BASE.replace('"digits"', '"faulty"') + '[metric.bad]\nuse = "faulty"\n'  # of the same module
    note = raised_in_a_run(tmp_path, text, OSError)
    assert note == "hybridgen: in data 'mine:faulty' (plugin mine), named in /mine.toml:2 [data]"
    assert not (tmp_path / "runs").exists()


def test_a_note_of_an_installed_plugin_has_its_version(recipe: Callable[[str], Recipe]) -> None:
    model = build(recipe(BASE), SPEC)
    with pytest.raises(Exception) as raised, noting(model.recipe, model.parts):
        model.parts["loss.reconstruction"](x=torch.zeros(2, 3), recon=torch.zeros(2, 5), recon_raw=torch.zeros(2, 5))
    (note,) = notes_of(raised.value)
    version = hybridgen.__version__
    assert f"in loss 'losses:reconstruction' (plugin losses, hybridgen {version}), named in " in note
    assert "recon_raw: float32 (2, 5)" in note


def test_a_call_that_no_forward_takes_is_named_too(recipe: Callable[[str], Recipe]) -> None:
    model = build(recipe(BASE), SPEC)
    with pytest.raises(TypeError) as raised, noting(model.recipe, model.parts):
        model.parts["loss.reconstruction"](x=torch.zeros(2, 3))
    (note,) = notes_of(raised.value)
    assert "in loss 'losses:reconstruction'" in note
    assert note.endswith("\n  given x: float32 (2, 3)")


def test_a_file_is_named_as_the_plugin_s_origin(tmp_path: Path) -> None:
    text = "from torch import nn\nfrom hybridgen import hookimpl\n\nclass Bad(nn.Module):\n    def forward(self, recon):\n"
    text += "        if recon.device.type != 'meta':\n            raise OSError('no')\n        return recon.mean()\n\n"
    (tmp_path / "bad_loss.py").write_text(
        f"{text}@hookimpl\ndef register_components(register):\n    register.loss('bad', Bad)\n"
    )
    (tmp_path / "r.toml").write_text(BASE + '[loss.more]\nuse = "bad"\n')
    with pytest.raises(OSError, match="no") as raised:
        hybridgen.train(tmp_path / "r.toml", runs=tmp_path, plugins=tmp_path / "bad_loss.py")
    assert f"in loss 'bad-loss:bad' (plugin bad-loss, {tmp_path / 'bad_loss.py'})" in notes_of(raised.value)[0]


# -- the dry run, evaluation, use ------------------------------------------------------------------------------------------


def test_the_dry_run_s_problem_says_it_all(recipe: Callable[[str], Recipe]) -> None:
    loaded = recipe(BASE.replace('"mlp"\nwidth = 8\n[decoder]', '"misfit"\n[decoder]'))
    with pytest.raises(RecipeError) as raised:
        build(loaded, SPEC)
    (problem,) = raised.value.problems
    assert (problem.where.rpartition("/")[2], problem.path, problem.plugin) == ("mine.toml:4", "encoder", "mine")
    assert problem.what.startswith("it fails in the dry run of a step: RuntimeError: ")
    assert re.search(rf"\({HERE}:\d+\); encoder 'mine:misfit', given x: float32 \(2, 1, 8, 8\)", problem.what)
    assert problem.what.endswith("in its `body.0` (Linear), given input: float32 (2, 1, 8, 8)")
    assert not notes_of(raised.value)


def test_a_constructor_s_problem_says_what_it_was_given(recipe: Callable[[str], Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"can't be constructed: KeyError.*; it was given latent_dim: 2, factor: 2\.0"):
        build(recipe(BASE + '[loss.more]\nuse = "needy"\n'), SPEC)


def test_a_metric_that_fails_says_what_it_was_given(recipe: Callable[[str], Recipe]) -> None:
    model = build(recipe(BASE + '[metric.bad]\nuse = "faulty"\n'), SPEC)
    arrays = Arrays(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    found = prepare(model).run(model.parts, {"validation": arrays}, 1)
    expected = "; metric 'mine:faulty', given x: float32 (4, 1, 8, 8), recon: float32 (4, 1, 8, 8)"
    assert found.refused["bad"].startswith(f"ZeroDivisionError: nothing to divide ({HERE}:")
    assert found.refused["bad"].endswith(expected)


def test_a_reporter_that_fails_says_whose_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BASE + '[reporter.bad]\nuse = "faulty"\n')
    run = hybridgen.train(tmp_path / "mine.toml", runs=tmp_path, plugins=MINE).path
    (message,) = (event["message"] for event in read_events(run / "metrics.jsonl") if event.get("code") == "reporter")
    assert re.search(rf"nothing to report \({HERE}:\d+\); reporter 'mine:faulty', given event: dict of \d+$", message)


def test_what_fails_in_use_has_a_note_too(recipe: Callable[[str], Recipe]) -> None:
    model = build(recipe(BASE.replace('"mlp"\nwidth = 8\n[decoder]', '"faulty"\n[decoder]')), SPEC)
    with pytest.raises(RuntimeError) as raised:
        GenerativeModel(model, model.parts).encode(torch.zeros(3, 1, 8, 8))
    (note,) = notes_of(raised.value)
    assert "in encoder 'mine:faulty'" in note
    assert "given x: float32 (3, 1, 8, 8)" in note


# -- what has none -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError("x"), DataError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_errors_for_people_and_interruptions_stay_as_they_are(error: BaseException, recipe: Callable[[str], Recipe]) -> None:
    loaded = recipe(BASE + '[loss.more]\nuse = "faulty"\n')
    loss = Faulty()

    def forward(recon: Tensor, posterior: Any) -> Tensor:
        raise error

    loss.forward = forward  # type: ignore[method-assign]
    with pytest.raises(type(error)) as raised, noting(loaded, {"loss.more": loss}):
        loss(torch.zeros(1), None)
    assert not notes_of(raised.value)
    assert str(raised.value) == str(error)


def test_what_no_component_raised_has_no_note(recipe: Callable[[str], Recipe]) -> None:
    model = build(recipe(BASE), SPEC)
    with pytest.raises(ZeroDivisionError) as raised, noting(model.recipe, model.parts):
        _ = 1 / 0
    assert not hasattr(raised.value, "__notes__")


def test_boundaries_inside_each_other_make_one_note_the_innermost(recipe: Callable[[str], Recipe]) -> None:
    loaded, loss = recipe(BASE + '[loss.more]\nuse = "faulty"\n'), Faulty()
    with pytest.raises(ValueError) as raised, noting(loaded), noting(loaded, {"loss.more": loss}), noting(loaded):
        loss(torch.zeros(5), None)
    (note,) = notes_of(raised.value)
    assert "given recon: float32 (5,), posterior: None" in note


def test_a_fault_in_telling_hides_no_error(recipe: Callable[[str], Recipe]) -> None:
    assert place_of(ValueError("x"), SimpleNamespace()) is None  # type: ignore[arg-type]


@dataclass
class Pair:
    mean: Tensor
    name: str


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.zeros(2, 3, dtype=torch.bfloat16), "bfloat16 (2, 3)"),
        (torch.zeros((), dtype=torch.long), "int64 ()"),
        ([torch.zeros(1)] * 6, "[float32 (1,), float32 (1,), float32 (1,), float32 (1,), ... (6)]"),
        ((torch.zeros(1), 2), "(float32 (1,), 2)"),
        (Pair(torch.zeros(2), "a"), "Pair(mean: float32 (2,), name: 'a')"),
        ({"a": 1}, "dict of 1"),
        (len, "a function"),
        (nn.Linear(1, 1), "Linear"),
        ("a" * 100, f"'{'a' * 56}..."),
        (2.5, "2.5"),
    ],
)
def test_values_are_told_by_what_they_are(value: Any, expected: str) -> None:
    assert shown(value) == expected


def test_nothing_of_it_is_in_compiled_code() -> None:
    """The step and what it is made of know nothing of notes."""
    core = Path(hybridgen.__file__).parent
    for name in ("step", "phases", "graph", "compiling", "quantities"):
        assert "hybridgen.notes" not in (core / f"{name}.py").read_text(encoding="utf-8"), name
