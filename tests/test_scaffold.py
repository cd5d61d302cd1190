"""What `hybridgen new` writes is a package that builds, installs, is listed, trains, passes its tests, ruff and mypy."""

from __future__ import annotations

import glob
import importlib
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybridgen.cli import VERBS, main
from hybridgen.errors import UserError
from hybridgen.names import KINDS
from hybridgen.recipe import load_recipe
from hybridgen.registry import Registry, load_registry
from hybridgen.scaffold import HOMES, LONGEST, TEMPLATES, check_name, package_of, plugin_files, write_plugin

ROOT = Path(__file__).parent.parent
ALL = (*KINDS, "recipes")
KIT = (ROOT / "hybridgen" / "testing").is_dir()
QUICK = ("train.steps=4", "train.evaluate_every=4", "evaluate.samples=100", "train.compile=false", "--report", "quiet")

pytestmark = pytest.mark.xdist_group("scaffold")  # one installation serves them all


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@dataclass(frozen=True)
class Made:
    """A package of each kind in `folder`, called new-KIND, their wheels, and where they are installed."""

    folder: Path
    wheels: Path
    site: Path

    def environment(self) -> dict[str, str]:
        path = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}


def pip(*arguments: str) -> None:
    line = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    root = tmp_path_factory.mktemp("scaffold")
    found = Made(root / "packages", root / "wheels", root / "site")
    for kind in ALL:
        write_plugin(found.folder / f"new-{kind}", f"new-{kind}", kind)
    packages = [str(path) for path in found.folder.iterdir()]
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(found.wheels), *packages)
    wheels = [str(path) for path in found.wheels.iterdir()]
    pip("install", "--no-deps", "--no-index", "--no-compile", "--target", str(found.site), *wheels)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(found.site)
    importlib.invalidate_caches()
    yield found
    patch.undo()
    for name in [name for name in sys.modules if name.startswith("hybridgen_new_")]:
        del sys.modules[name]


# -- the package of each kind ----------------------------------------------------------------------------------------------


def test_there_are_templates_for_every_kind() -> None:
    assert set(HOMES) == set(ALL)
    assert {path.name for path in TEMPLATES.iterdir()} == {"common", *ALL}


def test_each_is_listed_without_a_problem_and_imports_no_torch(made: Made, tmp_path: Path) -> None:
    code = (
        "import sys; from hybridgen.cli import main\n"
        "try: main(['ls'])\n"
        "finally: print('HEAVY', *[name for name in ('torch', 'numpy') if name in sys.modules])"
    )
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, env=made.environment(), cwd=tmp_path, timeout=120, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "HEAVY"
    rows = [line.split() for line in done.stdout.splitlines()]
    for kind in ALL:
        name = f"new-{kind}"
        assert [name, f"hybridgen-{name}", "0.1.0", "active"] in rows
        assert any(row[:2] == [name, name] and len(row) > 2 for row in rows), f"its recipe is not listed: {name}"
        if kind in KINDS:
            assert any(row[:2] == [name, name] and row[2].startswith(f"{package_of(name)}.") for row in rows if len(row) == 3)


@pytest.mark.parametrize("kind", ALL)
def test_its_recipe_trains_and_uses_it(
    kind: str, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"new-{kind}"
    code, out, err = run(capsys, "run", name, *QUICK)
    assert code == 0, err
    folder = tmp_path / out.strip()
    assert (folder / "report.txt").is_file()
    assert folder.name.startswith(name)
    if kind in KINDS:
        assert f'\nuse = "{name}"' in (folder / "recipe.toml").read_text()
    if kind == "reporter":
        assert "loss.reconstruction" in (folder / "rows.csv").read_text()
    if kind in ("metric", "features"):
        assert ("fid" if kind == "features" else name) in (folder / "report.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_show_has_its_options_with_descriptions(kind: str, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    from hybridgen.signature import REQUIRED, constructor

    code, out, _ = run(capsys, "show", kind, f"new-{kind}")
    assert code == 0
    assert "When: " in out
    assert "Source: " in out
    options = constructor(load_registry().find(kind, f"new-{kind}").load()).options.values()
    assert options
    assert all(option.description and option.default is not REQUIRED for option in options)
    assert kind == "reporter" or any("= " in option.describe() or "> " in option.describe() for option in options), "no bounds"


def test_their_own_tests_pass(made: Made) -> None:
    """Those of each component; the conformance kit's are run below."""
    tests = [str(path) for path in sorted(made.folder.glob("*/tests/test_*.py")) if path.name != "test_conformance.py"]
    assert len(tests) == len(ALL)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests]
    done = subprocess.run(
        line, capture_output=True, text=True, env=made.environment(), cwd=made.folder, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not KIT, reason="there is no conformance kit here")
@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k == "loss" else [pytest.mark.slow]) for k in ALL])
def test_it_passes_the_conformance_kit(kind: str, made: Made) -> None:
    tests = str(made.folder / f"new-{kind}" / "tests" / "test_conformance.py")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", tests]
    done = subprocess.run(
        line, capture_output=True, text=True, env=made.environment(), cwd=made.folder, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_a_wheel_holds_the_recipe_the_types_marker_and_no_tests(made: Made) -> None:
    for kind in ALL:
        name, package = f"new-{kind}", package_of(f"new-{kind}")
        (wheel,) = made.wheels.glob(f"{package}-0.1.0-py3-none-any.whl")
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
        assert {f"{package}/__init__.py", f"{package}/py.typed", f"{package}/recipes/{name}.toml"} <= held
        assert {path.partition("/")[0].partition("-")[0] for path in held} == {package}


def test_what_it_asks_pip_for(made: Made) -> None:
    project = tomllib.loads((made.folder / "new-loss" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "hybridgen-new-loss"
    assert project["requires-python"] == ">=3.11"
    assert project["dependencies"] == ["hybridgen>=0.1"]
    assert project["entry-points"] == {"hybridgen": {"new-loss": "hybridgen_new_loss"}}


# -- style and types -------------------------------------------------------------------------------------------------------

NAMES = ("a", "new-thing", "abcdef-abcdef-abcdef-abc")
"""The shortest name, one of every day, and one of the greatest length: lines grow with it, and must not outgrow a formatter."""


@pytest.mark.parametrize("name", NAMES)
def test_ruff_has_nothing_to_say_by_its_defaults_or_by_our_rules(name: str, tmp_path: Path) -> None:
    pytest.importorskip("ruff")
    assert len(NAMES[-1]) == LONGEST
    for kind in ALL:
        write_plugin(tmp_path / kind, name, kind)
    ours = ["--config", str(ROOT / "pyproject.toml")]
    for rules in (["--isolated", "--target-version", "py311"], ours):
        for what in (["check", "--no-cache"], ["format", "--no-cache", "--check", "--diff"]):
            line = [sys.executable, "-m", "ruff", *what, *rules, "."]
            done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_is_content_in_strict_mode(made: Made, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    modules = [*made.folder.glob("*/hybridgen_new_*/*.py"), *made.folder.glob("*/tests/test_*.py")]
    chosen = [str(path) for path in modules if path.name != "test_conformance.py"]
    chosen += [str(made.folder / "new-loss" / "tests" / "test_conformance.py")] if KIT else []
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])  # as an editable installation isn't seen by it
    line = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        f"--cache-dir={tmp_path}",
        *chosen,
    ]
    done = subprocess.run(
        line, capture_output=True, text=True, env={**os.environ, "MYPYPATH": path}, cwd=tmp_path, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def code_lines(text: str) -> list[str]:
    """Lines that are neither blank, nor comments, nor docstrings."""
    import ast

    said: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            said |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return [line for number, line in lines if number not in said and line.strip() and not line.lstrip().startswith("#")]


def test_a_minimal_loss_with_manifest_and_entry_point_is_fifteen_lines() -> None:
    from test_docs import BLOCK

    blocks = [text for _, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if text.startswith("# ")]
    modules = [text for text in blocks if text.startswith("# hybridgen_tv")]
    project = next(text for text in blocks if text.startswith("# pyproject.toml"))
    entry = project[project.index("[project.entry-points") :].partition("\n\n")[0].splitlines()
    assert len(modules) == 2
    assert len([*(line for text in modules for line in code_lines(text)), *entry]) <= 15


def test_the_template_of_a_loss_is_hardly_longer() -> None:
    files = plugin_files("thing", "loss")
    assert len(code_lines(files["hybridgen_thing/losses.py"])) <= 13  # typed, with an option and its bounds
    assert len(code_lines(files["hybridgen_thing/__init__.py"])) <= 13  # with recipes


# -- names and places ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("Soft_Edges", "loss", "such as 'soft-edges'"),
        ("SoftEdges", "loss", "such as 'soft-edges'"),
        ("3d", "loss", "such as 'd'"),
        ("a--b", "loss", "such as 'a-b'"),
        ("a-", "loss", "such as 'a'"),
        ("../escape", "loss", "such as 'escape'"),
        ("", "metric", "such as 'my-metric'"),
        ("é", "data", "such as 'my-data'"),
        ("a" * (LONGEST + 1), "loss", f"such as '{'a' * LONGEST}'"),
        ("hybridgen-tv", "loss", "write 'tv' in place of 'hybridgen-tv'"),
        ("hybridgen", "loss", "write 'my-loss' in place"),
        ("losses", "metric", "there is a plugin of that name, of hybridgen"),
        ("kl", "loss", "there is a loss of that name, of the plugin 'losses'"),
        ("vagan", "loss", "there is a recipe of that name, of the plugin 'recipes'"),
    ],
)
def test_a_name_that_is_no_good_is_refused_with_one_that_is(
    name: str, kind: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "new", "plugin", name, "--kind", kind)
    assert (code, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_kind_is_free(registry: Registry) -> None:
    check_name("kl", "metric", registry)
    with pytest.raises(UserError, match="taken"):
        check_name("kl", "loss", registry)


def test_a_package_that_can_be_imported_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hybridgen_of_a_friend").mkdir()
    (tmp_path / "hybridgen_of_a_friend" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="there is a package hybridgen_of_a_friend"):
        check_name("of-a-friend", "loss", Registry([]))


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("soft-edges", "loss", "SoftEdgesLoss"),
        ("edge-loss", "loss", "EdgeLoss"),
        ("loss", "loss", "LossLoss"),
        ("tensor", "encoder", "TensorEncoder"),  # not the Tensor that the module imports
        ("maxout-critic", "discriminator", "MaxoutCritic"),
        ("maxout-discriminator", "discriminator", "MaxoutCritic"),
    ],
)
def test_classes_are_named_after_plugin_and_kind(name: str, kind: str, expected: str) -> None:
    module = HOMES[kind][0]
    files = plugin_files(name, kind)
    assert f"\nclass {expected}(" in files[f"{package_of(name)}/{module}.py"]
    assert f'"{package_of(name)}.{module}:{expected}"' in files[f"{package_of(name)}/__init__.py"]


def test_no_token_is_left(tmp_path: Path) -> None:
    for kind in ALL:
        for path, text in plugin_files("thing", kind).items():
            assert "{{" not in path + text, f"{kind}: {path}"
            assert not path.endswith(".tmpl")


def test_the_lower_bound_is_what_the_templates_were_made_for() -> None:
    from hybridgen.scaffold import _lower_bound

    assert [_lower_bound(v) for v in ("0.1.0", "0.3.7", "1.2", "0.4.0.dev1", "1.0rc1")] == [
        "0.1",
        "0.3",
        "1.2",
        "0.4.0.dev1",
        "1.0rc1",
    ]


def test_it_tells_the_files_and_the_next_three_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "new", "plugin", "soft-edges", "--kind", "loss")
    assert (code, err) == (0, "")
    files, _, after = out.partition("\n\nNext:\n")
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files.splitlines() == written
    assert "soft-edges/.gitignore" in written
    assert after.splitlines() == [
        "  pip install -e ./soft-edges",
        "  hybridgen run soft-edges",
        "  hybridgen check-plugin soft-edges",
    ]
    code, out, _ = run(capsys, "new", "plugin", "other", "--kind", "data", "--folder", "with space/deep")
    assert code == 0
    assert "  pip install -e './with space/deep'\n" in out
    assert (tmp_path / "with space/deep/hybridgen_other/data.py").is_file()
    code, out, _ = run(capsys, "new", "plugin", "third", "--kind", "data", "--folder", str(tmp_path / "third"))
    assert f"  pip install -e {tmp_path / 'third'}\n" in out


def test_nothing_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "soft-edges").mkdir()
    mine = tmp_path / "soft-edges" / "README.md"
    mine.write_text("mine")
    code, out, err = run(capsys, "new", "plugin", "soft-edges", "--kind", "loss")
    assert (code, out) == (2, "")
    assert f"{Path('soft-edges/README.md')} exists" in err
    assert [path.name for path in (tmp_path / "soft-edges").iterdir()] == ["README.md"]
    assert mine.read_text() == "mine"
    mine.unlink()  # into an empty folder, as a new repository is
    assert run(capsys, "new", "plugin", "soft-edges", "--kind", "loss")[0] == 0
    (tmp_path / "a-file").write_text("")
    code, _, err = run(capsys, "new", "plugin", "other", "--kind", "loss", "--folder", "a-file")
    assert code == 2
    assert "can't be written" in err
    assert "Traceback" not in err


def test_the_kind_has_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "new", "plugin", "thing", "--kind", "losss", "--folder", str(tmp_path / "thing"))
    assert code == 2
    assert "'loss'" in err
    code, out, _ = run(capsys, "new", "plugin", "--help")
    assert code == 0
    assert all(f"  {kind} " in out for kind in ALL)


def test_templates_are_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    core = ROOT / "hybridgen"
    patterns = project["tool"]["setuptools"]["package-data"]["hybridgen"]
    shipped = {core / path for pattern in patterns for path in glob.glob(pattern, root_dir=core, recursive=True)}  # noqa: PTH207
    assert {path for path in TEMPLATES.rglob("*") if path.is_file()} <= shipped


@pytest.mark.slow
def test_our_wheel_holds_the_templates(tmp_path: Path) -> None:
    import shutil

    for name in ("hybridgen", "plugins", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path), str(tmp_path / "source"))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        held = {name for name in archive.namelist() if name.startswith("hybridgen/templates/")}
    assert held == {f"hybridgen/{path.relative_to(ROOT / 'hybridgen')}" for path in TEMPLATES.rglob("*") if path.is_file()}


# -- recipes ---------------------------------------------------------------------------------------------------------------

HEADER = "#:schema ./hybridgen.schema.json\n"


@pytest.fixture
def _few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema of few components, which is quick to write."""
    monkeypatch.setenv("HYBRIDGEN_DISABLE_PLUGINS", "")
    monkeypatch.setattr("hybridgen.recipe.schema.json_schema", lambda registry: {"title": "hybridgen recipe"})


@pytest.mark.usefixtures("_few_plugins")
def test_a_new_recipe_extends_one_that_learns_and_names_a_schema_to_editors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "new", "recipe", "mine")
    assert code == 0
    assert out == "mine.toml\n\nNext:\n  hybridgen check mine.toml\n  hybridgen run mine.toml\n  hybridgen resolve mine.toml\n"
    assert "hybridgen schema --out hybridgen.schema.json" in err
    text = (tmp_path / "mine.toml").read_text()
    assert text.startswith(HEADER)
    assert text.count("#:schema") == 1
    assert '\nextends = "vagan-digits"\n' in text
    assert (tmp_path / "hybridgen.schema.json").read_text() == '{\n  "title": "hybridgen recipe"\n}\n'
    recipe = load_recipe("mine.toml")
    assert recipe.name == "mine"
    assert recipe.losses.keys() == load_recipe("vagan-digits").losses.keys()
    assert recipe.description == "What differs from vagan-digits; everything else follows it."


@pytest.mark.usefixtures("_few_plugins")
def test_a_new_recipe_may_be_the_whole_of_another_or_extend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "new", "recipe", "whole", "--from", "gan-ring")[0] == 0
    assert run(capsys, "new", "recipe", "child", "--extends", "gan-ring", "--no-schema")[0] == 0
    whole, child, ring = (load_recipe(r) for r in ("whole.toml", "child.toml", "gan-ring"))
    for made in (whole, child):
        assert {k: v for k, v in made.tree.items() if k != "name"} == {k: v for k, v in ring.tree.items() if k != "name"}
    assert "extends" not in (tmp_path / "whole.toml").read_text()
    assert '\nextends = "gan-ring"\n' in (tmp_path / "child.toml").read_text()
    code, _, err = run(capsys, "new", "recipe", "both", "--from", "gan-ring", "--extends", "gan-ring")
    assert code == 2
    assert "exclude each other" in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Mine", "such as 'mine'"), ("mine.toml", "such as 'mine'"), ("a/b", "such as 'a-b'"), ("é", "such as 'mine'")],
)
def test_a_recipe_has_a_name_and_no_path(
    name: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "new", "recipe", name)
    assert (code, out) == (2, "")
    assert expected in err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("_few_plugins")
def test_a_recipe_that_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("mine")
    code, _, err = run(capsys, "new", "recipe", "mine")
    assert code == 2
    assert "mine.toml exists" in err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine.toml": "mine"}
    code, _, err = run(capsys, "new", "recipe", "other", "--extends", "nowhere")
    assert code == 2
    assert "there is no recipe 'nowhere'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.usefixtures("_few_plugins")
def test_a_copy_names_the_schema_of_its_own_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "hybridgen.schema.json").write_text("{}")
    assert run(capsys, "cp", "gan-ring", "mine.toml") == (
        0,
        "mine.toml\n",
        "hybridgen: editors complete recipes by hybridgen.schema.json; once you install plugins, write it anew: "
        "hybridgen schema --out hybridgen.schema.json\n",
    )
    code, _, err = run(capsys, "cp", "mine.toml", "elsewhere")
    assert (code, err) == (0, "")
    assert (tmp_path / "elsewhere" / "hybridgen.schema.json").read_text() == "{}", "one that is there is left as it is"
    text = (tmp_path / "elsewhere" / "mine.toml").read_text()
    assert text.startswith(HEADER)
    assert text.count("#:schema") == 1
    (tmp_path / "plain").mkdir()
    assert run(capsys, "cp", "mine.toml", "plain", "--no-schema") == (0, "plain/mine.toml\n", "")
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["mine.toml"]
    assert "#:schema" not in (tmp_path / "plain" / "mine.toml").read_text()
    code, _, err = run(capsys, "cp", "gan-ring", "nowhere/mine.toml")
    assert code == 2
    assert "nowhere/mine.toml can't be written: there is no folder nowhere" in err


@pytest.mark.usefixtures("_few_plugins")
def test_a_recipe_that_opens_with_the_directive_is_told_by_what_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "cp", "gan-ring", "mine.toml")[0] == 0
    recipe, ring = load_recipe("mine.toml"), load_recipe("gan-ring")
    assert recipe.description == ring.description
    assert run(capsys, "check", "mine.toml")[:2] == (0, "mine: no problem found\n")
    code, out, _ = run(capsys, "resolve", "mine.toml", "--no-origins")
    assert code == 0
    assert out.startswith("# A GAN on eight Gaussians")
    assert "#:schema" not in out
    where = recipe.where("data")  # lines are those of the file, the directive counted
    assert where == f"mine.toml:{(tmp_path / 'mine.toml').read_text().splitlines().index('[data]') + 1}"


def test_the_schema_beside_is_the_one_that_the_command_writes(tmp_path: Path, registry: Registry) -> None:
    from hybridgen.recipe.schema import json_schema, schema_text, write_beside

    assert write_beside(tmp_path, Registry([])) == HEADER
    written = (tmp_path / "hybridgen.schema.json").read_text()
    assert written == schema_text(Registry([]))
    assert '"title": "hybridgen recipe"' in written
    assert json_schema(Registry([]))["type"] == "object"


def test_new_is_a_verb() -> None:
    assert "new" in VERBS
