"""What is tried: each scenario is the same for every client, every server and every way between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.parts import inference, safe_traffic, streamed
from tests.interop.protocol import INFER, STREAM_INFER, UNGUARDED, Call

from tocsin.grpc_wire.deframer import framed
from tocsin.protocols import oip

METADATA: tuple[tuple[str, str | bytes], ...] = (
    ("x-one", "1"),
    ("x-two", "first"),
    ("x-two", "second"),
    ("x-two", "first"),
    ("x-blob-bin", bytes(range(256))),
    ("x-blob-bin", b"\0"),
    ("x-space", "a b c"),
    ("x-long", "0123456789" * 200),
)
CLIENTS = ("go", "node", "http2", "java", "core")
SERVERS = ("go", "node", "http2", "java", "core")
PASSING = ("observe", "annotate", "open")  # modes in which what cannot be judged passes
GRPC = ("go", "node", "java", "core")  # what is more than HTTP/2
BULK = 30_000_000
WEB_TRAILERS = b"grpc-status: 0\r\nx-one: 1\r\n"
WEB = "application/grpc-web+proto"


@dataclass(frozen=True)
class Scenario:
    """A call, what else goes on meanwhile, and what must come of it without a relay.

    `code`: the status expected of each call, `messages`: how many it receives; None where clients differ. `ending`: how
    the server sees the call end, where that is asked for. `text`: whether the status text is the server's, not the
    client's. `late`: the server is there a second after the call is made. `quick`: part of every run of the tests.
    `heavy`: seconds of work, so tried on fewer pairs. `without`: other proxies that do not carry it.
    """

    call: Call
    code: int | None = 0
    messages: int | None = 1
    background: Sequence[Call] = ()
    background_messages: int = 0
    repeat: int = 1
    rate: int = 0
    parallel: int = 1
    ending: str = ""
    text: bool = True
    quick: bool = False
    heavy: bool = False
    late: bool = False
    clients: Sequence[str] = CLIENTS
    servers: Sequence[str] = SERVERS
    modes: Sequence[str] = (*PASSING, "closed")
    without: Sequence[str] = ()

    def json(self, target: str) -> dict[str, Any]:
        return {
            "target": target,
            "background": [call.json() for call in self.background],
            "settle_ms": 700,
            "call": self.call.json(),
            "repeat": self.repeat,
            "rate": self.rate,
            "parallel": self.parallel,
        }


def unary(answer: str = "response.bin", *, send: str = "request.bin", method: str = INFER, **more: Any) -> Call:
    asks = {"answer": answer, **more.pop("asks", {})}
    return Call(method, send=[send], asks=asks, **more)


def stream(kind: str, answer: str = "streamed.bin", *, send: Sequence[str] = ("request.bin",), **more: Any) -> Call:
    asks = {"answer": answer, **more.pop("asks", {})}
    return Call(more.pop("method", STREAM_INFER), kind, send, asks=asks, **more)


REQUESTS = ["request.bin", "other-request.bin", "request.bin"]

SCENARIOS = {
    "unary": Scenario(unary(), quick=True),
    "metadata": Scenario(unary(metadata=METADATA), quick=True),
    "unguarded": Scenario(unary("part.bin", send="part.bin", method=UNGUARDED, metadata=METADATA), quick=True),
    "error": Scenario(unary(metadata=METADATA, asks={"count": "0", "status": "9"}), code=9, messages=0, quick=True),
    "trailers-only": Scenario(
        unary(metadata=METADATA, asks={"bare": "1", "status": "7"}), code=7, messages=0, quick=True
    ),
    "early-error": Scenario(
        stream("up", send=["megabyte.bin"] * 8, method=UNGUARDED, asks={"early": "1", "status": "8"}),
        code=8,
        messages=0,
        servers=["go", "node", "http2", "java"],  # C-core's varies: with headers of its own, or trailers only
        without=("envoy", "nginx"),
    ),
    "compressed": Scenario(unary(compress=True, asks={"compress": "1"}), quick=True),
    "compressed-both": Scenario(
        stream("both", send=REQUESTS, compress=True, asks={"each": "1", "compress": "1"}), messages=3
    ),
    "down": Scenario(stream("down", metadata=METADATA, asks={"count": "40"}), messages=40, quick=True),
    "down-empty": Scenario(stream("down", asks={"count": "0"}), messages=0),
    "down-error": Scenario(stream("down", asks={"count": "2", "status": "15"}), code=15, messages=2, quick=True),
    "up": Scenario(stream("up", send=REQUESTS), quick=True),
    "up-unguarded": Scenario(stream("up", "part.bin", send=["megabyte.bin"] * 4, method=UNGUARDED)),
    "both": Scenario(stream("both", send=REQUESTS * 3, metadata=METADATA, asks={"each": "1"}), messages=9, quick=True),
    "deadline": Scenario(
        unary(timeout_ms=400, asks={"wait-ms": "8000"}),
        code=4,
        messages=0,
        ending="cancelled",
        text=False,
        quick=True,
    ),
    "deadline-down": Scenario(
        stream("down", timeout_ms=600, asks={"count": "3", "pause-ms": "8000"}),
        code=4,
        messages=1,
        ending="cancelled",
        text=False,
    ),
    "cancel": Scenario(
        stream("down", cancel_after=3, asks={"count": "5000", "pause-ms": "4"}),
        code=1,
        messages=3,
        ending="cancelled",
        text=False,
        quick=True,
    ),
    "reset": Scenario(
        unary(timeout_ms=5_000, asks={"reset": "2"}),
        code=13,
        messages=None,
        servers=["http2"],
        quick=True,
        without=("envoy", "nginx"),
    ),
    "reset-down": Scenario(
        stream("down", timeout_ms=5_000, asks={"count": "3", "reset": "2"}),
        code=13,
        messages=3,
        clients=["go", "node", "http2", "java"],  # C-core may drop the last
        servers=["http2"],
        quick=True,
        without=("envoy", "nginx"),
    ),
    "truncated": Scenario(unary(asks={"truncate": "1"}), code=None, messages=None, servers=["http2"], modes=PASSING),
    "two-answers": Scenario(
        unary(asks={"count": "2"}), messages=2, clients=["http2"], servers=["http2"], modes=PASSING
    ),
    "http-error": Scenario(
        unary("page.html", asks={"http": "502", "type": "text/html"}),
        code=14,
        messages=0,
        text=False,  # Java quotes everything, with the date
        clients=GRPC,
        servers=["http2"],
        modes=PASSING,
    ),
    "http-error-page": Scenario(
        unary("page.html", asks={"http": "502", "type": "text/html"}),
        code=502,
        clients=["http2"],
        servers=["http2"],
        modes=PASSING,
    ),
    "connect": Scenario(
        unary(
            "response.bin",
            metadata=[("content-type", "application/proto")],
            asks={"http": "200", "type": "application/proto"},
        ),
        code=200,
        clients=["http2"],
        servers=["http2"],
        modes=PASSING,
    ),
    "connect-error": Scenario(
        unary(
            "part.bin",
            metadata=[("content-type", "application/proto")],
            asks={"http": "400", "type": "application/json"},
        ),
        code=400,
        clients=["http2"],
        servers=["http2"],
        modes=PASSING,
    ),
    "grpc-web": Scenario(
        unary("web.bin", metadata=[("content-type", WEB)], asks={"http": "200", "type": WEB}),
        code=200,
        clients=["http2"],
        servers=["http2"],
        modes=PASSING,
    ),
    "30MB-response": Scenario(unary("bulk-response.bin"), quick=True),
    "30MB-request": Scenario(unary(send="bulk-request.bin")),
    "30MB-both": Scenario(unary("bulk-response.bin", send="bulk-request.bin"), heavy=True),
    "30MB-unguarded": Scenario(unary("bulk.bin", send="bulk.bin", method=UNGUARDED), heavy=True),
    "30MB-down": Scenario(stream("down", "bulk-streamed.bin", asks={"count": "3"}), messages=3, heavy=True),
    "30MB-parallel": Scenario(unary("bulk-response.bin"), repeat=4, parallel=2, heavy=True),
    "unread-down": Scenario(
        unary(timeout_ms=8_000),
        background=[stream("down", "megabyte-streamed.bin", asks={"count": "16"})] * 6,
        background_messages=16,
        quick=True,
        heavy=True,
        without=("nginx",),
    ),
    "unread-up": Scenario(
        unary(timeout_ms=8_000, asks={"open": "TAG"}),
        background=[stream("up", send=["megabyte-request.bin"] * 8, asks={"gate": "TAG"})] * 6,
        background_messages=1,
        quick=True,
        heavy=True,
        without=("nginx",),
    ),
    "rate": Scenario(
        unary("page-response.bin"),
        repeat=75_000,  # longer than the ten seconds that limits look at
        rate=5_000,
        parallel=3,  # few, so that a client which sends a PING each round trip sends many
        heavy=True,
        clients=["go", "java"],
        servers=["go", "java"],
    ),
    "rate-few": Scenario(unary(), repeat=200, parallel=8, quick=True),
    "wait-for-ready": Scenario(unary(wait_for_ready=True, timeout_ms=15_000), late=True, clients=GRPC),
}


def write_messages(folder: Path) -> None:
    """The files that scenarios name; responses show what the bundle's model can be judged by."""
    safe = safe_traffic(1, seed=3)

    def response(size: int = 0) -> bytes:
        message = oip.Response.FromString(inference(safe, slice(0, 1)))
        if size:
            tensor = message.outputs.add(name="picture", datatype="UINT8")
            tensor.shape.extend([1, size])
            message.raw_output_contents.append((bytes(range(251)) * (size // 251 + 1))[:size])
        return bytes(message.SerializeToString())

    def request(size: int, name: str = "42") -> bytes:
        message = oip.Request(model_name="digits", id=name)
        tensor = message.inputs.add(name="picture", datatype="UINT8")
        tensor.shape.extend([1, size])
        message.raw_input_contents.append((bytes(range(249)) * (size // 249 + 1))[:size])
        return bytes(message.SerializeToString())

    bulk, megabyte = response(BULK), response(1 << 20)
    files = {
        "request.bin": request(64),
        "other-request.bin": request(40_000, "43"),
        "bulk-request.bin": request(BULK),
        "megabyte-request.bin": request(1 << 20),
        "response.bin": response(),
        "page-response.bin": response(4096),
        "bulk-response.bin": bulk,
        "streamed.bin": streamed(response()),
        "megabyte-streamed.bin": streamed(megabyte),
        "bulk-streamed.bin": streamed(bulk),
        "page.html": b"<h1>Bad Gateway</h1>",
        "web.bin": framed(response()) + b"\x80" + len(WEB_TRAILERS).to_bytes(4, "big") + WEB_TRAILERS,
        "part.bin": b"not an inference",
        "megabyte.bin": bytes(1 << 20),
        "bulk.bin": bytes(range(256)) * (BULK // 256),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
