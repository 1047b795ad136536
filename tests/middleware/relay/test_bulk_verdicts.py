"""Claim: of many messages that are judged together, what the client gets is written together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from benchmarks.harness.by_hand import relaying_by_hand
from benchmarks.harness.parts import STREAM_INFER, inference, safe_traffic, streamed
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame, WindowUpdateFrame
from tests.middleware.relay.test_bounds import asking
from tests.middleware.relay.test_windows import HELLO, frames_of

from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import PREFACE
from tocsin.http2.header_literals import block
from tocsin.judgement.batching import INLINE_ROWS

MESSAGES = 3 * INLINE_ROWS
WIDE = b"".join(
    f.serialize()
    for f in (
        SettingsFrame(0, settings={4: 1 << 24}),
        SettingsFrame(0, flags=["ACK"]),
        WindowUpdateFrame(0, 1 << 24),
    )
)


@pytest.mark.parametrize("mode", ["annotate", "enforce"])
async def test_messages_of_a_stream_that_come_together_go_on_together(
    bundle: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, connection, to_client, _ = relaying_by_hand(bundle, mode)
    writes: list[int] = []

    def counted(write: Callable[[Any], None], data: Any) -> None:
        writes.append(1)
        write(data)

    for name in ("write", "writelines"):
        monkeypatch.setattr(to_client, name, partial(counted, getattr(to_client, name)))
    connection.downstream.data_received(PREFACE + WIDE + asking(1, STREAM_INFER, "END_STREAM"))
    message = framed(streamed(inference(safe_traffic(1), slice(0, 1))))
    head = HeadersFrame(
        1, data=block([(":status", "200"), ("content-type", "application/grpc")]), flags=["END_HEADERS"]
    )
    content = message * MESSAGES
    data = [DataFrame(1, data=content[at : at + 16_000]).serialize() for at in range(0, len(content), 16_000)]
    writes.clear()
    connection.upstream.data_received(HELLO + head.serialize() + b"".join(data))
    for _ in range(50):
        await asyncio.sleep(0)
    received = b"".join(f.data for f in frames_of(to_client.written) if isinstance(f, DataFrame))
    assert received == content
    assert len(writes) < 20
