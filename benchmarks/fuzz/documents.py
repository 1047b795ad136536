"""JSON and server-sent events as Tocsin reads them, beside how callers do: by `json`, and by the letter of WHATWG."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.fuzz.outcomes import Failure, Refused
from benchmarks.harness.chat import CHAT, JSON, config, events_and_calls
from benchmarks.harness.parts import inline_guard
from tocsin.exchange.opening import Exchanges
from tocsin.judgement.call import Call
from tocsin.protocols.http.framing import ServerSentEvents

LIMIT = 1 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
BOM = b"\xef\xbb\xbf"


class Documents:
    """What is judged of a document is what is judged of the same document, read and written by `json`."""

    def __init__(self, bundle: Path) -> None:
        self._guard = inline_guard(config(bundle, "observe"))

    def feed(self, case: bytes) -> None:
        """The case is a response's body."""
        ours = self._judged(case)
        if not ours or not all(call.verdict is not None and call.verdict.unscored is None for call in ours):
            raise Refused
        try:
            text = case.decode("utf-8", "replace").removeprefix("\ufeff")
            again = json.dumps(json.loads(text)).encode()
        except RecursionError:
            raise Refused from None
        except ValueError as error:
            raise Failure(f"scored what is no JSON: {error}") from None
        theirs = self._judged(again)
        if [_facts(call) for call in ours] != [_facts(call) for call in theirs]:
            raise Failure(f"judged {[_facts(call) for call in ours]}, read by json {[_facts(call) for call in theirs]}")

    def _judged(self, body: bytes) -> list[Call]:
        exchange = Exchanges(self._guard).open("POST", CHAT, JSON.items())
        assert exchange is not None
        exchange.on_request(b"{}")
        exchange.on_response_headers(200, JSON.items())
        _, pieces = events_and_calls(exchange, exchange.on_response_chunk(body) + exchange.on_response_end())
        pieces += exchange.call.ended()
        self._guard.judge(pieces)
        return pieces


def _facts(call: Call) -> Any:
    verdict = call.verdict
    return None if verdict is None else (verdict.unscored, verdict.severity, verdict.pvalues, verdict.rows)


def events_as_callers_do(case: bytes) -> None:
    """A stream is cut into the data that a client dispatches, whatever the pieces it comes in, and loses no byte."""
    for step in (len(case) or 1, 7, 1 + len(case) // 3):
        framing = ServerSentEvents(LIMIT)
        events = [event for at in range(0, len(case), step) for event in framing.feed(case[at : at + step])]
        events += framing.end()
        if b"".join(event.raw for event in events) != case:
            raise Failure("other bytes went on than came")
        data = [event.data for event in events if event.data is not None]
        expected = _dispatched(case)
        if data != expected:
            raise Failure(f"read {data} where a client dispatches {expected}"[:600])


def _dispatched(case: bytes) -> list[bytes]:
    """The data of the events, line by line; of an event that lacks its end, too, as some clients take it for one."""
    dispatched, lines = list[bytes](), list[bytes]()
    for line in [*_LINE_END.split(case.removeprefix(BOM)), b""]:
        if not line:
            if data := b"\n".join(lines):
                dispatched.append(data)
            lines.clear()
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return dispatched
