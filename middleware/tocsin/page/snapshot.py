"""Everything that the page shows at one moment, as plain data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import numpy as np

from tocsin.alerting.limits import PageLimits
from tocsin.alerting.watched import watched_model
from tocsin.events.alarm import Event, without_messages
from tocsin.judgement.model import GuardedModel
from tocsin.page.answers import answers
from tocsin.page.history import History, Point
from tocsin.sinks.prometheus import PrometheusSink
from tocsin_calibration import FalseAlarmLaw

Z_OF_99 = 2.58  # standard deviations: 99 times of 100
MAX_MODELS = 20  # models, those with the most evidence against them
MAX_ALARMS = 10
SEARCH_FIELDS = ("id", "response_id", "model", "version", "severity", "session", "trace_id", "method", "action")


def snapshot(sink: PrometheusSink, alarms: Iterable[Event], history: History, mode: str) -> dict[str, Any]:
    """What the page shows now."""
    figures, points = sink.figures(), history.points()
    guarded = {name: model for name, model in sink.models.items() if model.scoring is not None and name in figures}
    names = sorted(guarded, key=lambda name: -max(figures[name]["promise"].values(), default=0.0))
    limits, added, latest = sink.limits, sink.added_quantiles(), shown(alarms)[::-1]
    models = [_model(name, guarded[name], figures[name], points.get(name, []), limits) for name in names[:MAX_MODELS]]
    return {
        "time": time.time(),
        "mode": mode,
        "answers": answers(models, added, latest),
        "models": models,
        "more": max(0, len(names) - MAX_MODELS),
        "unguarded": sorted(set(sink.models) - set(guarded)),
        "added": added,
        "alarms": latest[:MAX_ALARMS],
        "remembered": len(latest),
    }


def shown(alarms: Iterable[Event], search: str = "") -> list[dict[str, Any]]:
    """Alarms as a page shows them: those whose id, model, version, severity, session, trace or method has a text."""
    text = search.strip().lower()
    return [alarm for event in list(alarms) if text in _searched(alarm := _shown(event))]


def _model(
    name: str, model: GuardedModel, figures: dict[str, Any], points: Sequence[Point], limits: PageLimits
) -> dict[str, Any]:
    """What the page says of one model."""
    scoring = model.scoring
    assert scoring is not None  # only guarded models are shown
    promise, judged, alarms = scoring.promise, figures["judged"], figures["alarms"]
    severities, limit = [], limits.of(watched_model(name, promise, model.config))
    for at, (severity, alpha) in enumerate(promise.alphas.items()):
        graver = list(promise.alphas)[: at + 1]
        law, evidence = promise.laws[severity], figures["promise"].get(severity)
        expected = (
            None if promise.is_per_step else law
        )  # what is counted is sessions, of which nothing is expected then
        low, high = (None, None) if expected is None else promise.limits.rate_range(severity)
        severities.append({
            "name": severity, "alpha": alpha, "sentence": promise.sentence(severity),
            "low": low, "high": high, "alarms": sum(alarms.get(graver_name, 0) for graver_name in graver),
            "evidence": evidence,
            "broken": evidence is not None and evidence > limit,
            "quiet": figures["quiet"].get(severity, 0.0) > limits.quiet,
            "rates": [_rate(point, graver, expected) for point in points],
        })  # fmt: skip
    provenance = scoring.bundle.provenance.get("calibrated", {})
    return {
        "name": name, "digest": scoring.digest, "unit": promise.unit, "calibrated": provenance.get("timestamp"),
        "responses": promise.n, "judged": judged, "unscored": figures["unscored"], "severities": severities,
        "drift": figures["drift"], "drifted": figures["drift"] is not None and figures["drift"] > limits.drift,
        "inputs": figures["inputs"],
        "inputs_changed": figures["inputs"] is not None and figures["inputs"] > limits.drift,
        "finding": figures["finding"],
        "scoring": figures["scoring"], "actions": figures["actions"],
        "pvalues": _expected(figures["pvalue"], None),
        "detectors": [
            {"name": detector, **_expected(counts, promise.reference[:, column])}
            for column, (detector, counts) in enumerate(zip(promise.detectors, figures["scores"], strict=True))
        ],
    }  # fmt: skip


def _rate(point: Point, graver: Sequence[str], law: FalseAlarmLaw | None) -> dict[str, float | None]:
    """One point of a sparkline: the share that alarmed, and the share that the law leaves room for, if there is one."""
    when, rows, alarms = point
    if not rows:
        return {"t": when, "n": 0, "rate": None, "high": None}
    high = 1.0 if law is None else min(1.0, law.mean_rate + Z_OF_99 * sqrt(law.variance_of_rate(rows)))
    share = sum(alarms.get(graver_name, 0) for graver_name in graver) / rows
    return {"t": when, "n": rows, "rate": share, "high": high}


def _expected(counted: dict[str, list[float]], reference: Any) -> dict[str, Any]:
    """Counts by bucket, and the shares expected from calibration: of uniform p-values, or of its own scores."""
    bounds = counted["bounds"]
    if reference is None:
        below = [0.0, *bounds, 1.0]
        shares = np.diff(below)
    else:
        places = np.searchsorted(bounds, reference, side="left")
        shares = np.bincount(places, minlength=len(bounds) + 1) / len(reference)
    return {"bounds": bounds, "counts": counted["counts"], "expected": [round(float(share), 5) for share in shares]}


def _shown(event: Event) -> dict[str, Any]:
    """An alarm without the parts that the page does not show."""
    return {"id": event["id"], "type": event["type"], "time": event["time"], **without_messages(event)["data"]}


def _searched(alarm: dict[str, Any]) -> str:
    """The parts of an alarm that a search covers; of a sum, the worst alarm too."""
    values = [part[name] for part in (alarm, alarm.get("worst", {})) for name in SEARCH_FIELDS if part.get(name)]
    return "\n".join(values).lower()
