"""tocsin bundle show --traffic"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from rich.console import Console

from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin_calibration import Bundle, worth
from tocsin_calibration.risk.worth import Range, Worth

A_DAY = {"day": 1.0, "d": 1.0, "hour": 24.0, "h": 24.0, "min": 1440.0, "s": 86_400.0}
_TRAFFIC = re.compile(r"^\s*([\d.]+(?:e\+?\d+)?)\s*(?:/\s*(day|d|hour|h|min|s))\s*$", re.IGNORECASE)


class Traffic(NamedTuple):
    """What alarms are worth, by severity."""

    responses: float  # a day
    failure_rate: float
    caught: dict[str, tuple[int, int]]
    worth: dict[str, Worth]

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "responses_a_day": self.responses,
            "failure_rate": self.failure_rate,
            "severities": {
                name: {what: figure._asdict() for what, figure in estimate._asdict().items()}
                for name, estimate in self.worth.items()
            },
        }


def traffic(bundle: Bundle, a_day: str | None, failure_rate: float | None, power: str | None) -> Traffic | None:
    """What alarms are worth at a traffic such as 1e6/day; None when none was asked for.

    Raises ConfigError on options that do not fit together, and when nothing says how many failures are caught.
    """
    if a_day is None and failure_rate is None:
        return None
    if a_day is None or failure_rate is None:
        raise ConfigError("--traffic and --failure-rate go together")
    responses = responses_a_day(a_day)
    promise = bundle.require_promise()
    if promise.sessions is not None:
        raise ConfigError("--traffic counts responses, but this bundle promises for sessions")
    measured = {name: (c, n) for name, (c, n) in bundle.provenance.get("calibrated", {}).get("power", {}).items()}
    if power is not None:
        measured = dict.fromkeys(promise.alphas, _counts(power))
    if not measured:
        raise ConfigError(
            "nothing says how many failures are caught: calibrate with --failures RECORDING, or give --power "
            "CAUGHT/FAILURES"
        )
    result = {
        name: worth(promise.limits.likely_law(name), failure_rate, responses, *measured[name])
        for name in promise.alphas
    }
    return Traffic(responses, failure_rate, measured, result)


def responses_a_day(text: str) -> float:
    """Of a traffic such as 1e6/day or 20/s. Raises ConfigError on anything else."""
    match = _TRAFFIC.match(text)
    if match is None:
        raise ConfigError(f"--traffic is a count and a time, such as 1e6/day or 20/s, not '{text}'")
    try:
        return float(match[1]) * A_DAY[match[2].lower()]
    except ValueError:
        raise ConfigError(f"--traffic: '{match[1]}' is no number") from None


def show_worth(console: Console, expected: Traffic) -> None:
    """Print it."""
    console.print(
        f"\nat {expected.responses:,.0f} responses a day, {expected.failure_rate:.3%} of them failures "
        f"({expected.responses * expected.failure_rate:,.0f}):"
    )
    rows = []
    for name, estimate in reversed(expected.worth.items()):
        counts = [
            _count(figure) for figure in (estimate.alarms, estimate.false_alarms, estimate.caught, estimate.missed)
        ]
        p = estimate.precision
        rows.append([name, *counts, f"{p.value:.2%} ({p.low:.2%} to {p.high:.2%})"])
    print_table(console, ("", "alarms a day", "of them false", "caught", "missed", "an alarm is right"), rows)
    text = ", ".join(f"{caught:,} of {n:,} ({name})" for name, (caught, n) in reversed(expected.caught.items()))
    console.print(f"failures caught when measured: {text}; ranges hold at least 98 times of 100")


def _count(figure: Range) -> str:
    return f"{figure.value:,.0f} ({figure.low:,.0f} to {figure.high:,.0f})"


def _counts(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None:
        raise ConfigError(f"--power is CAUGHT/FAILURES, such as 180/200, not '{text}'")
    return int(match[1]), int(match[2])
