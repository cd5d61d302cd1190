"""What the pages say is what happens: their packages are installed, their recipes and commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybridgen.cli import main
from hybridgen.names import FACTS, KINDS, QUANTITIES
from hybridgen.registry import load_registry

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "recipes/README.md", "plugins/README.md", "plugins/SHELF.md", "plugins/METRICS.md", "CONTRIBUTING.md")
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
    return {**os.environ, "PYTHONPATH": str(folder)}


def hybridgen(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    line = [sys.executable, "-m", "hybridgen", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=cwd, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plugin_of_the_plugin_page_is_listed_and_trains(tmp_path: Path) -> None:
    written = write_files("plugins/README.md", tmp_path)
    assert len(written) == 10
    env = install(tmp_path)
    listed = hybridgen("ls", "plugins", env=env, cwd=tmp_path)
    assert re.search(r"mine +hybridgen-mine 0\.1 +active", listed)
    assert "no problem found" in hybridgen("check", "mine.toml", env=env, cwd=tmp_path)
    assert "power: float, >= 1, default 1.0" in hybridgen("show", "loss", "total-variation", env=env, cwd=tmp_path)
    run = hybridgen("run", "mine.toml", env=env, cwd=tmp_path).strip()
    assert "brightness" in (tmp_path / run / "report.txt").read_text()
    assert [line.split()[0] for line in (tmp_path / "losses.txt").read_text().splitlines()] == ["1", "4", "8", "10", "12"]


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
    for verb, name in re.findall(
        r"hybridgen (run|cp|check|resolve|show|ls|sample|resume|report|reconstruct|evaluate|compare) ([\w./:-]+)", text
    ):
        if verb in ("run", "cp", "resolve") and not name.endswith(".toml"):
            assert name in registry.recipes(), f"{page}: {verb} {name}"
        if verb == "show":
            assert name in (*KINDS, "quantity", "fact"), f"{page}: show {name}"
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
