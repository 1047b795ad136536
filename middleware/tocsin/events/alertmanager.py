"""Alerts sent to an Alertmanager directly, without Prometheus (API v2)."""

from __future__ import annotations

import json
import time
from typing import Any

from tocsin.configuration.events import AlertmanagerTarget
from tocsin.events.alarm import EVIDENCE, SUM, rfc3339_time
from tocsin.events.post import post


class Alertmanager:
    """POSTs alerts by model and severity. They resolve by themselves when no alarm follows."""

    def __init__(self, target: AlertmanagerTarget) -> None:
        self._url = f"{str(target.alertmanager).rstrip('/')}/api/v2/alerts"
        self._timeout, self._lasting = target.timeout.total_seconds(), target.lasting.total_seconds()

    def send(self, line: bytes) -> None:
        """Deliver one event. Raises Rejected, or OSError when it is worth trying again."""
        body = json.dumps(alerts(json.loads(line), self._lasting)).encode()
        post(self._url, body, {"Content-Type": "application/json"}, self._timeout)

    def close(self) -> None:
        """Nothing is kept."""


def alerts(event: dict[str, Any], lasting: float) -> list[dict[str, Any]]:
    """The alerts that represent an event."""
    data = event["data"]
    if event["type"] == EVIDENCE:
        labels = {"alertname": "TocsinEvidence", "model": data["model"], "severity": data["severity"]}
        summary = f"{data['model']}: {data['reasons'][0] if data['reasons'] else 'its traffic has changed'}"
        annotations = {"summary": summary, "description": "; ".join(data["reasons"]), "evidence_id": event["id"]}
        times = {"startsAt": event["time"], "endsAt": rfc3339_time(time.time() + lasting)}
        return [{"labels": labels | {"source": event["source"]}, "annotations": annotations, **times}]
    summed = event["type"] == SUM
    result = []
    for severity in data["severities"] if summed else [data["severity"]]:
        labels = {"alertname": "TocsinAlarm", "model": data["model"], "severity": severity, "source": event["source"]}
        labels |= {"version": data["version"]} if data.get("version") else {}  # not told by an older spool's sums
        if summed:
            labels["kind"] = "sum"  # else it would take the place of the single alarm before it
            summary = f"{data['model']}: {data['severities'][severity]} more {severity} alarms since {data['from']}"
            annotations = {"summary": summary}
        else:
            summary = f"{data['model']}: a response with p = {data['p']:.2g}"
            annotations = {"summary": summary, "description": "; ".join(data["reasons"]), "alarm_id": event["id"]}
            annotations |= {name: data[name] for name in ("trace_id", "session") if data[name]}
        ends = rfc3339_time(time.time() + lasting)
        result.append({"labels": labels, "annotations": annotations, "startsAt": event["time"], "endsAt": ends})
    return result
