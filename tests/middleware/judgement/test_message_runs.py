"""Claim: messages that are judged together have the verdicts, counts and order that each would have by itself."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.harness.by_hand import Pipe, unconnected
from benchmarks.harness.parts import (
    STREAM_INFER,
    far_away,
    inference,
    inline_guard,
    quick_bundle,
    safe_traffic,
    settings,
    streamed,
)
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from tocsin.grpc_wire.deframer import MOST_TOGETHER, MessageDeframer, framed, whole_messages
from tocsin.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.judgement.message_run import MessageRun
from tocsin.judgement.sink import Scored, Sink
from tocsin.memory import MemoryBudget
from tocsin.protocols.alike import Templates
from tocsin.relay.server import Relay
from tocsin.sinks.prometheus import PrometheusSink

SAFE, FAR = safe_traffic(400, seed=7), far_away(1)
REQUEST = Encoder().encode(
    [(":method", "POST"), (":scheme", "http"), (":path", STREAM_INFER), (":authority", "x"),
     ("content-type", "application/grpc"), ("te", "trailers")], huffman=False,
)  # fmt: skip
RESPONSE = Encoder().encode([(":status", "200"), ("content-type", "application/grpc")], huffman=False)
TRAILERS = Encoder().encode([("grpc-status", "0")], huffman=False)


class Verdicts(Sink):
    """Every judged message in its place, and every unscored one with its reason."""

    def __init__(self, *, takes_runs: bool) -> None:
        self.takes_runs = takes_runs
        self.calls = 0
        self.rows: list[tuple[int, float, str | None, list[float]]] = []
        self.reasons: list[tuple[int, str]] = []

    def scored(self, batch: Scored) -> None:
        row = 0
        for call in batch.calls:
            self.calls += 1
            verdict = call.verdict
            assert verdict is not None
            assert len(call.message_indices) == call.responses
            places = call.message_indices if call.responses > 1 else [*call.message_indices] * len(verdict.pvalues)
            for place, p, severity in zip(places, verdict.pvalues, verdict.severities, strict=True):
                self.rows.append((place, p, severity, batch.scores[row].tolist()))
                row += 1
        assert row == len(batch.scores)

    def unscored(self, call: Call) -> None:
        assert call.verdict is not None and call.verdict.unscored is not None
        self.reasons += [(place, call.verdict.unscored) for place in call.message_indices]


class Outcome:
    """What a relay made of one stream, judged with runs of messages or without them."""

    def __init__(self, config: Any, said: bytes, *, runs: bool, pieces: int = 1 << 14) -> None:
        self.guard = inline_guard(config)
        self.verdicts, self.counts = Verdicts(takes_runs=runs), PrometheusSink(self.guard.models)
        self.guard.sinks += [self.verdicts, self.counts]
        self.written = asyncio.run(self._relay(config, said, pieces))

    async def _relay(self, config: Any, said: bytes, pieces: int) -> bytes:
        relay = Relay(config, self.guard)
        relay.context.start()
        connection = relay.connection(unconnected(relay))
        to_client, to_server = Pipe(), Pipe()
        connection.upstream.connection_made(to_server)  # type: ignore[arg-type]
        connection.downstream.connection_made(to_client)  # type: ignore[arg-type]
        opening = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)
        connection.downstream.data_received(opening)
        connection.upstream.data_received(frame(SETTINGS, 0, 0))
        for at in range(0, len(said), pieces):
            connection.upstream.data_received(said[at : at + pieces])
            for _ in range(8):
                await asyncio.sleep(0)
        for _ in range(40):
            await asyncio.sleep(0)
        assert not connection.streams
        connection.downstream.connection_lost(None)
        assert relay.context.memory.remaining == config.max_memory
        return bytes(to_client.written)

    @property
    def figures(self) -> Any:
        """What Prometheus is verdicts, but for times and the sizes of batches."""
        return [
            (sample.family.name, sample.labels, sample.value)
            for sample in self.counts.samples()
            if "seconds" not in sample.family.name and "batch" not in sample.family.name
        ]


def message(row: int) -> bytes:
    return streamed(inference(FAR if row % 37 == 5 else SAFE, slice(0, 1) if row % 37 == 5 else slice(row, row + 1)))


def said(messages: list[bytes], size: int = 16_384) -> bytes:
    """A response of these framed messages, in DATA frames of a size; 0 for a frame a message."""
    content = b"".join(messages)
    parts = [content[at : at + size] for at in range(0, len(content), size)] if size else messages
    data = b"".join(frame(DATA, 0, 1, part) for part in parts)
    end = frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS)
    return frame(HEADERS, END_HEADERS, 1, RESPONSE) + data + end


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "digits.tocsin"
    quick_bundle(path)
    return path


def odd(kind: str) -> list[bytes]:
    """A stream of 300 messages with something in it that is not like the others."""
    messages = [framed(message(row)) for row in range(300)]
    broken = dict(SAFE.take(slice(7, 8)).items())
    broken["embedding"] = np.full((1, 8), np.nan)
    inserted = {
        "nothing": [],
        "nan": [framed(streamed(inference(type(SAFE)(broken), slice(0, 1))))],
        "compressed": [framed(gzip.compress(message(3)), compressed=True)],
        "garbage": [framed(b"\xff" * 40)],
        "two rows": [framed(streamed(inference(SAFE, slice(0, 2))))],
        "typed": [framed(streamed(inference(SAFE, slice(4, 5), raw=False)))],
        "another model": [framed(streamed(inference(SAFE, slice(4, 5), model="unknown")))],
        "another version": [framed(streamed(inference(SAFE, slice(4, 5)).replace(b"v1", b"v2")))],
        "too large": [framed(bytes(70_000))],
        "empty": [framed(b"")],
    }[kind]
    return messages[:50] + inserted + messages[50:200] + inserted + messages[200:]


@pytest.mark.parametrize("mode", ["observe", "annotate"])
@pytest.mark.parametrize("size", [16_384, 0, 700])
def test_streams_are_judged_as_message_by_message(bundle: Path, mode: str, size: int) -> None:
    for kind in ("nothing", "nan", "garbage", "another version"):
        together, apart = both(bundle, odd(kind), size, mode=mode)
        assert len(together.verdicts.rows) > 290
        assert together.verdicts.calls < len(together.verdicts.rows) / (2 if kind != "nan" else 1)
        same(together, apart)


@pytest.mark.parametrize("kind", ["compressed", "two rows", "typed", "another model", "too large", "empty"])
def test_what_is_not_like_the_others_is_judged_by_itself(bundle: Path, kind: str) -> None:
    together, apart = both(bundle, odd(kind), 16_384, mode="annotate", max_message=65_536)
    assert together.verdicts.calls < len(together.verdicts.rows) / 2
    same(together, apart, in_order=kind != "two rows")  # which are a batch of their own, as they are apart


def test_a_stream_of_nothing_but_alarms_has_a_call_for_each(bundle: Path) -> None:
    messages = [framed(streamed(inference(FAR, slice(0, 1))))] * 100
    together, apart = both(bundle, messages, 0, mode="annotate")
    assert together.verdicts.calls == apart.verdicts.calls == 100
    same(together, apart)


def test_without_a_bundle_every_message_counts() -> None:
    for kind in ("nothing", "compressed", "garbage", "too large"):
        together, apart = both(None, odd(kind), 16_384, mode="annotate", max_message=65_536)
        assert len(together.verdicts.reasons) == len(odd(kind))
        same(together, apart)


def both(bundle: Path | None, messages: list[bytes], size: int, **more: Any) -> tuple[Outcome, Outcome]:
    config = settings(1, bundle, **more)
    return tuple(Outcome(config, said(messages, size), runs=runs) for runs in (True, False))  # type: ignore[return-value]


def same(together: Outcome, apart: Outcome, *, in_order: bool = True) -> None:
    rows = sorted(together.verdicts.rows)
    assert [row[:3] for row in rows] == [row[:3] for row in sorted(apart.verdicts.rows)]
    np.testing.assert_allclose([row[3] for row in rows], [row[3] for row in sorted(apart.verdicts.rows)], rtol=1e-5)
    assert not in_order or together.verdicts.rows == rows
    assert sorted(together.verdicts.reasons) == sorted(apart.verdicts.reasons)
    assert together.figures == apart.figures
    assert together.written == apart.written  # the verdict in the trailers, too


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 300), st.integers(0, 3)), max_size=40),
    st.integers(0, 500),
)
def test_whole_messages_are_what_a_deframer_says(drawn: list[tuple[bool, int, int]], cut: int) -> None:
    content = b"".join(framed(bytes([fill]) * size, compressed=zipped) for zipped, size, fill in drawn)
    content = content[: max(0, len(content) - cut)]
    sizes: list[int] = []
    end = whole_messages(content, 0, 250, sizes)
    assert end == sum(sizes) and len(sizes) <= MOST_TOGETHER
    deframer = MessageDeframer(1 << 20, MemoryBudget(1 << 20).open(lambda: None))
    messages = list(deframer.feed(content))
    usual = next((at for at, m in enumerate(messages) if m.compressed or len(m.content or b"") > 250), len(messages))
    assert sizes == [5 + len(m.content or b"") for m in messages[:usual]]
    stepped = MessageDeframer(1 << 20, MemoryBudget(1 << 20).open(lambda: None))
    at, again = 0, []
    while at < len(content):  # by what is missing, a deframer ends with each message
        piece = content[at : at + (stepped.missing or 5)]
        at += len(piece)
        again += list(stepped.feed(piece))
    assert [(m.compressed, m.content) for m in again] == [(m.compressed, m.content) for m in messages]


@given(st.data())
def test_a_template_fits_no_message_of_another_structure(data: st.DataObject) -> None:
    guard, messages = _guard(), [framed(message(row)) for row in range(6, 20)]
    changed = bytearray(messages[9])
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    messages[9] = bytes(changed)
    runs = MessageRun(_stream(guard))
    runs.add(b"".join(messages), [len(m) for m in messages])
    parts = guard.read_run(runs)
    read = [part for part in parts if isinstance(part, MessageRun)]
    model = guard.models["digits"]
    for part in read:
        assert part.reading is not None
        rows = part.rows_apart()
        for (_, _, raws), piece in zip(rows, part.apart(), strict=True):
            opened = piece.reads.open(piece.response or b"", None)
            assert model.readers.read(piece, [opened])[2] == raws and opened.model == "digits"
            assert opened.version == part.version


def test_hardly_alike_messages_are_not_learnt_for_ever() -> None:
    guard = _guard()
    for number in range(300):
        run = MessageRun(_stream(guard))
        content = framed(streamed(inference(SAFE, slice(0, 1)).replace(b"42", b"%d" % (10 + number % 90))))
        run.add(content, [len(content)])
        guard.read_run(run)
    (templates,) = guard._runs._templates.values()
    assert isinstance(templates, Templates)
    assert sum(map(len, templates._by_size.values())) <= 4 * len(templates._by_size)


_GUARDS: list[Guard] = []


def _guard() -> Guard:
    if not _GUARDS:
        import tempfile

        path = Path(tempfile.mkdtemp()) / "digits.tocsin"
        quick_bundle(path)
        _GUARDS.append(Guard.open(settings(1, path)))
    return _GUARDS[0]


def _stream(guard: Guard) -> Any:
    stream = guard.call(STREAM_INFER, {})
    assert stream is not None and stream.takes_runs
    return stream


def test_what_waits_to_be_judged_is_charged_to_its_connection(bundle: Path) -> None:
    async def remaining() -> tuple[int, int, int]:
        config = settings(1, bundle)
        relay = Relay(config, inline_guard(config))
        relay.context.start()
        connection = relay.connection(unconnected(relay))
        connection.upstream.connection_made(Pipe())  # type: ignore[arg-type]
        connection.downstream.connection_made(Pipe())  # type: ignore[arg-type]
        opening = PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS | END_STREAM, 1, REQUEST)
        connection.downstream.data_received(opening)
        connection.upstream.data_received(frame(SETTINGS, 0, 0))
        before = relay.context.memory.remaining
        content = b"".join(framed(message(row)) for row in range(6, 36))
        connection.upstream.data_received(frame(HEADERS, END_HEADERS, 1, RESPONSE) + frame(DATA, 0, 1, content))
        waiting = before - relay.context.memory.remaining
        for _ in range(1_000):  # turns of the loop: on a busy machine more of them share a batch
            if relay.context.memory.remaining == before:
                break
            await asyncio.sleep(0.002)
        return waiting, before - relay.context.memory.remaining, len(content)

    waiting, afterwards, size = asyncio.run(remaining())
    assert (waiting, afterwards) == (size, 0)
