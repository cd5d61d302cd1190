"""A plugin in one Python file: read and imported because it was named, and for no other reason. Starts no torch itself."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from hybridgen.errors import PluginError

PREFIX = "hybridgen_file_"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class PluginFile:
    """A file as it was read: what is imported, recorded and copied is one and the same text."""

    path: Path  # as it was given
    text: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The plugin's name: the file's, with dashes for underscores."""
        return self.path.stem.replace("_", "-")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()

    @property
    def module(self) -> str:
        """The name of its module: no package has it, and a file that was edited is another module than before."""
        place = hashlib.sha256(str(self.path.resolve()).encode() + b"\0" + self.text).hexdigest()[:12]
        return f"{PREFIX}{re.sub(r'[^0-9A-Za-z]', '_', self.path.stem)}_{place}"


def read(path: str | Path) -> PluginFile:
    """A file that is to be a plugin. Raises PluginError where there is none, or its name is no name for a plugin."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise PluginError(
            f"plugin file {path}: this is a folder; name a Python file, or install the package, which then needs no --plugin"
        )
    if path.suffix != ".py":
        raise PluginError(
            f"plugin file {path}: expected a Python file, whose name ends in .py (installed plugins need no --plugin)"
        )
    try:
        file = PluginFile(path, path.read_bytes())
    except OSError as error:
        raise PluginError(f"plugin file {path}: it can't be read: {error.strerror or error}") from error
    if not NAME.fullmatch(file.name):
        raise PluginError(
            f"plugin file {path}: the plugin would be called '{file.name}', after its file, which is no name; rename the file "
            "with lower-case letters, digits and underscores"
        )
    return file


def imported(file: PluginFile) -> ModuleType:
    """Its module, run once a process however often it is asked for. Raises whatever the file raises."""
    if file.module in sys.modules:
        return sys.modules[file.module]
    path = file.path.resolve()
    spec = importlib.util.spec_from_file_location(file.module, path)
    assert spec is not None  # its name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.module] = module  # before it runs: dataclasses look their module up there
    try:
        exec(compile(file.text, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[file.module]
        raise
    return module


def line_of(error: BaseException, file: PluginFile) -> str:
    """The innermost line of a file that an exception passed through, as ":12"; "" where it passed through none."""
    path = str(file.path.resolve())
    if isinstance(error, SyntaxError) and error.filename == path:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    return f":{lines[-1]}" if lines else ""
