"""What a conformance case is, what may come of it, and how it is tried through a relay and without one.

In `enforce` the relay keeps flow control and judges; in `observe` and `annotate` it hands errors on, for the upstream
to treat. So a case holds when its outcome is the one that the RFC asks for; or when it is what the upstream does by
itself, unless the case is one that the relay decides in `enforce`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.harness.parts import INFER, Running, far_away, inference, safe_traffic
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    ErrorCode,
    Kind,
    frame,
    message,
    request_block,
)
from benchmarks.harness.raw_peers import RawPeer, connect, eventually

from tocsin.verdict import METADATA_KEY

MODES = ("observe", "annotate", "enforce")
SAFE, FAR = inference(safe_traffic(1), slice(0, 1)), inference(far_away(1), slice(0, 1))
ANSWERS = {b"ok": SAFE, b"bad": FAR}
BYSTANDER, STREAM, LATER = 1, 3, 1_001  # a call that is under way, the stream of the case, and a call after it
QUIET = 1.0  # seconds in which nothing comes
BARRIER = 901  # a call whose answer tells that the upstream has read what came before

OPENING = frame(Kind.HEADERS, END_HEADERS, STREAM, request_block(INFER))
QUESTION = frame(Kind.DATA, END_STREAM, STREAM, message(b"ok"))
CALL = OPENING + QUESTION


class Outcome(NamedTuple):
    """What came of a case: the `connection` ended, the stream was `reset` or `refused` with a status, it was `served`,
    or `nothing` of these; `hangs` where not even a PING is answered. With the error code where there was one.
    """

    kind: str
    code: int | None = None


class Expected(NamedTuple):
    """The outcomes that the RFC allows: kinds, with the error codes of each."""

    kinds: dict[str, tuple[int, ...]]

    def has(self, outcome: Outcome) -> bool:
        """Whether an outcome is one of them. An end without an error code is an end."""
        codes = self.kinds.get(outcome.kind)
        return codes is not None and (outcome.code is None or not codes or outcome.code in codes)

    def __or__(self, other: Expected) -> Expected:  # type: ignore[override]
        return Expected({**self.kinds, **other.kinds})


def connection_error(*codes: int) -> Expected:
    """The connection ends."""
    return Expected({"connection": codes})


def stream_error(*codes: int) -> Expected:
    """The stream is reset, or refused with a status; others go on."""
    return Expected({"reset": codes, "refused": ()})


SERVED = Expected({"served": ()})
IGNORED = Expected({"nothing": (), "served": ()})


class Case(NamedTuple):
    """One case: the section that asks for it, what is sent, and what is to come of it.

    `relay_decides`: in enforce the relay must treat it itself, whatever the upstream would do.
    """

    section: str
    name: str
    sends: bytes | Callable[[RawPeer], object]
    expected: Expected
    relay_decides: bool = False

    def __str__(self) -> str:
        return f"{self.section} {self.name}"


def outcome(peer: RawPeer, stream: int, waits: float) -> Outcome:
    """What came of what was sent, once the other end has read it; it `waits` so many seconds for the stream to end."""
    answers_ping = peer.ping()
    if answers_ping and not _has_failed(peer):
        _until_it_ends(peer, stream, waits)
        if peer.has_ended(stream) and peer.fields(stream).get("grpc-status") != "0":
            peer.ping()  # whether the stream alone has ended
    if _has_failed(peer) or peer.closed:
        ended = peer.until(lambda: peer.closed)
        codes = [int.from_bytes(goaway.payload[4:8], "big") for goaway in peer.of(Kind.GOAWAY)]
        return Outcome("connection" if ended else "hangs", next((code for code in codes if code), None))
    if not answers_ping:
        return Outcome("hangs")
    fields = peer.fields(stream)
    if fields.get("grpc-status") == "0":
        return Outcome("served")
    if fields.get("grpc-status") or fields.get(":status", "200") != "200":
        return Outcome("refused")
    if resets := peer.of(Kind.RST_STREAM, stream):
        return Outcome("reset", int.from_bytes(resets[0].payload, "big"))
    return Outcome("nothing")


def _until_it_ends(peer: RawPeer, stream: int, waits: float) -> None:
    """Wait for a stream to end; where nothing comes, no longer than until the upstream has answered a later call."""

    def is_over() -> bool:
        return peer.closed or _has_failed(peer) or peer.has_ended(stream)

    if peer.until(is_over, min(waits, QUIET)) or waits <= QUIET:
        return
    peer.send(frame(Kind.HEADERS, END_HEADERS, BARRIER, request_block(INFER)))
    peer.send(frame(Kind.DATA, END_STREAM, BARRIER, message(b"ok")))
    peer.until(lambda: is_over() or peer.has_ended(BARRIER), waits)
    if peer.fields(BARRIER).get("grpc-status") == "0":
        peer.until(is_over, QUIET)
    else:
        peer.until(is_over, waits)


def _has_failed(peer: RawPeer) -> bool:
    return bool(peer.of(Kind.GOAWAY))


def attempt(target: str, case: Case) -> tuple[Outcome, RawPeer]:
    """Try a case beside a call that is under way; the peer is left open."""
    peer = connect(target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, BYSTANDER, request_block(INFER)))
    if callable(case.sends):
        case.sends(peer)
    else:
        peer.send(case.sends)
    ends_stream = case.expected.kinds.keys() & {"served", "reset", "refused"} and "nothing" not in case.expected.kinds
    return outcome(peer, STREAM, 5.0 if ends_stream else 0.3), peer


def others_go_on(peer: RawPeer) -> bool:
    """Whether the call that was under way, and a new one on the same connection, are served."""
    peer.send(frame(Kind.DATA, END_STREAM, BYSTANDER, message(b"ok")))
    peer.send(frame(Kind.HEADERS, END_HEADERS, LATER, request_block(INFER)))
    peer.send(frame(Kind.DATA, END_STREAM, LATER, message(b"ok")))
    peer.until(lambda: peer.closed or (peer.has_ended(BYSTANDER) and peer.has_ended(LATER)))
    return all(peer.fields(stream).get("grpc-status") == "0" for stream in (BYSTANDER, LATER))


def is_served(target: str) -> bool:
    """Whether a caller on a connection of its own is served."""
    peer = connect(target)
    peer.send(frame(Kind.HEADERS, END_HEADERS, 1, request_block(INFER)))
    peer.send(frame(Kind.DATA, END_STREAM, 1, message(b"ok")))
    peer.until(lambda: peer.closed or peer.has_ended(1))
    peer.close()
    return peer.fields(1).get("grpc-status") == "0"


def unjudged(peer: RawPeer, mode: str) -> list[str]:
    """Answers of the guarded model that went out without having been judged although `mode` judges."""
    if mode == "observe":
        return []
    complaints = []
    for stream in {received.stream for received in peer.of(Kind.DATA)}:
        if FAR not in peer.data(stream) and SAFE not in peer.data(stream):
            continue
        if mode == "annotate" and peer.of(Kind.RST_STREAM, stream):
            continue  # what follows a reset is for nobody
        wanted = '"p":' if mode == "enforce" else '"model":'  # in annotate, one that says why it is not judged will do
        fields = peer.fields(stream)
        if fields.get("grpc-status") == "0" and wanted not in fields.get(METADATA_KEY, ""):
            complaints.append(f"stream {stream} was answered without a verdict: {fields}")
    if mode == "enforce" and FAR in peer.data():
        complaints.append("an answer that is to be blocked went out")
    return complaints


def gives_everything_back(relay: Running) -> bool:
    """Whether a relay without open calls has released all memory."""

    def keeps_nothing() -> bool:
        names = ("tocsin_relay_kept_bytes ", "tocsin_relay_streams ", "tocsin_relay_connections ")
        lines = [line for line in relay.metrics.splitlines() if line.startswith(names)]
        return len(lines) == len(names) and all(float(line.rpartition(" ")[2]) == 0 for line in lines)

    return eventually(keeps_nothing)


def _unread(relay: Running) -> float:
    """How many frames and header blocks a relay has counted as not understood."""
    lines = [line for line in relay.metrics.splitlines() if line.startswith("tocsin_relay_not_understood_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


class Surroundings(NamedTuple):
    """Where cases are tried: the upstream by itself, and relays before it by mode."""

    direct: str
    relays: dict[str, Running]


class Trial:
    """Tries cases; what the upstream does by itself is found out once for each."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._direct: dict[str, Outcome] = {}

    def check(self, case: Case, mode: str) -> None:
        """Assert that a case holds through a relay in `mode`."""
        relay = self._surroundings.relays[mode]
        before = _unread(relay)
        result, peer = attempt(relay.target, case)
        try:
            if mode == "enforce" or _unread(relay) == before:  # else it was counted, and passes where that is open
                assert not unjudged(peer, mode), unjudged(peer, mode)
            if not case.expected.has(result):
                decides = case.relay_decides and mode == "enforce"
                by_itself = None if decides else self._by_itself(case)
                assert by_itself is not None and result.kind in _ALIKE.get(by_itself.kind, (by_itself.kind,)), (
                    f"{result}, expected {case.expected.kinds}; the upstream by itself: {by_itself or 'not asked'}; "
                    f"{_last_frames(peer)}"
                )
            if result.kind != "connection" and not others_go_on(peer):
                # Unless the upstream ends its connection over this: the relay tells each call so, one after the other.
                ended = not case.relay_decides and self._by_itself(case).kind == "connection"
                assert ended, f"{result}, but other calls on the connection were lost; {_last_frames(peer)}"
        finally:
            peer.close()
        assert is_served(relay.target), "another caller is not served afterwards"
        assert gives_everything_back(relay), "something is still kept"

    def _by_itself(self, case: Case) -> Outcome:
        if str(case) not in self._direct:
            self._direct[str(case)], peer = attempt(self._surroundings.direct, case)
            peer.close()
        return self._direct[str(case)]


# A gRPC server that resets a stream may have sent its trailers before; which of them is read first is a matter of time.
_ALIKE = {"reset": ("reset", "refused"), "refused": ("reset", "refused"), "hangs": ()}


def _last_frames(peer: RawPeer) -> str:
    """The end of what a peer received, for a failing assertion."""
    last = [
        f"{Kind(kind).name if kind < 10 else kind} on {stream}: {fields or payload[:90]!r}"
        for kind, _, stream, payload, fields in peer.frames[-6:]
    ]
    return f"received {last}, closed: {peer.closed}"


ANY_ERROR = tuple(code for code in ErrorCode if code)
