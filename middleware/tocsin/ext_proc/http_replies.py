"""What Envoy is told of a response of HTTP: its headers, its body whole or in pieces, and what takes its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tocsin.exchange.replies import Reply
from tocsin.exchange.treatment import BODY_DEPENDENT_FIELDS
from tocsin.ext_proc import replies
from tocsin.ext_proc.requests import RESPONSE_BODY, RESPONSE_HEADERS
from tocsin.verdict import METADATA_KEY

LARGEST_PIECE: Final = 1 << 20  # bytes of a body that are sent in one message

# What Envoy writes itself.
HOP_BY_HOP_FIELDS: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "date", "server"})
_NOT_OF_ANOTHER: Final = HOP_BY_HOP_FIELDS | BODY_DEPENDENT_FIELDS | {METADATA_KEY}

Setting = list[tuple[str, str]]


def head_reply(names: list[str], verdict: Setting, *, is_rewritten: bool) -> bytes:
    """The reply to headers of these names. A body that `is_rewritten` gets other bytes than they tell of."""
    removing = [METADATA_KEY] if METADATA_KEY in names and not verdict else []
    if is_rewritten:
        removing += [name for name in names if name in BODY_DEPENDENT_FIELDS]
    return replies.changed_headers(RESPONSE_HEADERS, verdict, removing)


def body_replies(content: bytes, *, end: bool) -> Iterator[bytes]:
    """A part of a streamed body, in pieces: each is copied several times on its way."""
    last = max(0, len(content) - 1) // LARGEST_PIECE * LARGEST_PIECE
    for at in range(0, last, LARGEST_PIECE):
        yield replies.streamed_body(RESPONSE_BODY, content[at : at + LARGEST_PIECE], end=False)
    yield replies.streamed_body(RESPONSE_BODY, content[last:], end=end)


def buffered_reply(content: bytes, came: bytes, names: list[str], verdict: Setting) -> bytes:
    """The reply to a whole body, which `came` with headers of these names and goes on as `content`."""
    if content == came:
        return replies.body_with_headers(RESPONSE_BODY, verdict)
    removing = [name for name in names if name in BODY_DEPENDENT_FIELDS and name != "content-length"]
    setting = [*verdict, ("content-length", str(len(content)))]
    return replies.replaced_body(RESPONSE_BODY, content, setting, removing)


def immediate_reply(sent: Reply, verdict: Setting) -> bytes:
    """The reply by which Envoy sends another response, of which nothing has left yet."""
    fields = [field for field in sent.headers if field[0] not in _NOT_OF_ANOTHER]
    return replies.immediate(sent.status, sent.body, setting=[*fields, *verdict])
