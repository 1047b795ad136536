"""Encodes ProcessingResponse of envoy.service.ext_proc.v3: what Envoy is to do with a message that it sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from tocsin.ext_proc.requests import (
    REQUEST_BODY,
    REQUEST_HEADERS,
    REQUEST_TRAILERS,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
)
from tocsin.protocols.layouts import encoded_varint

_IMMEDIATE: Final = 7
_DYNAMIC_METADATA: Final = 8
_OVERWRITE_OR_ADD: Final = b"\x18\x02"  # HeaderValueOption.append_action
_NO_NEWLINES: Final = str.maketrans({"\r": " ", "\n": " ", "\0": " "})

# An empty reply lets pass what it answers, as it is.
CONTINUE: Final = {
    REQUEST_HEADERS: b"\x0a\0",
    RESPONSE_HEADERS: b"\x12\0",
    REQUEST_BODY: b"\x1a\0",
    RESPONSE_BODY: b"\x22\0",
    REQUEST_TRAILERS: b"\x2a\0",
    RESPONSE_TRAILERS: b"\x32\0",
}
_TAGS: Final = {kind: reply[:1] for kind, reply in CONTINUE.items()}


def changed_headers(kind: int, setting: Iterable[tuple[str, str]] = (), removing: Iterable[str] = ()) -> bytes:
    """The reply to headers: set these fields, and remove those."""
    mutation = header_mutation(setting, removing)
    return _field(_TAGS[kind], _field(b"\x0a", _field(b"\x12", mutation))) if mutation else CONTINUE[kind]


def changed_trailers(kind: int, setting: Iterable[tuple[str, str]] = (), removing: Iterable[str] = ()) -> bytes:
    """The reply to trailers: set these fields, and remove those."""
    mutation = header_mutation(setting, removing)
    return _field(_TAGS[kind], _field(b"\x0a", mutation)) if mutation else CONTINUE[kind]


def replaced_body(
    kind: int, body: bytes, setting: Iterable[tuple[str, str]] = (), removing: Iterable[str] = ()
) -> bytes:
    """The reply to a buffered body, or to a piece of one: use `body` instead, and change the headers."""
    content = _field(b"\x0a", body) if body else b"\x10\x01"  # clear_body
    return _body(kind, header_mutation(setting, removing), content)


def body_with_headers(kind: int, setting: Iterable[tuple[str, str]] = (), removing: Iterable[str] = ()) -> bytes:
    """The reply to a buffered body: let it pass, and change the headers."""
    return _body(kind, header_mutation(setting, removing), b"")


def streamed_body(kind: int, body: bytes, *, end: bool) -> bytes:
    """A piece of the body that goes on under FULL_DUPLEX_STREAMED. `end`: it is the last of its direction."""
    streamed = (_field(b"\x0a", body) if body else b"") + (b"\x10\x01" if end else b"")
    return _body(kind, b"", _field(b"\x1a", streamed))


def immediate(
    status: int,
    body: bytes = b"",
    *,
    grpc_status: int | None = None,
    setting: Iterable[tuple[str, str]] = (),
    details: str = "",
) -> bytes:
    """A response made by Tocsin in place of the upstream's. With `grpc_status`, `body` is the status message."""
    content = _field(b"\x0a", b"\x08" + encoded_varint(status))
    if mutation := header_mutation(setting):
        content += _field(b"\x12", mutation)
    if body:
        content += _field(b"\x1a", body)
    if grpc_status is not None:
        content += _field(b"\x22", b"\x08" + encoded_varint(grpc_status) if grpc_status else b"")
    if details:
        content += _field(b"\x2a", details.encode())
    return _field(bytes((_IMMEDIATE << 3 | 2,)), content)


def with_metadata(reply: bytes, namespace: str, values: Mapping[str, str]) -> bytes:
    """The reply with dynamic metadata added: strings under a namespace."""
    struct = b"".join([_entry(name, _field(b"\x1a", value.encode())) for name, value in values.items()])
    content = _entry(namespace, _field(b"\x2a", struct))
    return reply + _field(bytes((_DYNAMIC_METADATA << 3 | 2,)), content)


def header_mutation(setting: Iterable[tuple[str, str]], removing: Iterable[str] = ()) -> bytes:
    """A HeaderMutation. Values are sent as `raw_value`, because Envoy clears those sent as `value`, and without
    newlines, because Envoy fails the exchange for one.
    """
    parts = []
    for name, value in setting:
        if not value.isprintable():
            value = value.translate(_NO_NEWLINES)
        header = _field(b"\x0a", name.encode("latin-1")) + _field(b"\x1a", value.encode("latin-1", "replace"))
        parts.append(_field(b"\x0a", _field(b"\x0a", header) + _OVERWRITE_OR_ADD))
    parts += [_field(b"\x12", name.encode("latin-1")) for name in removing]
    return b"".join(parts)


def _body(kind: int, mutation: bytes, content: bytes) -> bytes:
    common = (_field(b"\x12", mutation) if mutation else b"") + (_field(b"\x1a", content) if content else b"")
    return _field(_TAGS[kind], _field(b"\x0a", common)) if common else CONTINUE[kind]


def _entry(name: str, value: bytes) -> bytes:
    """An entry of Struct.fields; `value` is an encoded Value."""
    return _field(b"\x0a", _field(b"\x0a", name.encode()) + _field(b"\x12", value))


def _field(tag: bytes, content: bytes) -> bytes:
    """A field of bytes with its tag and length."""
    return tag + encoded_varint(len(content)) + content
