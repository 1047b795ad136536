"""Messages as bytes, caught where grpcio serialises and deserialises them, so that nothing is encoded twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from tocsin.judgement.call import Call
from tocsin.judgement.policy import DETAILS_KEY, Replacement
from tocsin.verdict import METADATA_KEY

Codec = Callable[[Any], Any] | None


class Sent(NamedTuple):
    """A message on its way to a serializer, with the call it belongs to."""

    message: Any
    call: Call | None


class Received(NamedTuple):
    """A message from a deserializer, with its bytes."""

    message: Any
    content: bytes


def serializing(serializer: Codec) -> Callable[[Sent], bytes]:
    """A serializer of Sent that leaves the bytes with the call."""

    def serialize(sent: Sent) -> bytes:
        content: bytes = serializer(sent.message) if serializer is not None else sent.message
        if sent.call is not None:
            sent.call.asked(content)
        return content

    return serialize


def deserializing(deserializer: Codec) -> Callable[[bytes], Received]:
    """A deserializer that keeps the bytes beside the message."""

    def deserialize(content: bytes) -> Received:
        return Received(deserializer(content) if deserializer is not None else content, content)

    return deserialize


def text_metadata(metadata: Iterable[tuple[str, Any]] | None) -> Mapping[str, str]:
    """The text entries of metadata, the last of a repeated key."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def with_verdict(
    metadata: Iterable[tuple[str, Any]] | None, call: Call, instead: Replacement | None = None
) -> list[tuple[str, Any]]:
    """Trailing metadata with the call's verdict added; of a response that something took the place of, none but that
    and the status' details.
    """
    entries = list(metadata or ()) if instead is None else []
    if instead is not None and instead.details:
        entries.append((DETAILS_KEY, instead.details))
    if call.verdict is not None:
        entries.append((METADATA_KEY, call.verdict.to_metadata()))
    return entries
