"""Asking for a signal that a protocol gives on demand, and taking it out of what the caller gets.

A request is only changed when the caller has not asked by itself; what the caller asked for is never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from tocsin.protocols.field_paths import resolve
from tocsin.unscored import Unscored


class Ask(NamedTuple):
    """`unless`: the caller has asked when this field of the request is there, or true. `set`: fields of the request to
    their values, `amount` standing for the number configured. `strip`: fields to clear in responses.
    """

    unless: str
    set: Mapping[str, Any]
    strip: Sequence[str]


class FieldEdit:
    """An `Ask` for one method's messages. Raises ValueError where a path does not fit them."""

    def __init__(self, ask: Ask, request: Any, response: Any, amount: int) -> None:
        self._request, self._response = request, response
        self._unless = resolve(request.DESCRIPTOR, ask.unless)
        self._set = []
        for path, value in ask.set.items():
            resolve(request.DESCRIPTOR, path)
            self._set.append((path.split("."), amount if value == "amount" else value))
        for path in ask.strip:
            resolve(response.DESCRIPTOR, path)
        self._strip = [path.split(".") for path in ask.strip]

    def ask(self, request: bytes) -> bytes | None:
        """The request that asks for the signals too, None when the caller has. Raises Unscored."""
        message = self._parse(self._request, request)
        asked = self._unless.follow(message)
        if asked or (asked is not None and self._unless.field.has_presence):
            return None
        for (*parents, last), value in self._set:
            owner = message
            for name in parents:
                owner = getattr(owner, name)
                owner.SetInParent()
            setattr(owner, last, value)
        return bytes(message.SerializeToString())

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without what was asked for. Raises Unscored."""
        del request
        message = self._parse(self._response, response)
        for *parents, last in self._strip:
            owner = message
            for name in parents:
                if not owner.HasField(name):
                    break
                owner = getattr(owner, name)
            else:
                owner.ClearField(last)
        return bytes(message.SerializeToString())

    def _parse(self, kind: Any, content: bytes) -> Any:
        try:
            return kind.FromString(content)
        except DecodeError as error:
            raise Unscored("undecodable", f"a message is no {kind.DESCRIPTOR.full_name} ({error})") from None
