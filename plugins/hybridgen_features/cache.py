"""Where weights are kept between runs, and what tells one set of them from another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def cache_folder() -> Path:
    """`$HYBRIDGEN_CACHE`, else `hybridgen` in `$XDG_CACHE_HOME` or `~/.cache`; below it, `features`."""
    own = os.environ.get("HYBRIDGEN_CACHE")
    root = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybridgen"
    return root.expanduser() / "features"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """The beginning of a SHA-256 over tensors by name."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].detach().cpu().contiguous().flatten().view(-1).numpy().tobytes())
    return found.hexdigest()[:16]
