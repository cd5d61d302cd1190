"""`hybridgen show` explains everything that is installed, and every word of the vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybridgen.cli import main
from hybridgen.cli.show import WHAT
from hybridgen.names import ATTRIBUTES, CONTRACTS, FACTS, KINDS, QUANTITIES
from hybridgen.registry import hooks, load_registry

FOLDER = Path(__file__).parents[1] / "fixtures" / "plugins"


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(["show", *arguments])
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit, match="2"):
        main(["show", *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


def with_plugins(*arguments: str, plugins: tuple[str, ...]) -> str:
    """`show` in a process of its own, with fixture plugins installed."""
    path = os.pathsep.join([*(str(FOLDER / name) for name in plugins), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "hybridgen", "show", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", WHAT)
def test_without_a_name_everything_of_a_kind_is_listed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = load_registry()
    expected = {
        **{kind: [c.qualified for c in registry.components(kind)] for kind in KINDS},
        "quantity": QUANTITIES,
        "fact": FACTS,
        "attribute": ATTRIBUTES,
        "kind": KINDS,
        "hook": hooks(),
        "plugin": [plugin.name for plugin in registry.plugins],
        "recipe": sorted(registry.recipes()),
    }[what]
    lines = [line for line in show(capsys, what).splitlines() if line]
    assert [line if what in KINDS else line.partition(":")[0] for line in lines] == list(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_says_what_a_component_of_it_offers(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, "kind", kind)
    words = " ".join(out.split())
    for table in (CONTRACTS[kind].must, CONTRACTS[kind].may):
        for member, meaning in table.items():
            assert f"\n  {member}\n" in out
            assert meaning in words
    for name, attribute in ATTRIBUTES.items():
        assert (f"\n  {name}\n" in out) is (kind in attribute.kinds)
    assert f"register.{kind}(" in out


def test_a_kinds_table_in_a_recipe_is_one_that_recipes_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert '[loss.NAME] and use = "mine"' in show(capsys, "kind", "loss")
    assert "[quantity.NAME]" in show(capsys, "kind", "provider")
    assert "[encoder]" in show(capsys, "kind", "encoder")


def test_attributes_facts_and_hooks_are_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for name, attribute in ATTRIBUTES.items():
        words = " ".join(show(capsys, "attribute", name).split())
        assert attribute.meaning in words
        assert f"Without it: {attribute.default}" in words
    assert "for the constructors of: metric\n" in show(capsys, "fact", "seed")
    hook = show(capsys, "hook", "commands")
    assert "@hookimpl\n  def commands(group):" in hook
    assert '`@group.command("mine")`' in hook


def test_a_recipe_tells_its_comment_its_parents_its_parts_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = show(capsys, "recipe", "vagan-digits")
    for piece in (
        "vagan-digits.toml, of the plugin 'recipes'\n",
        "family Hybrids\n",
        "extends vae-digits, which extends ae-digits\n",
        "VAGAN: reconstruction + KL",
        "hybridgen run vagan-digits ",
        "hybridgen cp vagan-digits mine.toml ",
    ):
        assert piece in out
    parts = dict(line.split() for line in out.partition("Made of:\n")[2].partition("\n\n")[0].splitlines())
    assert parts["encoder"] == parts["discriminator.main"] == "conv"
    assert parts["loss.kl"] == "kl"
    monkeypatch.chdir(tmp_path)
    Path("my own.toml").write_text('extends = "vae-digits"\nloss.kl = false\n[loss.sharp]\nuse = "of-nobody"\n')
    out = show(capsys, "recipe", "./my own.toml")
    assert "my own.toml\n  family" in out  # of no plugin
    assert "(no comment opens it)" in out
    assert "  loss.sharp                   of-nobody\n" in out
    assert "loss.kl " not in out
    assert "hybridgen run './my own.toml' " in out


def test_every_shipped_recipe_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in load_registry().recipes():
        out = show(capsys, "recipe", name)
        assert "(no comment opens it)" not in out
        assert "  ?" not in out


def test_a_plugin_tells_what_it_offers(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, "plugin", "losses")
    assert "of hybridgen " in out
    assert "manifest hybridgen_losses, imported in " in out
    assert "\n  active\n" in out
    for component in load_registry().components("loss"):
        first = (component.load().__doc__ or "").strip().splitlines()[0]
        assert any(line.split()[:2] == ["loss", component.name] and line.endswith(first) for line in out.splitlines())
    recipes = show(capsys, "plugin", "recipes")
    assert all(f"\n  {name} " in recipes for name in load_registry().recipes())


def test_a_plugin_with_something_wrong_says_so() -> None:
    good = with_plugins("plugin", "good", plugins=("good",))
    assert "of hybridgen-good 1.0\n" in good
    assert "loss offset  Squared mean of the reconstructions." in good
    assert "hybridgen good-command" in good
    failed = with_plugins("plugin", "import-error", plugins=("import-error",))
    assert "failed: importing import_error_plugin raised ModuleNotFoundError" in failed
    assert "a_module_that_nobody_has" in failed
    misspelled = with_plugins("plugin", "misspelled-hook", plugins=("misspelled-hook",))
    assert "Problem: `register_component` is no hook; did you mean `register_components`?" in misspelled
    half = with_plugins("plugin", "raising-hook", plugins=("raising-hook",))
    assert "Components that it named before it failed:\n  loss half  PROBLEM: " in half


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("los", "kl"), "'los' is no kind of thing; did you mean 'loss'?"),
        (("kl",), "write `hybridgen show loss kl`"),
        (("vagan-digits",), "write `hybridgen show recipe vagan-digits`"),
        (("decision",), "write `hybridgen show attribute decision`"),
        (("conv",), "`hybridgen show encoder conv` or `hybridgen show decoder conv` or `hybridgen show discriminator conv`"),
        (("plugin", "loses"), "did you mean 'losses'?"),
        (("recipe", "vagan-digit"), "did you mean 'vagan-digits'?"),
        (("hook", "recipe"), "did you mean 'recipes'?"),
        (("kind", "metrics"), "did you mean 'metric'?"),
        (("attribute", "drawn"), "did you mean 'draws'?"),
        (("attribute", "zzz"), "there is no attribute 'zzz'. Here are: couples_batch"),
    ],
)
def test_what_is_misspelled_is_guessed(arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refused(capsys, *arguments)
