"""The plugin host: broken plugins are facts to list, fatal only for the recipe that needs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hybridgen import hookimpl
from hybridgen.errors import RecipeError
from hybridgen.recipe import load_recipe
from hybridgen.registry import LookupFailure, Registry, load_registry

FOLDER = Path(__file__).parent / "fixtures" / "plugins"
PLUGINS = sorted(path.name for path in FOLDER.iterdir())

EXPECTED = {
    "good": "",
    "import-error": "No module named 'a_module_that_nobody_has'",
    "system-exit": "SystemExit('no licence found')",
    "raising-hook": "RuntimeError: the second half is missing",
    "name-clash": "",
    "old-api": "it speaks plugin interface 0, this hybridgen speaks 1",
    "misspelled-hook": "`register_component` is no hook; did you mean `register_components`?",
    "imports-torch": "torch, which makes every command slow",
}


def hybridgen(*arguments: str, plugins: tuple[str, ...] = (), cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with fixture plugins installed."""
    path = os.pathsep.join(str(FOLDER / name) for name in plugins)
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
    command = [sys.executable, "-m", "hybridgen", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=120, check=False)


def test_there_is_a_fixture_for_each_fault() -> None:
    assert set(PLUGINS) == set(EXPECTED)


@pytest.mark.parametrize("name", PLUGINS)
def test_help_and_ls_exit_0_and_say_what_is_wrong(name: str) -> None:
    for arguments in (["--help"], ["ls"]):
        done = hybridgen(*arguments, plugins=(name,))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert EXPECTED[name] in done.stderr
    assert EXPECTED[name] in done.stdout
    assert name in done.stdout


def test_one_broken_plugin_hides_no_other() -> None:
    done = hybridgen("ls", "--json", plugins=tuple(PLUGINS))
    assert done.returncode == 0
    states = {plugin["name"]: plugin["state"] for plugin in json.loads(done.stdout)["plugins"]}
    assert {name: states[name] for name in PLUGINS} == {
        "good": "active",
        "import-error": "failed",
        "system-exit": "failed",
        "raising-hook": "failed",
        "name-clash": "active",
        "old-api": "failed",
        "misspelled-hook": "active",
        "imports-torch": "active",
    }
    assert states["losses"] == "active"


@pytest.mark.parametrize(
    ("plugin", "use", "expected"),
    [
        ("import-error", "import-error:thing", "a_module_that_nobody_has"),
        ("system-exit", "system-exit:thing", "no licence found"),
        ("raising-hook", "half", "the second half is missing"),
        ("old-api", "old-api:thing", "it speaks plugin interface 0"),
        ("misspelled-hook", "lost", "did you mean `register_components`?"),
        ("name-clash", "kl", 'write "losses:kl" or "name-clash:kl"'),
    ],
)
def test_a_recipe_that_uses_a_broken_plugin_stops_with_its_cause(plugin: str, use: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'extends = "ae-digits"\n[loss.more]\nuse = "{use}"\n')
    done = hybridgen("check", "mine.toml", plugins=(plugin,), cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr
    assert "mine.toml:3" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_good_plugin_is_used_by_its_bare_and_its_full_name(tmp_path: Path) -> None:
    for use in ("offset", "good:offset"):
        done = hybridgen("check", "ae-digits", f"loss.more.use={use}", plugins=("good",), cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_clash_elsewhere_does_not_break_a_recipe_that_a_package_ships(tmp_path: Path) -> None:
    """vae-digits says "kl": it means the one of the package that ships the recipe, whatever else is installed."""
    done = hybridgen("resolve", "vae-digits", plugins=("name-clash",), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'use = "losses:kl"' in done.stdout


def test_a_plugin_adds_a_command() -> None:
    assert "good-command" in hybridgen("--help", plugins=("good",)).stdout
    assert hybridgen("good-command", plugins=("good",)).stdout == "hello from a plugin\n"


def test_disabled_plugins_are_never_imported() -> None:
    done = hybridgen("--disable-plugin", "import-error", "ls", plugins=("import-error",))
    assert done.returncode == 0
    assert "a_module_that_nobody_has" not in done.stdout + done.stderr
    assert "disabled" in done.stdout


def test_a_disabled_plugin_is_named_where_it_is_needed(tmp_path: Path) -> None:
    done = hybridgen(
        "--disable-plugin", "good", "check", "ae-digits", "loss.more.use=good:offset", plugins=("good",), cwd=tmp_path
    )
    assert done.returncode == 2
    assert "which is disabled" in done.stderr


def made(**hooks: Any) -> Registry:
    return load_registry(extra={"mine": SimpleNamespace(**hooks)})


def test_everything_shipped_is_active_and_importable() -> None:
    registry = load_registry()
    assert {plugin.name for plugin in registry.plugins} >= {"data", "latents", "losses", "metrics", "nets", "recipes"}
    assert all(plugin.state == "active" and not plugin.problems for plugin in registry.plugins)
    for component in registry.components():
        assert component.load().__doc__, f"{component.qualified} is not documented"


def test_an_unknown_name_has_a_suggestion_and_the_names_there_are() -> None:
    with pytest.raises(LookupFailure, match=r"no loss 'kll'; did you mean 'kl'\? there are: .*adversarial, .*kl, "):
        load_registry().find("loss", "kll")


@pytest.mark.parametrize(
    ("name", "reference", "expected"),
    [
        ("Bad Name", "a:B", "expected lower-case letters"),
        ("fine", "no-colon", "not of the form 'package.module:Attribute'"),
    ],
)
def test_registering_nonsense_fails_that_plugin(name: str, reference: str, expected: str) -> None:
    @hookimpl
    def register_components(register: Any) -> None:
        register.loss(name, reference)

    registry = made(register_components=register_components)
    plugin = next(p for p in registry.plugins if p.name == "mine")
    assert plugin.state == "failed"
    assert expected in plugin.cause
    assert registry.find("loss", "kl").plugin == "losses"


def test_a_component_whose_module_fails_names_the_cause() -> None:
    @hookimpl
    def register_components(register: Any) -> None:
        register.loss("lost", "hybridgen_losses.kl:Nowhere")

    component = made(register_components=register_components).find("loss", "lost")
    with pytest.raises(Exception, match=r"can't be imported from hybridgen_losses\.kl:Nowhere: AttributeError"):
        component.load()


def test_the_core_holds_no_component_and_imports_no_plugin() -> None:
    core = Path(__file__).parent.parent / "hybridgen"
    for path in core.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import hybridgen_" not in text, path
        assert "from hybridgen_" not in text, path
        for base in ("nn.Linear(", "nn.Conv1d(", "nn.Conv2d(", "nn.ConvTranspose2d(", "sklearn", "torchmetrics."):
            assert base not in text, f"{path} holds {base}"


def test_a_recipe_that_a_broken_plugin_might_ship_is_answered_with_its_cause() -> None:
    registry = load_registry(extra={"bad": SimpleNamespace(HYBRIDGEN_API=99)})
    with pytest.raises(RecipeError, match=r"no recipe 'bad-vae'.*might have offered it: bad: it speaks plugin interface 99"):
        load_recipe("bad-vae", registry=registry)
