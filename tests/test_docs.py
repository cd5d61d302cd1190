"""What the pages say is what happens: their packages are installed, their recipes and commands run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridgen.cli import VERBS, main
from hybridgen.cli.show import WHAT
from hybridgen.names import FACTS, QUANTITIES
from hybridgen.registry import load_registry

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "recipes/README.md",
    "plugins/README.md",
    "plugins/REFERENCE.md",
    "plugins/SHELF.md",
    "plugins/METRICS.md",
    "CONTRIBUTING.md",
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")) if name == language]


def write_files(page: str, folder: Path) -> list[str]:
    """Write every block that opens with `# path/of/file`; returns the paths."""
    written = []
    for language in ("python", "toml"):
        for text in blocks(page, language):
            named = re.match(r"# ([\w./-]+\.(?:py|toml))\n", text)
            if named:
                path = folder / named[1]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                written.append(named[1])
    return written


def install(folder: Path) -> dict[str, str]:
    """What pip would record of the package in `folder`, and the environment that sees it. (`.ci/run` uses pip itself.)"""
    import tomllib

    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = project["entry-points"]["hybridgen"].items()
    (info / "entry_points.txt").write_text("[hybridgen]\n" + "".join(f"{k} = {v}\n" for k, v in entries))
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def hybridgen(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    line = [sys.executable, "-m", "hybridgen", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_of_the_plugin_page_is_listed_and_trains(tmp_path: Path) -> None:
    written = write_files("plugins/README.md", tmp_path)
    assert len(written) == 16  # some of them for the tests below
    env = install(tmp_path)
    listed = hybridgen("ls", "plugins", env=env, cwd=tmp_path)
    assert re.search(r"mine +hybridgen-mine 0\.1 +active", listed)
    assert "no problem found" in hybridgen("check", "mine.toml", env=env, cwd=tmp_path)
    assert "power: float, >= 1, default 1.0" in hybridgen("show", "loss", "total-variation", env=env, cwd=tmp_path)
    run = hybridgen("run", "mine.toml", env=env, cwd=tmp_path).strip()
    assert "brightness" in (tmp_path / run / "report.txt").read_text()
    assert [line.split()[0] for line in (tmp_path / "losses.txt").read_text().splitlines()] == ["1", "4", "8", "10", "12"]


@pytest.mark.slow
def test_the_plugin_of_the_plugin_page_passes_the_kit(tmp_path: Path) -> None:
    write_files("plugins/README.md", tmp_path)
    env = install(tmp_path)
    said = hybridgen("check-plugin", "mine", "--set", "reporter:file.path=events.txt", env=env, cwd=tmp_path)
    assert re.search(r"mine: \d+ checks: \d{3} passed, \d+ skipped, 0 failed", said)


def test_the_one_file_and_the_one_cell_of_the_plugin_page_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files("plugins/README.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [line for text in blocks("plugins/README.md", "sh") for line in text.splitlines() if "--plugin" in line]
    assert [line.split()[:2] for line in commands] == [["hybridgen", "show"], ["hybridgen", "run"]]
    for line in commands:
        quick = ["train.steps=2"] if "run" in line.split() else []
        with pytest.raises(SystemExit, match="0"):
            main([*line.split()[1:], *quick])
    assert "loss.smooth" in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text()
    (cell,) = (text for text in blocks("plugins/README.md", "python") if "hybridgen.components(" in text)
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(cell.replace('"train.steps": 20', '"train.steps": 2'), "cell", "exec"), names)
    assert names["x"].shape == (16, 1, 8, 8)


def test_the_recipes_of_the_plugin_page_are_listed_and_train(tmp_path: Path) -> None:
    write_files("plugins/README.md", tmp_path)
    recipe = tmp_path / "shelf/mine_recipes/stripes-vae.toml"
    recipe.write_text(recipe.read_text().partition("\n")[2])  # its first line is the page's
    both = os.pathsep.join([install(tmp_path)["PYTHONPATH"], install(tmp_path / "shelf")["PYTHONPATH"]])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([both, os.environ.get("PYTHONPATH", "")])}
    listed = hybridgen("ls", "recipes", env=env, cwd=tmp_path)
    assert "recipes: Stripes\n  stripes-vae  mine-recipes  A VAE of stripes that is told to be smooth.\n" in listed
    shown = hybridgen("show", "recipe", "stripes-vae", env=env, cwd=tmp_path)
    assert "Expect: loss.smooth under 0.1" in shown
    assert "loss.smooth                  mine:total-variation" in shown
    run = hybridgen("run", "stripes-vae", "train.steps=2", env=env, cwd=tmp_path).strip()
    plugins = json.loads((tmp_path / run / "environment.json").read_text())["plugins"]
    assert {"name": "mine", "distribution": "hybridgen-mine", "version": "0.1", "state": "active"} in plugins
    (tmp_path / "hybridgen_mine-0.1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hybridgen-mine\nVersion: 0.0\n"
    )
    line = [sys.executable, "-m", "hybridgen", "check", "stripes-vae"]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 2
    assert "install it: pip install 'hybridgen-mine>=0.1'" in done.stderr


def policy(title: str) -> str:
    """A chapter of the plugin page."""
    text = (ROOT / "plugins/README.md").read_text(encoding="utf-8")
    return text[text.index(f"\n## {title}\n") :].split("\n## ")[1]


def test_what_shipped_plugins_import_of_hybridgen_is_what_the_policy_calls_the_interface() -> None:
    import ast

    import hybridgen.errors

    promised = policy("Versions and deprecation")
    used = set()
    for path in [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "recipes").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hybridgen":
                used |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "hybridgen" for alias in node.names), path
    assert ("hybridgen", "hookimpl") in used
    for module, name in used:
        whole = f"`{module}.{name}`" in promised
        of_module = f"`{name}`" in promised and f"`{module}`" in promised
        error = module == "hybridgen.errors" and issubclass(getattr(hybridgen.errors, name), Exception)
        assert whole or of_module or error, f"the policy lacks {module}.{name}"


def test_what_the_policy_says_of_the_number_is_what_the_registry_does() -> None:
    from types import SimpleNamespace

    from hybridgen import API, hookimpl

    called = []
    hook = hookimpl(lambda register: called.append("register"))
    for number in (API - 1, API + 1):
        manifest = SimpleNamespace(HYBRIDGEN_API=number, register_components=hook)
        plugin = load_registry(extra={"other": manifest}).plugins[-1]
        assert (plugin.state, called) == ("failed", [])
        assert f"speaks plugin interface {number}, this hybridgen speaks {API}" in plugin.cause
    load_registry(extra={"other": SimpleNamespace(register_components=hook)})
    assert (called, API) == (["register"], 1)
    assert f"`HYBRIDGEN_API = {API}`" in policy("Versions and deprecation")


def test_the_messages_of_the_table_of_faults_are_messages() -> None:
    core = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "hybridgen").rglob("*.py"))
    for row in policy("When something breaks").splitlines():
        if row.startswith("| ") and "`" in row.split("|")[1]:
            for piece in re.findall(r"`([^`]+)`", row.split("|")[1]):
                for part in re.split(r"'x'|\.\.\.", piece):
                    known = part.strip(" :").replace("the loss", "the {kind}")
                    assert known in core, f"no message of hybridgen's: {known}"


def test_the_quarter_of_an_hour_goes_as_the_plugin_page_says(tmp_path: Path) -> None:
    """Its commands in their order (installing aside, which tests/test_scaffold.py does with pip), then the edited component."""
    text = (ROOT / "plugins/README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## In a quarter") : text.index("\n## Quick tries")]
    start, rest = (
        [line.split("#")[0].split() for line in b.splitlines()] for name, b in BLOCK.findall(section) if name == "sh"
    )
    assert [line[:2] for line in (*start, *rest) if line[0] != "hybridgen"] == [
        ["pip", "install"],
        ["pytest", "soft-edges"],
        ["pip", "wheel"],
    ]
    said = {}
    env = dict(os.environ)
    for line in (*start, *rest):
        if line[0] == "hybridgen" and line[1] in VERBS:
            quick = ["train.steps=4"] if line[1] == "run" else []
            said[" ".join(line[1:])] = hybridgen(*line[1:], *quick, env=env, cwd=tmp_path)
        elif line[:2] == ["pip", "install"]:
            env = install(tmp_path / "soft-edges")
        if line is start[-1]:
            edited = tmp_path / "soft-edges/hybridgen_soft_edges/losses.py"
            edited.write_text(next(b for name, b in BLOCK.findall(section) if name == "python"))
    assert re.search(r"soft-edges +hybridgen-soft-edges 0\.1\.0 +active\n", said["ls plugins"])
    assert "edges: float, >= 0, default 0.0" in said["show loss soft-edges"]
    runs = [tmp_path / said[command].strip() for command in said if command.startswith("run ")]
    options = [(run / "recipe.toml").read_text() for run in runs]
    assert len(runs) == 2
    assert "\nedges = 2" in options[1]
    assert "\nedges" not in options[0]


def test_the_plugin_of_the_readme_has_fifteen_lines_is_listed_and_trains(tmp_path: Path) -> None:
    write_files("README.md", tmp_path)
    python = [line for path in tmp_path.glob("*.py") for line in path.read_text().splitlines() if line.strip()]
    assert len(python) <= 15
    env = install(tmp_path)
    assert re.search(r"tv +hybridgen-tv 0\.1 +active", hybridgen("ls", "plugins", env=env, cwd=tmp_path))
    (tmp_path / "runs").mkdir()
    hybridgen(*readme_use(), "train.steps=3", env=env, cwd=tmp_path)


def readme_use() -> list[str]:
    """The README's command that uses its plugin."""
    line = next(line for text in blocks("README.md", "sh") for line in text.splitlines() if "total-variation" in line)
    return line.split("#")[0].split()[1:]


@pytest.mark.parametrize("page", PAGES)
def test_recipes_on_the_pages_are_sound(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridgen.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    whole = [text for text in blocks(page, "toml") if "extends" in text or "[data]" in text]
    for index, text in enumerate(whole):
        if page == "plugins/README.md":  # the test above runs it, with its plugin
            continue
        path = tmp_path / f"r{index}.toml"
        path.write_text(text)
        assert load_recipe(path).losses


@pytest.mark.parametrize("page", PAGES)
def test_commands_on_the_pages_exist(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every `hybridgen VERB` on a page is a verb, and every recipe and component that it names is there."""
    registry = load_registry()
    text = (ROOT / page).read_text(encoding="utf-8")
    own = re.findall(r'^name = "([\w-]+)"$', text, re.MULTILINE)  # of recipes that stand on the page
    new = re.findall(r"hybridgen new plugin ([a-z-]+)", text)  # a new plugin's recipe has its name
    known = {*registry.recipes(), *own, *new}
    for verb, name in re.findall(
        r"hybridgen (run|cp|check|resolve|show|ls|sample|resume|report|reconstruct|evaluate|compare) ([\w./:-]+)", text
    ):
        if verb in ("run", "cp", "resolve") and not name.endswith(".toml"):
            assert name in known, f"{page}: {verb} {name}"
        if verb == "show":
            assert name in WHAT, f"{page}: show {name}"
    for path in re.findall(r"\]\((?!http)([\w./-]+)\)", text):
        assert ((ROOT / page).parent / path).exists(), f"{page} links to {path}"


def test_the_recipes_for_other_data_train(tmp_path: Path) -> None:
    from common import EAGER, LABELLED, POINTS, batch

    from hybridgen.model import build
    from hybridgen.recipe import load_recipe
    from hybridgen.step import Training, train_step

    text = (ROOT / "recipes/README.md").read_text(encoding="utf-8")
    section = text[text.index("\n## On other data") : text.index("\n## What the report")]
    recipes = [recipe for language, recipe in BLOCK.findall(section) if language == "toml"]
    assert len(recipes) == 2
    for index, text in enumerate(recipes):
        path = tmp_path / f"{index}.toml"
        path.write_text(text)
        recipe = load_recipe(path)
        spec = POINTS if recipe.data.component.name == "toy2d" else LABELLED
        state = Training(build(recipe, spec), EAGER)
        for step in (1, state.train.steps):  # in the last every term is on
            values = train_step(state, [batch(16, i, spec) for i in range(state.train.critic_steps)], step)
            assert all(value.isfinite() for value in values.values())


def test_the_shelf_page_says_what_the_docstrings_say() -> None:
    from shelf_page import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/shelf_page.py"


def test_every_shipped_recipe_is_in_the_tables() -> None:
    for page in ("README.md", "recipes/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in load_registry().recipes():
            assert f"`{name}`" in text, f"{page} lacks {name}"


def test_every_component_is_named_on_a_page_and_documented() -> None:
    pages = (ROOT / "recipes/README.md").read_text(encoding="utf-8")
    for component in load_registry().components():
        assert f"`{component.name}`" in pages, f"recipes/README.md lacks the {component.kind} {component.name}"


def fences() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for text in blocks(page, "python"):
            yield page, text


@pytest.mark.parametrize(("page", "text"), list(fences()))
def test_python_on_the_pages_compiles(page: str, text: str) -> None:
    compile(text, page, "exec")


def test_the_glossary_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("quantity", "fact"):
        with pytest.raises(SystemExit, match="0"):
            main(["show", what])
    out = capsys.readouterr().out
    for name in (*QUANTITIES, *FACTS):
        assert f"{name}: " in out


def test_the_changelog_has_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert re.search(r"^### (Added|Changed|Fixed|Removed)$", text, re.MULTILINE)


def patched(text: str, diff: str) -> str:
    """A recipe after one of the page's diffs; one that opens with an addition is appended."""
    lines = text.rstrip("\n").split("\n")
    place = len(lines) if diff.startswith("+") else 0
    if diff.startswith("+"):
        lines.append("")
        place += 1
    for line in diff.rstrip("\n").split("\n"):
        kind, content = line[:1], line[1:]
        if line == "@@":  # what lies between two places
            continue
        if kind == "+":
            lines.insert(place, content)
        else:
            place = lines.index(content, place)
            if kind == "-":
                del lines[place]
                continue
        place += 1
    return "\n".join(lines) + "\n"


def test_the_four_families_differ_by_the_lines_that_the_page_shows(tmp_path: Path) -> None:
    from common import EAGER, LABELLED, batch

    from hybridgen.model import build
    from hybridgen.recipe import load_recipe
    from hybridgen.step import Training, train_step

    text = blocks("recipes/README.md", "toml")[0]
    families = [text]
    for diff in blocks("recipes/README.md", "diff"):
        families.append(patched(families[-1], diff))
    expected = [{"reconstruction"}, {"reconstruction", "kl"}, {"reconstruction", "kl", "adversarial"}, {"adversarial"}]
    for index, (family, losses) in enumerate(zip(families, expected, strict=True)):
        path = tmp_path / f"{index}.toml"
        path.write_text(family)
        recipe = load_recipe(path)
        assert set(recipe.losses) == losses
        train_step(Training(build(recipe, LABELLED), EAGER), [batch(spec=LABELLED)], 1)
    assert load_recipe(tmp_path / "3.toml").encoder is None
