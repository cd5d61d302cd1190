"""Reports without a terminal: key=value lines, JSON lines, or silence."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, TextIO

from hybridgen.events import writable
from hybridgen.protocol import sentences
from hybridgen.report.render import duration, number

EARLY = (1, 10, 100)
EVERY = 30.0  # seconds between lines after that


class Plain:
    """`key=value` lines at steps 1, 10 and 100, then every 30 seconds, and for what happens once; no escape codes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.last = 0.0
        self.steps = 0
        self.folder = ""
        self.told = ""
        self.protocol: list[str] = []

    def event(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            self._start(event)
        elif kind == "row":
            now = time.monotonic()
            if event["step"] in EARLY or now - self.last >= EVERY or event["step"] == self.steps:
                self.last = now
                values = {k: v for k, v in event["values"].items() if not k.startswith(("weight.", "lr."))}
                self._line("step", event["step"], values)
        elif kind == "evaluation":
            self._line("evaluation step", event["step"], event["values"])
            for name, why in event.get("refused", {}).items():
                self._say(f"evaluation step={event['step']} no {name}: {why}")
            protocol = sentences(event)
            if protocol != self.protocol:
                self.protocol = protocol
                for line in protocol:
                    self._say(f"protocol {line}")
        elif kind == "health" and event["message"]:
            self._say(f"health step={event['step']} code={event['code']} {event['message']}")
        elif kind == "end":
            self._say(f"end status={event['status']} step={event['step']} time={duration(event['seconds'])}")
            if event["message"]:
                self._say(f"end {event['message']}")
            self._say(f"run {self.folder}")

    def busy(self, text: str, done: int, total: int) -> None:
        """A line for what is not counted (features being prepared), and one every 30 seconds, so that nothing looks hung."""
        now = time.monotonic()
        if not text or (total and now - self.last < EVERY) or text == self.told:
            return
        self.last, self.told = now, "" if total else text
        self._say(f"evaluation: {text}" + (f" {done}/{total}" if total else ""))

    def close(self) -> None:
        self.stream.flush()

    def _start(self, event: Mapping[str, Any]) -> None:
        self.steps, self.folder = event["steps"], event["run"]
        parts = " ".join(f"{path}={used.partition(' ')[0]}" for path, used in event["parts"].items())
        compiled = "compiled" if event["compile"] else "eager"
        self._say(
            f"start recipe={event['recipe']} steps={event['steps']} device={event['device']} "
            f"precision={event['precision']} {compiled} seed={event['seed']} {parts}"
        )
        for note in event["notes"]:
            self._say(f"note {note}")
        if "resumed_from" in event:
            self._say(f"resumed step={event['resumed_from']}")

    def _line(self, name: str, step: int, values: Mapping[str, Any]) -> None:
        self._say(f"{name}={step}/{self.steps} " + " ".join(f"{k}={number(v).replace(',', '')}" for k, v in values.items()))

    def _say(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()


class JsonLines:
    """Every event as a JSON object on a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def event(self, event: Mapping[str, Any]) -> None:
        self.stream.write(json.dumps(writable(event), ensure_ascii=False) + "\n")
        self.stream.flush()

    def close(self) -> None:
        self.stream.flush()


class Quiet:
    """Nothing but health and a bad end."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "health" and event["message"]:
            self.stream.write(f"hybridgen: step {event['step']}: {event['message']}\n")

    def close(self) -> None:
        self.stream.flush()
