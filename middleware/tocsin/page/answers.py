"""The three questions that users have, answered in a sentence each, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tocsin_calibration.wording import percent

GOOD, BAD, NONE = "good", "bad", "none"  # how an answer is shown

Answer = dict[str, str]


def answers(
    models: Sequence[dict[str, Any]], added: dict[str, float | None], alarms: Sequence[dict[str, Any]]
) -> list[Answer]:
    """Is it keeping its promise, what alarmed and why, what does it cost; each with `question`, `answer` and `state`.

    `models` are those of a snapshot, with the most evidence first; `alarms` the newest first.
    """
    promise, state = _promise(models)
    alarmed = _alarm_answer(alarms)
    return [
        {"question": "Is it keeping its promise?", "answer": promise, "state": state},
        {"question": "What alarmed, and why?", "answer": alarmed, "state": NONE},
        {"question": "What does it cost?", "answer": _cost_answer(models, added), "state": NONE},
    ]


def _promise(models: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Whether the promise is kept, in a sentence."""
    judged = [model for model in models if model["judged"]]
    if not judged:
        unended = [model["unit"] for model in models if model["unit"] != "responses" and has_scored(model)]
        return (f"No {unended[0]} have ended yet." if unended else "No traffic yet."), NONE
    if broken := [(model, worst) for model in judged if (worst := _broken(model)) is not None]:
        model, severity = broken[0]
        more = len(broken) - 1
        others = f" So do {more:,} other models." if more > 1 else " So does one other model." if more else ""
        rate = percent(severity["alarms"] / model["judged"])
        return (
            f"No. {model['name']} raises {severity['name']} alarms in {rate} of {model['judged']:,} {model['unit']}; "
            f"it promised at most {percent(severity['alpha'])}.{others}",
            BAD,
        )
    if drifted := [model["name"] for model in judged if model["drifted"]]:
        return f"Yes so far, but scores have drifted from those at calibration: {', '.join(drifted)}.", BAD
    if changed := [model["name"] for model in judged if model.get("inputs_changed")]:
        return f"Yes so far, with inputs that are other than at calibration: {', '.join(changed)}.", GOOD
    if quiet := [model["name"] for model in judged if any(severity["quiet"] for severity in model["severities"])]:
        return f"Yes, with far fewer alarms than expected: {', '.join(quiet)}.", GOOD
    if len(judged) > 1:
        return f"Yes, all {len(judged):,} models with traffic.", GOOD
    (model,) = judged
    rates = [
        f"{percent(severity['alarms'] / model['judged'])} {severity['name']} (promised {percent(severity['alpha'])})"
        for severity in reversed(model["severities"])
    ]
    return f"Yes, as far as {model['judged']:,} {model['unit']} can tell: {', '.join(rates)}.", GOOD


def _broken(model: dict[str, Any]) -> dict[str, Any] | None:
    """The severity with the most evidence against its promise, of those whose promise is broken."""
    broken = [severity for severity in model["severities"] if severity["broken"]]
    return max(broken, key=lambda severity: float(severity["evidence"]), default=None)


def reason(alarm: dict[str, Any]) -> str:
    """Why an alarm was raised, in a few words; of a sum, the worst alarm."""
    worst = alarm["worst"] if "alarms" in alarm else alarm
    because = worst["reasons"][0] if worst["reasons"] else f"p = {worst['p']:.2g}"
    return f"{alarm['alarms']:,} more; worst: {because}" if "alarms" in alarm else because


def _alarm_answer(alarms: Sequence[dict[str, Any]]) -> str:
    if not alarms:
        return "Nothing since start."
    last = alarms[0]
    severity = (last["worst"] if "alarms" in last else last)["severity"]
    return f"{last['time'][11:19]} UTC, {severity}, {last['model']}: {reason(last)}."


def _cost_answer(models: Sequence[dict[str, Any]], added: dict[str, float | None]) -> str:
    """What judging costs, in a sentence."""
    judged = [model for model in models if model["judged"]]
    if not judged:
        return "Nothing is measured yet."
    slowest = max(judged, key=lambda model: model["scoring"]["p99"] or 0.0)
    unscored = sum(sum(model["unscored"].values()) for model in models)
    of = f" ({slowest['name']})" if len(judged) > 1 else ""
    waits = "do not wait" if added["p99"] is None else f"wait at most {duration(added['p99'])}"
    return (
        f"99 times of 100, scoring takes at most {duration(slowest['scoring']['p99'])}{of} and callers {waits} for it. "
        f"{unscored:,} responses passed unscored."
    )


def has_scored(model: dict[str, Any]) -> bool:
    """Whether responses were scored, although perhaps none of their sessions has ended."""
    return model["scoring"]["p99"] is not None


def duration(seconds: float | None) -> str:
    """A short time for people: us below a millisecond, else ms; - where there is none."""
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
