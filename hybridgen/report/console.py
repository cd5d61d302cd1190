"""The report of a terminal: one rich Live that refreshes itself four times a second from the state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live

from hybridgen.report.render import report, summary
from hybridgen.report.state import State


class Console:
    """A listener that draws. Events change the state; drawing happens in Live's own thread, never in the step's."""

    def __init__(self, folder: Path, stream: TextIO) -> None:
        self.folder = folder
        self.state = State()
        self.step = 0
        self.console = RichConsole(file=stream)
        self._drawn: tuple[Any, RenderableType] | None = None
        self._version = 0
        self._live = Live(  # draws as soon as it is made
            console=self.console,
            refresh_per_second=4,
            get_renderable=self._draw,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def event(self, event: Mapping[str, Any]) -> None:
        self.state.apply(event)
        self._version += 1
        if event["event"] == "start":
            self._live.start()

    def progress(self, step: int) -> None:
        self.step = step

    def busy(self, text: str, done: int, total: int) -> None:
        self.state.busy = f"{text} {done:,} of {total:,}" if text and total else text
        self._version += 1

    def _draw(self) -> RenderableType:
        size = self.console.size
        key = (self._version, self.step, size)
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, report(self.state, self.folder, size.width, size.height, self.step)
        return self._drawn[1]

    def close(self) -> None:
        """Leave the last report and the summary on the screen."""
        self._live.stop()
        size = self.console.size
        if self.state.header:
            self.console.print(report(self.state, self.folder, size.width, size.height))
        self.console.print(summary(self.state, self.folder, size.width))
