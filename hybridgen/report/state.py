"""What a report knows: a fold over events, so that a record draws the same report as the live run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

HISTORY = 240
"""Values kept of each term for its trend."""

Event = Mapping[str, Any]


@dataclass
class State:
    """Everything that is drawn. `header` is the start event; health is code -> message of what is wrong now."""

    header: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    values: dict[str, float] = field(default_factory=dict)
    trends: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    first_row: tuple[int, float] | None = None
    evaluations: list[Event] = field(default_factory=list)
    best: Event | None = None
    pictures: dict[str, Event] = field(default_factory=dict)
    checkpoint: Event | None = None
    health: dict[str, str] = field(default_factory=dict)
    end: Event | None = None
    busy: str = ""  # what is being done between two steps; set by the live report, for it is in no record

    def apply(self, event: Event) -> None:
        """Take in one event."""
        kind = event["event"]
        self.step = max(self.step, int(event.get("step", 0)))
        if kind == "start":
            self.header = dict(event)
            self.end = None
            self.first_row = None
            self.step = max(self.step, int(event.get("resumed_from", 0)))
        elif kind == "row":
            self.values = dict(event["values"])
            self.seconds = event["seconds"]
            if self.first_row is None:
                self.first_row = (event["step"], event["seconds"])
            for name, value in self.values.items():
                trend = self.trends.setdefault(name, [])
                trend.append(value)
                if len(trend) > HISTORY:  # half the history, twice as coarse: the whole run stays in view
                    trend[:] = trend[::2]
        elif kind == "evaluation":
            self.evaluations.append(event)
        elif kind == "best":
            self.best = event
        elif kind == "samples":
            self.pictures[event["kind"]] = event
        elif kind == "checkpoint":
            self.checkpoint = event
        elif kind == "health":
            if event["message"]:
                self.health[event["code"]] = event["message"]
            else:
                self.health.pop(event["code"], None)
        elif kind == "end":
            self.end = event

    @property
    def steps(self) -> int:
        return int(self.header.get("steps", 0))

    def rate(self) -> float | None:
        """Steps a second since the first row: what comes before it (start, compilation) is apart."""
        if self.first_row is None or not self.values:
            return None
        step, seconds = self.first_row
        return (self.step - step) / (self.seconds - seconds) if self.seconds > seconds and self.step > step else None

    def terms(self) -> list[Term]:
        """One entry a loss term, in the recipe's order."""
        found = []
        for term in self.header.get("terms", []):
            label = term["name"]
            found.append(
                Term(
                    label,
                    term["side"],
                    self.values.get(f"loss.{label}"),
                    self.values.get(f"weight.{label}"),
                    self.trends.get(f"loss.{label}", []),
                    first=term.get("first"),
                )
            )
        for player in ("generator", "discriminator"):
            own = [t for t in found if t.side == player and t.value is not None and t.weight]
            counted = [abs((t.value or 0.0) * (t.weight or 0.0) * self._factor(t.name)) for t in own]
            for term, count in zip(own, counted, strict=True):
                term.share = count / sum(counted) if sum(counted) else None
        return found

    def _factor(self, label: str) -> float:
        """What `balance` scales a term by, beside its weight."""
        return self.values.get(f"state.loss.{label}.balance", 1.0)

    def states(self) -> dict[str, dict[str, float]]:
        """Part -> what it tells of its own state, by name."""
        found: dict[str, dict[str, float]] = {}
        for key, value in self.values.items():
            if key.startswith("state."):
                part, _, name = key.removeprefix("state.").rpartition(".")
                found.setdefault(part, {})[name] = value
        return found

    def critics(self) -> dict[str, tuple[float | None, float | None]]:
        """Discriminator -> accuracy on real and on generated batches."""
        names = {n.split(".")[1] for n in self.values if n.startswith("critic.")}
        return {
            name: (self.values.get(f"critic.{name}.real_accuracy"), self.values.get(f"critic.{name}.fake_accuracy"))
            for name in sorted(names)
        }


@dataclass
class Term:
    """One row of the report. share: of the player's sum of absolute weighted terms; first: the step it starts in."""

    name: str
    side: str
    value: float | None
    weight: float | None
    trend: list[float]
    share: float | None = None
    first: int | None = None


def fold(events: Iterable[Event]) -> State:
    """The state after all events."""
    state = State()
    for event in events:
        state.apply(event)
    return state
