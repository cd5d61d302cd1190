"""Diagnosis in words: each threshold written down, each finding a sentence that says what to do. Starts no torch.

Pure functions over the rows and evaluations so far. A finding lasts while its condition holds; single rows of early
training prove nothing, so most look at the last WINDOW rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WINDOW = 5
"""Rows that a condition must hold for."""

EARLY = 0.1
"""Share of the run in which nothing is diagnosed."""

WON = 0.98
"""Accuracy on real and on generated samples from which the discriminator has won: its generator learns little."""

BLIND = 0.05
"""Balanced accuracy within this of one half on the training batches is fine near the end, if the critic's gradient
still moves; together with a gradient norm under FROZEN it is a critic that sees nothing."""

FROZEN = 1e-3
"""Norm of the discriminator's gradient under which it no longer learns."""

COLLAPSED_KL = 0.05
"""KL in nats per sample under which the code says nothing (its weight not being 0)."""

DATA_BOUND = 0.3
"""Share of the time spent waiting for data from which more speed lies there."""

DIVERSE = 0.4
"""Spread of samples against that of real data (standard deviations) under which samples resemble one another."""

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that is not well. `code` is for scripts and tests, `message` for people."""

    code: str
    message: str


def findings(rows: Sequence[Event], evaluations: Sequence[Event], steps: int, diversity: float | None = None) -> list[Finding]:
    """Everything that the record shows to be unhealthy now; `diversity` is the last picture's (see DIVERSE)."""
    if not rows or rows[-1]["step"] < EARLY * steps:
        return []
    recent = [row["values"] for row in rows[-WINDOW:]]
    found: list[Finding] = []
    if len(recent) == WINDOW:
        for check in (_collapse, _critics, _data_bound, _recompiling):
            found += check(recent)
    if not any(finding.code == "posterior-collapse" for finding in found):
        found += _inactive(evaluations)
    if diversity is not None and diversity < DIVERSE:
        found.append(
            Finding(
                "mode-collapse",
                f"mode collapse: samples spread {diversity:.0%} as far as real data, so they resemble one another. Lower "
                "the adversarial weight or both learning rates, or give the latent more dimensions",
            )
        )
    return found


def _everywhere(recent: Sequence[Mapping[str, float]], name: str, holds: Callable[[float], bool]) -> bool:
    return all(name in values and math.isfinite(values[name]) and holds(values[name]) for values in recent)


def _collapse(recent: Sequence[Mapping[str, float]]) -> list[Finding]:
    found = []
    for name in recent[-1]:
        weight = name.replace("loss.", "weight.", 1)
        counts = name.startswith("loss.kl") and _everywhere(recent, weight, lambda w: w > 0)
        if counts and _everywhere(recent, name, lambda v: v < COLLAPSED_KL):
            found.append(
                Finding(
                    "posterior-collapse",
                    f"posterior collapse: the code costs under {COLLAPSED_KL} nats ({name}), so the decoder ignores it. "
                    "Lower the KL's weight, warm it up for longer, or weaken the decoder",
                )
            )
    return found


def _inactive(evaluations: Sequence[Event]) -> list[Finding]:
    values = evaluations[-1]["values"] if evaluations else {}
    if values.get("active-units") == 0:
        return [
            Finding(
                "posterior-collapse",
                "posterior collapse: no latent dimension is active. Lower the KL's weight, or warm it up for longer",
            )
        ]
    return []


def _critics(recent: Sequence[Mapping[str, float]]) -> list[Finding]:
    found = []
    names = [n.removesuffix(".real_accuracy") for n in recent[-1] if n.endswith(".real_accuracy")]
    for name in names:
        sides = (f"{name}.real_accuracy", f"{name}.fake_accuracy")
        label = "the discriminator" if name == "critic.main" else f"discriminator '{name.removeprefix('critic.')}'"
        if all(_everywhere(recent, side, lambda v: v > WON) for side in sides):
            found.append(
                Finding(
                    f"{name}.won",
                    f"{label} has won: it judges over {WON:.0%} right on both sides, so the decoder learns little from it. "
                    "Lower optim.discriminator.lr, or narrow it",
                )
            )
        balanced = [(v.get(sides[0], 1.0) + v.get(sides[1], 1.0)) / 2 for v in recent]
        still = _everywhere(recent, "grad_norm.discriminator", lambda v: v < FROZEN)
        if still and all(abs(b - 0.5) < BLIND for b in balanced):
            found.append(
                Finding(
                    f"{name}.blind",
                    f"{label} is blind: it guesses, and its gradient is under {FROZEN:g}. Raise optim.discriminator.lr, or "
                    "widen it",
                )
            )
    return found


def _data_bound(recent: Sequence[Mapping[str, float]]) -> list[Finding]:
    if _everywhere(recent, "data_share", lambda v: v > DATA_BOUND):
        share = recent[-1]["data_share"]
        return [Finding("data-bound", f"data-bound: {share:.0%} of the time is spent waiting for data")]
    return []


def _recompiling(recent: Sequence[Mapping[str, float]]) -> list[Finding]:
    graphs = [values.get("graphs", 0.0) for values in recent]
    if all(later > before for before, later in pairwise(graphs)):
        what = f"recompiling: {graphs[-1]:.0f} graphs so far and more with each row; something changes shape in every step"
        return [Finding("recompiling", f"{what}. train.compile=false goes on without")]
    return []
