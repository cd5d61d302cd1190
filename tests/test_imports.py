"""Imports go downwards only, and what a person calls first starts no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parent.parent / "hybridgen"

# A module imports only from lines above its own. Modules of one line are one package.
LAYERS = (
    "_version names errors randomness",
    "hookspecs single_file",
    "registry signature",
    "files",
    "recipe",
    "scaffold",
    "events",
    "run_folder record health timing",
    "data",
    "environment allocator",
    "graph optim precision convolution notes",
    "quantities",
    "routing",
    "phases",
    "compiling",
    "model",
    "protocol",
    "evaluation checkpoint",
    "pictures use step",
    "trial",
    "examples",
    "report measure",
    "session testing",
    "loop bench doctor",
    "__init__",
    "cli",
    "__main__",
)
PLACE = {name: i for i, line in enumerate(LAYERS) for name in line.split()}


def imported(path: Path) -> set[str]:
    """First names below `hybridgen` that a module imports, wherever in it, type checking aside."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hybridgen":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hybridgen.")}
    return found


def modules() -> list[tuple[str, Path]]:
    return [(path.relative_to(CORE).with_suffix("").parts[0], path) for path in sorted(CORE.rglob("*.py"))]


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_go_downwards(name: str, path: Path) -> None:
    assert name in PLACE, f"{name} has no place in the layout"
    for other in imported(path):
        if other == name or other in ("API", "__version__", "hookimpl"):
            continue
        assert PLACE[other] < PLACE[name], f"{path.relative_to(CORE)} imports hybridgen.{other}, which stands above it"


def test_a_deployed_model_carries_no_trainer() -> None:
    reached, todo = set(), ["use", "evaluation", "measure"]
    paths = modules()
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [other for module, path in paths if module == name for other in imported(path)]
    assert not reached & {"step", "loop", "session", "optim"}


@pytest.mark.parametrize(
    "command",
    [
        "import hybridgen; hybridgen.hookimpl",
        "from hybridgen.cli import main; main(['--help'])",
        "from hybridgen.cli import main; main(['ls'])",
        "from hybridgen.cli import main; main(['ls', 'runs'])",
        "from hybridgen.cli import main; main(['run', '--help'])",
        "from hybridgen.cli import main; main(['show', 'quantity'])",
        "from hybridgen.cli import main; main(['show', 'kind', 'loss'])",
        "from hybridgen.cli import main; main(['show', 'hook', 'recipes'])",
        "from hybridgen.cli import main; main(['show', 'recipe', 'vagan-digits'])",
    ],
)
def test_no_torch_at_the_start(command: str, tmp_path: Path) -> None:
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: sys.stderr.write('LOADED ' + ' '.join(n for n in ('torch', 'numpy') if n in sys.modules)))\n"
        + command
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.rpartition("LOADED")[2].strip() == ""


START = """
import atexit, gc, pathlib, sys
from hybridgen.cli import main

class Look:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "torch._dynamo", "torchmetrics"):
            rows = any('"row"' in log.read_text() for log in pathlib.Path("runs").glob("*/metrics.jsonl"))
            print(name, "collects" if gc.isenabled() else "doesn't", "after" if rows else "before")

sys.meta_path.insert(0, Look())
atexit.register(lambda: print("left to look at", len(gc.get_objects())))
sys.argv = ["hybridgen", "run", "vagan-digits", "train.steps=1"]
main()
"""


def test_a_run_starts_with_what_its_first_step_needs(tmp_path: Path) -> None:
    """torch and its compiler come without looks for garbage, torchmetrics (and scipy with it) after the first row."""
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:3] == ["torch doesn't before", "torch._dynamo doesn't before", "torchmetrics collects after"]
    assert int(lines[-1].removeprefix("left to look at")) < 1000  # 58,000 of scipy's, unless set apart at the end
