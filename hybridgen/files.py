"""Files that a reader sees whole or not at all, and what they hold. Starts no torch."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from hybridgen.errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name, flush to the disk, rename: a reader sees the old file or the new one.

    Raises RunError naming the path when the disk is full or the place can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} can't be written: {error.strerror or error}") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file in hex, as sha256sum tells it. Raises OSError where it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """$HYBRIDGEN_CACHE, else $XDG_CACHE_HOME/hybridgen, else ~/.cache/hybridgen; not made here."""
    own, shared = os.environ.get("HYBRIDGEN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else (Path(shared) if shared else Path.home() / ".cache") / "hybridgen"
