"""Claims: what comes of a request at once goes on in one write, and nothing of it is lost where it comes in parts."""

from __future__ import annotations

import pytest

from tocsin.http_relay.bodies import body_of
from tocsin.http_relay.heads import read_request
from tocsin.http_relay.request import Passage, RelayedRequest
from tocsin.memory import MemoryBudget

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n%b\r\n"
OF_LENGTH, NO_BODY = b"Content-Length: 10\r\n", b"Content-Length: 0\r\n"
IN_CHUNKS = b"Transfer-Encoding: chunked\r\n"


def written(fields: bytes, *parts: bytes) -> list[bytes]:
    """What is written upstream of a request that nobody waits for, whose body comes in these parts: the first of them
    with its head, unless it is empty."""
    head = read_request(HEAD % fields)
    writes: list[bytes] = []
    body = body_of(head.length, 1_000)
    memory = MemoryBudget(1_000_000).open(lambda: None)
    passage = Passage(writes.append, lambda: None)
    request = RelayedRequest(head, body, None, passage, memory, limit=1_000, upgrades=False)
    request.begin(has_more=bool(parts and parts[0]))
    for part in parts:
        if part and not body.is_done:
            raw, content, _ = body.feed(part)
            request.on_body(raw, content)
    if body.is_done:
        request.on_end()
    assert request.is_complete == body.is_done
    return writes


def test_a_head_and_the_body_that_comes_with_it_are_one_write() -> None:
    assert written(OF_LENGTH, b"0123456789") == [HEAD % OF_LENGTH + b"0123456789"]


@pytest.mark.parametrize(
    ("fields", "parts", "writes"),
    [(OF_LENGTH, (b"01234", b"56789"), 2), (OF_LENGTH, (b"", b"0123456789"), 2), (OF_LENGTH, (b"",), 1),
     (NO_BODY, (b"",), 1), (IN_CHUNKS, (b"a\r\n01", b"23456789\r\n", b"0\r\n\r\n"), 3),
     (IN_CHUNKS, (b"a", b"\r\n0123456789\r\n"), 2)],
)  # fmt: skip
def test_a_head_waits_for_nothing_that_is_still_to_come(fields: bytes, parts: tuple[bytes, ...], writes: int) -> None:
    sent = written(fields, *parts)
    assert b"".join(sent) == HEAD % fields + b"".join(parts)
    assert len(sent) == writes


def test_what_follows_a_request_without_a_body_is_not_waited_for() -> None:
    assert written(NO_BODY, b"GET / HTTP/1.1\r\n") == [HEAD % NO_BODY]
