"""Under what a number was measured, and whether two numbers may be compared. Starts no torch.

A number without its protocol is a rumour: the features, the counts, the split, the data and the seed go wherever it goes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridgen.errors import UserError
from hybridgen.events import read_events, readable

Record = Mapping[str, Any]

LABELS = {
    "held_out": "examples",
    "generated": "generated",
    "split": "split",
    "data": "data",
    "seed": "seed",
    "use": "metric",
}


def protocol_of(evaluation: Record, metric: str) -> dict[str, Any]:
    """The protocol of one metric of an evaluation (an event of a record, or a stored one), flat: "features.weights" -> ...

    Empty for evaluations of versions that stored none.
    """
    whole = evaluation.get("protocol", {})
    own = whole.get("metrics", {}).get(metric)
    if own is None:
        return {}
    own = dict(own)
    seen = own.pop("features", None)
    flat = _flat({key: value for key, value in whole.items() if key not in ("metrics", "features")} | own)
    if seen is not None:
        flat |= _flat({"features": whole.get("features", {}).get(seen, {})})
    return flat


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two protocols don't share: field -> both values. Two numbers may be compared where this is empty."""
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def told_apart(apart: Mapping[str, tuple[Any, Any]]) -> str:
    """Differences in words: "features.weights 12ab against 34cd, generated 180 against 1000"."""
    return ", ".join(f"{LABELS.get(key, key)} {_word(a)} against {_word(b)}" for key, (a, b) in apart.items())


def compare(a: Record, b: Record, metric: str) -> tuple[float, float]:
    """The values of one metric ("fid", "kid.mean") in two evaluations.

    Raises UserError where either has none, and where they were measured under different protocols, with what differs.
    """
    name = metric.partition(".")[0]
    for evaluation in (a, b):
        if metric not in evaluation["values"]:
            why = evaluation.get("refused", {}).get(name)
            rest = f": {why}" if why else f"; here are: {', '.join(evaluation['values']) or 'none'}"
            raise UserError(f"there is no value of {metric}{rest}")
    protocols = protocol_of(a, name), protocol_of(b, name)
    if not all(protocols):
        raise UserError(
            f"{metric} was stored without its protocol, by an older version; measure it again: hybridgen evaluate RUN"
        )
    apart = differences(*protocols)
    if apart:
        raise UserError(f"{metric} was measured under different protocols, so its values don't compare: {told_apart(apart)}")
    return a["values"][metric], b["values"][metric]


def sentences(evaluation: Record) -> list[str]:
    """The protocol of an evaluation for people: one line for what all metrics share, one for each feature network."""
    whole = evaluation.get("protocol", {})
    if not whole:
        return []
    counts = [f"{whole['held_out']:,} {whole['split']} examples of {whole['data']['use']}"]
    made = {one["generated"] for one in whole["metrics"].values() if "generated" in one}
    counts += [f"{count:,} generated" for count in made]
    lines = [f"{', '.join(counts)}, {'x'.join(map(str, whole['data']['shape']))}, seed {whole['seed']}"]
    for name, network in whole.get("features", {}).items():
        through = [metric for metric, one in whole["metrics"].items() if one.get("features") == name]
        told = {key: value for key, value in _flat(network).items() if key not in ("use", "name") and value is not None}
        facts = ", ".join(f"{key.replace('_', ' ')} {_word(value)}" for key, value in told.items())
        lines.append(f"{', '.join(through)} through {network.get('use', name)}: {facts}")
    return lines


def newest(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run at the step that was measured last, the newest first: those of its record, and those that were
    made after training. Files that can't be read are passed over."""
    found: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        found = [event for event in read_events(folder / "metrics.jsonl") if event["event"] == "evaluation"]
    for path in sorted((folder / "evaluations").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(readable(json.loads(path.read_text(encoding="utf-8"))))
    found.sort(key=lambda event: -event["time"])
    return [event for event in found if event["step"] == found[0]["step"]]


def stated(table: Mapping[str, Any], value: str) -> Any:
    """What a metric states (a unit, a direction) of its value "fid" or "kid.mean": for that entry, or for all alike."""
    metric, _, entry = value.partition(".")
    found = table.get(metric)
    return found.get(entry) if isinstance(found, Mapping) else found


def holding(evaluations: Sequence[Record], metric: str) -> Record:
    """The first of evaluations that has a value of a metric; the first of all where none has."""
    return next((one for one in evaluations if metric in one["values"]), evaluations[0])


def agreeing(evaluations: Sequence[Record], other: Record, metric: str) -> Record:
    """The first of evaluations whose value of a metric compares with another's; else the first that has a value."""
    wanted = protocol_of(other, metric.partition(".")[0])
    alike = (one for one in evaluations if metric in one["values"] and protocol_of(one, metric.partition(".")[0]) == wanted)
    return next(alike, holding(evaluations, metric))


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
