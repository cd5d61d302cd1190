"""Recipes: inheritance, overrides, every problem at once, a fixed point, and nothing that could execute."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from common import AE, SHIPPED, VAE, VAGAN, needs

from hybridgen.errors import RecipeError
from hybridgen.recipe import Recipe, copy_recipe, load_recipe, resolved_toml
from hybridgen.registry import Registry

Load = Callable[..., Recipe]

FIVE = """\
name = "five"
[data]
use = "digits"
batch_size = 0
[encoder]
use = "conv"
widht = 32
[decoder]
use = "cnv"
[latent]
use = "gaussian"
dim = "16"
[loss.kl]
use = "kl"
weight = { from = 0.0, to = 1.0, ovr = 0.2 }
[optimizer]
lr = 1e-3
"""


def problems(load: Callable[[], object]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load()
    return [str(problem) for problem in caught.value.problems]


def test_every_problem_at_once_with_line_expectation_and_suggestion(recipe: Load) -> None:
    found = problems(lambda: recipe(FIVE))
    expected = [
        ("test.toml:4", "data.batch_size", ">= 1"),
        ("test.toml:7", "encoder.widht", "did you mean `width`? (int, >= 1, default 32) [plugin nets]"),
        ("test.toml:9", "decoder.use", "did you mean 'conv'?"),
        ("test.toml:12", "latent.dim", "expected int, >= 1, default 16 (number of latent values"),
        ("test.toml:15", "loss.kl.weight", "did you mean `over`?"),
        ("test.toml:16", "optimizer", "did you mean `optim`?"),
    ]
    assert len(found) == len(expected)
    for problem, pieces in zip(found, expected, strict=True):
        for piece in pieces:
            assert piece in problem, f"{piece!r} is not in {problem!r}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.stepps=3", "did you mean `steps`"),
        ("train.steps=many", "train.steps.*expected int, >= 1"),
        ("train.accumulate=3", "a batch of 8 can't be split into 3 equal micro-batches"),
        ('loss.kl.trains=["encodr"]', "there is no part 'encodr'; did you mean `encoder`"),
        ("loss.adversarial.discriminator=mian", r"no \[discriminator.mian\]; did you mean `main`"),
        ("evaluate.best=elbo", r"no \[metric.elbo\]"),
        ("optim.discriminator.l=3", "no option `l`"),
        ("nonsense", "write KEY=VALUE"),
        ('plugins.require=["hybridgen-nowhere>=2"]', "install it: pip install 'hybridgen-nowhere>=2'"),
        ('plugins.require=["torch>=99"]', "the recipe needs torch>=99, installed is torch"),
        ("loss.kl.every=0", "every"),
        ("quantity.recon.use=noisy", "one of hybridgen's own quantities"),
        ("decoder=3", "expected a table, got 3"),
    ],
)
def test_problems_one_by_one(recipe: Load, override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        recipe(VAGAN, override)


def test_a_problem_of_the_command_line_says_so(recipe: Load) -> None:
    (found,) = problems(lambda: recipe(VAE, "encoder.widht=3"))
    assert found.startswith("command line  encoder.widht: encoder 'mlp': there is no option `widht`; did you mean `width`?")


def test_overrides_are_split_at_the_first_equals_and_typed_by_the_field(recipe: Load) -> None:
    made = recipe(VAE, "name=1984", "train.log_every=30s", "optim.lr=1e-4", "encoder.activation=gelu", "train.ema=0")
    assert made.name == "1984"
    assert made.train.log_every == "30s"
    assert made.optim["generator"].lr.at(1, 1) == 1e-4
    assert made.encoder is not None
    assert made.encoder.options["activation"] == "gelu"
    assert made.train.ema == 0.0


def test_false_removes_a_table(recipe: Load) -> None:
    made = recipe(VAGAN, "loss.adversarial=false", "discriminator=false")
    assert set(made.losses) == {"reconstruction", "kl"}
    assert made.critics == {}


def test_a_new_use_drops_the_options_of_what_it_replaces_and_keeps_reserved_keys(recipe: Load) -> None:
    made = recipe(VAGAN, "discriminator.use=conv")
    critic = made.critics["main"]
    assert critic.component.name == "conv"
    assert critic.options["width"] == 32  # conv's own default, not mlp's 16
    assert [dict(f) for f in critic.fake] == [{"x": "recon"}, {"x": "fake"}]
    same = recipe(VAGAN, "discriminator.use=mlp")
    assert same.critics["main"].options["width"] == 16


@pytest.mark.parametrize("turn", [1, -1])
def test_overrides_of_one_component_have_no_order(turn: int, recipe: Load) -> None:
    """What a new `use` drops is what the recipe had, not what was typed beside it."""
    both = ("latent.use=deterministic", "latent.dim=3")
    latent = recipe(VAGAN, *both[::turn]).latent
    assert latent is not None
    assert (latent.component.name, latent.options["dim"]) == ("deterministic", 3)


def test_a_child_changes_adds_and_removes(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "parent.toml").write_text(VAGAN)
    (tmp_path / "child.toml").write_text(
        'extends = "parent.toml"\n[loss]\nadversarial = false\n[loss.kl]\nweight = 4.0\n'
        '[discriminator]\nmain = false\n[encoder]\nuse = "conv"\n[train]\nsteps = 7\n'
    )
    made = load_recipe(tmp_path / "child.toml", registry=registry)
    assert set(made.losses) == {"reconstruction", "kl"}
    assert made.losses["kl"].weight.at(1, 1) == 4.0
    assert made.critics == {}
    assert made.encoder is not None
    assert made.encoder.options["width"] == 32
    assert made.train.steps == 7
    assert made.where("loss.kl.weight").endswith("child.toml:5")
    assert "parent.toml" in made.where("decoder.width")


def test_a_recipe_is_of_its_parents_family_unless_it_names_another(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "parent.toml").write_text('family = "Hybrids"\n' + VAE)
    (tmp_path / "child.toml").write_text('extends = "parent.toml"\n')
    (tmp_path / "other.toml").write_text('extends = "child.toml"\nfamily = "VAEs"\n')
    (tmp_path / "none.toml").write_text(VAE)
    found = {n: load_recipe(tmp_path / f"{n}.toml", registry=registry).family for n in ("parent", "child", "other", "none")}
    assert found == {"parent": "Hybrids", "child": "Hybrids", "other": "VAEs", "none": ""}
    made = load_recipe(tmp_path / "child.toml", ["family=1984"], registry=registry)
    assert made.family == "1984"
    assert "family" in made.tree
    assert "family" not in load_recipe(tmp_path / "none.toml", registry=registry).tree
    (tmp_path / "resolved.toml").write_text(resolved_toml(load_recipe(tmp_path / "other.toml", registry=registry)))
    assert load_recipe(tmp_path / "resolved.toml", registry=registry).family == "VAEs"


@pytest.mark.parametrize("family", ["3", '["GANs"]', "false", "{ name = 'GANs' }"])
def test_a_family_that_is_no_name_is_told(family: str, recipe: Load) -> None:
    (found,) = problems(lambda: recipe(f"family = {family}\n{VAE}"))
    assert "test.toml:1  family: expected the name of a family of models, got " in found
    assert 'such as "GANs"' in found


def test_a_cycle_and_a_missing_parent(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('\nextends = "a.toml"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(tmp_path / "a.toml", registry=registry)
    (tmp_path / "c.toml").write_text('name = "c"\nextends = "vae-digit"\n')
    with pytest.raises(RecipeError, match=r"c.toml:2.*did you mean 'vae-digits'"):
        load_recipe(tmp_path / "c.toml", registry=registry)


def test_relative_paths_are_relative_to_the_file_that_gives_them(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.toml").write_text('extends = "vagan-images"\n[data]\npath = "pictures"\n')
    monkeypatch.chdir(tmp_path)
    made = load_recipe("deep/mine.toml", registry=registry)
    assert made.data.options["path"] == tmp_path / "deep" / "pictures"
    made = load_recipe("deep/mine.toml", ["data.path=here"], registry=registry)
    assert made.data.options["path"] == tmp_path / "here"
    made = load_recipe("deep/mine.toml", ["data.path=~/pictures"], registry=registry)
    assert made.data.options["path"] == Path.home() / "pictures"
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_resolving_is_a_fixed_point(name: str, tmp_path: Path) -> None:
    first = load_recipe(name, ["train.seed=3", *needs(name)])
    text = resolved_toml(first)
    (tmp_path / "resolved.toml").write_text(text)
    again = load_recipe(tmp_path / "resolved.toml")
    assert tomllib.loads(resolved_toml(again)) == tomllib.loads(text)
    assert again.tree == first.tree
    assert again.train == first.train
    assert again.losses.keys() == first.losses.keys()


def test_resolved_recipes_say_where_each_value_comes_from() -> None:
    lines = resolved_toml(load_recipe("vagan-digits", ["encoder.width=48"])).splitlines()

    def line(start: str) -> str:
        return next(text for text in lines if text.startswith(start))

    assert "command line" in line("width = 48")
    assert "ae-digits.toml:" in line("batch_size")
    assert "default" in line("split_seed")


def test_copies(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for extends in (False, True):
        target = tmp_path / f"mine-{extends}.toml"
        target.write_text(copy_recipe("vagan-digits", target, extends=extends, registry=registry))
        made = load_recipe(target, registry=registry)
        original = load_recipe("vagan-digits", registry=registry)
        assert made.name == f"mine-{extends}"
        assert {k: v for k, v in made.tree.items() if k != "name"} == {k: v for k, v in original.tree.items() if k != "name"}
    assert "# VAGAN" in (tmp_path / "mine-False.toml").read_text()


def test_a_copied_recipe_of_a_folder_still_finds_its_parent(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "parent.toml").write_text(AE)
    (tmp_path / "a" / "child.toml").write_text('extends = "parent.toml"\n')
    target = tmp_path / "b" / "copy.toml"
    target.write_text(copy_recipe(tmp_path / "a" / "child.toml", target, extends=False, registry=registry))
    assert load_recipe(target, registry=registry).decoder is not None


def test_a_copied_recipe_still_finds_the_files_that_its_options_name(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    text = AE + '[loss.seen]\nuse = "perceptual"\nnetwork = "program"\nweights = "net.pt2"\n'
    (tmp_path / "a" / "mine.toml").write_text(text.replace('use = "digits"', 'use = "images"\npath = "pictures"'))
    target = tmp_path / "b" / "copy.toml"
    target.write_text(copy_recipe(tmp_path / "a" / "mine.toml", target, registry=registry))
    recipe = load_recipe(target, registry=registry)
    assert recipe.losses["seen"].options["weights"].resolve() == (tmp_path / "a" / "net.pt2").resolve()
    assert recipe.data.options["path"].resolve() == (tmp_path / "a" / "pictures").resolve()


ATTACKS = (
    '[encoder]\nuse = "os:system"',
    '[encoder]\nuse = "evil_module:Thing"',
    '[encoder]\nuse = "hybridgen_nets.conv:ConvEncoder"',
    '[encoder]\nuse = "conv"\nwidth = "__import__(\'evil_module\').go()"',
    '[data]\nuse = "digits"\nbatch_size = "${evil_module}"',
    'extends = "evil_module.py"',
    'extends = "!python/object:evil_module.go"',
    '[plugins]\nrequire = ["evil_module @ file:///evil_module"]',
    'name = "../../evil"',
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_recipe_can_neither_import_nor_execute(
    attack: str, tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(flag)!r}, 'w')\ndef go(): pass\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    base = (
        ""
        if attack.startswith(("extends", "name")) or "[data]" in attack
        else AE.replace('[encoder]\nuse = "mlp"\nwidth = 16\n', "")
    )
    (tmp_path / "mine.toml").write_text(attack + "\n" + base)
    with pytest.raises(RecipeError):
        load_recipe("mine.toml", registry=registry)
    assert not flag.exists()
    assert "evil_module" not in sys.modules


def test_environment_variables_are_not_expanded(recipe: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "digits")
    assert "SECRET" in os.environ
    with pytest.raises(RecipeError, match="SECRET"):
        recipe(VAE.replace('"digits"', '"$SECRET"'))
