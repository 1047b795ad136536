"""Calls of every kind and size, and everything that their caller can observe."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc

from benchmarks.harness.parts import INFER, STREAM_INFER
from tocsin.verdict import METADATA_KEY

SIZES = (0, 1, 100, 1_000, 10_000, 16_384, 65_536, 200_000, 1_000_000, 20_000_000)
WEIGHTS = (4, 4, 10, 20, 20, 8, 8, 4, 1, 0.05)
ENOUGH = 2  # messages after which a caller that cancels does so


class Wish(NamedTuple):
    """One call: its kind, what it sends, what it asks for, and whether it is cancelled after `ENOUGH` messages."""

    kind: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, Any], ...]
    gzip: bool
    timeout: float
    cancel: bool


def wished(dice: random.Random) -> Wish:
    """Draw the next call of a caller."""
    kind = dice.choice(("unary", "unary", "infer", "infer", "infer", "down", "up", "both", "stream infer"))
    size = dice.choices(SIZES, WEIGHTS)[0]
    many = dice.randint(0, 6) if kind in ("up", "both", "stream infer") and size < 1_000_000 else 1
    is_scored = kind in ("infer", "stream infer") and dice.random() < 0.8
    fill = dice.randbytes(1) or b"x"
    messages = tuple(b"safe %d" % dice.randrange(40) if is_scored else fill * size for _ in range(many))
    metadata: list[tuple[str, Any]] = [("x-one", "1"), ("x-blob-bin", dice.randbytes(dice.randrange(40)))]
    if dice.random() < 0.15:
        metadata.append(("compress", "gzip"))
    if dice.random() < 0.08:
        metadata.append(("fail", dice.choice(("NOT_FOUND", "DATA_LOSS", "RESOURCE_EXHAUSTED"))))
    late = dice.random() < 0.02
    if late:
        metadata.append(("sleep", "0.6"))
    cancel = kind == "down" and dice.random() < 0.3
    if kind == "down":
        metadata += [("count", str(dice.randint(0, 20)))] + ([("pause", "0.02")] if cancel else [])
    return Wish(kind, messages, tuple(metadata), dice.random() < 0.15, 0.2 if late else 60.0, cancel)


async def observed(channel: grpc.aio.Channel, wish: Wish) -> dict[str, Any]:
    """Everything that a caller observes of a call."""
    method = {"infer": INFER, "stream infer": STREAM_INFER}.get(wish.kind, f"/test.Model/{wish.kind.title()}")
    more: dict[str, Any] = {"metadata": wish.metadata, "timeout": wish.timeout}
    if wish.gzip:
        more["compression"] = grpc.Compression.Gzip
    received: list[bytes] = []
    if wish.kind in ("unary", "infer"):
        call: Any = channel.unary_unary(method)(wish.messages[0], **more)
    elif wish.kind == "up":
        call = channel.stream_unary(method)(_each(wish.messages), **more)
    elif wish.kind == "down":
        call = channel.unary_stream(method)(wish.messages[0], **more)
    else:
        call = channel.stream_stream(method)(_each(wish.messages), **more)
    try:
        if wish.kind in ("unary", "infer", "up"):
            received.append(await call)
        else:
            async for message in call:
                received.append(message)
                if wish.cancel and len(received) == ENOUGH:
                    call.cancel()
    except (grpc.RpcError, asyncio.CancelledError):
        pass
    code = (await call.code()).name
    if wish.timeout < 1 and code != "OK":  # grpcio tells a deadline in several ways, by whose clock ends it, also alone
        return {"code": "late"}
    if code == "DEADLINE_EXCEEDED":  # how far it came is a matter of time
        return {"code": code}
    outcome: dict[str, Any] = {
        "code": code,
        "details": await call.details() or "",
        "messages": _digest(received),
        "initial": sorted(map(str, await call.initial_metadata() or ())),
        "trailing": sorted(str(pair) for pair in await call.trailing_metadata() or () if pair[0] != METADATA_KEY),
    }
    if wish.cancel and len(received) >= ENOUGH:  # all went well so far; what follows races with the cancellation
        return {"code": "OK", "messages": _digest(received[:ENOUGH]), "initial": outcome["initial"]}
    return outcome


def _digest(messages: list[bytes]) -> tuple[int, str]:
    return len(messages), hashlib.sha256(b"|".join(messages)).hexdigest()


async def _each(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
