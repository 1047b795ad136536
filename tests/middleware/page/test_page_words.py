"""The three answers of the page and of `tocsin top`, as sentences."""

from __future__ import annotations

from typing import Any

import pytest

from tocsin.page.answers import answers


def model(
    name: str, judged: int, unit: str = "responses", broken: bool = False, p99: float | None = 1e-3
) -> dict[str, Any]:
    severity = {
        "name": "warning", "alpha": 0.05, "alarms": 0, "evidence": 9.0, "broken": broken, "quiet": False,
        "low": None, "high": None, "rates": [],
    }  # fmt: skip
    return {
        "name": name, "judged": judged, "unit": unit, "severities": [severity], "drifted": False, "unscored": {},
        "scoring": {"median": p99, "p99": p99}, "counts": [], "expected": [], "pvalues": [], "digest": "sha256:0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "ends"),
    [(1, "at most 5%."), (2, "at most 5%. So does one other model."), (3, "at most 5%. So do 2 other models.")],
)
def test_other_broken_promises_are_counted(broken: int, ends: str) -> None:
    models = [model(f"m{number}", 100, broken=True) for number in range(broken)]
    assert answers(models, {"p99": None}, [])[0]["answer"].endswith(ends)


def test_where_nothing_waits_it_says_so() -> None:
    judged = [model("m", 100)]
    assert "callers do not wait for it." in answers(judged, {"p99": None}, [])[2]["answer"]
    assert "callers wait at most 2.0 ms for it." in answers(judged, {"p99": 2e-3}, [])[2]["answer"]


@pytest.mark.parametrize(
    ("unit", "p99", "said"),
    [
        ("sessions", 1e-3, "No sessions have ended yet."),
        ("sessions", None, "No traffic yet."),
        ("responses", None, "No traffic yet."),
    ],
)
def test_sessions_under_way_are_traffic(unit: str, p99: float | None, said: str) -> None:
    assert answers([model("m", 0, unit, p99=p99)], {"p99": None}, [])[0]["answer"] == said
