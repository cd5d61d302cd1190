"""hybridgen: hybrid generative models composed from plugins by a recipe.

Importing this package is light: torch starts with `train` or `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from hybridgen._version import __version__
from hybridgen.names import API

if TYPE_CHECKING:
    from hybridgen.loop import train
    from hybridgen.measure import evaluate
    from hybridgen.registry import components
    from hybridgen.use import GenerativeModel, load

hookimpl = pluggy.HookimplMarker("hybridgen")
"""Marks a function of a manifest module as a hook implementation; `hybridgen.hookspecs` lists the hooks."""

__all__ = ["API", "GenerativeModel", "__version__", "components", "evaluate", "hookimpl", "load", "train"]

_LAZY = {
    "train": "hybridgen.loop",
    "evaluate": "hybridgen.measure",
    "components": "hybridgen.registry",
    "load": "hybridgen.use",
    "GenerativeModel": "hybridgen.use",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hybridgen' has no attribute {name!r}")
