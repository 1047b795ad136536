"""Protobuf messages in place of others, with some of their fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError


def filled_message(answer: Any, withheld: bytes | None, keep: Sequence[str], body: Callable[[Any], Any]) -> bytes:
    """A response message, encoded, with the fields that it copies from the withheld one. `body` is the part of a
    message that has them.
    """
    if keep and withheld is not None:
        result = type(answer)()
        try:
            other = body(type(answer).FromString(withheld))
        except DecodeError:
            return bytes(answer.SerializeToString())
        for field in keep:
            part = type(other)()
            part.CopyFrom(other)
            for described in type(other).DESCRIPTOR.fields:
                if described.name != field:
                    part.ClearField(described.name)
            part.DiscardUnknownFields()
            body(result).MergeFrom(part)
        result.MergeFrom(answer)
        answer = result
    return bytes(answer.SerializeToString())


def require_fields(message: Any, fields: Sequence[str]) -> None:
    """Raises ValueError where a message has no such field."""
    present = message.DESCRIPTOR.fields_by_name
    for field in fields:
        if field not in present:
            raise ValueError(f"there is no field '{field}' (there are: {', '.join(present)})")
