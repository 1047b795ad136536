"""Pairs each message with its bytes where grpcio serialises or deserialises it. Nothing is encoded twice, and other
interceptors and the program see the program's own messages.
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
Received = Callable[[Any], tuple[Any, bytes | None]]  # of what a callable gives: the program's message, and its bytes

STATUS_SIZE = 1_024  # bytes of a header list that are left for the status and its message


class Capture:
    """Codecs of one call, or of one try, that remember the bytes of each message.

    `serialize` and `deserialize` wrap the program's own; `call` receives what is sent.
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
        """Remember the bytes of a message."""
        self._pairs.append((message, content))

    def content_of(self, message: Any) -> bytes | None:
        """The bytes of a message, once; those of earlier messages are forgotten. A message that another interceptor
        made is encoded where it is protobuf or bytes; otherwise None.
        """
        content = self.recall(message)
        return content if content is not None else encoded(message)

    def received(self, message: Any) -> tuple[Any, bytes | None]:
        """A message that has come out of the channel, and its bytes as `content_of` has them."""
        return message, self.content_of(message)

    def recall(self, message: Any) -> bytes | None:
        """The bytes of a message that was remembered, None for another message."""
        for place, (remembered, content) in enumerate(self._pairs):
            if remembered is message:
                for _ in range(place + 1):
                    self._pairs.popleft()
                return content
        return None


class Paired:
    """Codecs that all calls of a method share where nothing stands between Tocsin and grpcio: a request is given with
    its call, as a pair, and a response comes with its bytes. What a program's codec raises, grpcio sees as ever, and
    where None instead of a message fails a call (`none_fails`), it sees None too.
    """

    def __init__(self, serializer: Codec, deserializer: Codec, *, none_fails: bool) -> None:
        self._serializer = serializer
        self._deserializer = deserializer
        self._none_fails = none_fails

    def serialize(self, sent: tuple[Any, Call]) -> bytes:
        """The bytes of a request, of which its call takes note."""
        message, call = sent
        content: bytes = message if self._serializer is None else self._serializer(message)
        call.on_request_message(content)
        return content

    def deserialize(self, content: bytes) -> tuple[Any, bytes] | None:
        """The message of bytes that were received, and these."""
        message = content if self._deserializer is None else self._deserializer(content)
        return None if message is None and self._none_fails else (message, content)


def of_pair(pair: tuple[Any, bytes] | None) -> tuple[Any, bytes | None]:
    """What came out of paired codecs; nothing where grpc.aio has logged what the program's own raised."""
    return (None, None) if pair is None else pair


def encoded(message: Any) -> bytes | None:
    """The bytes of a message that can encode itself."""
    if isinstance(message, bytes):
        return message
    serialize = getattr(message, "SerializeToString", None)
    return None if serialize is None else bytes(serialize())


def text_metadata(metadata: Iterable[tuple[str, Any]] | None, scores: Sequence[str] = ()) -> Mapping[str, str]:
    """The text entries of metadata. Of a repeated key the last value counts; of a key in `scores`, all, joined."""
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
    """Trailing metadata with this call's verdict and no other. Where the response was replaced, only the verdict and
    the status details remain. The verdict is shortened or left out where the list would exceed `limit` bytes.
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
    """Metadata without verdicts that another party wrote."""
    return [(key, value) for key, value in metadata or () if key != METADATA_KEY]


def verdicts_in(metadata: Iterable[tuple[str, Any]] | None) -> list[str]:
    """The verdicts in metadata, as text."""
    return [value for key, value in metadata or () if key == METADATA_KEY and isinstance(value, str)]
