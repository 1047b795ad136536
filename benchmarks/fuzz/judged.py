"""Responses that a guard judges, whatever they are: messages of gRPC, and bodies of HTTP."""

from __future__ import annotations

from pathlib import Path

from benchmarks.fuzz.outcomes import Failure, Refused
from benchmarks.harness import ranker as acme
from benchmarks.harness.chat import CHAT, JSON, SSE
from benchmarks.harness.chat import config as http_config
from benchmarks.harness.chat import events_and_calls as http_pieces
from benchmarks.harness.parts import METHOD
from tocsin.configuration.config import Config
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.judgement.guard import Guard
from tocsin.verdict import Verdict


class Judged:
    """A guard that fails closed: whatever a response is, it is scored, or blocked with a reason."""

    def __init__(self, config: Config) -> None:
        self._guard = Guard.open(config)

    def infer(self, case: bytes) -> None:
        self._judge(METHOD.name, case)

    def rank(self, case: bytes) -> None:
        self._judge(acme.PATHS["Rank"], case)

    def _judge(self, method: str, case: bytes) -> None:
        call = self._guard.call(method, {})
        assert call is not None
        piece = call.on_response_message(case)
        assert piece is not None
        self._guard.judge([piece])
        verdict = piece.verdict
        if verdict is None:
            raise Failure("there is no verdict")
        if verdict.unscored is None and not all(0 < p <= 1 for p in verdict.pvalues):
            raise Failure(f"p-values {verdict.pvalues}")
        if verdict.unscored is not None:
            if verdict.action != "block":
                raise Failure(f"passed unscored ({verdict.unscored})")
            raise Refused
        Verdict.from_metadata(verdict.to_metadata())


class Exchanged:
    """Responses of HTTP: they pass as the bytes that they were, each message judged, or unscored for a reason."""

    def __init__(self, bundle: Path) -> None:
        self._guard = Guard.open(http_config(bundle, "observe", ask=2))

    def document(self, case: bytes) -> None:
        self._feed(case, JSON)

    def events(self, case: bytes) -> None:
        self._feed(case, SSE)

    def _feed(self, case: bytes, headers: dict[str, str]) -> None:
        exchange = opened(self._guard, case, {"content-type": "application/json"})
        exchange.on_response_headers(200, headers.items())
        size = 7 + len(case) // 5
        segments = [
            segment for at in range(0, len(case), size) for segment in exchange.on_response_chunk(case[at : at + size])
        ]
        raw, pieces = http_pieces(exchange, segments + exchange.on_response_end())
        pieces += exchange.call.ended()
        if not exchange.strips and raw != case:
            raise Failure("other bytes went on than came")
        self._guard.judge(pieces)
        if all(piece.verdict is not None and piece.verdict.unscored for piece in pieces):
            raise Refused


def opened(guard: Guard, body: bytes, headers: dict[str, str]) -> Exchange:
    """An exchange whose request is the case, too."""
    exchange = Exchanges(guard).open("POST", CHAT, headers.items())
    assert exchange is not None
    exchange.on_request(body)
    return exchange


def ranked(bundle: Path, folder: Path) -> Config:
    """A configuration of a protocol of one's own."""
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS}
    return Config(mode="enforce", fail="closed", protocols=acme.protocol(folder), models={"digits": model})
