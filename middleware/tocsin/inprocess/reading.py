"""Reading the verdict of a call, whoever wrote it: a relay, a server, or the guarded channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tocsin.verdict import METADATA_KEY, Verdict


def verdict(call: Any) -> Any:
    """The Verdict in a finished call's trailing metadata, or None when nobody judged it.

    `call` is a grpc call, future or RpcError, whose verdict is returned; a grpc.aio call or AioRpcError; or trailing
    metadata itself. Where trailing metadata must be awaited (grpc.aio calls), so must the verdict.

        verdict = await tocsin.verdict(call)
    """
    if hasattr(call, "trailing_metadata"):
        found = call.trailing_metadata()
        if hasattr(found, "__await__"):
            return _awaited(found)
        return _read(found)
    return _read(call)


async def _awaited(metadata: Any) -> Verdict | None:
    return _read(await metadata)


def _read(metadata: Iterable[tuple[str, Any]] | None) -> Verdict | None:
    for key, value in metadata or ():
        if key == METADATA_KEY:
            return Verdict.from_metadata(value)
    return None
