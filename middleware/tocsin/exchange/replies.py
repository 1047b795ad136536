"""What an HTTP caller gets in place of a withheld response, and how a verdict is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tocsin.exchange.exchange import Exchange
from tocsin.exchange.treatment import DOCUMENT, EVENTS
from tocsin.grpc_wire.status import Status
from tocsin.judgement.call import Call
from tocsin.judgement.policy import ErrorInfo, Replacement, RichStatus
from tocsin.protocols.http.framing import event_of
from tocsin.protocols.http.parts import encoded, members_of, object_of
from tocsin.unscored import Unscored
from tocsin.verdict import METADATA_KEY

LONGEST_FIELD: Final = 4_096  # bytes of a verdict in a header: servers and clients take at least 8 KiB of headers

# As google/rpc/code.proto says.
_OF_STATUS: Final = {
    "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409, "PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400, "ABORTED": 409, "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500,
    "UNAVAILABLE": 503, "DATA_LOSS": 500,
}  # fmt: skip
_USUAL_ERROR: Final = {"error": {"message": "{message}", "type": "tocsin", "code": "{reason}"}}


class Reply(NamedTuple):
    """A complete HTTP response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def reply(exchange: Exchange, instead: Replacement) -> Reply:
    """What the caller gets where nothing of the response has gone out."""
    content_type, status = "application/json", 200
    if not instead.responses:
        body, status = _error(exchange, instead), http_status(instead.status)
    elif exchange.kind == DOCUMENT:
        body = instead.responses[0]
    else:
        body = ending(exchange, instead)
        content_type = EVENTS if exchange.kind == EVENTS else "application/x-ndjson"
    headers = [("content-type", content_type), ("content-length", str(len(body)))]
    return Reply(status, [*headers, *verdict_fields(exchange.call)], body)


def ending(exchange: Exchange, instead: Replacement) -> bytes:
    """What ends a stream of which some has gone out, or will: its last messages, or an error."""
    if not instead.responses:
        parts = [_framed(exchange, _error(exchange, instead), exchange.method.error_event)]
    else:
        parts = [_framed(exchange, _repeating(exchange, response)) for response in instead.responses]
    done = exchange.method.end_mark
    return b"".join([*parts, _framed(exchange, done) if done else b""])


def http_status(status: Status) -> int:
    """The HTTP status that corresponds to a gRPC status."""
    return _OF_STATUS.get(status.name, 500)


def verdict_fields(call: Call) -> list[tuple[str, str]]:
    """The header field that carries a call's verdict, where it has one."""
    text = None if call.verdict is None else call.verdict.shortened(LONGEST_FIELD)
    return [] if text is None else [(METADATA_KEY, text)]


def tells_by_event(exchange: Exchange) -> bool:
    """Whether the verdict goes out in the stream, as an event or in a comment: plain text would break what is coded."""
    config = exchange.guard.config
    is_plain = exchange.kind == EVENTS and not exchange.is_coded
    return is_plain and config.stream_verdicts != "none" and config.mode != "observe"


def verdict_event(exchange: Exchange) -> bytes:
    """The verdict as an event of a stream, in the configured form; empty where it cannot be sent."""
    verdict = exchange.call.verdict
    if verdict is None or not tells_by_event(exchange):
        return b""
    how, text = exchange.guard.config.stream_verdicts, verdict.to_metadata().encode()
    return event_of(text, METADATA_KEY) if how == "event" else b": " + METADATA_KEY.encode() + b" " + text + b"\n\n"


def _framed(exchange: Exchange, data: bytes, event: str = "") -> bytes:
    return event_of(data, event) if exchange.kind == EVENTS else data + b"\n"


def _repeating(exchange: Exchange, response: bytes) -> bytes:
    """A message with the members that all messages of the stream have, such as its id."""
    try:
        return object_of({**exchange.repeated, **members_of(response, "response")}) if exchange.repeated else response
    except Unscored:
        return response


def _error(exchange: Exchange, instead: Replacement) -> bytes:
    info = ErrorInfo()
    details = RichStatus.FromString(instead.details).details if instead.details else ()
    if details:
        info.ParseFromString(details[0].value)
    facts = {"message": instead.message, "reason": info.reason, "status": instead.status.name}
    return encoded(_filled(exchange.method.error or _USUAL_ERROR, facts))


def _filled(template: Any, facts: Mapping[str, str]) -> Any:
    """A template with facts in place of their names in braces."""
    if isinstance(template, Mapping):
        return {name: _filled(value, facts) for name, value in template.items()}
    if isinstance(template, list):
        return [_filled(value, facts) for value in template]
    if isinstance(template, str):
        for name, fact in facts.items():
            template = template.replace("{" + name + "}", fact)
    return template
