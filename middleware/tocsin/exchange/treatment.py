"""What is done to a response of HTTP, and the parts in which it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from tocsin.judgement.call import Fault
from tocsin.verdict import METADATA_KEY

Headers = Iterable[tuple[str, str]]
Message = tuple[bytes | None, Fault | None]  # a message, or the reason why it cannot be judged

# Of a body that goes on as other bytes these would not be true any more.
BODY_DEPENDENT_FIELDS: Final = frozenset(
    {"content-length", "content-encoding", "etag", "content-md5", "digest", "content-digest", "repr-digest"}
)
EVENTS: Final = "text/event-stream"
LINES: Final = "lines"
DOCUMENT: Final = "document"
_LINES_TYPES: Final = frozenset(
    {"application/x-ndjson", "application/ndjson", "application/jsonl", "application/json-lines"}
)


class Segment:
    """A part of a response. `raw` are its bytes as the caller gets them, `messages` the messages in it that are judged,
    or the reason why they cannot be. `is_done`: the response says that nothing follows, so that everything is judged
    before this part goes on.
    """

    __slots__ = ("is_done", "messages", "raw")

    def __init__(self, raw: bytes, messages: Sequence[Message] = (), is_done: bool = False) -> None:
        self.raw, self.messages, self.is_done = raw, messages, is_done


class ResponseTreatment:
    """What will be done to a response. `is_judged`: it is read; otherwise it passes unchanged. `kind`: EVENTS, LINES or
    DOCUMENT. `rewrites`: the body goes on as other bytes, so that the headers `BODY_DEPENDENT_FIELDS` must be dropped.
    """

    __slots__ = ("is_judged", "kind", "rewrites")

    def __init__(self, is_judged: bool, kind: str = DOCUMENT, rewrites: bool = False) -> None:
        self.is_judged, self.kind, self.rewrites = is_judged, kind, rewrites


UNJUDGED: Final = ResponseTreatment(False)


class ContentType(NamedTuple):
    """What a Content-Type says: the type, how a response of it is read ("" where it cannot be), and the charset."""

    name: str
    kind: str
    charset: str

    def fault(self, kind: str, *, streams: bool) -> Fault | None:
        """Why a response that is read as `kind` cannot be; `streams`: the route's responses may be streamed."""
        name, _, charset = self
        if not kind:
            return "content_type", f"the response is '{name}', which is no JSON and no stream of it"
        if kind != DOCUMENT and not streams:
            return "content_type", f"the response is a stream ({name}), and the route has no `streams: true`"
        if charset not in ("", "utf-8", "utf8", "us-ascii"):
            return "content_type", f"the response is written in {charset}, and JSON in UTF-8"
        return None


@lru_cache(maxsize=64)
def read_content_type(text: str) -> ContentType:
    """Read the value of a Content-Type."""
    name, _, parameters = text.lower().partition(";")
    charset = parameters.partition("charset=")[2].partition(";")[0].strip().strip('"')
    return ContentType(name.strip(), kind_of(name.strip()), charset)


def kind_of(content_type: str) -> str:
    """How a response of that type is read, "" where it cannot be."""
    if content_type == EVENTS:
        return EVENTS
    if content_type in _LINES_TYPES:
        return LINES
    is_json = content_type in ("application/json", "text/json") or content_type.endswith("+json")
    return DOCUMENT if is_json else ""


def without_verdict(headers: Headers) -> list[tuple[str, str]]:
    """Header fields without a verdict that another party wrote."""
    return [(name, value) for name, value in headers if name.lower() != METADATA_KEY]


def until_done(segments: Sequence[Segment]) -> bytes:
    """The bytes of segments up to the one that ends the response."""
    parts = []
    for segment in segments:
        if segment.is_done:
            break
        parts.append(segment.raw)
    return b"".join(parts)
