"""Everything that reads bytes from elsewhere, fed with what nobody should send: 1,000,000 cases by default.

Seeds are real traffic; cases are seeds cut, spliced, flipped, grown and mixed, by a generator with a seed of its own,
so that a case can be had again. A case fails when anything is raised that is not the documented error, when it takes
longer than a second, when memory is kept, or when a response goes out unscored although it must not. Failing cases are
written to the corpus, and every case of the corpus is tried first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import random
import resource
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.table import Table
from tests import ranker as acme
from tests.by_hand import Pipe
from tests.parts import INFER, METHOD, STREAM_INFER, inference, quick_bundle, safe_traffic, settings, streamed

from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.batching import Batcher
from tocsin.judgement.guard import Guard
from tocsin.protocols.descriptors import pool_of
from tocsin.relay.again import Again
from tocsin.relay.connection import Connection
from tocsin.relay.frames import PREFACE, SETTINGS, frame, header_block, read_settings, unpadded
from tocsin.relay.headers import HeaderError, HeaderReader, block, without
from tocsin.relay.messages import Assembler, Memory
from tocsin.relay.server import Relay
from tocsin.relay.side import FrameError
from tocsin.verdict import METADATA_KEY, Verdict
from tocsin_calibration import Bundle, CalibrationFault

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 1.0  # seconds that a case may take
BOMB_SECONDS = 10.0
MEMORY = 64 << 20  # bytes by which the process may grow over the run, after warming up


class Target(NamedTuple):
    """Something that is fed: seeds to begin with, and a function that raises on a failure. `share` of all cases."""

    name: str
    seeds: list[bytes]
    feed: Callable[[bytes], None]
    share: float


class Failure(Exception):
    """A case that did what it must not."""


def main() -> None:
    options = arguments(
        __doc__ or "",
        cases={"type": int, "default": 1_000_000, "help": "how many cases"},
        seed={"type": int, "default": 0, "help": "of the generator"},
        only={"default": "", "help": "one target by name"},
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        found = [target for target in targets(Path(folder)) if options.only in ("", target.name)]
        results, failures, slowest, grown = run(found, options.cases, options.seed)
        blasts = bombs(Path(folder) / "fuzz.tocsin") if not options.only else {}
    table = Table("target", "cases", "refused", "failed", "slowest", title="Fuzzing")
    for name, row in results.items():
        table.add_row(name, *(f"{row[key]:,}" for key in ("cases", "refused", "failed")), f"{row['slowest_ms']:.1f} ms")
    console.print(table)
    blown = Table("bomb", "seconds", "memory", "ended by", title="Bombs")
    for name, row in blasts.items():
        blown.add_row(name, f"{row['seconds']:.2f}", f"{row['grown_mb']:.1f} MiB", row["ended"])
    console.print(blown)
    checks = [
        at_most("bombs: longest, s", max((row["seconds"] for row in blasts.values()), default=0.0), BOMB_SECONDS),
        at_most("bombs: memory, MiB", max((row["grown_mb"] for row in blasts.values()), default=0.0), MEMORY >> 20),
        at_most("cases that failed", failures, 0),
        at_most("slowest case, s", slowest, LONGEST),
        at_most("memory grown after warming up, MiB", grown / (1 << 20), MEMORY >> 20),
        Check("cases", options.cases, ">= 1000000", options.cases >= 1_000_000),
    ]
    finish({"targets": results, "bombs": blasts, "seed": options.seed}, checks, options.json)


def run(found: list[Target], cases: int, seed: int) -> tuple[dict[str, Any], int, float, int]:
    """Feed every target its share; the rows by target, failures, the slowest case and the memory grown."""
    results: dict[str, Any] = {}
    total = sum(target.share for target in found)
    failures, slowest, settled, grown = 0, 0.0, 0, 0
    for target in found:
        dice = random.Random(f"{seed} {target.name}")
        counts: Counter[str] = Counter()
        longest = 0.0
        kept = sorted((CORPUS / target.name).glob("*")) if (CORPUS / target.name).is_dir() else []
        wanted = int(cases * target.share / total)
        for number in range(-len(kept), wanted):
            case = kept[number].read_bytes() if number < 0 else mutated(dice, target.seeds)
            started = time.perf_counter()
            try:
                target.feed(case)
            except Refused:
                counts["refused"] += 1
            except Exception as error:
                counts["failed"] += 1
                keep(target.name, case)
                console.print(f"[red]{target.name}[/] case {number}: {type(error).__name__}: {error}"[:400])
            longest = max(longest, time.perf_counter() - started)
            if number == min(2_000, wanted // 10):
                settled = peak()
        grown = max(grown, peak() - settled)
        failures, slowest = failures + counts["failed"], max(slowest, longest)
        results[target.name] = {
            "cases": wanted + len(kept),
            "refused": counts["refused"],
            "failed": counts["failed"],
            "slowest_ms": longest * 1e3,
        }
        console.print(f"{target.name}: {wanted:,} cases, {counts['refused']:,} refused, {counts['failed']} failed")
    return results, failures, slowest, grown


class Refused(Exception):
    """A case was refused in the way that is documented."""


def mutated(dice: random.Random, seeds: list[bytes]) -> bytes:
    """A seed, changed in one to six ways."""
    case = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(case) + 1)
        way = dice.randrange(9)
        if way == 0 and case:
            case[at % len(case)] ^= 1 << dice.randrange(8)
        elif way == 1 and case:
            case[at % len(case)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif way == 2:
            del case[at : at + dice.choice((1, 2, 4, 9, 64))]
        elif way == 3:
            case[at:at] = dice.randbytes(dice.choice((1, 2, 5, 9, 100)))
        elif way == 4:
            other = dice.choice(seeds)
            start = dice.randrange(len(other) + 1)
            case[at:at] = other[start : start + dice.choice((4, 9, 30, 300))]
        elif way == 5:
            del case[at:]
        elif way == 6 and case:
            number = dice.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 16_385, 2**24 - 1))
            case[at : at + 4] = struct.pack(">L", number)
        elif way == 7:
            start = dice.randrange(len(case) + 1)
            case[at:at] = case[start : start + dice.choice((9, 50, 500))]
        else:
            case += dice.choice(seeds)
    return bytes(case[: 1 << 20])


def keep(target: str, case: bytes) -> None:
    """Put a failing case into the corpus."""
    import hashlib

    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# -- targets


def targets(folder: Path) -> list[Target]:
    """Everything that is fed, and by what share of the cases."""
    bundle = folder / "fuzz.tocsin"
    quick_bundle(bundle)
    client, server = conversations()
    for mode in ("annotate", "enforce"):
        Relayed(bundle, mode).understood()
    return [
        Target("headers", [REQUEST, RESPONSE, TRAILERS], headers, 0.2),
        Target("messages", [b"\0\0\0\0\5hello\0\0\0\0\0", gzip.compress(bytes(100_000))], messages, 0.15),
        Target("frames", [*server, *client], frames, 0.2),
        Target("client-observe", client, Relayed(bundle, "observe").client, 0.03),
        Target("server-observe", server, Relayed(bundle, "observe").server, 0.03),
        Target("client-annotate", client, Relayed(bundle, "annotate", ask=True).client, 0.03),
        Target("server-annotate", server, Relayed(bundle, "annotate", ask=True).server, 0.03),
        Target("client-enforce", client, Relayed(bundle, "enforce").client, 0.03),
        Target("server-enforce-closed", server, Relayed(bundle, "enforce", fail="closed").server, 0.05),
        Target("inferences", INFERENCES, Judged(settings(1, bundle, mode="enforce", fail="closed")).infer, 0.12),
        Target("fields", [acme.answer(SAFE, row) for row in range(4)], Judged(ranked(bundle, folder)).rank, 0.06),
        Target("verdicts", [b'{"model":"m","p":[0.5],"alarm":null}'], verdicts, 0.03),
        Target("bundles", [bundle.read_bytes()], Bundles(folder).feed, 0.01),
        Target("descriptors", [acme.descriptor_set()], descriptors, 0.01),
        Target("configurations", [CONFIGURATION], Configurations(folder).feed, 0.02),
    ]


SAFE = safe_traffic(4)
REQUEST = block([(":method", "POST"), (":path", INFER), ("content-type", "application/grpc"), ("x-session", "s")])
STREAM = block([(":method", "POST"), (":path", STREAM_INFER), ("content-type", "application/grpc")])
RESPONSE = block([(":status", "200"), ("content-type", "application/grpc"), ("content-length", "12")])
ZIPPED = block([(":status", "200"), ("content-type", "application/grpc"), ("grpc-encoding", "gzip")])
TRAILERS = block([("grpc-status", "0"), ("grpc-message", "x" * 20)])
INFERENCES = [inference(SAFE, slice(0, 1)), inference(SAFE, slice(0, 3)), inference(SAFE, slice(0, 2), raw=False)]
CONFIGURATION = yaml.safe_dump(
    {
        "listen": "0.0.0.0:8001",
        "mode": "enforce",
        "fail": "closed",
        "scoring_budget": "5ms",
        "max_message": "1MiB",
        "models": {"m": {"signals": {"probs": "response.outputs.p"}, "on_alarm": {"critical": {"action": "block"}}}},
    }
).encode()


def conversations() -> tuple[list[bytes], list[bytes]]:
    """What clients and servers say, in whole."""
    body = b"\0" + struct.pack(">L", len(INFERENCES[0])) + INFERENCES[0]
    part = streamed(INFERENCES[0])
    stream = b"\0" + struct.pack(">L", len(part)) + part
    packed = gzip.compress(INFERENCES[0], mtime=0)
    zipped = b"\1" + struct.pack(">L", len(packed)) + packed
    hello = frame(SETTINGS, 0, 0, struct.pack(">HLHL", 4, 1 << 20, 5, 32_768)) + frame(SETTINGS, 1, 0)
    asks, says = [], []
    for path in (REQUEST, STREAM):
        calls = [
            frame(1, 4, one, path)
            + frame(0, 0, one, b"\0\0\0\0\3ask")
            + frame(0, 1, one)
            + frame(8, 0, one, b"\0\0\1\0")
            for one in (1, 3, 5)
        ]
        asks.append(hello + b"".join(calls) + frame(8, 0, 0, struct.pack(">L", 1 << 20)) + frame(3, 0, 5, b"\0\0\0\10"))
    for content in (body, stream * 3, zipped, body[:50]):
        opening = ZIPPED if content is zipped else RESPONSE
        answers = [frame(1, 4, one, opening) + frame(0, 0, one, content) + frame(1, 5, one, TRAILERS) for one in (1, 3)]
        says.append(hello + b"".join(answers) + frame(6, 0, 0, b"pingpong") + frame(3, 0, 5, b"\0\0\0\0"))
    return asks, says


def headers(case: bytes) -> None:
    reader = HeaderReader((":path", "grpc-status", "x-session"))
    for read in (
        reader.read,
        lambda one: without(one, "content-length", 28),
        HeaderReader((":path",), stateful=True).read_all,
    ):
        with contextlib.suppress(HeaderError):
            read(case)


def messages(case: bytes) -> None:
    memory = Memory(1 << 16)
    for keeps in (False, True):
        assembler = Assembler(1 << 15, memory, keeps=keeps)
        for at in range(0, len(case), 7 + len(case) // 5):
            for message in assembler.feed(case[at : at + 7 + len(case) // 5]):
                if message.content is not None and len(message.content) > 1 << 15:
                    raise Failure("a message over the limit came out")
        assembler.forget()
        if memory.left != 1 << 16:
            raise Failure(f"{(1 << 16) - memory.left} bytes of messages were not given back")


def frames(case: bytes) -> None:
    for read in (read_settings, unpadded, lambda one: header_block(0x28, one)):
        with contextlib.suppress(FrameError):
            read(case)


def verdicts(case: bytes) -> None:
    try:
        Verdict.from_metadata(case)
    except ValueError:
        raise Refused from None


def descriptors(case: bytes) -> None:
    try:
        pool_of(case)
    except ValueError:
        raise Refused from None


class Relayed:
    """A relayed connection between two pipes; the case is what one of the peers says, in pieces."""

    def __init__(self, bundle: Path, mode: str, *, ask: bool = False, fail: str = "open") -> None:
        config = settings(1, bundle, mode=mode, fail=fail, max_message=1 << 16, max_memory=1 << 20)
        config.models["digits"].ask = ask
        self._config, self._guard = config, Guard.open(config)
        self._loop = asyncio.new_event_loop()
        self._clients, self._servers = conversations()

    def understood(self) -> None:
        """What is not mutated is judged and told: the seeds lead where they should."""
        for said in self._servers[:3]:
            for asked, kind in zip(self._clients, (0, 1), strict=True):
                written = self._loop.run_until_complete(self._run(asked, said))
                if kind == (said is self._servers[1]) and b'"p":[' not in written:
                    raise SystemExit("a seed is not judged: the fuzzer would feed nothing but noise")

    def client(self, case: bytes) -> None:
        self._loop.run_until_complete(self._run(case, self._servers[0]))

    def server(self, case: bytes) -> None:
        self._loop.run_until_complete(self._run(self._clients[len(case) % 2], case))

    def blast(self, client: bytes, server: bytes) -> str:
        """The same with everything at once; what ended it."""
        return self._loop.run_until_complete(self._blast(client, server))

    async def _blast(self, client: bytes, server: bytes) -> str:
        relay, connection, to_client, to_server = self._connected()
        for side, pipe, content in (
            (connection.client, to_client, PREFACE + client),
            (connection.server, to_server, server),
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
        connection.client.connection_lost(None)
        if relay.memory.left != self._config.max_memory:
            raise Failure("bytes are still kept")
        return ended

    def _connected(self) -> tuple[Relay, Connection, Pipe, Pipe]:
        relay = Relay(self._config, self._guard)
        relay.batcher, relay.again = Batcher(self._guard, relay._flushed), Again(relay)
        connection = Connection(relay, relay.ports[0])
        connection.made = lambda transport: None  # type: ignore[method-assign]
        to_client, to_server = Pipe(), Pipe()
        connection.server.connection_made(to_server)  # type: ignore[arg-type]
        connection.client.connection_made(to_client)  # type: ignore[arg-type]
        return relay, connection, to_client, to_server

    async def _run(self, client: bytes, server: bytes) -> bytes:
        relay, connection, to_client, to_server = self._connected()
        said, answered = PREFACE + client, server
        for _ in range(3):
            for side, pipe, content in ((connection.client, to_client, said), (connection.server, to_server, answered)):
                piece = content[: len(content) // 2 + 1]
                if piece and not pipe.closed:
                    side.data_received(piece)
            said, answered = said[len(said) // 2 + 1 :], answered[len(answered) // 2 + 1 :]
            await asyncio.sleep(0)
        connection.client.connection_lost(None)
        connection.server.connection_lost(None)
        await asyncio.sleep(0)
        if relay.memory.left != self._config.max_memory:
            raise Failure(f"{self._config.max_memory - relay.memory.left} bytes are still kept")
        if connection.streams or len(connection.gone) > 1_024:
            raise Failure("streams are still remembered")
        if relay.closed:
            self._nothing_unscored(bytes(to_client.written))
        return bytes(to_client.written)

    def _nothing_unscored(self, written: bytes) -> None:
        """Trailers that say `unscored` come with another status than OK."""
        for part in written.split(METADATA_KEY.encode())[1:]:
            if b'"unscored"' in part[:400] and b'"action":"block"' not in part[:400]:
                raise Failure("a response went out unscored although it must not")


def bombs(bundle: Path) -> dict[str, Any]:
    """What is meant to exhaust: each against a relay in enforce, with the time and the memory it took."""
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
        "100,000 streams": (b"".join(frame(1, 4, one, REQUEST) for one in many), b""),
        "100,000 streams, reset at once": (
            b"".join(frame(1, 4, one, REQUEST) + frame(3, 0, one, b"\0\0\0\10") for one in many), b"",
        ),
        "100,000 SETTINGS": (frame(SETTINGS, 0, 0) * 100_000, b""),
        "100,000 PING": (frame(6, 0, 0, b"pingpong") * 100_000, b""),
        "100,000 empty DATA": (frame(1, 4, 1, REQUEST) + frame(0, 0, 1) * 100_000, b""),
    }  # fmt: skip
    relayed = Relayed(bundle, "enforce", fail="closed")
    found = {}
    for name, (client, server) in kinds.items():
        before, started = peak(), time.perf_counter()
        ended = relayed.blast(hello + client, hello + server)
        seconds, grown = time.perf_counter() - started, (peak() - before) / (1 << 20)
        found[name] = {"seconds": seconds, "grown_mb": grown, "ended": ended}
    return found


class Judged:
    """A guard that fails closed: whatever a response is, it is scored, or blocked with a reason."""

    def __init__(self, config: Config) -> None:
        self._guard = Guard.open(config)

    def infer(self, case: bytes) -> None:
        self._judge(METHOD.name, case)

    def rank(self, case: bytes) -> None:
        self._judge(acme.PATHS["Rank"], case)

    def _judge(self, method: str, case: bytes) -> None:
        call = self._guard.call(method, {})
        assert call is not None
        piece = call.answered(case)
        assert piece is not None
        self._guard.judge([piece])
        verdict = piece.verdict
        if verdict is None:
            raise Failure("there is no verdict")
        if verdict.unscored is None and not all(0 < p <= 1 for p in verdict.pvalues):
            raise Failure(f"p-values {verdict.pvalues}")
        if verdict.unscored is not None:
            if verdict.action != "block":
                raise Failure(f"passed unscored ({verdict.unscored})")
            raise Refused
        Verdict.from_metadata(verdict.to_metadata())


def ranked(bundle: Path, folder: Path) -> Config:
    """A configuration of a protocol of one's own."""
    model = {"bundle": bundle, "protocol": "ranker", "signals": acme.SIGNALS}
    return Config(mode="enforce", fail="closed", protocols=acme.protocol(folder), models={"digits": model})


class Bundles:
    """Files that say they are bundles."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.tocsin"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Bundle.read(self._path)
        except CalibrationFault:
            raise Refused from None


class Configurations:
    """Files that say they are configurations."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "case.yaml"

    def feed(self, case: bytes) -> None:
        self._path.write_bytes(case)
        try:
            Config.load(self._path)
        except ConfigError:
            raise Refused from None


if __name__ == "__main__":
    main()
