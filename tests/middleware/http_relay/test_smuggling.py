"""Claims: what one server reads in one way and another in another way is refused and counted, and never goes on. What
all read alike goes on as the bytes that came."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.harness.chat import CHAT
from benchmarks.harness.parts import Running
from tests.middleware.http_relay.raw import Upstream, calling, relayed, response

from tocsin.http_relay.bodies import BodyError, ChunkedBody, LengthBody
from tocsin.http_relay.heads import CHUNKED, UNTIL_CLOSE, HeadError, read_request, read_response

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
REFUSED = {
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 36\r\n\r\n" + HIDDEN,
    "the same length twice": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": POST + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}",
    "a length in hexadecimal": POST + b"Content-Length: 0x2\r\n\r\n{}",
    "no length at all": POST + b"Content-Length:\r\n\r\n",
    "a huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "chunks twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and more": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks, then identity": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown encoding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a quoted encoding": POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "a vertical tab": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded first line": b"POST /v1/chat/completions HTTP/1.1\r\n Host: x\r\n\r\n",
    "space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "space before the name": POST + b" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no colon": POST + b"Transfer-Encoding\r\n\r\n",
    "an empty name": POST + b": chunked\r\n\r\n",
    "a bare LF in the head": POST + b"A: b\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LFs alone": b"POST /v1/chat/completions HTTP/1.1\nHost: x\n\n",
    "a bare CR in the head": POST + b"A: b\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "NUL in a value": POST + b"A: b\x00c\r\n\r\n",
    "an underscored length": POST + b"Content_Length: 36\r\n\r\n" + HIDDEN,
    "an underscored encoding": POST + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an underscored key": POST + b"x_session: mine\r\n\r\n",
    "a length that the connection drops": POST + b"Content-Length: 2\r\nConnection: content-length\r\n\r\n{}",
    "a key that the connection drops": POST + b"x-session: mine\r\nConnection: x-session\r\n\r\n",
    "two hosts": POST + b"Host: y\r\n\r\n",
    "no host": b"POST /v1/chat/completions HTTP/1.1\r\n\r\n",
    "an absolute target": b"POST http://y/v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT y:80 HTTP/1.1\r\nHost: y\r\n\r\n" + HIDDEN,
    "a target that is no path": b"POST v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a fragment": b"POST /v1/chat/completions#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "space in the target": b"POST /v1/chat /completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the first line": b"POST\t/v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces in the first line": b"POST  /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n",
    "space at the end of the first line": b"POST /v1/chat/completions HTTP/1.1 \r\nHost: x\r\n\r\n",
    "another version": b"POST /v1/chat/completions HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v1/chat/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01",
    "two content types": POST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n",
}  # fmt: skip
CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BAD_BODIES = {
    "an extension": b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "a size of too many digits": b"000000002\r\n{}\r\n0\r\n\r\n",
    "a size beyond all": b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a signed size": b"+2\r\n{}\r\n0\r\n\r\n",
    "a size with a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a size with an underscore": b"1_0\r\n{}{}{}{}{}{}{}{}\r\n0\r\n\r\n",
    "space behind a size": b"2 \r\n{}\r\n0\r\n\r\n",
    "space before a size": b" 2\r\n{}\r\n0\r\n\r\n",
    "no size": b"\r\n{}\r\n0\r\n\r\n",
    "a bare LF behind a size": b"2\n{}\r\n0\r\n\r\n",
    "a bare LF behind a chunk": b"2\r\n{}\n0\r\n\r\n",
    "a chunk longer than its size": b"2\r\n{}}\r\n0\r\n\r\n",
    "a length in the trailers": b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "an underscored length in the trailers": b"2\r\n{}\r\n0\r\ncontent_length: 5\r\n\r\n",
    "a folded trailer": b"2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def observing(tokens: Path) -> Iterator[tuple[Running, Upstream]]:
    """A relay that changes nothing, and refuses all the same."""
    with relayed(tokens, lambda _: [response(b"{}")], session="metadata.x-session") as both:
        yield both


def malformed(relay: Running) -> float:
    return relay.metric("tocsin_relay_not_understood_total", what="malformed")


@pytest.mark.parametrize("name", REFUSED)
def test_heads_that_servers_read_differently_go_nowhere(name: str, observing: tuple[Running, Upstream]) -> None:
    relay, behind = observing
    before, counted = len(behind.requests), malformed(relay)
    with calling(relay.target) as caller:
        caller.send(REFUSED[name])
        answer = caller.rest()
    assert answer.startswith((b"HTTP/1.1 400 Bad Request\r\n", b"HTTP/1.1 505 HTTP Version Not Supported\r\n")), answer
    assert b"\r\nconnection: close\r\n" in answer and answer.count(b"\r\ncontent-length: ") == 1
    assert len(behind.requests) == before
    assert malformed(relay) == counted + 1


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/models"])
def test_chunks_that_servers_read_differently_go_nowhere(
    name: str, path: bytes, observing: tuple[Running, Upstream]
) -> None:
    relay, behind = observing
    before, counted = len(behind.requests), malformed(relay)
    with calling(relay.target) as caller:
        caller.send(CHUNKS.replace(b"/v1/chat/completions", path) + BAD_BODIES[name] + HIDDEN)
        answer = caller.rest()
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"\r\ncontent-length: ") == 1
    assert len(behind.requests) == before  # the upstream has a head, and never the end of a body
    assert malformed(relay) == counted + 1


@pytest.mark.parametrize("name", BAD_BODIES)
def test_they_are_refused_wherever_they_are_cut(name: str) -> None:
    body = BAD_BODIES[name]
    for cut in range(len(body) + 1):
        reader = ChunkedBody(1 << 16)
        with pytest.raises(BodyError):
            reader.feed(body[:cut])
            reader.feed(body[cut:])


def test_chunks_are_read_alike_wherever_they_are_cut() -> None:
    body = b"2\r\n{}\r\nA\r\n0123456789\r\n00\r\nA: b\r\n\r\n"
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            reader, raw, content, rest = ChunkedBody(1 << 16), b"", b"", b""
            for part in (body[:first], body[first:second], body[second:] + b"GET"):
                fed = reader.feed(rest + part) if not reader.is_done else (b"", b"", rest + part)
                raw, content, rest = raw + fed[0], content + fed[1], fed[2]
            assert (raw, content, rest) == (b"2\r\n{}\r\nA\r\n0123456789\r\n", b"{}0123456789", b"GET")
            assert reader.is_done and reader.trailers == [("a", "b")] and reader.ending == b"0\r\na: b\r\n\r\n"


def test_a_body_of_a_length_leaves_what_follows() -> None:
    body = LengthBody(4)
    assert body.feed(b"ab") == (b"ab", b"ab", b"") and not body.is_done
    assert body.feed(b"cdGET") == (b"cd", b"cd", b"GET") and body.is_done
    assert LengthBody(0).is_done


def test_a_head_is_read_in_time_that_grows_with_its_size() -> None:
    """Fields full of spaces, names and commas: a pattern that tried every division would take hours for the longest."""
    for field in (b"a: " + b" " * 60_000 + b"\x00", b"a" * 60_000, b"a:" + b"\t" * 60_000 + b"\n", b"x: y\r\n" * 9_000):
        with pytest.raises(HeadError):
            read_request(POST + field + b"\r\n\r\n\r\n")


def test_what_a_head_says() -> None:
    head = read_request(POST + b"Content-Length: 12\r\nConnection: Close, TE\r\nTE: trailers\r\nX: \t a b \r\n\r\n")
    assert (head.verb, head.path, head.length, head.keeps_alive) == ("POST", CHAT, 12, False)
    assert head.takes_trailers and ("x", "a b") in head.fields
    changed = head.changed({"connection", "te"}, [("a", "b")])
    assert changed == POST + b"Content-Length: 12\r\nX: \t a b \r\na: b\r\n\r\n"
    old = read_request(b"GET /a?b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (old.path, old.minor, old.keeps_alive, old.length) == ("/a", 0, True, 0)


@pytest.mark.parametrize(
    ("raw", "verb", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", 5),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", 0),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", 0),
        (b"HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", "GET", CHUNKED),
        (b"HTTP/1.0 200 OK\r\n\r\n", "GET", UNTIL_CLOSE),
    ],
)
def test_how_long_a_response_is(raw: bytes, verb: str, length: int) -> None:
    assert read_response(raw, verb).length == length


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
def test_responses_that_callers_read_differently_are_none(raw: bytes) -> None:
    with pytest.raises(HeadError):
        read_response(raw, "GET")


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions?x=1"),
        ("POST", "/v1/chat/%63ompletions"),
        ("POST", "/v1/chat/%2563ompletions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat//completions"),
        ("POST", "/v1/./chat/completions"),
        ("POST", "/v1/x/../chat/completions"),
        ("POST", "/v1%2Fchat/completions"),
        ("POST", "/V1/Chat/Completions"),
        ("POST", "/v1/chat/completions;a=b"),
        ("POST", "/v1\\chat\\completions"),
        ("post", "/v1/chat/completions"),
    ],
)
def test_every_spelling_of_a_route_is_guarded(verb: str, path: str, observing: tuple[Running, Upstream]) -> None:
    relay, behind = observing
    before = relay.metric("tocsin_relay_calls_total", guarded="true")
    sent = f"{verb} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    with calling(relay.target) as caller:
        caller.send(sent)
        assert caller.answer() == (response(b"{}")[:-2], b"{}")
    assert behind.requests[-1] == sent
    assert relay.metric("tocsin_relay_calls_total", guarded="true") == before + 1
