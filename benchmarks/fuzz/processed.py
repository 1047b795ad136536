"""The external processor behind a pipe, fed with what an Envoy should not say."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.fuzz.outcomes import Failure
from benchmarks.harness.by_hand import Pipe
from benchmarks.harness.envoy_messages import ProcessingRequest
from benchmarks.harness.parts import INFER, SIGNALS, far_away, inference, inline_guard
from tocsin.configuration.config import Config
from tocsin.ext_proc.connection import ExtProcConnection
from tocsin.ext_proc.requests import MessageError, read_fields, read_request
from tocsin.ext_proc.server import ExtProcServer
from tocsin.grpc_wire.deframer import framed
from tocsin.http2.frames import DATA, END_HEADERS, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame
from tocsin.http2.header_literals import block
from tocsin.judgement.batching import Batcher
from tocsin.memory import MemoryBudget
from tocsin.relay.descriptors import Descriptors

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
JUDGED = 8  # turns of the loop after which what has come is judged
LIMIT = 1 << 20
ENDED = frame(RST_STREAM, 0, 1, b"\0\0\0\2")  # as Envoy ends every exchange


def exchanges() -> list[bytes]:
    """What Envoy says of a response, message by message: in each mode of the body that is served."""
    begins = block([(":method", "POST"), (":path", PROCESS), ("content-type", "application/grpc")])
    conversations = []
    for mode in (1, 2, 4):
        parts = [frame(HEADERS, END_HEADERS, 1, begins)]
        parts += [frame(DATA, 0, 1, framed(message)) for message in messages(mode)]
        conversations.append(b"".join([*parts, ENDED]))
    return conversations


def messages(mode: int = 4) -> list[bytes]:
    """The messages of one exchange."""

    def fields(*pairs: tuple[str, str]) -> dict[str, list[dict[str, object]]]:
        return {"headers": [{"key": name, "raw_value": value.encode()} for name, value in pairs]}

    body = framed(inference(far_away(1), slice(0, 1)))
    return [
        message.SerializeToString()
        for message in (
            ProcessingRequest(
                request_headers={"headers": fields((":path", INFER))}, protocol_config={"response_body_mode": mode}
            ),
            ProcessingRequest(response_headers={"headers": fields((":status", "200"))}),
            ProcessingRequest(response_body={"body": body}),
            ProcessingRequest(response_trailers={"trailers": fields(("grpc-status", "0"))}),
        )
    ]


def read(case: bytes) -> None:
    """A message is read, or refused."""
    try:
        read_fields(read_request(case).content)
    except MessageError:
        return


class Processed:
    """A processor in a mode, whose connection is a pipe."""

    def __init__(self, bundle: Path, mode: str) -> None:
        model = {"bundle": bundle, "signals": SIGNALS, "on_alarm": {"critical": "block"} if mode == "enforce" else {}}
        config = Config(ext_proc="127.0.0.1:0", mode=mode, max_message=1 << 16, models={"digits": model})
        self._loop = asyncio.new_event_loop()
        self._memory = MemoryBudget(LIMIT)
        guard = inline_guard(config)
        self._server = ExtProcServer(config, guard, self._memory, Descriptors())
        self._server.loop = self._loop
        self._guard = guard

    def understood(self) -> None:
        """Check that unmutated seeds are judged."""
        for conversation in exchanges():
            if b"tocsin-verdict" not in self._loop.run_until_complete(self._run(conversation[: -len(ENDED)])):
                raise SystemExit("a seed is not judged: the fuzzer would feed nothing but noise")

    def feed(self, case: bytes) -> None:
        """Feed the case as what Envoy sends."""
        self._loop.run_until_complete(self._run(case))

    async def _run(self, case: bytes) -> bytes:
        server = self._server
        server.batcher = Batcher(self._guard, server.flushed, is_filling=server.is_filling)
        pipe, connection = Pipe(), ExtProcConnection(server)
        connection.connection_made(pipe)  # type: ignore[arg-type]
        content = PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0) + case
        step = 1 + len(content) // 3
        for at in range(0, len(content), step):
            connection.data_received(content[at : at + step])
            for _ in range(JUDGED):
                await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(JUDGED):
            await asyncio.sleep(0)
        if self._memory.remaining != LIMIT:
            raise Failure(f"{LIMIT - self._memory.remaining} bytes were not given back")
        return bytes(pipe.written)
