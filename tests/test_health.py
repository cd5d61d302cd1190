"""Diagnosis in words: each finding where its threshold is passed, and not below."""

from __future__ import annotations

from typing import Any

import pytest

from hybridgen import health
from hybridgen.health import WINDOW, findings


def codes(values: dict[str, Any], *, rows: int = WINDOW, step: int = 500, **more: Any) -> set[str]:
    made = [{"step": step + i, "values": values} for i in range(rows)]
    return {finding.code for finding in findings(made, more.pop("evaluations", []), 1000, **more)}


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"loss.kl": 0.01, "weight.kl": 1.0}, "posterior-collapse"),
        ({"critic.main.real_accuracy": 0.99, "critic.main.fake_accuracy": 0.99}, "critic.main.won"),
        (
            {"critic.main.real_accuracy": 0.51, "critic.main.fake_accuracy": 0.49, "grad_norm.discriminator": 1e-5},
            "critic.main.blind",
        ),
        ({"data_share": 0.5}, "data-bound"),
    ],
)
def test_findings(values: dict[str, float], code: str) -> None:
    assert codes(values) == {code}
    assert codes(values, rows=WINDOW - 1) == set(), "a few rows prove nothing"
    assert codes(values, step=10) == set(), "early training proves nothing"


@pytest.mark.parametrize(
    "values",
    [
        {"loss.kl": 0.01, "weight.kl": 0.0},
        {"loss.kl": 2 * health.COLLAPSED_KL, "weight.kl": 1.0},
        {"critic.main.real_accuracy": 0.99, "critic.main.fake_accuracy": 0.9},
        {"critic.main.real_accuracy": 0.5, "critic.main.fake_accuracy": 0.5, "grad_norm.discriminator": 1.0},
        {"data_share": 0.1},
    ],
)
def test_what_is_healthy(values: dict[str, float]) -> None:
    assert codes(values) == set()


def test_no_active_unit_is_collapse() -> None:
    assert codes({}, evaluations=[{"values": {"active-units": 0.0}}]) == {"posterior-collapse"}
    assert codes({}, evaluations=[{"values": {"active-units": 1.0}}]) == set()


def test_samples_that_resemble_one_another() -> None:
    assert codes({}, diversity=0.2) == {"mode-collapse"}
    assert codes({}, diversity=0.9) == set()


def test_more_graphs_with_each_row() -> None:
    rows = [{"step": 500 + i, "values": {"graphs": 3.0 + i}} for i in range(WINDOW)]
    assert {f.code for f in findings(rows, [], 1000)} == {"recompiling"}
    same = [{"step": 500 + i, "values": {"graphs": 3.0}} for i in range(WINDOW)]
    assert findings(same, [], 1000) == []


def test_every_message_says_what_to_do() -> None:
    rows = [{"step": 500, "values": {"loss.kl": 0.0, "weight.kl": 1.0}}] * WINDOW
    (finding,) = findings(rows, [], 1000)
    assert "Lower the KL's weight" in finding.message
