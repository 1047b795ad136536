"""Calls over HTTP/1.1, to a model server itself and through a relay, and callers of HTTP that misbehave."""

from __future__ import annotations

import random
import re
import socket
import time
from contextlib import suppress
from typing import Any, NamedTuple

import httpx

from benchmarks.harness.chat import CHAT
from tocsin.verdict import METADATA_KEY

BODY = b'{"model":"m","messages":[{"role":"user","content":"safe"}]}'
HEAD = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(BODY)
_VERDICT = re.compile(rb"(?:: |event: )" + METADATA_KEY.encode() + rb"[^\n]*\n(?:data: [^\n]*\n)?\n")
_OF_THE_WAY = frozenset(
    {METADATA_KEY, "transfer-encoding", "content-length", "trailer", "connection"}
    | {"server", "date", "x-envoy-upstream-service-time"}  # which Envoy writes
)


class HttpWish(NamedTuple):
    """One call: the answer that it asks for, whether its request comes in chunks, and whether it is left half read."""

    kind: str
    in_chunks: bool
    leaves: bool


def wished(dice: random.Random) -> HttpWish:
    """Draw the next call of a caller."""
    kind = dice.choice(("", "", "short-events", "short-events", "unguarded"))
    return HttpWish(kind, dice.random() < 0.2, kind == "short-events" and dice.random() < 0.1)


async def observed(client: httpx.AsyncClient, wish: HttpWish) -> dict[str, Any]:
    """Everything that a caller observes of a call, verdicts and the framing of the way apart."""

    async def parts() -> Any:
        yield BODY[:20]
        yield BODY[20:]

    path = "/v1/files" if wish.kind == "unguarded" else CHAT
    headers = {"content-type": "application/json", "x-answer": wish.kind}
    content = parts() if wish.in_chunks else BODY
    try:
        async with client.stream("POST", path, headers=headers, content=content) as response:
            code = "OK" if response.status_code == 200 else str(response.status_code)
            if wish.leaves:
                return {"code": code}
            body = await response.aread()
    except httpx.HTTPError as error:
        return {"code": type(error).__name__}
    fields = sorted((name, value) for name, value in response.headers.items() if name not in _OF_THE_WAY)
    return {"code": code, "fields": fields, "body": _VERDICT.sub(b"", body)}


WAYS = ("half a head", "half a body", "reads nothing", "pipelines", "no request")


def misbehave(target: str, how: str, seconds: float) -> None:
    """Be a caller that breaks rules, for so many seconds."""
    host, _, port = target.rpartition(":")
    question = HEAD + LENGTH + BODY
    first = {
        "half a head": HEAD,
        "half a body": HEAD + LENGTH + BODY[:9],
        "reads nothing": HEAD + b"x-answer: events\r\n" + LENGTH + BODY,
        "pipelines": question * 50,
        "no request": b"\0" * 100,
    }[how]
    with suppress(OSError), socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        caller.settimeout(5)
        caller.connect((host, int(port)))
        caller.sendall(first)
        time.sleep(seconds)
