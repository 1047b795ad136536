"""An alarm as a CloudEvent: what it says of one alarmed response, or of many that were summed."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from socket import gethostname
from typing import Any

from tocsin.events.alarm_throttle import Sum
from tocsin.judgement.call import Call

ALARM, SUM, EVIDENCE = "tocsin.alarm.v1", "tocsin.alarms.summed.v1", "tocsin.evidence.v1"
MAX_PAYLOAD = 64 << 10  # bytes of a message that an event carries

Event = dict[str, Any]


def event(kind: str, identifier: str, subject: str, seconds: float, data: Mapping[str, Any]) -> Event:
    """A CloudEvent 1.0 in its JSON form; `seconds` is Unix time."""
    return {
        "specversion": "1.0",
        "id": identifier,
        "source": f"/tocsin/{gethostname()}",
        "type": kind,
        "subject": subject,
        "time": rfc3339_time(seconds),
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def alarm(
    call: Call, session: str, scores: Mapping[str, float], payload: str, finding: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The data of an event about an alarmed call. `scores` are those of its worst row, by detector; `finding` is what
    evidence had found of the model by then.
    """
    verdict = call.verdict
    assert verdict is not None
    data: dict[str, Any] = {
        "model": call.model,
        "version": call.version,
        "method": call.method,
        "session": session,
        "severity": verdict.severity,
        "action": verdict.action,
        "p": min(verdict.pvalues),
        "rows": len(verdict.pvalues),
        "detectors": verdict.by_detector,
        "scores": {name: float(score) for name, score in scores.items()},
        "reasons": verdict.reasons,
        "bundle": verdict.bundle,
        "trace_id": call.trace,
    }
    if verdict.identifier:
        data["response_id"] = verdict.identifier
    if finding is not None:
        data["evidence"] = dict(finding)
    if payload != "none":
        data["response"] = _text(call.response)
    if payload == "both":
        data["request"] = _text(call.request)
    return data


def without_messages(content: Event) -> Event:
    """An event without the messages that it may carry."""
    data = _without_messages(content["data"])
    if "worst" in data:
        data["worst"] = _without_messages(data["worst"])
    return {**content, "data": data}


def _without_messages(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in ("request", "response")}


def evidence(model: str, bundle: str, finding: Mapping[str, Any]) -> dict[str, Any]:
    """The data of an event about what evidence has found. `severity` is the most severe one whose promise is broken, or
    none.
    """
    return {
        "model": model,
        "bundle": bundle,
        "severity": next(iter(finding["broken"]), "none"),
        "reasons": finding["words"],
        **{name: value for name, value in finding.items() if name != "words"},
    }


def subject(model: str, session: str = "") -> str:
    """The subject of an event: the model, and the session where there is one."""
    return f"{model}/{session}" if session else model


def line(content: Event) -> bytes:
    """An event as one line."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def rfc3339_time(seconds: float) -> str:
    """A time as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def alarm_sum(of: Sum, began: float, ended: float) -> dict[str, Any]:
    """The data of an event that sums alarms. `sessions` are those they came from, 0 for unknown. `version` is their
    version, "" where there are several.
    """
    return {
        "model": of.model,
        "version": next(iter(of.versions)) if len(of.versions) == 1 else "",
        "versions": sorted(of.versions),
        "from": rfc3339_time(began),
        "to": rfc3339_time(ended),
        "alarms": of.severities.total(),
        "severities": dict(of.severities),
        "sessions": len(of.sessions),
        "p": of.lowest,
        "detectors": [name for name, _ in of.detectors.most_common()],
        "worst": of.worst,
    }


def _text(message: bytes | None) -> str | None:
    return None if message is None else base64.b64encode(message[:MAX_PAYLOAD]).decode()


def alarm_of(line: bytes) -> str | None:
    """What identifies the same alarm at other replicas: session and severity, hashed. None for events without such a
    counterpart: sums, and alarms of no session.
    """
    content = json.loads(line)
    data = content["data"]
    if content["type"] != ALARM or not data["session"]:
        return None
    shared = "\0".join((data["model"], data["bundle"], data["session"], data["severity"]))
    return hashlib.blake2b(shared.encode(), digest_size=16).hexdigest()
