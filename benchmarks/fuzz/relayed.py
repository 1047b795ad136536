"""The relay between two pipes, fed with what a peer should not say, and with what is meant to exhaust it."""

from __future__ import annotations

import asyncio
import gzip
import struct
import time
from pathlib import Path
from typing import Any

from benchmarks.fuzz.outcomes import Failure, peak
from benchmarks.fuzz.seeds import REQUEST, RESPONSE, TRAILERS, ZIPPED, conversations
from benchmarks.harness.by_hand import Pipe, unconnected
from benchmarks.harness.parts import inline_guard, settings
from tocsin.http2.frames import PREFACE, SETTINGS, frame
from tocsin.judgement.batching import MAX_COALESCED_TICKS
from tocsin.judgement.call import Call
from tocsin.judgement.sink import Scored, Sink
from tocsin.relay.connection import Connection
from tocsin.relay.server import Relay
from tocsin.verdict import METADATA_KEY

JUDGED = 3  # turns of the loop after which what has come is judged
BOMB_SECONDS = 10.0


class Relayed:
    """A relayed connection between two pipes; the case is what one of the peers says, in pieces."""

    judged = JUDGED

    def __init__(self, bundle: Path, mode: str, *, ask: bool = False, fail: str = "open") -> None:
        config = settings(1, bundle, mode=mode, fail=fail, max_message=1 << 16, max_memory=1 << 20)
        config.models["digits"].ask = ask
        self._config, self._guard = config, inline_guard(config)
        self._loop = asyncio.new_event_loop()
        self._clients, self._servers = conversations()

    def understood(self) -> None:
        """Check that unmutated seeds are judged, and that their verdict reaches the caller."""
        for said in self._servers[:3]:
            for request, kind in zip(self._clients, (0, 1), strict=True):
                written = self._loop.run_until_complete(self._run(request, said))
                if kind == (said is self._servers[1]) and b'"p":[' not in written:
                    raise SystemExit("a seed is not judged: the fuzzer would feed nothing but noise")

    def client(self, case: bytes) -> None:
        self._loop.run_until_complete(self._run(case, self._servers[0]))

    def server(self, case: bytes) -> None:
        self._loop.run_until_complete(self._run(self._clients[len(case) % 2], case))

    def report_to(self, sink: Sink) -> None:
        """Report what is judged."""
        self._guard.sinks.append(sink)

    def answer(self, client: int, case: bytes) -> None:
        """Feed a case of a server, which answers a client of one of two kinds."""
        self._loop.run_until_complete(self._run(self._clients[client], case))

    def blast(self, client: bytes, server: bytes) -> str:
        """Feed everything at once; why the connection ended."""
        return self._loop.run_until_complete(self._blast(client, server))

    async def _blast(self, client: bytes, server: bytes) -> str:
        relay, connection, to_client, to_server = self._connected()
        for side, pipe, content in (
            (connection.downstream, to_client, PREFACE + client),
            (connection.upstream, to_server, server),
        ):
            for at in range(0, len(content), 1 << 16):
                if pipe.closed:
                    break
                side.data_received(content[at : at + (1 << 16)])
                to_server.written.clear()
                await asyncio.sleep(0)
        ended = "nothing: it passed within bounds"
        if to_client.closed:
            ended = "GOAWAY: " + bytes(to_client.written).rpartition(b"\0\0\0")[2][1:].decode("ascii", "replace")
        elif b"grpc-status" in to_client.written:
            ended = "a status"
        connection.downstream.connection_lost(None)
        if relay.context.memory.remaining != self._config.max_memory:
            raise Failure("bytes are still kept")
        return ended

    def _connected(self) -> tuple[Relay, Connection, Pipe, Pipe]:
        relay = Relay(self._config, self._guard)
        relay.context.start()
        connection = relay.connection(unconnected(relay))
        to_client, to_server = Pipe(), Pipe()
        connection.upstream.connection_made(to_server)  # type: ignore[arg-type]
        connection.downstream.connection_made(to_client)  # type: ignore[arg-type]
        return relay, connection, to_client, to_server

    async def _run(self, client: bytes, server: bytes) -> bytes:
        relay, connection, to_client, to_server = self._connected()
        to_send_client, to_send_server = PREFACE + client, server
        for part in (2, 2, 1):  # half of it, half of what is left, and the rest
            for side, pipe, content in (
                (connection.downstream, to_client, to_send_client),
                (connection.upstream, to_server, to_send_server),
            ):
                piece = content[: len(content) // part + 1]
                if piece and not pipe.closed:
                    side.data_received(piece)
            to_send_client, to_send_server = (
                to_send_client[len(to_send_client) // part + 1 :],
                to_send_server[len(to_send_server) // part + 1 :],
            )
            await asyncio.sleep(0)
        for _ in range(self.judged):
            await asyncio.sleep(0)
        connection.downstream.connection_lost(None)
        connection.upstream.connection_lost(None)
        await asyncio.sleep(0)
        if relay.context.memory.remaining != self._config.max_memory:
            raise Failure(f"{self._config.max_memory - relay.context.memory.remaining} bytes are still kept")
        if connection.streams or len(connection.closed_streams) > 1_024:
            raise Failure("streams are still remembered")
        if relay.context.fails_closed:
            self._nothing_unscored(bytes(to_client.written))
        return bytes(to_client.written)

    def _nothing_unscored(self, written: bytes) -> None:
        """Trailers that say `unscored` come with another status than OK."""
        for part in written.split(METADATA_KEY.encode())[1:]:
            if b'"unscored"' in part[:400] and b'"action":"block"' not in part[:400]:
                raise Failure("a response went out unscored although it must not")


class Judgements(Sink):
    """What was judged: the place of each message in its response, its p-value, or why it has none."""

    def __init__(self, *, takes_runs: bool) -> None:
        self.takes_runs = takes_runs
        self.rows: list[tuple[int, str]] = []

    def scored(self, batch: Scored) -> None:
        for call in batch.calls:
            verdict = call.verdict
            assert verdict is not None
            places = call.message_indices if call.responses > 1 else [call.message_indices[-1]] * len(verdict.pvalues)
            rows = zip(places, verdict.pvalues, verdict.severities, strict=True)
            self.rows += [(place, f"{p:.6g} {severity}") for place, p, severity in rows]

    def unscored(self, call: Call) -> None:
        reason = call.verdict.unscored if call.verdict is not None else None
        self.rows += [(place, str(reason)) for place in call.message_indices]


class BothWays:
    """Two relayed connections, of which one judges messages that come together, and the other each by itself: what
    they judge must be the same.
    """

    def __init__(self, bundle: Path) -> None:
        self._ways = [(Relayed(bundle, "annotate"), Judgements(takes_runs=takes_runs)) for takes_runs in (True, False)]
        for relayed, judgements in self._ways:
            relayed.report_to(judgements)
            relayed.judged = 2 * MAX_COALESCED_TICKS

    def server(self, case: bytes) -> None:
        for client in range(2):
            judged = []
            for relayed, judgements in self._ways:
                relayed.answer(client, case)
                judged.append(sorted(judgements.rows))
                judgements.rows.clear()
            if judged[0] != judged[1]:
                raise Failure("messages that come together are judged differently")


def bombs(bundle: Path) -> dict[str, Any]:
    """Run inputs that are meant to exhaust the relay, in enforce; the time and memory of each."""
    hello = frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0)
    open_call, end = frame(1, 4, 1, REQUEST) + frame(0, 1, 1), frame(1, 5, 1, TRAILERS)
    zipped = gzip.compress(bytes(512 << 20), 9)
    field = b"\x40" + b"\x04name" + b"\x7f\x80\x1e" + b"v" * 3_967  # into the dynamic table, then named again and again
    many = range(1, 200_001, 2)
    kinds: dict[str, tuple[bytes, bytes]] = {
        "header fields of 4 KB, named 16,000 times": (frame(1, 4, 1, field + b"\xbe" * 16_000), b""),
        "a header block of endless continuations": (frame(1, 0, 1, REQUEST) + frame(9, 0, 1, b"\0" * 9_000) * 100, b""),
        "gzip of 512 MB": (
            open_call,
            frame(1, 4, 1, ZIPPED)
            + frame(0, 0, 1, b"\1" + struct.pack(">L", len(zipped)) + zipped) + end,
        ),
        "a message that says it has 4 GB": (
            open_call,
            frame(1, 4, 1, RESPONSE) + b"".join([frame(0, 0, 1, b"\0\xff\xff\xff\xff" + bytes(16_000))] * 2_000) + end,
        ),
        "windows beyond their limit": (frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2, b""),
        "100,000 streams": (b"".join(frame(1, 4, number, REQUEST) for number in many), b""),
        "100,000 streams, reset at once": (
            b"".join(frame(1, 4, number, REQUEST) + frame(3, 0, number, b"\0\0\0\10") for number in many), b"",
        ),
        "100,000 SETTINGS": (frame(SETTINGS, 0, 0) * 100_000, b""),
        "100,000 PING": (frame(6, 0, 0, b"pingpong") * 100_000, b""),
        "100,000 empty DATA": (frame(1, 4, 1, REQUEST) + frame(0, 0, 1) * 100_000, b""),
    }  # fmt: skip
    relayed = Relayed(bundle, "enforce", fail="closed")
    results = {}
    for name, (client, server) in kinds.items():
        before, started = peak(), time.perf_counter()
        ended = relayed.blast(hello + client, hello + server)
        seconds, grown = time.perf_counter() - started, (peak() - before) / (1 << 20)
        results[name] = {"seconds": seconds, "grown_mb": grown, "ended": ended}
    return results
