"""Reading the verdict of a call, whoever wrote it: a relay, a server, or the guarded channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tocsin.verdict import METADATA_KEY, Verdict

EXTENSION = "tocsin"  # of a guarded transport's response: its call, which has the verdict


def verdict(call: Any) -> Any:
    """The Verdict in a finished call's trailing metadata, or None when nobody judged it. Of several, the last: that of
    whoever is nearest.

    `call` is a grpc call, future or RpcError, a grpc.aio call or AioRpcError, or trailing metadata itself; or a
    response of httpx, whose verdict is there once its body was read. Trailing metadata of grpc.aio calls must be
    awaited, and so must their verdict; that of an AioRpcError is there already:

        response = await call
        verdict = await tocsin.verdict(call)

    Raises ValueError where the metadata holds something else under the verdict's key.

        >>> verdict([("content-type", "application/grpc")]) is None  # metadata that nobody wrote a verdict into
        True
    """
    if hasattr(call, "trailing_metadata"):
        metadata = call.trailing_metadata()
        if hasattr(metadata, "__await__"):
            return _awaited(metadata)
        return _read(metadata)
    if hasattr(call, "headers"):
        return _of_response(call)
    return _read(call)


def _of_response(response: Any) -> Verdict | None:
    """Of a guarded transport's response what it says, of others what the server wrote."""
    guarded = getattr(response, "extensions", {}).get(EXTENSION)
    if guarded is not None:
        verdict: Verdict | None = guarded.verdict
        return verdict
    text = response.headers.get(METADATA_KEY)
    return None if text is None else Verdict.from_metadata(text)


async def _awaited(metadata: Any) -> Verdict | None:
    return _read(await metadata)


def _read(metadata: Iterable[tuple[str, Any]] | None) -> Verdict | None:
    values = [value for key, value in metadata or () if key == METADATA_KEY]
    return Verdict.from_metadata(values[-1]) if values else None
