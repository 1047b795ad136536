"""JSON documents in parts: members and elements as their bytes, so that what is not changed keeps its encoding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.protocols.http.document import BOM
from tocsin.protocols.http.single_members import error_kind
from tocsin.unscored import Unscored

_MEMBERS: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ELEMENTS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])

encoded = msgspec.json.encode


class JsonMessage(bytes):
    """A document as it came, with its decoded values, and the number of its answer once that is known."""

    document: Any
    number: int | None = None


def members_of(content: bytes, side: str) -> dict[str, bytes]:
    """The members of an object, each as its bytes. Of two with one name, the last counts. Raises Unscored
    `undecodable`.
    """
    members: dict[str, msgspec.Raw] = _decoded(_MEMBERS, content, side)
    return {name: bytes(value) for name, value in members.items()}


def elements_of(content: bytes, side: str) -> list[bytes]:
    """The elements of an array, each as its bytes. Raises Unscored `undecodable`."""
    elements: list[msgspec.Raw] = _decoded(_ELEMENTS, content, side)
    return [bytes(element) for element in elements]


def object_of(members: Mapping[str, bytes]) -> bytes:
    """An object of these members."""
    return b"{" + b",".join([encoded(name) + b":" + value for name, value in members.items()]) + b"}"


def _decoded(decoder: Any, content: bytes, side: str) -> Any:
    try:
        return decoder.decode(content.removeprefix(BOM))
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise Unscored("undecodable", f"the {side} cannot be read: {error_kind(error)}") from None
