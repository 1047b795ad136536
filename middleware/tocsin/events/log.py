"""Alarms in the process's own log."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

from tocsin.configuration.events import LogTarget
from tocsin.events.alarm import EVIDENCE, SUM

log = logging.getLogger("tocsin.alarms")


class LogLines:
    """Logs one line for each event. Where logs are JSON, the line's fields hold the event's data."""

    label = "log"
    waiting = 0

    def __init__(self, target: LogTarget) -> None:
        self.counts: Counter[str] = Counter()
        self._level = logging.getLevelName(target.log.upper())

    def put(self, line: bytes) -> None:
        """Log an event: an alarm, the sum of several, or what evidence has found."""
        event = json.loads(line)
        data = event["data"]
        if event["type"] == EVIDENCE:
            self._put_evidence(event["id"], data)
            return
        summed = event["type"] == SUM
        alarm = data["worst"] if summed else data
        reasons = "; ".join(alarm["reasons"])
        if summed:
            among = f" in {data['sessions']} sessions" if data["sessions"] else ""
            message = f"model {data['model']}: {data['alarms']} more alarms{among}, worst: {reasons}"
        else:
            message = f"model {data['model']}: {data['severity']} alarm, p = {data['p']:.3g}: {reasons}"
        fields = {"alarm_id": event["id"], "model": data["model"], "severity": alarm["severity"], "p": data["p"]}
        more = ("version", "method", "session", "trace_id", "detectors", "action")
        log.log(self._level, message, extra={**fields, **{name: alarm[name] for name in more if alarm[name]}})
        self.counts["delivered"] += 1

    def _put_evidence(self, identifier: str, data: dict[str, Any]) -> None:
        what = f"promise of {' and '.join(data['broken'])} broken" if data["broken"] else "its traffic has changed"
        fields = {"evidence_id": identifier, "model": data["model"], "severity": data["severity"]}
        message = f"model {data['model']}: {what}: {'; '.join(data['reasons'])}"
        log.log(self._level, message, extra={**fields, "causes": data["causes"]})
        self.counts["delivered"] += 1

    def close(self) -> None:
        """Nothing is kept."""
