"""One cell of the matrix: an ordinary and a strange answer pass a position, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.parts import inline_guard
from benchmarks.matrix.answers import Answer, has_verdict
from benchmarks.matrix.cases import CASES, DECODE, ENCODINGS, TYPES, Case
from benchmarks.matrix.positions import POSITIONS
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.sink import Scored, Sink

MODES = ("observe", "annotate", "enforce", "closed")
JUDGED, UNTOLD, REFUSED, COUNTED = "judged", "judged, not told", "refused", "counted"
SILENT, WRONG = "PASSED SILENTLY", "WRONG"


class Cell(NamedTuple):
    """What becomes of responses of a case in a position, mode and coding: JUDGED, REFUSED, COUNTED (with the reason),
    UNTOLD where the verdict has no place in the response; SILENT and WRONG are failures.
    """

    case: Case
    position: str
    mode: str
    encoding: str
    outcome: str
    reason: str = ""

    @property
    def text(self) -> str:
        return f"{self.outcome} ({self.reason})" if self.reason else self.outcome

    @property
    def is_failure(self) -> bool:
        return self.outcome in (SILENT, WRONG)


class Ledger(Sink):
    """What was judged, what was not, and why."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.judged = 0
        self.alarms = 0
        self.reasons: list[str] = []

    def scored(self, batch: Scored) -> None:
        self.judged += len(batch.calls)
        self.alarms += sum(call.verdict is not None and call.verdict.severity is not None for call in batch.calls)

    def unscored(self, call: Call) -> None:
        assert call.verdict is not None
        self.reasons.append(call.verdict.unscored or "?")


def cells(bundles: Mapping[str, Path], positions: Mapping[str, object] = POSITIONS) -> Iterator[Cell]:
    """Every cell, in the order of the page."""
    for case in CASES:
        for mode in MODES:
            ledger = Ledger()
            guard = inline_guard(case.config(bundles, mode), [ledger])
            for position in positions:
                for encoding in ENCODINGS:
                    outcome, reason = _run(guard, ledger, case, position, mode, encoding)
                    yield Cell(case, position, mode, encoding, outcome, reason)


def _run(guard: Guard, ledger: Ledger, case: Case, position: str, mode: str, encoding: str) -> tuple[str, str]:
    outcomes = []
    for strange in (False, True):
        ledger.clear()
        body = case.body(strange)
        headers = {"content-type": TYPES[case.shape]}
        if encoding != "identity":
            headers["content-encoding"] = encoding
        sent = Answer(200, headers, ENCODINGS[encoding](body))
        received = POSITIONS[position](guard, case.path, sent)
        outcomes.append(_outcome(ledger, body, received, mode, strange))
    ordinary, odd = outcomes
    if ordinary != odd and not (ordinary == (UNTOLD, "") and odd == (JUDGED, "")):
        return WRONG, f"an ordinary answer is {ordinary[0]} {ordinary[1]}, a strange one {odd[0]} {odd[1]}"
    return ordinary


def _outcome(ledger: Ledger, body: bytes, received: Answer, mode: str, strange: bool) -> tuple[str, str]:
    """What happened to one response."""
    passed = received.status == 200 and not received.is_cut and _is_whole(body, received)
    if not ledger.judged and not ledger.reasons:
        return SILENT, f"status {received.status}"
    if ledger.reasons:
        reason = ", ".join(dict.fromkeys(ledger.reasons))
        if mode == "closed":
            return (REFUSED, reason) if not passed else (WRONG, f"{reason}: passed with fail: closed")
        return (COUNTED, reason) if passed else (WRONG, f"{reason}: did not pass")
    if bool(ledger.alarms) != strange:
        return WRONG, f"{ledger.alarms} alarms"
    withheld = strange and mode in ("enforce", "closed")
    if passed == withheld:
        return WRONG, f"status {received.status}, " + ("passed" if passed else "did not pass whole")
    return (JUDGED, "") if mode == "observe" or withheld or has_verdict(received) else (UNTOLD, "")


def _is_whole(body: bytes, received: Answer) -> bool:
    """Whether the caller got what the server sent, verdicts apart."""
    try:
        plain = DECODE[received.headers.get("content-encoding", "identity")](received.body)
    except Exception:
        return False
    events = [event for event in plain.split(b"\n\n") if not event.startswith(b": tocsin-verdict ")]
    return b"\n\n".join(events) == body
