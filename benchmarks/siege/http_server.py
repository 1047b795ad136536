"""A model server that speaks HTTP/1.1, and answers as the field `x-answer` of a request says; some answers never end.

python -m benchmarks.siege.http_server PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator

from benchmarks.harness.chat import USUAL, completion, stream

CHUNKS = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n"
FILLER = b"y" * 16_000  # of what never ends: nobody has judged it
PARTS = 4_000  # of such an answer


def answer(kind: str) -> Iterator[bytes]:
    """The parts of an answer."""
    if kind == "events":  # megabytes, each of whose events is judged
        yield CHUNKS % b"text/event-stream"
        yield from [USUAL_EVENTS] * 400
        yield _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    elif kind == "short-events":
        yield CHUNKS % b"text/event-stream"
        for event in stream([USUAL] * 40):
            yield _chunk(event)
        yield b"0\r\n\r\n"
    elif kind == "endless-event":
        yield CHUNKS % b"text/event-stream"
        yield from [_chunk(b"data: ")] + [_chunk(FILLER)] * PARTS
    elif kind == "endless-document":
        yield CHUNKS % b"application/json"
        yield from [_chunk(b'{"x":"')] + [_chunk(FILLER)] * PARTS
    elif kind == "tiny-chunks":
        yield CHUNKS % b"text/event-stream"
        yield from [b"1\r\n:\r\n" * 500] * PARTS
    elif kind == "endless-head":
        yield b"HTTP/1.1 200 OK\r\n"
        yield from [b"x-filler: " + FILLER + b"\r\n"] * PARTS
    elif kind == "interim":
        yield from [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 200] * PARTS
    else:
        body = completion([USUAL] * 4)
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


USUAL_EVENTS = b"".join([_chunk(event) for event in stream([USUAL] * 4)[:-1]]) * 10  # written at once: no time is lost


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, request by request; bodies have a length, or chunks."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            if fields.get("transfer-encoding") == "chunked":
                await reader.readuntil(b"\r\n0\r\n\r\n")
            await reader.readexactly(int(fields.get("content-length", 0)))
            for part in answer(fields.get("x-answer", "")):
                writer.write(part)
                await writer.drain()
    writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
