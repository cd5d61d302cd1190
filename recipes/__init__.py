"""The recipes that we ship, offered the way any plugin package offers its own."""

from pathlib import Path

from hybridgen import hookimpl

HYBRIDGEN_API = 1


@hookimpl
def recipes() -> Path:
    return Path(__file__).parent
