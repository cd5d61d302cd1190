"""Plugins of one file, and of one cell: given by name, recorded with the run, and asked for again."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import Tensor, nn

import hybridgen
from hybridgen import hookimpl
from hybridgen.cli import LOOKS_NOTHING_UP, VERBS, cli, main
from hybridgen.errors import PluginError, RecipeError, UserError
from hybridgen.events import read_events
from hybridgen.examples import held_out
from hybridgen.loop import resume
from hybridgen.registry import load_registry

FILE = """\
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hybridgen import hookimpl


@dataclass
class Powers:
    values: list[float] = field(default_factory=list)


class TotalVariation(nn.Module):
    \"\"\"Mean absolute difference of neighbouring pixels.\"\"\"

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, recon: Tensor) -> Tensor:
        return recon.diff(dim=-1).abs().pow(self.power).mean()


@hookimpl
def register_components(register):
    register.loss("total-variation", TotalVariation)
"""

QUICK = {"train.steps": 3, "data.batch_size": 16, "decoder.width": 8, "encoder.width": 8, "train.samples_every": 3}
SMOOTH = {**QUICK, "loss.smooth.use": "total-variation"}
SHORT = [f"{key}={value}" for key, value in SMOOTH.items()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`my_loss.py` in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my_loss.py"
    path.write_text(FILE)
    return path


def written(text: str, name: str = "mine.py") -> str:
    """A file in the working directory (see `file`), by its name."""
    Path(name).write_text(text)
    return name


def hybridgen_says(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.err if code else said.out


# -- a file ------------------------------------------------------------------------------------------------------------


def test_a_file_is_a_plugin_named_after_it_and_listed_with_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "my-loss    my_loss.py       active" in hybridgen_says(capsys, "ls", "plugins", "--plugin", "./my_loss.py")
    listed = hybridgen_says(capsys, "ls", "losses", "--plugin", "my_loss.py")
    assert "my_loss.py:TotalVariation" in listed
    assert "my-loss:total-variation" in hybridgen_says(capsys, "show", "loss", "total-variation", "--plugin", "my_loss.py")


def test_a_file_that_nobody_names_is_not_picked_up(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "my-loss" not in hybridgen_says(capsys, "ls")
    assert "there is no loss 'total-variation'" in hybridgen_says(capsys, "check", "vae-digits", SHORT[-1], code=2)


def test_every_verb_that_looks_something_up_takes_it_and_no_other() -> None:
    context = click.Context(cli)
    for verb in VERBS:
        command = cli.get_command(context, verb)
        assert command is not None
        takes = sum("--plugin" in parameter.opts for parameter in command.params)
        assert takes == (verb not in LOOKS_NOTHING_UP), verb
        source = inspect.getsource(sys.modules[f"hybridgen.cli.{verb.replace('-', '_')}"])
        assert ("registry_of" in source) == (verb not in LOOKS_NOTHING_UP), verb


def test_verbs_see_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = ("--plugin", "my_loss.py")
    assert "no problem found" in hybridgen_says(capsys, "check", "vae-digits", *SHORT, *plugin)
    assert 'use = "total-variation"' in hybridgen_says(capsys, *plugin, "resolve", "vae-digits", *SHORT)  # before the verb
    assert "total-variation" in hybridgen_says(capsys, "schema", *plugin)
    assert hybridgen_says(capsys, "cp", "vae-digits", "copy.toml", *plugin) == "copy.toml\n"


def test_several_files_and_one_that_is_named_twice(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = written(FILE.replace("total-variation", "other"), "other_loss.py")
    given = ["--plugin", "my_loss.py", "--plugin", other, "--plugin", str(file)]
    found = json.loads(hybridgen_says(capsys, *given[:2], "ls", "--json", *given[2:]))
    assert [p["name"] for p in found["plugins"]][-2:] == ["my-loss", "other-loss"]


def test_its_command_is_there_where_the_file_comes_before_the_verb(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "import click\nfrom hybridgen import hookimpl\n\n@hookimpl\ndef commands(group):\n"
        "    @group.command('greet')\n    def greet():\n        click.echo('hello from a file')\n"
    )
    name = written(text)
    assert hybridgen_says(capsys, "--plugin", name, "greet") == "hello from a file\n"
    assert "greet" in hybridgen_says(capsys, "--plugin", name, "--help")


def test_it_may_be_disabled_and_is_then_not_run(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written("raise RuntimeError('it ran')")
    listed = hybridgen_says(capsys, "--disable-plugin", "mine", "ls", "plugins", "--plugin", name)
    assert "mine       mine.py          disabled" in listed


def test_it_is_run_once_a_process_and_again_when_it_was_edited(file: Path) -> None:
    name = written("import pathlib\nlog = pathlib.Path('log')\nlog.write_text(log.read_text() + 'x')\n" + FILE)
    Path("log").write_text("")
    first, second = (load_registry(files=[one]).find("loss", "total-variation").load() for one in (name, f"./{name}"))
    assert first is second
    assert Path("log").read_text() == "x"
    Path(name).write_text(Path(name).read_text() + "\n\nEDITED = True\n")
    third = load_registry(files=[name]).find("loss", "total-variation").load()
    assert third is not first
    assert Path("log").read_text() == "xx"


def test_its_module_is_whole_and_shadows_none(file: Path) -> None:
    """A file called torch.py stays beside torch; dataclasses, hints and sources work."""
    name = written(FILE.replace("class TotalVariation", "class TV").replace("TotalVariation)", "TV)"), "torch.py")
    found = load_registry(files=[name]).find("loss", "total-variation").load()
    assert sys.modules["torch"] is torch
    module = sys.modules[found.__module__]
    assert module.__file__ == str(Path(name).resolve())
    assert inspect.getsource(found).startswith("class TV")
    assert typing.get_type_hints(found.forward) == {"recon": Tensor, "return": Tensor}
    assert dataclasses.fields(module.Powers)[0].type == list[float]


def test_its_forward_compiles_whole(file: Path) -> None:
    loss = load_registry(files=[file]).find("loss", "total-variation").load()(power=2.0)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), loss(x))


HOOK = "from hybridgen import hookimpl\n\n@hookimpl\ndef register_components(register):\n    "


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("gone.py", None, r"plugin file gone\.py: it can't be read: No such file or directory"),
        ("notes.txt", "", r"plugin file notes\.txt: expected a Python file"),
        ("My_Loss.py", "", r"would be called 'My-Loss', after its file, which is no name; rename the file"),
        ("mine.py", "x = 1\ndef f(:\n", r"mine\.py:2: importing it raised SyntaxError: invalid syntax"),
        ("mine.py", "x = 1\n\ny = 1 / 0\n", r"mine\.py:3: importing it raised ZeroDivisionError"),
        ("mine.py", "import nobody_has_this\n", r"mine\.py:1: importing it raised ModuleNotFoundError: .*nobody_has_this"),
        ("mine.py", "raise SystemExit('no licence')", r"mine\.py:1: importing it raised SystemExit\('no licence'\)"),
        ("mine.py", "class Loss: ...\n", r"(?s)mine\.py: it offers nothing; write in it:.*@hookimpl\ndef register_components"),
        ("mine.py", HOOK + "pass\n", r"mine\.py: it offers nothing"),
        (
            "mine.py",
            HOOK.replace("components", "component") + "pass\n",
            r"`register_component` is no hook; did you mean `register_components`\?; write in it",
        ),
        ("mine.py", HOOK + "register.loss('a', missing)\n", r"mine\.py:5: NameError: name 'missing' is not defined"),
        ("mine.py", HOOK + "register.loss('A b', dict)\n", r"mine\.py:5: ValueError: loss name 'A b': expected lower-case"),
        (
            "mine.py",
            HOOK + "register.loss('a', dict())\n",
            r"mine\.py:5: ValueError: loss 'a': expected the class itself, got {}",
        ),
        ("mine.py", HOOK + "register.loss('a', print)\n", r"loss 'a': expected the class itself, got <built-in"),
        ("mine.py", HOOK + "register.provider('a', 3)\n", r"provider 'a': expected a class or a function, got 3"),
        ("mine.py", HOOK + "register.loss('a', 'mine:A')\n", r'name the object itself: register\.loss\("a", A\)'),
        (
            "mine.py",
            "HYBRIDGEN_API = 7\n" + HOOK + "pass\n",
            r"mine\.py: it speaks plugin interface 7, this hybridgen speaks 1",
        ),
        ("losses.py", FILE, r"plugin file losses\.py: the name 'losses' is taken by hybridgen [\d.]+; rename the file"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(file: Path, name: str, text: str | None, expected: str) -> None:
    if text is not None:
        written(text, name)
    modules = set(sys.modules)
    with pytest.raises(PluginError, match=expected):
        load_registry(files=[name])
    if "raised" in expected:
        assert not {m for m in set(sys.modules) - modules if m.startswith("hybridgen_file")}  # the next try runs it again


def test_a_folder_and_two_files_of_one_name(file: Path) -> None:
    Path("package.py").mkdir()
    with pytest.raises(PluginError, match="this is a folder"):
        load_registry(files=["package.py"])
    Path("other").mkdir()
    again = written(FILE, "other/my_loss.py")
    with pytest.raises(PluginError, match=r"other/my_loss\.py: the name 'my-loss' is taken by my_loss\.py; rename the file"):
        load_registry(files=[file.name, again])


def test_the_command_line_says_so_without_a_traceback(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = hybridgen_says(capsys, "ls", "--plugin", "gone.py", code=2)
    assert said == "hybridgen: plugin file gone.py: it can't be read: No such file or directory\n"


# -- a run that was made with a file ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps out of three, as if it had been stopped."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("my_loss.py").write_text(FILE)
        found = folder / hybridgen.train("vae-digits", {**SMOOTH, "train.steps": 2}, plugins="my_loss.py").path
    recipe = found / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 2", "steps = 3"))
    return found


@pytest.fixture
def run(trained: Path, file: Path) -> Path:
    """A copy of it in the working directory, beside the same file."""
    return Path(shutil.copytree(trained, file.parent / "runs" / trained.name))


def test_a_run_names_its_file_with_a_digest_and_keeps_a_copy(run: Path, file: Path) -> None:
    plugins = json.loads((run / "environment.json").read_text())["plugins"]
    digest = subprocess.run(["sha256sum", str(file)], capture_output=True, text=True, check=True).stdout.split()[0]
    assert plugins[-1]["name"] == "my-loss"
    assert (plugins[-1]["file"], plugins[-1]["sha256"]) == ("my_loss.py", digest)
    assert all("file" not in plugin for plugin in plugins[:-1])
    assert (run / "source" / "my_loss.py").read_text() == FILE


@pytest.mark.parametrize("use", [hybridgen.load, hybridgen.evaluate, resume, lambda run: held_out(run, 2)])
def test_without_its_file_a_run_asks_for_it(run: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(RecipeError, match=r"this run was made with --plugin my_loss\.py; give it again") as raised:
        use(run)
    assert str(run / "source" / "my_loss.py") in str(raised.value)


@pytest.mark.parametrize("verb", ["sample", "reconstruct", "evaluate", "resume"])
def test_verbs_ask_for_it_and_take_it(run: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "made with --plugin my_loss.py; give it again" in hybridgen_says(capsys, verb, str(run), code=2)
    hybridgen_says(capsys, verb, str(run), "--plugin", "my_loss.py")


def test_a_file_that_has_changed_is_told_on_resume(run: Path, file: Path) -> None:
    file.write_text(FILE.replace(".mean()", ".sum()"))
    resume(run, plugins=file)
    starts = [event for event in read_events(run / "metrics.jsonl") if event["event"] == "start"]
    told = [[note for note in start["notes"] if "has changed since" in note] for start in starts]
    assert told[0] == []
    assert told[1] == [f"{file} has changed since this run was made; as it was then it is kept in {run}/source/my_loss.py"]


def test_a_file_that_is_the_same_is_not_told(run: Path, file: Path) -> None:
    resume(run, plugins=[file])
    start = [event for event in read_events(run / "metrics.jsonl") if event["event"] == "start"][-1]
    assert not any("has changed" in note for note in start["notes"])


# -- a cell ----------------------------------------------------------------------------------------------------------------


class TotalVariation(nn.Module):
    """A loss of this module, as if of a notebook."""

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, recon: Tensor) -> Tensor:
        return recon.diff(dim=-1).abs().pow(self.power).mean()


def test_classes_at_hand_train_and_are_asked_for_again(tmp_path: Path) -> None:
    mine = hybridgen.components(loss={"total-variation": TotalVariation})
    outcome = hybridgen.train("vae-digits", SMOOTH, runs=tmp_path, plugins=mine)
    assert "loss.smooth" in (tmp_path / outcome.path / "metrics.jsonl").read_text()
    expected = r'this run was made with plugins=hybridgen.components\(name="notebook", ...\); give it again'
    for use in (hybridgen.load, hybridgen.evaluate):
        with pytest.raises(RecipeError, match=expected):
            use(outcome.path)
    assert hybridgen.load(outcome.path, plugins=mine).sample(2).shape == (2, 1, 8, 8)
    assert hybridgen.evaluate(outcome.path, metrics=["psnr"], plugins=[mine])["values"]
    with pytest.raises(RecipeError, match="there is no loss 'total-variation'"):  # nothing of it stays behind
        hybridgen.train("vae-digits", SMOOTH, runs=tmp_path)


def test_a_metric_at_hand_measures_a_run(tmp_path: Path) -> None:
    class Count:
        """How many."""

        unit = "examples"
        higher_is_better = None

        def reset(self) -> None:
            self.count = 0

        def update(self, x: Tensor) -> None:
            self.count += len(x)

        def compute(self) -> float:
            return float(self.count)

    run = hybridgen.train("vae-digits", QUICK, runs=tmp_path).path
    found = hybridgen.evaluate(run, metrics=["count"], plugins=hybridgen.components("mine", metric={"count": Count}))
    assert found["values"] == {"count": 180.0}
    assert found["protocol"]["metrics"]["count"]["use"] == "mine:count"


SCRIPT = """\
from typing import Annotated
import hybridgen
from pydantic import Field
from torch import Tensor, nn

class Half(nn.Module):
    def __init__(self, *, power: Annotated[float, Field(ge=1)] = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, recon: Tensor) -> Tensor:
        return recon.abs().pow(self.power).mean()

if COMPILE:  # the C++ compiler would take a minute
    from hybridgen import compiling, step
    step.compiled = lambda phase, backend, *more: compiling.compiled(phase, "aot_eager", *more)

mine = hybridgen.components(loss={"half": Half})
recipe = {"train.steps": 2, "train.compile": COMPILE, "loss.more.use": "half", "loss.more.power": 2, "data.batch_size": 8,
          "encoder.width": 4, "decoder.width": 4}
run = hybridgen.train("vae-digits", recipe, plugins=mine).path
print(hybridgen.load(run, plugins=mine).sample(1).shape)
try:
    hybridgen.train("vae-digits", {**recipe, "loss.more.power": 0.5}, plugins=mine)
except hybridgen.errors.RecipeError as error:
    print(error)
"""


@pytest.mark.parametrize("compiled", [False, True])
def test_classes_of_main_work_compiled_or_not(compiled: bool, tmp_path: Path) -> None:
    script = tmp_path / "cell.py"
    script.write_text(SCRIPT.replace("COMPILE", str(compiled)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 1, 8, 8])" in done.stdout
    assert "loss.more.power: loss 'half': input should be greater than or equal to 1, got 0.5" in done.stdout
    events = [json.loads(line) for line in next(tmp_path.glob("runs/*/metrics.jsonl")).read_text().splitlines()]
    assert events[0]["compile"] is compiled
    assert not [event for event in events if event.get("code", "").startswith("compile.")]  # nothing fell back


def nothing(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, r"name what it offers"),
        (
            {"losses": {"a": TotalVariation}},
            r"components\(losses=...\): there is no such kind; did you mean `loss`\? kinds are",
        ),
        ({"loss": TotalVariation}, r'expected a dict of names; write loss=\{"my-loss": TotalVariation\}'),
        ({"loss": {"A": TotalVariation}}, r"loss name 'A': expected lower-case letters"),
        ({"loss": {"a": TotalVariation()}}, r"loss 'a': expected the class itself, got TotalVariation\(\)"),
        ({"loss": {"a": nothing}}, r"loss 'a': expected the class itself, got <function nothing"),
        ({"loss": {"a": "TotalVariation"}}, r"reference 'TotalVariation' is not of the form"),
        ({"name": "My Cell", "loss": {}}, r"name='My Cell'\): expected lower-case letters"),
    ],
)
def test_nonsense_at_hand_is_told_at_once(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        hybridgen.components(**given)


def test_a_provider_at_hand_may_be_a_function() -> None:
    registry = load_registry(extra={"notebook": hybridgen.components(provider={"nothing": nothing})})
    assert registry.find("provider", "notebook:nothing").load() is nothing


def test_plugins_that_are_none_or_clash_are_told(tmp_path: Path) -> None:
    mine = hybridgen.components(loss={"a": TotalVariation})
    cases: list[tuple[Any, str]] = [
        ({"loss": {"a": TotalVariation}}, r"plugins: expected a plugin's file, or hybridgen.components.*; got {'loss'"),
        (hybridgen.components("losses", loss={"a": TotalVariation}), r"'losses' can't be used: the name 'losses' is taken by"),
        ([mine, hybridgen.components(loss={"b": TotalVariation})], r"two of them have the same name"),
        ([3], r"expected a plugin's file, or hybridgen.components\(loss=\{...\}\), or a list of them; got 3"),
    ]
    for plugins, expected in cases:
        with pytest.raises(UserError, match=expected):
            hybridgen.train("vae-digits", runs=tmp_path, plugins=plugins)
    with pytest.raises(UserError, match="write `plugins` or `registry`, not both"):
        hybridgen.train("vae-digits", runs=tmp_path, plugins=mine, registry=load_registry())


def test_a_manifest_at_hand_with_hooks_is_still_a_plugin() -> None:
    class Manifest:
        @hookimpl
        def register_components(self, register: Any) -> None:
            register.loss("a", TotalVariation)

    assert load_registry(extra={"mine": Manifest()}).find("loss", "mine:a").load() is TotalVariation
