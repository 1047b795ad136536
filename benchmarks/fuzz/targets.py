"""Everything that is fed: each reader of bytes, with what it must not do."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from benchmarks.fuzz import called, http1, processed
from benchmarks.fuzz import graphs as planned_graphs
from benchmarks.fuzz.documents import Documents, events_as_callers_do
from benchmarks.fuzz.outcomes import Failure, Refused
from benchmarks.fuzz.relayed import BothWays, Relayed
from benchmarks.fuzz.seeds import INFERENCES, REQUEST, RESPONSE, SAFE, TRAILERS, conversations
from benchmarks.harness import ranker as acme
from benchmarks.harness.chat import CHAT, JSON, SSE, USUAL, completion, stream, tokens_bundle
from benchmarks.harness.chat import config as http_config
from benchmarks.harness.chat import events_and_calls as http_pieces
from benchmarks.harness.parts import METHOD, quick_bundle, settings
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.exchange.exchange import Exchange
from tocsin.exchange.opening import Exchanges
from tocsin.grpc_wire.deframer import MessageDeframer
from tocsin.http2.frames import FrameError, header_block, read_settings, unpadded
from tocsin.http2.headers import HeaderError, HeaderFilter, HeaderReader, remove_header
from tocsin.judgement.guard import Guard
from tocsin.memory import MemoryBudget
from tocsin.opinions import replies
from tocsin.opinions.lost import Lost
from tocsin.protocols.containers import CONTAINERS, LARGEST_MEMBER, tensor_in
from tocsin.protocols.descriptors import pool_of
from tocsin.protocols.metadata import number_in
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict
from tocsin_calibration import Bundle, CalibrationFault

CONFIGURATION = yaml.safe_dump(
    {
        "listen": "0.0.0.0:8001",
        "mode": "enforce",
        "fail": "closed",
        "scoring_budget": "5ms",
        "max_message": "1MiB",
        "models": {"m": {"signals": {"probs": "response.outputs.p"}, "on_alarm": {"critical": {"action": "block"}}}},
    }
).encode()
EVENT = b": a\r\nevent: a\r\ndata: {}\rdata:1\r\n\r\n"


class Target(NamedTuple):
    """Something that is fed: seeds to begin with, and a function that raises on a failure. `share` of all cases."""

    name: str
    seeds: list[bytes]
    feed: Callable[[bytes], None]
    share: float


def targets(folder: Path) -> list[Target]:
    """Every parser that is fuzzed, with its share of the cases.

    Of an earlier call with the same folder, what takes fitting is taken as it is.
    """
    bundle = fitted(folder / "fuzz.tocsin", quick_bundle)
    client, server = conversations()
    for mode in ("annotate", "enforce"):
        Relayed(bundle, mode).understood()
    processors = {mode: processed.Processed(bundle, mode) for mode in ("annotate", "enforce")}
    for processor in processors.values():
        processor.understood()
    client_of_server = called.Called(bundle)
    client_of_server.understood()
    tokens = fitted(folder / "tokens.tocsin", tokens_bundle)
    http = Exchanged(tokens)
    http_closed, http_annotate = (
        http1.HttpRelayed(tokens, "enforce", fail="closed"),
        http1.HttpRelayed(tokens, "annotate"),
    )
    for http_relay in (http_closed, http_annotate):
        http_relay.understood()
    return [
        Target("headers", [REQUEST, RESPONSE, TRAILERS], headers, 0.2),
        Target("messages", [b"\0\0\0\0\5hello\0\0\0\0\0", gzip.compress(bytes(100_000))], messages, 0.15),
        Target("frames", [*server, *client], frames, 0.18),
        Target("client-observe", client, Relayed(bundle, "observe").client, 0.03),
        Target("server-observe", server, Relayed(bundle, "observe").server, 0.03),
        Target("server-both-ways", server, BothWays(bundle).server, 0.03),
        Target("client-annotate", client, Relayed(bundle, "annotate", ask=True).client, 0.03),
        Target("server-annotate", server, Relayed(bundle, "annotate", ask=True).server, 0.03),
        Target("client-enforce", client, Relayed(bundle, "enforce").client, 0.03),
        Target("server-enforce-closed", server, Relayed(bundle, "enforce", fail="closed").server, 0.05),
        Target("inferences", INFERENCES, Judged(settings(1, bundle, mode="enforce", fail="closed")).infer, 0.1),
        Target("fields", [acme.answer(SAFE, row) for row in range(4)], Judged(ranked(bundle, folder)).rank, 0.06),
        Target("http-documents", [completion([USUAL] * 6), completion([USUAL] * 3, [USUAL])], http.document, 0.02),
        Target("http-events", [b"".join(stream([USUAL] * 4))], http.events, 0.02),
        Target("http-values", [completion([USUAL] * 4), completion([USUAL], [USUAL])], Documents(tokens).feed, 0.02),
        Target(
            "http-lines", [b"".join(stream([USUAL] * 3)), b"event: a\r\ndata: {}\r\n\r\n"], events_as_callers_do, 0.03
        ),
        Target("http1-requests", http1.requests(), http1.read_request_as_peers_do, 0.06),
        Target("http1-responses", http1.responses(), http1.read_response_as_peers_do, 0.06),
        Target("http1-caller-annotate", http1.requests(), http_annotate.caller, 0.01),
        Target("http1-caller-closed", http1.requests(), http_closed.caller, 0.01),
        Target("http1-server-annotate", http1.responses(), http_annotate.server, 0.01),
        Target("http1-server-closed", http1.responses(), http_closed.server, 0.01),
        Target("containers", containers(), contained, 0.03),
        Target("scores", [b"0.25", b"-1e-3", b"nan", b"0.1, 0.2"], scored_text, 0.01),
        Target("judges", judged_replies(), judge_reply, 0.02),
        Target("ext_proc-messages", processed.messages(), processed.read, 0.05),
        Target("ext_proc-annotate", processed.exchanges(), processors["annotate"].feed, 0.02),
        Target("ext_proc-enforce", processed.exchanges(), processors["enforce"].feed, 0.02),
        Target("verdicts", [b'{"model":"m","p":[0.5],"alarm":null}'], verdicts, 0.03),
        Target("called-blocks", called.blocks(), client_of_server.block, 0.002),
        Target("called-frames", called.conversations(), client_of_server.frames, 0.001),
        Target("bundles", [bundle.read_bytes()], Bundles(folder).feed, 0.01),
        Target("graphs", planned_graphs.graphs(folder), planned_graphs.planned, 0.003),
        Target("descriptors", [acme.descriptor_set()], descriptors, 0.01),
        Target("configurations", [CONFIGURATION], Configurations(folder).feed, 0.02),
    ]


def fitted(path: Path, fit: Callable[[Path], object]) -> Path:
    """The path of a bundle, fitted unless it is there."""
    if not path.exists():
        fit(path)
    return path


def headers(case: bytes) -> None:
    reader = HeaderReader(HeaderFilter((":path", "grpc-status", "x-session")))
    for read in (
        reader.read,
        lambda block: remove_header(block, "content-length", 28),
        HeaderReader(HeaderFilter((":path",)), stateful=True).read_all,
    ):
        with contextlib.suppress(HeaderError):
            read(case)


def messages(case: bytes) -> None:
    memory = MemoryBudget(1 << 16)
    for keeps in (False, True):
        assembler = MessageDeframer(1 << 15, memory.open(lambda: None), keeps=keeps)
        for at in range(0, len(case), 7 + len(case) // 5):
            for message in assembler.feed(case[at : at + 7 + len(case) // 5]):
                if message.content is not None and len(message.content) > 1 << 15:
                    raise Failure("a message over the limit came out")
        assembler.forget()
        if memory.remaining != 1 << 16:
            raise Failure(f"{(1 << 16) - memory.remaining} bytes of messages were not given back")


def frames(case: bytes) -> None:
    for read in (read_settings, unpadded, lambda payload: header_block(0x28, payload)):
        with contextlib.suppress(FrameError):
            read(case)


def containers() -> list[bytes]:
    """A tensor in either container."""
    values, npz = np.arange(12, dtype=np.float32).reshape(3, 4), io.BytesIO()
    np.savez_compressed(npz, actions=values)
    header = json.dumps({"actions": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}).encode()
    return [len(header).to_bytes(8, "little") + header + values.tobytes(), npz.getvalue()]


def contained(case: bytes) -> None:
    for container in CONTAINERS:
        try:
            values = tensor_in(container, case, "actions")
        except Unscored:
            continue
        if values.dtype != np.float32 or values.nbytes > 4 * max(len(case), LARGEST_MEMBER):
            raise Failure(f"{values.dtype} of {values.nbytes} bytes")


def judged_replies() -> list[bytes]:
    """What a judge and an embedder say."""
    tops = [{"token": "5", "logprob": -0.1}, {"token": " 5", "logprob": -3.0}]
    echoed = {"text_offset": [0, 2, 6], "token_logprobs": [None, -0.5, -2.0], "content": [{"top_logprobs": tops}]}
    chat = {"choices": [{"message": {"content": "5"}, "logprobs": echoed}]}
    return [json.dumps(reply).encode() for reply in (chat, {"data": [{"embedding": [0.5, -1.0, 2.0]}]})]


def judge_reply(case: bytes) -> None:
    """Each of what may be read of a reply is finite, or the reply is lost."""
    try:
        reply = json.loads(case)
    except (ValueError, RecursionError):
        raise Refused from None
    lost = 0
    for read in (replies.first_tokens, replies.message_text, replies.embedding, echoed_behind_two):
        try:
            value = read(reply)
        except Lost:
            lost += 1
            continue
        if isinstance(value, float | np.ndarray) and not np.isfinite(value).all():
            raise Failure(f"read as {value}")
    if lost == 4:
        raise Refused


def echoed_behind_two(reply: object) -> float:
    """The log-probability behind the first two characters."""
    return replies.echoed_logprob(reply, 2, 9)


def scored_text(case: bytes) -> None:
    try:
        number = number_in(case.decode("latin-1"), "'x'")
    except Unscored:
        raise Refused from None
    if not abs(number) <= 3.5e38:
        raise Failure(f"{number} from {case!r}")


def verdicts(case: bytes) -> None:
    try:
        Verdict.from_metadata(case)
    except ValueError:
        raise Refused from None


def descriptors(case: bytes) -> None:
    try:
        pool_of(case)
    except ValueError:
        raise Refused from None


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


class Bundles:
    """Files that say they are bundles."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.tocsin"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Bundle.read(self._path)
        except CalibrationFault:
            raise Refused from None


class Configurations:
    """Files that say they are configurations."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.yaml"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Config.load(self._path)
        except ConfigError:
            raise Refused from None
