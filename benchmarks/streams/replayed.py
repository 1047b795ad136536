"""A fast stand-in for an engine: it answers every Generate with a recorded stream, message by message, frame by frame.

    python -m benchmarks.streams.replayed PORT FILE [SECONDS]    # FILE: recorded messages, as `write` leaves them

SECONDS is the time from one message to the next, none unless told.

It writes HTTP/2 frames that were made beforehand, within the client's flow control, so that what is measured is what
stands before it. Health and model information are answered too, so that a gateway takes it for an engine.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop
from hpack import Decoder, Encoder
from smg_grpc_proto.generated import vllm_engine_pb2 as vllm

from tocsin.grpc_wire.deframer import framed
from tocsin.http2 import frames
from tocsin.http2.frames import ACK, DATA, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BEGIN = Encoder().encode([(":status", "200"), ("content-type", "application/grpc")], huffman=False)
UNKNOWN = BEGIN + Encoder().encode([("grpc-status", "12")], huffman=False)
END = Encoder().encode([("grpc-status", "0")], huffman=False)
SERVICE = "/vllm.grpc.engine.VllmEngine"
WINDOW = 65_535
LARGE = 1 << 30


def write(path: Path, streams: Sequence[Sequence[bytes]]) -> None:
    """Keep recorded streams: the messages of each, with their lengths before them."""
    with path.open("wb") as file:
        for messages in streams:
            file.write(len(messages).to_bytes(4, "big"))
            for message in messages:
                file.write(len(message).to_bytes(4, "big") + message)


def read(path: Path) -> list[list[bytes]]:
    """The streams that `write` has kept."""
    content, at, streams = path.read_bytes(), 0, []

    def number() -> int:
        nonlocal at
        at += 4
        return int.from_bytes(content[at - 4 : at], "big")

    while at < len(content):
        messages = []
        for _ in range(number()):
            size = number()
            messages.append(content[at : (at := at + size)])
        streams.append(messages)
    return streams


class Engine(asyncio.Protocol):
    """One connection."""

    streams: Sequence[Sequence[bytes]]  # each message framed as gRPC frames it
    turn = itertools.count()
    pace = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by duck typing alone
        self._in = b""
        self._greeted = False
        self._decoder = Decoder()
        self._paths: dict[int, str] = {}
        self._blocks: dict[int, bytes] = {}
        self._window, self._initial = WINDOW, WINDOW
        self._windows: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes, int]] = deque()  # stream, a DATA payload or a block, and flags
        self._out: list[bytes] = [
            frames.frame(SETTINGS, 0, 0, b"\0\3" + (10_000).to_bytes(4, "big")),
            frames.frame(WINDOW_UPDATE, 0, 0, LARGE.to_bytes(4, "big")),
        ]

    def data_received(self, data: bytes) -> None:
        self._in += data
        if not self._greeted:
            if len(self._in) < len(PREFACE):
                return
            self._in, self._greeted = self._in[len(PREFACE) :], True
        at, content = 0, self._in
        while len(content) - at >= frames.HEADER_SIZE:
            length = int.from_bytes(content[at : at + 3], "big")
            if len(content) - at < frames.HEADER_SIZE + length:
                break
            kind, flags = content[at + 3], content[at + 4]
            stream = int.from_bytes(content[at + 5 : at + 9], "big")
            payload = content[at + frames.HEADER_SIZE : (at := at + frames.HEADER_SIZE + length)]
            self._frame(kind, flags, stream, payload)
        self._in = content[at:]
        self._send()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            fields = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            self._paths[stream] = fields.get(":path", "")
        elif kind == SETTINGS and not flags & ACK:
            values = frames.read_settings(payload)
            self._initial = values.get(frames.INITIAL_WINDOW_SIZE, self._initial)
            self._out.append(frames.frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._out.append(frames.frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE:
            credit = int.from_bytes(payload, "big")
            if stream:
                self._windows[stream] = self._windows.get(stream, self._initial) + credit
            else:
                self._window += credit
        elif kind == RST_STREAM:
            self._paths.pop(stream, None)
        if kind in (HEADERS, DATA) and flags & END_STREAM:
            self._answer(stream)

    def _answer(self, stream: int) -> None:
        service, _, method = self._paths.pop(stream, "").rpartition("/")
        self._windows.setdefault(stream, self._initial)
        if service != SERVICE or (method != "Generate" and method not in ANSWERS):
            self._out.append(frames.frame(HEADERS, frames.END_HEADERS | END_STREAM, stream, UNKNOWN))
            return
        self._out.append(frames.frame(HEADERS, frames.END_HEADERS, stream, BEGIN))
        messages = ANSWERS.get(method) or self.streams[next(self.turn) % len(self.streams)]
        parts = [(stream, message, 0) for message in messages] + [(stream, END, END_STREAM)]
        if not self.pace or method != "Generate":
            self._waiting += parts
            return
        loop = asyncio.get_running_loop()
        for place, part in enumerate(parts):
            loop.call_later(self.pace * place, self._later, part)

    def _later(self, part: tuple[int, bytes, int]) -> None:
        self._waiting.append(part)
        self._send()

    def _send(self) -> None:
        while self._waiting:
            stream, payload, flags = self._waiting[0]
            if flags:
                self._out.append(frames.frame(HEADERS, frames.END_HEADERS | END_STREAM, stream, payload))
                self._windows.pop(stream, None)
            else:
                if len(payload) > min(self._window, self._windows.get(stream, self._initial)):
                    break
                self._window -= len(payload)
                self._windows[stream] = self._windows.get(stream, self._initial) - len(payload)
                self._out.append(frames.frame(DATA, 0, stream, payload))
            self._waiting.popleft()
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out = []


ANSWERS: dict[str, list[bytes]] = {}


def answers(model: str) -> dict[str, list[bytes]]:
    """What a gateway asks besides, `model` being the folder that its tokenizer is in."""
    info = vllm.GetModelInfoResponse(
        model_path=model, tokenizer_path=model, served_model_name="smollm2", is_generation=True,
        max_context_length=2048, max_req_input_len=2048, vocab_size=49152, model_type="llama",
        architectures=["LlamaForCausalLM"], eos_token_ids=[2],
    )  # fmt: skip
    messages = {
        "HealthCheck": vllm.HealthCheckResponse(healthy=True), "GetModelInfo": info, "Abort": vllm.AbortResponse(),
        "GetServerInfo": vllm.GetServerInfoResponse(server_type="vllm-grpc"),
    }  # fmt: skip
    return {method: [framed(message.SerializeToString())] for method, message in messages.items()}


async def serve(port: int, path: Path, pace: float) -> None:
    """Serve until stopped."""
    Engine.pace = pace
    ANSWERS.update(answers(str(path.parent.resolve() / "model")))
    Engine.streams = [[framed(message) for message in messages] for messages in read(path)]
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    print(f"replaying on 127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
