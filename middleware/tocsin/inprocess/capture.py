"""Messages beside their bytes, caught where grpcio serialises and deserialises them: nothing is encoded twice, and
everybody else (other interceptors, the program) sees the program's own messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tocsin.judgement.call import Call
from tocsin.judgement.policy import DETAILS_KEY, Replacement
from tocsin.protocols.metadata import joined_values
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY

Codec = Callable[[Any], Any] | None


STATUS_SIZE = 1_024  # bytes of a header list that are left for the status and its message


class Capture:
    """Codecs of one call, or of one try, that remember which message is which bytes.

    `serialize` and `deserialize` take the place of the program's own; a `call` is told what is sent.
    """

    def __init__(self, serializer: Codec, deserializer: Codec, call: Call | None = None) -> None:
        self._serializer = serializer
        self._deserializer = deserializer
        self._call = call
        self._pairs: deque[tuple[Any, bytes]] = deque()

    def serialize(self, message: Any) -> bytes:
        """The bytes of a message that is sent."""
        content: bytes = self._serializer(message) if self._serializer is not None else message
        if self._call is not None:
            self._call.on_request_message(content)
        return content

    def deserialize(self, content: bytes) -> Any:
        """The message of bytes that were received."""
        message = self._deserializer(content) if self._deserializer is not None else content
        self.remember(message, content)
        return message

    def remember(self, message: Any, content: bytes) -> None:
        """That this message is these bytes."""
        self._pairs.append((message, content))

    def content_of(self, message: Any) -> bytes | None:
        """The bytes of a message, once; those before it are forgotten. Somebody in between may have made it himself:
        then it is encoded, where it is protobuf or bytes, else None.
        """
        content = self.recall(message)
        return content if content is not None else encoded(message)

    def recall(self, message: Any) -> bytes | None:
        """The bytes of a message that was remembered, None of another."""
        for place, (remembered, content) in enumerate(self._pairs):
            if remembered is message:
                for _ in range(place + 1):
                    self._pairs.popleft()
                return content
        return None


def encoded(message: Any) -> bytes | None:
    """A message's bytes, where it tells them by itself."""
    if isinstance(message, bytes):
        return message
    serialize = getattr(message, "SerializeToString", None)
    return None if serialize is None else bytes(serialize())


def text_metadata(metadata: Iterable[tuple[str, Any]] | None, scores: Sequence[str] = ()) -> Mapping[str, str]:
    """The text entries of metadata, the last of a repeated key; of a key that holds a `scores`, all values together."""
    entries = list(metadata or ())
    last = {key: value for key, value in entries if isinstance(value, str)}
    return {**last, **joined_values(entries, scores)} if scores else last


def with_verdict(
    metadata: Iterable[tuple[str, Any]] | None,
    call: Call,
    instead: Replacement | None = None,
    *,
    limit: int | None = None,
) -> list[tuple[str, Any]]:
    """Trailing metadata with the call's verdict, and nobody else's; of a response that something took the place of,
    none but that and the status' details. Where it is sent, the verdict is shortened or left out for what would be more
    than `limit` bytes of a header list.
    """
    entries = without_verdicts(metadata) if instead is None else []
    if instead is not None and instead.details:
        entries.append((DETAILS_KEY, instead.details))
    if call.verdict is None:
        return entries
    text: str | None = call.verdict.to_metadata()
    if limit is not None:
        size = sum(len(key) + len(value) + FIELD_OVERHEAD for key, value in [*entries, (METADATA_KEY, "")])
        text = call.verdict.shortened(limit - size - STATUS_SIZE)
    return entries if text is None else [*entries, (METADATA_KEY, text)]


def without_verdicts(metadata: Iterable[tuple[str, Any]] | None) -> list[tuple[str, Any]]:
    """Metadata without verdicts that somebody else wrote."""
    return [(key, value) for key, value in metadata or () if key != METADATA_KEY]


def verdicts_in(metadata: Iterable[tuple[str, Any]] | None) -> list[str]:
    """The verdicts in metadata, as text."""
    return [value for key, value in metadata or () if key == METADATA_KEY and isinstance(value, str)]
