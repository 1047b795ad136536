"""Claims: requests and responses of HTTP/1.1 pass as the bytes that came, in every form that the protocol has, and only
what is sent_request for is changed; a connection serves on after each outcome."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import until
from benchmarks.harness.chat import stream
from tests.middleware.http_relay.raw import (
    FAR,
    SAFE,
    Caller,
    calling,
    chunked,
    relayed,
    request,
    response,
)

from tocsin.http_relay.bodies import MOST_CHUNKS, ChunkedBody
from tocsin.verdict import METADATA_KEY

MODES = ["observe", "annotate", "enforce"]
VERDICT = METADATA_KEY.encode()
EVENTS = stream([-0.3] * 6)


def by_path(table: dict[bytes, list[bytes]]) -> Callable[[bytes], list[bytes]]:
    return lambda sent_request: table[sent_request.split(b" ")[1]]


def verdict_in(head: bytes) -> Any:
    lines = [line for line in head.split(b"\r\n") if line.startswith(VERDICT + b": ")]
    return json.loads(lines[0].split(b": ", 1)[1]) if lines else None


PLAIN = {
    "a length": [b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 3\r\nX-A: \t b \r\n\r\nabc"],
    "nothing": [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"],
    "chunks": [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"3\r\nabc\r\n",
        b"A\r\n0123456789\r\n0\r\n\r\n",
    ],
    "trailers": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n"],
    "204": [b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n"],
    "304": [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"],
    "an error": [b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\n!"],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n!"],
    "hints": [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!"],
    "bytes of any kind": [b"HTTP/1.1 200 OK\r\nA: \xe9\xff\r\nContent-Length: 256\r\n\r\n" + bytes(range(256))],
}


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_guarded_passes_byte_by_byte(mode: str, tokens: Path) -> None:
    names = [*PLAIN]
    table = {f"/{number}".encode(): PLAIN[name] for number, name in enumerate(names)}
    with relayed(tokens, by_path(table), mode=mode) as (relay, behind):
        with calling(relay.target) as caller:  # one connection for all
            for number, name in enumerate(names):
                sent = request(b"", f"/{number}", "X-B: \t c ", verb="GET")
                caller.send(sent)
                expected = b"".join(PLAIN[name])
                assert caller.count(len(expected)) == expected, name
                assert behind.requests[-1] == sent
            caller.send(request(b"", "/0", "Connection: close", verb="HEAD"))
            assert caller.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert behind.connections == 1
        assert relay.metric("tocsin_relay_calls_total", guarded="false") == len(names) + 1


@pytest.mark.parametrize("mode", MODES)
def test_requests_pass_byte_by_byte(mode: str, tokens: Path) -> None:
    in_chunks = request(b"").replace(b"Content-Length: 0\r\n", b"transfer-encoding:chunked\r\n")
    sent_request = [
        request(b'{"a": 1}', "/v1/chat/completions"),
        in_chunks + b"4\r\n{\"a\"\r\n04\r\n: 1}\r\n0\r\n\r\n",
        in_chunks + b"0\r\nA: b\r\n\r\n",
        request(b"x" * 300_000, "/v1/chat/completions?a=b", "A: \xe9"),
        b"DELETE /x HTTP/1.1\r\nhost: y\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: y\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ]  # fmt: skip
    with relayed(tokens, lambda _: [response(SAFE)], mode=mode) as (relay, behind):
        with calling(relay.target) as caller:
            for sent in sent_request:
                caller.send(sent)
                assert caller.answer()[1] == SAFE
                assert behind.requests[-1].lower() == sent.lower(), sent
            caller.send(b"".join(sent_request) * 2)  # pipelined, cut nowhere that matters
            for _ in range(2 * len(sent_request)):
                assert caller.answer()[1] == SAFE
        assert behind.requests[len(sent_request) :] == behind.requests[: len(sent_request)] * 2
        assert behind.connections == 1


@pytest.mark.parametrize("mode", MODES)
def test_requests_may_come_a_byte_at_a_time(mode: str, tokens: Path) -> None:
    sent = b"\r\n" + request(b"{}") + b"\r\n" + request(b"").replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    ) + b"2\r\n{}\r\n0\r\nA: b\r\n\r\n"  # fmt: skip
    with relayed(tokens, lambda _: [response(SAFE)], mode=mode) as (relay, behind):
        with calling(relay.target) as caller:
            for at in range(len(sent)):
                caller.send(sent[at : at + 1])
            for _ in range(2):
                assert caller.answer()[1] == SAFE
        assert len(behind.requests) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["length", "chunks", "chunks with trailers", "close", "HTTP/1.0"])
def test_a_judged_document_keeps_its_form(mode: str, form: str, tokens: Path) -> None:
    json_type = b"application/json"
    body = {
        "length": [response(SAFE)],
        "chunks": chunked(SAFE[:100], SAFE[100:], content_type=json_type),
        "chunks with trailers": chunked(SAFE[:9], SAFE[9:], content_type=json_type, trailers=b"a: b\r\n"),
        "close": [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + SAFE, b"reset"],
        "HTTP/1.0": [b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + SAFE, b"reset"],
    }[form]
    expected = b"".join(body).removesuffix(b"reset")
    with relayed(tokens, lambda _: body, mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            for _ in range(1 if body[-1] == b"reset" else 3):
                caller.send(request())
                head = caller.until(b"\r\n\r\n")
                rest = caller.count(len(expected) - len(expected.partition(b"\r\n\r\n")[0]) - 4)
                verdicts = verdict_in(head)
                assert (verdicts is None) == (mode == "observe")
                if verdicts is not None:
                    assert (verdicts["model"], verdicts["alarm"]) == ("m", None)
                lines = [line for line in head.split(b"\r\n") if not line.startswith(VERDICT)]
                assert b"\r\n".join(lines) + rest == expected
            if body[-1] == b"reset":
                assert caller.rest() == b""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["chunks", "length", "close"])
@pytest.mark.parametrize("minor", [0, 1])
def test_a_judged_stream_keeps_its_events(mode: str, form: str, minor: int, tokens: Path) -> None:
    kind = b"content-type: text/event-stream\r\n"
    if form == "chunks":
        pieces = chunked(*EVENTS)
    elif form == "length":
        pieces = [response(b"".join(EVENTS), more=kind)]
    else:
        pieces = [b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n", *EVENTS, b"reset"]
    if form == "chunks" and not minor:
        pytest.skip("no server sends chunks to HTTP/1.0")
    with relayed(tokens, lambda _: pieces, mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            more = () if minor else ("Connection: keep-alive",)
            caller.send(request(b"{}", "/v1/chat/completions", *more).replace(b"HTTP/1.1", b"HTTP/1.%d" % minor))
            head = caller.until(b"\r\n\r\n")
            if b"transfer-encoding: chunked" in head:
                body = dechunked(caller.until(b"\r\n0\r\n\r\n"))
            elif b"content-length" in head:
                body = caller.count(len(b"".join(EVENTS)))
            else:
                body = caller.rest()
            events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
            verdicts = [event for event in events if event.startswith(b": tocsin-verdict ")]
            assert [event for event in events if event not in verdicts] == EVENTS
            assert len(verdicts) == (mode != "observe")
            if verdicts:
                assert events[-2] == verdicts[0]
                assert json.loads(verdicts[0].removeprefix(b": tocsin-verdict "))["alarm"] is None


def dechunked(raw: bytes) -> bytes:
    content = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        content, raw = content + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return content


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
@pytest.mark.parametrize("stream_verdicts", ["comment", "none"])
def test_the_verdict_of_a_stream_is_a_trailer_where_the_caller_takes_them(
    mode: str, stream_verdicts: str, tokens: Path
) -> None:
    pieces = chunked(*EVENTS, trailers=b"a: b\r\ntocsin-verdict: {}\r\n")
    with relayed(tokens, lambda _: pieces, mode=mode, stream_verdicts=stream_verdicts) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request(b"{}", "/v1/chat/completions", "TE: trailers", "Connection: te"))
            head = caller.until(b"\r\n\r\n")
            assert b"\r\ntrailer: tocsin-verdict\r\n" in head
            body = caller.until(b"\r\n0\r\n")
            assert (b": tocsin-verdict" in body) == (stream_verdicts == "comment")
            trailers = caller.until(b"\r\n\r\n")
            assert trailers.startswith(b"a: b\r\ntocsin-verdict: {") and trailers.count(b"tocsin-verdict") == 1
            assert verdict_in(trailers)["model"] == "m"
            caller.send(request())
            assert b"trailer:" not in caller.until(b"\r\n\r\n")


@pytest.mark.parametrize("mode", MODES)
def test_nobody_behind_writes_a_verdict(mode: str, tokens: Path) -> None:
    forged = b"content-type: application/json\r\nTocsin-Verdict: {}\r\n"
    with relayed(tokens, lambda _: [response(SAFE, more=forged)], mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request())
            head, _ = caller.answer()
            assert head.lower().count(VERDICT) == (mode != "observe")
            assert b"Tocsin-Verdict" not in head


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asks", [False, True])
def test_a_caller_that_expects_a_word_gets_one(mode: str, asks: bool, tokens: Path) -> None:
    def respond(sent_request: bytes) -> list[bytes]:
        return [response(SAFE)]

    with relayed(tokens, respond, mode=mode, ask=2 if asks else False) as (relay, behind):
        with calling(relay.target) as caller:
            sent = request(b'{"messages": []}', "/v1/chat/completions", "Expect: 100-continue")
            head, _, body = sent.partition(b"\r\n\r\n")
            caller.send(head + b"\r\n\r\n")
            if asks:  # all of the request is needed before any of it goes on
                assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            caller.send(body)
            assert caller.answer()[1]
            assert (b"100-continue" in behind.requests[0]) != asks
            caller.send(request())
            assert caller.answer()[1]


def test_the_upstreams_own_word_goes_on(tokens: Path) -> None:
    def respond(sent_request: bytes) -> list[bytes]:
        return [b"HTTP/1.1 100 Continue\r\n\r\n", response(SAFE)]

    with relayed(tokens, respond, mode="annotate") as (relay, _):
        with calling(relay.target) as caller:
            caller.send(request(b"{}", "/v1/chat/completions", "Expect: 100-continue"))
            assert caller.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert verdict_in(caller.answer()[0]) is not None


OF_EVENTS = b"content-type: text/event-stream\r\n"
OUTCOMES: dict[str, tuple[dict[str, Any], list[bytes], int]] = {
    "passes": ({}, [response(SAFE)], 200),
    "is blocked": ({"on_alarm": {"warning": "block"}}, [response(FAR)], 403),
    "is blocked in chunks": (
        {"on_alarm": {"warning": "block"}}, chunked(FAR[:50], FAR[50:], content_type=b"application/json"), 403
    ),
    "abstains": ({"on_alarm": {"warning": "abstain"}}, [response(FAR)], 400),
    "is an error": ({"fail": "closed"}, [response(b"{}", status="422 No")], 422),
    "cannot be read": ({"fail": "closed"}, [response(b"<html>", more=b"content-type: text/html\r\n")], 503),
    "is no JSON": ({"fail": "closed"}, [response(b"{")], 503),
    "is too large": ({"fail": "closed", "max_message": 2_000}, [response(SAFE + b" " * 50_000)], 503),
    "is too large, open": ({"max_message": 2_000}, [response(SAFE + b" " * 50_000)], 200),
    "is a stream that is blocked": ({"on_alarm": {"warning": "block"}}, chunked(*stream([-6.0] * 6)), 403),
    "has no body": ({"fail": "closed"}, [b"HTTP/1.1 204 No Content\r\n\r\n"], 503),
    "is a stream without a body": ({"fail": "closed"}, [b"HTTP/1.1 204 No Content\r\n" + OF_EVENTS + b"\r\n"], 204),
    "is a stream of nothing": ({"fail": "closed"}, chunked(), 200),
    "is no HTTP": ({}, [b"what?\r\n\r\n"], 502),
    "has two lengths": ({}, [response(SAFE, more=b"content-length: 1\r\n")], 502),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_connection_serves_on_after_each_outcome(name: str, tokens: Path) -> None:
    more, pieces, status = OUTCOMES[name]
    other = response(SAFE)

    def respond(sent_request: bytes) -> list[bytes]:
        return [other] if b"/v1/models" in sent_request else pieces

    with relayed(tokens, respond, mode="enforce", **more) as (relay, _):
        with calling(relay.target) as caller:
            for _ in range(3):
                caller.send(request(b"{}" * 50))
                head, body = caller.answer()
                assert head.startswith(b"HTTP/1.1 %d " % status), (head, body)
                assert b"connection: close" not in head
                caller.send(request(b"", "/v1/models", verb="GET"))
                assert b"".join(caller.answer()) == other


def test_a_request_that_is_refused_leaves_its_connection(tokens: Path) -> None:
    more = {"unguarded": "refuse", "unguarded_allow": ["/v1/models", "/v1/files/*"]}
    with relayed(tokens, lambda _: [response(b"{}")], mode="enforce", **more) as (relay, behind):
        with calling(relay.target) as caller:
            caller.send(request(b"x" * 1_000, "/v1/other"))
            head, body = caller.answer()
            assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n") and json.loads(body)["error"]["code"] == "UNGUARDED"
            for path in ("/v1/files/../admin", "/v1/files/%2e%2e/admin", "/v1/chat", "/healthz/../v1/other"):
                caller.send(request(b"", path, verb="GET"))
                assert caller.answer()[0].startswith(b"HTTP/1.1 403 ")
            for path in ("/v1/models", "/health", "/v1/files/7"):
                caller.send(request(b"", path, verb="GET"))
                assert caller.answer()[0].startswith(b"HTTP/1.1 200 ")
        assert len(behind.requests) == 3
        assert relay.metric("tocsin_relay_limited_total", limit="unguarded") == 5


def upgraded(sent_request: bytes) -> list[bytes]:
    if b"upgrade: websocket" in sent_request.lower():
        return [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", b"\x81\x02hi"]
    return [response(SAFE)]


def ask_for(caller: Caller, path: str, protocol: str) -> None:
    caller.send(request(b"", path, f"Upgrade: {protocol}", "Connection: Upgrade", "HTTP2-Settings: AAA", verb="POST"))


@pytest.mark.parametrize("mode", MODES)
def test_only_what_is_not_guarded_changes_its_protocol(mode: str, tokens: Path) -> None:
    with relayed(tokens, upgraded, mode=mode) as (relay, behind):
        with calling(relay.target) as caller:
            ask_for(caller, "/v1/chat/completions", "websocket")
            assert caller.answer()[1] == SAFE
            ask_for(caller, "/v1/other", "h2c")  # which would pass unread
            assert caller.answer()[1] == SAFE
            for sent_request in behind.requests:
                assert b"pgrade" not in sent_request and b"HTTP2-Settings" not in sent_request
            ask_for(caller, "/v1/realtime", "websocket")
            assert caller.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
            assert caller.count(4) == b"\x81\x02hi"
            caller.send(request())  # whatever is said now
        assert relay.metric("tocsin_relay_not_understood_total", what="upgraded") == 1


def test_in_closed_nothing_changes_its_protocol(tokens: Path) -> None:
    with relayed(tokens, upgraded, mode="enforce", fail="closed") as (relay, _):
        with calling(relay.target) as caller:
            ask_for(caller, "/v1/realtime", "websocket")
            assert caller.answer()[1] == SAFE


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("streams", [False, True])
def test_encoded_bodies_are_read(mode: str, streams: bool, tokens: Path) -> None:
    content = gzip.compress(b"".join(EVENTS) if streams else SAFE)
    kind = b"text/event-stream" if streams else b"application/json"
    pieces = chunked(content[:20], content[20:], content_type=kind, more=b"content-encoding: gzip\r\n")
    with relayed(tokens, lambda _: pieces, mode=mode) as (relay, _):
        with calling(relay.target) as caller:
            for _ in range(2):
                caller.send(request())
                head = caller.until(b"\r\n\r\n")
                is_encoded = b"content-encoding: gzip" in head
                if b"content-length" in head:
                    body = caller.count(len(SAFE))
                else:
                    body = dechunked(caller.until(b"\r\n0\r\n\r\n"))
                plain = gzip.decompress(body) if is_encoded else body
                assert is_encoded == (mode != "enforce")
                verdicts = [event for event in plain.split(b"\n\n") if event.startswith(b": tocsin-verdict ")]
                assert b"\n\n".join(e for e in plain.split(b"\n\n") if e not in verdicts) == (
                    b"".join(EVENTS) if streams else SAFE
                )
        until(lambda: relay.metric("tocsin_responses_total", model="m") == 2)
        assert relay.metric("tocsin_unscored_total", model="m") == 0


def cut_finely(content: bytes) -> bytes:
    """A body in chunks of one byte."""
    return b"".join(b"1\r\n%c\r\n" % byte for byte in content) + b"0\r\n\r\n"


def content_of(chunks: bytes) -> bytes:
    """What the chunks of a body carry."""
    body, content, rest = ChunkedBody(1_000), b"", chunks
    while rest and not body.is_done:
        _, part, rest = body.feed(rest)
        content += part
    assert body.is_done and not rest
    return content


@pytest.mark.parametrize("mode", MODES)
def test_bodies_of_thousands_of_chunks_pass_whole_and_the_connection_serves_on(mode: str, tokens: Path) -> None:
    document = json.dumps({**json.loads(SAFE), "more": "m" * 3_000}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    sent_request = request(b"").replace(b"Content-Length: 0\r\n", b"transfer-encoding: chunked\r\n")
    sent_request += cut_finely(b'{"a": "' + b"b" * 4_000 + b'"}')
    assert len(document) > 10 * MOST_CHUNKS
    with relayed(tokens, lambda _: [head + cut_finely(document)], mode=mode) as (relay, behind):
        with calling(relay.target) as caller:
            caller.send(sent_request * 3)  # what comes behind a body waits for its rest
            for number in range(3):
                answer_head, body = caller.answer()
                chunked_body = b"chunked" in answer_head.lower()
                assert (content_of(body) if chunked_body else body) == document, number
        assert [content_of(sent.partition(b"\r\n\r\n")[2]) for sent in behind.requests] == [
            b'{"a": "' + b"b" * 4_000 + b'"}'
        ] * 3
        assert relay.metric("tocsin_promised_total") == 3
