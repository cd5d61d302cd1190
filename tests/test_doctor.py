"""`hybridgen doctor`: what is wrong is a finding with what to do, and looking leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from common import FIXTURES

from hybridgen import doctor, hookimpl
from hybridgen.cli import main
from hybridgen.doctor import Finding, examine, examine_recipe
from hybridgen.registry import Plugin, Registry, load_registry


def by_topic(findings: Any) -> dict[str, Finding]:
    found: dict[str, Finding] = {}
    for finding in findings:
        assert finding.state in ("ok", "note", "problem")
        assert bool(finding.mend) is (finding.state != "ok"), finding
        assert "\n" not in finding.text + finding.mend
        found.setdefault(finding.topic, finding)
    return found


def of_recipe(text: str, folder: Path, *overrides: str, registry: Registry | None = None) -> list[Finding]:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    found = list(examine_recipe(str(path), overrides, registry or load_registry(extra={"fixtures": FIXTURES})))
    by_topic(found)
    return found


# -- the installation --------------------------------------------------------------------------------------------------


def test_this_installation_is_looked_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_compiler", lambda: Finding("compiler", "ok", "tested below"))
    registry = load_registry()
    found = by_topic(examine(registry, runs=tmp_path / "runs"))
    assert {f"plugin {plugin.name}" for plugin in registry.plugins} < found.keys()
    assert {
        "python",
        "torch",
        "packages",
        "cache folder",
        "run folder",
        "terminal",
        "cpu",
        "precision",
        "compiler",
    } < found.keys()
    assert [finding for finding in found.values() if finding.state == "problem"] == []
    assert found["torch"].text == f"torch {metadata.version('torch')}, tested are >=2.13,<2.14"
    assert found["cpu"].facts["threads"] == torch.get_num_threads()
    assert found["plugin losses"].facts["components"] == len(registry.components("loss"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("package", "version", "topic", "expected", "mend"),
    [
        (
            "torch",
            "2.99.0",
            "torch",
            "torch 2.99.0 is installed; hybridgen was tested with >=2.13,<2.14",
            "'torch>=2.13,<2.14'",
        ),
        ("einops", "0.1", "packages", "einops 0.1 is installed; hybridgen was tested with >=0.8", "'einops>=0.8'"),
        ("rich", "", "packages", "rich is not installed; hybridgen wants rich>=13.7", "pip install 'rich>=13.7'"),
    ],
)
def test_a_package_that_is_not_as_it_was_tested_is_a_problem(
    package: str, version: str, topic: str, expected: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = metadata.version

    def told(name: str) -> str:
        if name == package and not version:
            raise metadata.PackageNotFoundError(name)
        return version if name == package else genuine(name)

    monkeypatch.setattr(doctor.metadata, "version", told)
    found = by_topic(doctor._packages())
    assert (found[topic].state, found[topic].text) == ("problem", expected)
    assert mend in found[topic].mend
    assert ("torch" in found) or package == "torch"


def test_another_copy_of_hybridgen_and_none_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "0.0.9")
    assert "0.0.9 is what is installed" in doctor._python().text
    assert doctor._python().state == "note"
    monkeypatch.setattr(doctor, "_version", lambda name: "")
    assert (doctor._python().state, doctor._python().mend) == ("problem", "in a checkout: pip install -e .")


def test_without_torch_the_rest_is_still_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = by_topic(examine(Registry([]), runs=tmp_path))
    assert "cpu" not in found
    assert found["run folder"].state == "ok"
    last = list(examine(Registry([]), runs=tmp_path))[-1]
    assert last.text.startswith("torch can't be imported: ModuleNotFoundError")
    assert "--force-reinstall 'torch>=2.13,<2.14'" in last.mend


@pytest.mark.parametrize(
    ("plugin", "state", "text", "mend"),
    [
        (Plugin("p", "dist", "1.2", "m"), "ok", "dist 1.2, active", ""),
        (Plugin("p", "dist", "1.2", "m", state="disabled"), "note", "dist 1.2, disabled", "HYBRIDGEN_DISABLE_PLUGINS"),
        (
            Plugin("p", "dist", "1.2", "m", state="failed", cause="ImportError: x"),
            "problem",
            "failed: ImportError: x",
            "-U dist",
        ),
        (Plugin("p", "dist", "1.2", "m", problems=["`q` is no hook"]), "problem", "`q` is no hook", "--disable-plugin p"),
        (Plugin("p", "dist", "1.2", "m", seconds=2.0), "note", "imported in 2000.0 ms", "python -X importtime -c 'import m'"),
    ],
)
def test_each_state_of_a_plugin_is_told_with_what_to_do(plugin: Plugin, state: str, text: str, mend: str) -> None:
    finding = doctor._plugin(plugin)
    assert finding.topic == "plugin p"
    assert finding.state == state
    assert text in finding.text
    assert mend in finding.mend
    assert finding.facts["seconds"] == plugin.seconds


def test_names_that_two_plugins_offer_are_noted(registry: Registry) -> None:
    manifest = SimpleNamespace(register_components=hookimpl(lambda register: register.loss("kl", "mine:KL")))
    (finding,) = doctor._clashes(load_registry(extra={"mine": manifest}))
    assert finding.state == "note"
    assert finding.mend == 'write use = "losses:kl" or use = "mine:kl"'
    assert list(doctor._clashes(load_registry())) == []


# -- folders, the terminal ---------------------------------------------------------------------------------------------


def test_a_folder_is_tried_where_it_would_be_made_and_left_as_it_was(tmp_path: Path) -> None:
    finding = doctor._folder("run folder", tmp_path / "a" / "b", "another")
    assert finding.state == "ok"
    assert "can be made" in finding.text
    assert finding.facts["free"] > 0
    assert "can be written" in doctor._folder("run folder", tmp_path, "another").text
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = doctor._folder("run folder", tmp_path / "file" / "runs", "name another")
    assert (finding.state, finding.mend) == ("problem", "name another")
    assert "can't be written: Not a directory" in finding.text


@pytest.mark.parametrize(("free", "state"), [(1 << 40, "ok"), (1 << 30, "note"), (1 << 20, "problem")])
def test_little_room_is_noted_and_none_is_a_problem(
    free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    finding = doctor._folder("run folder", tmp_path, "another")
    assert finding.state == state
    assert ("make room" in finding.mend) is (state != "ok")


class Screen(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("encoding", "environment", "state", "text"),
    [
        ("utf-8", {"TERM": "xterm-256color"}, "ok", "120 columns, 256 colours, utf-8"),
        ("ascii", {"TERM": "xterm-256color"}, "note", "no characters for bars"),
        ("utf-8", {"TERM": "dumb"}, "note", "draws nothing"),
        ("utf-8", {"TERM": "xterm-256color", "NO_COLOR": "1"}, "note", "samples can't be drawn"),
    ],
)
def test_a_terminal_is_judged_by_what_the_report_needs(
    encoding: str, environment: dict[str, str], state: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "COLUMNS": "120", "LINES": "40"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", Screen(io.BytesIO(), encoding=encoding))
    finding = doctor._terminal()
    assert finding.state == state
    assert text in finding.text
    assert finding.facts["tty"]


def test_a_stream_that_is_no_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert doctor._terminal().text == "stderr is no terminal: the report is plain lines"


# -- the machine -------------------------------------------------------------------------------------------------------


def test_gpus_are_told_with_memory_and_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        SimpleNamespace(name="A", total_memory=80 << 30, major=9, minor=0),
        SimpleNamespace(name="B", total_memory=8 << 30, major=6, minor=1),
    ]

    class Device:
        def __init__(self, index: int) -> None:
            pass

        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def ones(size: int, device: str) -> torch.Tensor:
        if device == "cuda:1":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return torch.zeros(size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = by_topic(doctor._cuda())
    assert found["cuda:0"].text == "A, 80.0 GiB memory, 40.0 GiB free, bfloat16 yes, TF32 yes"
    assert found["cuda:1"].state == "problem"
    assert "no kernel image" in found["cuda:1"].text
    assert "6.1" in found["cuda:1"].mend
    assert found["triton"].state == "note"


@pytest.mark.parametrize(
    ("driver", "built_for", "state", "text"),
    [
        (None, None, "ok", "runs train on the CPU"),
        ("nvidia-smi", None, "note", "CPUs only"),
        ("nvidia-smi", "13.0", "note", "sees no device"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_noted(
    driver: str | None, built_for: str | None, state: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: driver)
    monkeypatch.setattr(doctor, "DRIVER", Path("/nowhere"))
    (finding,) = doctor._cuda()
    assert finding.state == state
    assert text in finding.text


@pytest.fixture
def compilers(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """`compilers(script)` makes a shell script the only compiler that inductor looks for; "" leaves none."""
    from torch._inductor import config

    def only(script: str) -> None:
        if script:
            (tmp_path / "g++").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "g++").chmod(0o755)

    with config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))}):
        yield only


def test_the_compiler_of_this_machine_is_really_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    genuine = doctor._compile_three_lines
    monkeypatch.setattr(doctor, "_compile_three_lines", lambda: asked.append(genuine()))
    finding = doctor._compiler()
    if finding.facts["compiler"] is None:
        pytest.skip("this machine has no C++ compiler")
    assert asked == [None]
    assert finding.state == "ok"


def test_a_compiler_that_is_missing_is_noted_with_what_is_lost(compilers: Callable[[str], None]) -> None:
    compilers("")
    finding = doctor._compiler()
    assert (finding.state, finding.facts["compiler"]) == ("note", None)
    assert "`train.compile` stays eager" in finding.text
    assert "apt install g++" in finding.mend


def test_a_compiler_that_lacks_headers_is_noted_with_its_own_words(compilers: Callable[[str], None]) -> None:
    compilers(
        '[ "$1" = --version ] && echo g++ 3 && exit 0\necho "trial.cpp:1:10: fatal error: Python.h: No such file" >&2\nexit 1'
    )
    finding = doctor._compiler()
    assert finding.state == "note"
    assert finding.text.endswith("trial.cpp:1:10: fatal error: Python.h: No such file")
    assert "python3-dev" in finding.mend


def test_a_compiler_that_may_not_be_run_is_noted(compilers: Callable[[str], None], tmp_path: Path) -> None:
    compilers("exit 0")
    (tmp_path / "g++").chmod(0o644)
    finding = doctor._compiler()
    assert finding.state == "note"
    assert "Permission denied" in finding.text


def test_no_compiler_is_downloaded_to_look_for_one(
    compilers: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import cpp_builder

    compilers("")
    monkeypatch.setenv("TORCH_INDUCTOR_INSTALL_GXX", "1")
    monkeypatch.setattr(cpp_builder, "install_gcc_via_conda", lambda: pytest.fail("conda was asked"))
    assert doctor._compiler().facts["compiler"] is None
    assert os.environ["TORCH_INDUCTOR_INSTALL_GXX"] == "1"


# -- a recipe ----------------------------------------------------------------------------------------------------------


def test_a_sound_recipe_tells_its_data(tmp_path: Path) -> None:
    found = by_topic(of_recipe('extends = "vae-digits"\n', tmp_path))
    assert found["data"].text == "1,797 examples (image, 1x8x8, 10 classes), batches of 64"
    assert found["recipe"].text == "vae-digits: no problem found"


def test_every_problem_of_a_recipe_is_one_finding_as_check_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'extends = "vae-digits"\n[encoder]\nwidht = 3\n[loss.more]\nuse = "kll"\n[train]\nsteps = 0\n'
    found = of_recipe(text, tmp_path, registry=load_registry())
    assert [finding.state for finding in found] == ["problem"] * 3
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(tmp_path / "mine.toml")])
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 3
    for finding, line in zip(found, lines, strict=True):
        assert finding.facts["where"] in line
        assert line.strip().startswith(finding.text.partition(" [plugin")[0])
        assert finding.mend in line


IMAGES = """
[data]
use = "images"
path = "pictures"
batch_size = 2
[encoder]
use = "mlp"
[decoder]
use = "mlp"
[latent]
use = "gaussian"
[loss.reconstruction]
use = "reconstruction"
"""


def test_the_folder_of_the_data_is_looked_for(tmp_path: Path) -> None:
    from PIL import Image

    found = by_topic(of_recipe(IMAGES, tmp_path))
    assert (found["data.path"].state, found["data.path"].text) == ("problem", f"there is no {tmp_path / 'pictures'}")
    assert found["data"].state == "problem"
    assert "mine.toml:2  data: data.path = " in found["data"].text
    (tmp_path / "pictures").mkdir()
    assert by_topic(of_recipe(IMAGES, tmp_path))["data.path"].state == "ok"
    assert "there is no picture" in by_topic(of_recipe(IMAGES, tmp_path))["data"].text
    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / "pictures" / f"{index}.png")
    found = by_topic(of_recipe(IMAGES, tmp_path, "data.size=8"))
    assert found["data"].text == "3 examples (image, 3x8x8, no labels), batches of 2"
    assert found["recipe"].state == "ok"
    found = by_topic(of_recipe(IMAGES, tmp_path, "data.size=8", "data.batch_size=9"))
    assert "data.batch_size = 9, but there are 3 examples" in found["recipe"].text


def test_a_folder_that_may_not_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda place, mode: mode != os.R_OK | os.X_OK)  # root may read anything
    finding = doctor._file("data.path", tmp_path, True)
    assert finding.state == "problem"
    assert finding.mend == f"chmod u+rx {tmp_path}"


def test_what_only_a_run_finds_is_found_by_the_dry_run(tmp_path: Path) -> None:
    text = 'extends = "vae-digits"\n[loss.more]\nuse = "fixtures:asks"\n'
    found = of_recipe(text, tmp_path)
    assert "asks for `reconn`" in found[-1].text
    assert found[-1].facts["path"] == "loss.more"


def test_a_metric_that_does_not_exist_here_is_a_note(tmp_path: Path) -> None:
    found = by_topic(of_recipe('extends = "ae-digits"\n[metric.elbo]\nuse = "elbo"\n', tmp_path))
    assert found["metric elbo"].state == "note"
    assert found["recipe"].state == "ok"


@pytest.mark.parametrize(("installed", "state"), [("", "problem"), ("0.5", "problem"), ("2.0", "ok")])
def test_an_extra_that_a_component_imports_is_looked_for(
    installed: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package whose loss imports an optional package within a function, as its metadata say."""
    info = tmp_path / "hybridgen_far-1.0.dist-info"
    info.mkdir()
    extras = 'Provides-Extra: sound\nProvides-Extra: all\nRequires-Dist: far-away>=1; extra == "sound"\n'
    extras += 'Requires-Dist: never-imported; extra == "all"\nRequires-Dist: hybridgen; extra == "all"\n'
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hybridgen-far\nVersion: 1.0\n{extras}")
    (info / "entry_points.txt").write_text("[hybridgen]\nfar = far_plugin\n")
    (tmp_path / "far_plugin.py").write_text(
        "from hybridgen import hookimpl\n\n\n@hookimpl\ndef register_components(register):\n"
        '    register.loss("far", "far_parts:Far")\n'
    )
    (tmp_path / "far_parts.py").write_text(
        "import hybridgen\nfrom torch import nn\n\n\n"
        "class Far(nn.Module):\n    def forward(self, recon):\n        return recon.mean()\n\n"
        "    def later(self):\n        import far_away\n"
    )
    if installed:
        other = tmp_path / "far_away-1.dist-info"
        other.mkdir()
        (other / "METADATA").write_text(f"Metadata-Version: 2.1\nName: far-away\nVersion: {installed}\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("far_plugin", "far_parts"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    text = 'extends = "vae-digits"\n[loss.far]\nuse = "far"\n'
    found = by_topic(of_recipe(text, tmp_path, registry=load_registry()))
    assert found["extra sound"].state == state
    assert "extra all" not in found
    if state == "problem":
        assert found["extra sound"].mend == "pip install 'hybridgen-far[sound]'"
        assert ("0.5 is installed" if installed else "it is not installed") in found["extra sound"].text


# -- the command -------------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    return int(stop.value.code or 0), capsys.readouterr().out


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the command is given to tell, in place of this machine's findings."""
    findings = [Finding("python", "ok", "fine"), Finding("compiler", "note", "none", "install one", {"compiler": None})]
    monkeypatch.setattr(doctor, "examine", lambda registry, runs: iter(findings))
    return findings


def test_notes_leave_0_and_problems_exit_with_2(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    code, out = command(capsys)
    assert code == 0
    assert "note     compiler             none\n                              -> install one\n" in out
    assert out.endswith("\nno problems, 1 note\n")
    found.append(Finding("run folder", "problem", "full", "make room"))
    code, out = command(capsys)
    assert code == 2
    assert out.endswith("\n1 problem, 1 note\n")


def test_for_scripts_it_is_one_object(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    found.append(Finding("run folder", "problem", "full", "make room", {"free": 3}))
    code, out = command(capsys, "--json")
    told = json.loads(out)
    assert code == 2
    assert (told["healthy"], told["ok"], told["note"], told["problem"]) == (False, 1, 1, 1)
    row = {"topic": "run folder", "state": "problem", "text": "full", "mend": "make room", "facts": {"free": 3}}
    assert told["findings"][2] == row


def test_a_recipe_is_told_after_the_machine(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    code, out = command(capsys, "vae-digits", "data.batch_size=5000", "--json")
    told = json.loads(out)["findings"]
    assert code == 2
    assert [finding["topic"] for finding in told] == ["python", "compiler", "data", "recipe"]
    assert "write a smaller one" in told[-1]["text"]


def test_looking_leaves_nothing_behind_and_a_broken_plugin_is_a_problem(tmp_path: Path) -> None:
    """The whole command in a home of its own, with nothing mocked."""
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    plugin = Path(__file__).parent / "fixtures" / "plugins" / "import-error"
    path = os.pathsep.join([str(plugin), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    kept = {name: value for name, value in os.environ.items() if name not in ("HYBRIDGEN_CACHE", "XDG_CACHE_HOME")}
    env = {
        **kept,
        "PYTHONPATH": path,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    line = [sys.executable, "-m", "hybridgen", "doctor", "vae-digits", "--json"]
    done = subprocess.run(line, capture_output=True, text=True, env=env, cwd=tmp_path / "here", timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)["findings"]
    assert [finding["topic"] for finding in told if finding["state"] == "problem"] == ["plugin import-error"]
    assert {"cpu", "compiler", "data", "recipe"} <= {finding["topic"] for finding in told}
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["here", "home", "tmp"]
