"""The report: events in, words and pictures for a person out. Draws rows only and never sees a tensor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from hybridgen.events import read_events
from hybridgen.report.plain import JsonLines, Plain, Quiet
from hybridgen.report.state import State, fold


def make_reporter(mode: str, *, folder: Path, stream: TextIO | None = None) -> Any:
    """A listener for a run's events: "auto" (tty on a terminal, plain elsewhere), "tty", "plain", "jsonl", "quiet".

    It has `event(event)`, `progress(step)` (an integer stored, nothing more) and `close()`, and writes to stderr.
    """
    stream = stream or sys.stderr
    if mode == "auto":
        mode = "tty" if stream.isatty() else "plain"
    if mode == "tty":
        from hybridgen.report.console import Console

        return Console(folder, stream)
    return {"plain": Plain, "jsonl": JsonLines, "quiet": Quiet}[mode](stream)


def save_report(folder: Path) -> None:
    """Draw report.txt and report.svg of a run from its metrics.jsonl alone."""
    from hybridgen.report.save import save

    save(folder, fold(read_events(folder / "metrics.jsonl")))


__all__ = ["State", "fold", "make_reporter", "save_report"]
