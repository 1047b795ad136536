"""Claims of RFC 9113, section 8, about requests: what a server may accept is judged, whatever is wrong with it."""

from __future__ import annotations

import pytest
from benchmarks.harness.parts import INFER
from benchmarks.harness.raw_http2 import (
    END_HEADERS,
    END_STREAM,
    GRPC,
    Kind,
    block,
    frame,
    message,
)
from tests.middleware.relay.conformance.harness import (
    ANY_ERROR,
    MODES,
    OPENING,
    QUESTION,
    SERVED,
    STREAM,
    Case,
    Expected,
    Trial,
    connection_error,
    stream_error,
)

# A malformed request is an error of its stream. Servers that are lenient may serve it, and then it is to be judged.
MALFORMED = stream_error() | connection_error(*ANY_ERROR)
LENIENT = MALFORMED | SERVED
BAD = frame(Kind.DATA, END_STREAM, STREAM, message(b"bad"))
TYPE = ("content-type", GRPC)
REST = (("te", "trailers"), TYPE)
PSEUDO = ((":method", "POST"), (":scheme", "http"), (":path", INFER), (":authority", "test"))


def request(section: str, name: str, *fields: tuple[str, str], then: bytes = BAD, expected: Expected = LENIENT) -> Case:
    return Case(section, name, frame(Kind.HEADERS, END_HEADERS, STREAM, block(*fields)) + then, expected)


def without(name: str) -> tuple[tuple[str, str], ...]:
    return tuple(pair for pair in PSEUDO if pair[0] != name)


def path(value: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value if name == ":path" else old) for name, old in PSEUDO)


FRAMING = [
    Case("8.1", "HEADERS again without END_STREAM",
         OPENING + frame(Kind.HEADERS, END_HEADERS, STREAM, block(*PSEUDO, *REST)) + BAD,
         LENIENT),
    Case("8.1", "trailers end a request", OPENING + frame(Kind.DATA, 0, STREAM, message(b"bad"))
         + frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, block(("x-trailer", "1"))), LENIENT),
    Case("8.1", "trailers with a path", OPENING + frame(Kind.DATA, 0, STREAM, message(b"bad"))
         + frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, block((":path", "/other/Method"))), LENIENT),
    Case("8.1", "HEADERS with END_STREAM and no message",
         frame(Kind.HEADERS, END_HEADERS | END_STREAM, STREAM, block(*PSEUDO, *REST)), MALFORMED),
    Case("8.1.1", "content-length that is too short",
         frame(Kind.HEADERS, END_HEADERS, STREAM, block(*PSEUDO, *REST, ("content-length", "1"))) + BAD, LENIENT),
    Case("8.1.1", "content-length that is too long",
         frame(Kind.HEADERS, END_HEADERS, STREAM, block(*PSEUDO, *REST, ("content-length", "999"))) + BAD, LENIENT),
]  # fmt: skip

FIELDS = [
    request("8.2", "a name in upper case", *PSEUDO, *REST, ("X-Upper", "1")),
    request("8.2.1", "a name with a space", *PSEUDO, *REST, ("x y", "1")),
    request("8.2.1", "a value with a line feed", *PSEUDO, *REST, ("x-a", "1\n2")),
    request("8.2.1", "a value with NUL", *PSEUDO, *REST, ("x-a", "1\x002")),
    request("8.2.1", "an empty name", *PSEUDO, *REST, ("", "1")),
    request("8.2.2", "connection-specific fields",
            *PSEUDO, *REST, ("connection", "close"), ("transfer-encoding", "chunked")),
    request("8.2.2", "TE other than trailers", *PSEUDO, ("te", "gzip"), TYPE),
    request("8.3", "an unknown pseudo-header", *PSEUDO, (":unknown", "1"), *REST),
    request("8.3", "a response's pseudo-header", *PSEUDO, (":status", "200"), *REST),
    request("8.3", "a pseudo-header after others", *without(":path"), *REST, (":path", INFER)),
    request("8.3", "every pseudo-header after others", *REST, *PSEUDO),
    request("8.3.1", "no path", *without(":path"), *REST),
    request("8.3.1", "no method", *without(":method"), *REST),
    request("8.3.1", "no scheme", *without(":scheme"), *REST),
    request("8.3.1", "no authority", *without(":authority"), *REST),
    request("8.3.1", "method twice", *PSEUDO, (":method", "POST"), *REST),
    request("8.3.1", "scheme twice", *PSEUDO, (":scheme", "http"), *REST),
    request("8.3.1", "path twice, the same", *PSEUDO, (":path", INFER), *REST),
    request("8.3.1", "path twice, the guarded one first", *PSEUDO, (":path", "/test.Model/Unary"), *REST),
    request("8.3.1", "path twice, the guarded one last", (":path", "/test.Model/Unary"), *PSEUDO, *REST),
    request("8.3.1", "path twice, the other one late", *PSEUDO, *REST, (":path", "/test.Model/Unary")),
    request("8.3.1", "an empty path", *path(""), *REST),
    request("8.3.1", "a path without its slash", *path(INFER[1:]), *REST),
    request("8.3.1", "a path with two slashes", *path("/" + INFER), *REST),
    request("8.3.1", "a path with a slash at its end", *path(INFER + "/"), *REST),
    request("8.3.1", "a path with a query", *path(INFER + "?x=1"), *REST),
    request("8.3.1", "a path with percent-encoding", *path(INFER.replace("M", "%4D")), *REST),
    request("8.3.1", "a path in other case", *path(INFER.lower()), *REST),
    request("8.3.1", "a path of absolute form", *path("http://test" + INFER), *REST),
    request("8.3.1", "a path with dots", *path("/x/.." + INFER), *REST),
    request("8.3.1", "a path with NUL", *path(INFER + "\x00"), *REST),
    request("8.3.1", "GET", (":method", "GET"), *PSEUDO[1:], *REST),
    request("8.5", "CONNECT", (":method", "CONNECT"), (":authority", "test"), *REST),
    request("gRPC", "no content-type", *PSEUDO, ("te", "trailers")),
    request("gRPC", "another content-type", *PSEUDO, ("te", "trailers"), ("content-type", "application/json")),
    request("gRPC", "a verdict from a caller", *PSEUDO, *REST, ("tocsin-verdict", '{"model":"digits","p":[1.0]}')),
    request("8.3", "every field as it should be", *PSEUDO, *REST, then=QUESTION, expected=SERVED),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [*FRAMING, *FIELDS], ids=str)
def test_requests(trial: Trial, case: Case, mode: str) -> None:
    trial.check(case, mode)
