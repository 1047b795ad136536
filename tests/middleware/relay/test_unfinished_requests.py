"""Claims: a request that is answered before all of it has come may still be finished, and whoever does not is told to
stop, behind the answer (RFC 9113, section 8.1)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from benchmarks.harness.by_hand import Pipe, relaying_by_hand
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame
from tests.middleware.relay.test_bounds import asking
from tests.middleware.relay.test_windows import HELLO, frames_of

from tocsin.http2.frames import NO_ERROR, PREFACE
from tocsin.http2.headers import block
from tocsin.relay import unfinished_requests
from tocsin.relay.connection import Connection
from tocsin.relay.unfinished_requests import UnfinishedRequests

JSON = [(":status", "200"), ("content-type", "application/json")]


def refused(bundle: Path) -> tuple[Connection, Pipe]:
    """A call whose upstream answers JSON before it has all of the request, which `closed` refuses."""
    _, connection, to_client, _ = relaying_by_hand(bundle, "enforce", fail="closed")
    connection.downstream.data_received(PREFACE + HELLO + asking(1))
    connection.upstream.data_received(HELLO)
    head = HeadersFrame(1, data=block(JSON), flags=["END_HEADERS"]).serialize()
    connection.upstream.data_received(bytes(head + DataFrame(1, b"{}", flags=["END_STREAM"]).serialize()))
    return connection, to_client


def written(pipe: Pipe) -> list[tuple[str, bool]]:
    """The frames of the stream: what they are, and whether they end it."""
    return [
        (type(frame).__name__, isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags)
        for frame in frames_of(pipe.written)
        if frame.stream_id == 1 and isinstance(frame, HeadersFrame | RstStreamFrame)
    ]


ANSWER = [("HeadersFrame", True)]
RESET = ("RstStreamFrame", True)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_requests, "LINGER", 0.02)


async def test_a_caller_that_finishes_its_request_is_not_reset(soon: None, bundle: Path) -> None:
    connection, to_client = refused(bundle)
    assert written(to_client) == ANSWER
    connection.downstream.data_received(bytes(DataFrame(1, b"\0" * 5, flags=["END_STREAM"]).serialize()))
    await asyncio.sleep(0.1)
    assert written(to_client) == ANSWER


async def test_a_caller_that_does_not_is_told_to_stop_without_an_error(soon: None, bundle: Path) -> None:
    connection, to_client = refused(bundle)
    connection.downstream.data_received(bytes(DataFrame(1, b"\0" * 5).serialize()))
    assert written(to_client) == ANSWER
    await asyncio.sleep(0.1)
    assert written(to_client) == [*ANSWER, RESET]
    (reset,) = (frame for frame in frames_of(to_client.written) if isinstance(frame, RstStreamFrame))
    assert reset.error_code == NO_ERROR


async def test_a_caller_that_resets_its_request_is_not_reset_as_well(soon: None, bundle: Path) -> None:
    connection, to_client = refused(bundle)
    connection.downstream.data_received(bytes(RstStreamFrame(1, 8).serialize()))
    await asyncio.sleep(0.1)
    assert written(to_client) == ANSWER


async def test_of_many_the_first_are_told_at_once() -> None:
    stopped: list[int] = []
    unfinished = UnfinishedRequests()
    for stream in range(1, 2 * unfinished_requests.MOST + 7, 2):
        unfinished.add(stream, stopped.append)
    assert stopped == [1, 3, 5]
    unfinished.close()
    await asyncio.sleep(0)
    assert stopped == [1, 3, 5]
