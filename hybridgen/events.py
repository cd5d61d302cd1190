"""Events: what happened in a run, one JSON object a line in `metrics.jsonl`. Starts no torch.

Every report can be drawn again from this file alone. Each event has `event` (its kind) and `time` (unix seconds).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridgen.errors import RunError
from hybridgen.files import write_atomically


class EventLog:
    """Appends events to `metrics.jsonl`, each flushed, so that a killed run has all but the last."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{path} can't be written: {error.strerror or error}") from error

    def append(self, event: Mapping[str, Any]) -> None:
        try:
            self._file.write(_line(event))
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._file.name} can't be written: {error.strerror or error}") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written was told by `append`
            self._file.close()


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(writable(event), ensure_ascii=False) + "\n"


def writable(value: Any) -> Any:
    """JSON has no NaN or infinity: they are written as strings, which `read_events` turns back."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): writable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [writable(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def readable(event: dict[str, Any]) -> dict[str, Any]:
    """An event as it was before `writable`."""
    values = event.get("values")
    if isinstance(values, dict):
        event["values"] = {k: _SPECIAL.get(v, v) if isinstance(v, str) else v for k, v in values.items()}
    return event


def read_events(path: Path) -> list[dict[str, Any]]:
    """Every complete event of a record; a line torn by a kill is left out."""
    return _parsed(path.read_text(encoding="utf-8", errors="replace"))


def _parsed(text: str) -> list[dict[str, Any]]:
    """The events in lines of JSON; lines that are none are left out."""
    events = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict) and "event" in event:
            events.append(readable(event))
    return events


def truncate_after(path: Path, step: int) -> None:
    """Drop what came after `step`: a resumed run will do, and write, those steps again. The file is replaced whole."""
    if not path.exists():
        return
    kept = [event for event in read_events(path) if event.get("step", 0) <= step and event["event"] != "end"]
    write_atomically(path, "".join(_line(event) for event in kept).encode())


def last_events(path: Path, size: int = 65536) -> list[dict[str, Any]]:
    """The events in the last `size` bytes of a record, read quickly; none when there is no record."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - size, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return _parsed(text)
