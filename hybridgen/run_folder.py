"""A run's folder: made once, found again, and never used by two processes at a time. Starts no torch."""

from __future__ import annotations

import contextlib
import fcntl
import json
import secrets
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hybridgen.errors import RunError
from hybridgen.events import last_events
from hybridgen.files import write_atomically
from hybridgen.single_file import PluginFile


@dataclass
class RunFolder:
    """Paths of one run, and the lock that this process holds on it."""

    path: Path
    lock: IO[str] | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def mark_best(self, checkpoint: Path) -> None:
        """Remember the best checkpoint by name, in a file replaced whole."""
        write_atomically(self.checkpoints / "best", checkpoint.name.encode())

    def best(self) -> Path | None:
        """The best checkpoint so far, where a metric names one."""
        with contextlib.suppress(OSError):
            return self.checkpoints / (self.checkpoints / "best").read_text().strip()
        return None

    @contextlib.contextmanager
    def released_on_failure(self) -> Iterator[None]:
        """Let go of the lock when what follows fails."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        if self.lock is not None:
            self.lock.close()
            self.lock = None


def create_run(
    root: Path,
    recipe: str,
    *,
    recipe_toml: str,
    sources: Iterable[tuple[Path, str]],
    plugins: Iterable[PluginFile] = (),
    environment: Mapping[str, Any],
) -> RunFolder:
    """A new folder `<recipe>-<date>-<time>-<id>` below `root`, locked by this process.

    It is filled under a hidden name and renamed, so a run killed while it starts leaves no half-made run; two runs
    started at once can't collide. sources, plugins: the recipe's files and plugins of one file, of which `source/` keeps
    copies. Raises RunError when it can't be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        while True:
            final = root / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            hidden = root / f".{final.name}"
            with contextlib.suppress(FileExistsError):
                hidden.mkdir()
                if not final.exists():
                    break
        for name in ("source", "samples", "checkpoints"):
            (hidden / name).mkdir()
        for index, (path, text) in enumerate(sources):
            (hidden / "source" / f"{index}-{path.name}").write_text(text, encoding="utf-8")
        for plugin in plugins:
            (hidden / "source" / plugin.path.name).write_bytes(plugin.text)
        (hidden / "environment.json").write_text(json.dumps(dict(environment), indent=2) + "\n", encoding="utf-8")
        (hidden / "recipe.toml").write_text(recipe_toml, encoding="utf-8")
        folder = RunFolder(final, _locked(hidden))
        hidden.rename(final)
    except OSError as error:
        raise RunError(f"no run folder can be made below {root}: {error.strerror or error}") from error
    return folder


def open_run(path: Path) -> RunFolder:
    """An existing run, locked by this process. Raises RunError when another process works in it."""
    return RunFolder(path, _locked(path))


def _locked(path: Path) -> IO[str]:
    file = (path / "lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise RunError(f"another process is working in {path}; wait for it, or stop it, and try again") from error
    return file


def is_running(path: Path) -> bool:
    """Whether a process holds the run's lock. A killed one's is free by itself."""
    try:
        _locked(path).close()
    except RunError:
        return True
    except OSError:
        return False
    return False


def find_run(run: str | Path, root: str | Path = "runs", *, trained: bool = False) -> Path:
    """The folder that a path, a run's name or the beginning of either means (then the newest of them).

    trained: of several, the newest that has a checkpoint. Raises RunError with the runs that there are.
    """
    path = Path(run).expanduser()
    if (path / "recipe.toml").is_file():
        return path
    if path.parent.name and path.parent.is_dir():  # the beginning of a path
        root, path = path.parent, Path(path.name)
    names = _folders(Path(root))
    matching = [folder for folder in names if folder.name.startswith(str(path))]
    usable = [folder for folder in matching if any((folder / "checkpoints").glob("step-*"))] if trained else []
    if matching:
        return (usable or matching)[-1]
    known = ", ".join(folder.name for folder in reversed(names[-5:])) or "none"
    raise RunError(f"there is no run '{run}' (a folder with a recipe.toml), nor one below {root}/; newest there: {known}")


@dataclass(frozen=True)
class RunInfo:
    """A line of `hybridgen ls runs`. status: running, done, interrupted, diverged, error or killed."""

    path: Path
    recipe: str
    step: int
    steps: int
    status: str


def list_runs(root: str | Path = "runs") -> list[RunInfo]:
    """Every run below `root`, oldest first."""
    return [info for folder in _folders(Path(root)) if (info := _info(folder)) is not None]


def latest_unfinished(root: str | Path = "runs", recipe: str | None = None) -> Path | None:
    """The newest run that stopped before its last step, for `resume --auto`."""
    open_ones = [
        info for info in list_runs(root) if info.status in ("interrupted", "killed", "error") and recipe in (None, info.recipe)
    ]
    return open_ones[-1].path if open_ones else None


def _folders(root: Path) -> list[Path]:
    """Run folders, by the time that they were made (recipe.toml is written once)."""
    if not root.is_dir():
        return []
    found = [p for p in root.iterdir() if not p.name.startswith(".") and (p / "recipe.toml").is_file()]
    return sorted(found, key=lambda p: ((p / "recipe.toml").stat().st_mtime_ns, p.name))


def _info(folder: Path) -> RunInfo | None:
    try:
        recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return None
    step, status = 0, "killed"
    for event in last_events(folder / "metrics.jsonl"):
        step = max(step, event.get("step", 0))
        status = event["status"] if event["event"] == "end" else "killed"
    if status == "killed" and is_running(folder):
        status = "running"
    return RunInfo(folder, recipe.get("name", ""), step, recipe.get("train", {}).get("steps", 0), status)
