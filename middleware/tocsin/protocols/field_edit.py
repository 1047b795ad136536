"""Changes requests to ask for an optional signal, and removes that signal from what the caller receives.

A request is changed only when the caller has not asked for the signal. What the caller asked for is never removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from tocsin.protocols.field_paths import FieldPath, resolve
from tocsin.protocols.layouts import Layout, Layouts, varint
from tocsin.unscored import Unscored


class RequestedFields(NamedTuple):
    """`unless`: the caller has asked when this field of the request is present, or true. `set`: values for fields of
    the request, with `amount` for the configured number. `strip`: fields to clear in responses; a mapping from such a
    field to a request field clears it unless the caller has set that request field.
    """

    unless: str
    set: Mapping[str, Any]
    strip: Sequence[str | Mapping[str, str]]


Part = bytes | tuple[int, int]  # of a message without some fields: bytes, or from where to where they stand in it
_UNTRIED: Final[Any] = object()


class FieldEdit:
    """The `RequestedFields` of one method's messages. Responses whose structure is among `layouts` are cut without
    parsing.

    Raises ValueError where a path does not fit the messages.
    """

    def __init__(self, ask: RequestedFields, request: Any, response: Any, amount: int, layouts: Layouts) -> None:
        self._request, self._response, self._layouts = request, response, layouts
        self._strip_plans: dict[Layout, list[Part] | None] = {}  # None: have to be parsed
        self._plans_by_wanted: dict[int, dict[Layout, list[Part] | None]] = {0: self._strip_plans}
        self._unless = _resolved("unless", request, ask.unless)
        self._set = []
        for path, value in ask.set.items():
            _resolved("set", request, path)
            self._set.append((path.split("."), amount if value == "amount" else value))
        # Fields to clear, each with what tells that the caller has asked for it, None where nothing does.
        self._strip: list[tuple[list[str], FieldPath | None]] = []
        for entry in ask.strip:
            for path, flag in (entry if isinstance(entry, Mapping) else {entry: ""}).items():
                _resolved("strip", response, path)
                self._strip.append((path.split("."), _resolved("strip", request, flag) if flag else None))
        self._flagged = any(flag is not None for _, flag in self._strip)

    def try_out(self) -> None:
        """Raises ValueError where the fields cannot be set or cleared as configured."""
        for path, value in self._set:
            try:
                _assign(self._request(), path, value)
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"ask.set: '{'.'.join(path)}' cannot be {value!r}") from None
        try:
            self._parsed(b"", self._wanted(b""))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"ask.strip: {error}") from None

    def ask(self, request: bytes) -> bytes | None:
        """The request with the signals asked for, None when the caller has asked already. Raises Unscored."""
        message = self._parse(self._request, request)
        is_set = self._unless.follow(message)
        if is_set or (is_set is not None and self._unless.field.has_presence):
            return None
        for path, value in self._set:
            _assign(message, path, value)
        return bytes(message.SerializeToString())

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without what Tocsin asked for. Raises Unscored."""
        wanted = self._wanted(request)
        layout = self._layouts.of(response)
        if layout is not None:
            plans = self._plans_by_wanted.setdefault(wanted, {})
            plan = plans.get(layout, _UNTRIED)
            if plan is _UNTRIED:
                plan = plans[layout] = self._learnt(layout.like, wanted)
            if plan is not None:
                return _joined(plan, response)
        return self._parsed(response, wanted)

    def _wanted(self, request: bytes) -> int:
        """Which of the fields to clear the caller has asked for, one bit for each."""
        if not self._flagged:
            return 0
        message = self._parse(self._request, request)
        bits = 0
        for at, (_, flag) in enumerate(self._strip):
            if flag is not None and flag.follow(message):
                bits |= 1 << at
        return bits

    def _cleared(self, wanted: int) -> list[list[str]]:
        """The fields to clear, for those bits."""
        return [path for at, (path, _) in enumerate(self._strip) if not wanted >> at & 1]

    def _parsed(self, response: bytes, wanted: int = 0) -> bytes:
        """The same by parsing it. Raises Unscored."""
        message = self._parse(self._response, response)
        for *parents, last in self._cleared(wanted):
            owner = message
            for name in parents:
                if not owner.HasField(name):
                    break
                owner = getattr(owner, name)
            else:
                owner.ClearField(last)
        return bytes(message.SerializeToString())

    def _learnt(self, like: bytes, wanted: int) -> list[Part] | None:
        """The parts that are left of messages like this one; None where cutting and parsing differ."""
        plan = _without(like, 0, len(like), self._response.DESCRIPTOR, self._cleared(wanted))
        parsed = self._parse(self._response, self._parsed(like, wanted))
        same = self._parse(self._response, _joined(plan, like)) == parsed
        return plan if same else None

    def _parse(self, kind: Any, content: bytes) -> Any:
        try:
            return kind.FromString(content)
        except DecodeError as error:
            raise Unscored("undecodable", f"a message is no {kind.DESCRIPTOR.full_name} ({error})") from None


def _resolved(setting: str, kind: Any, path: str) -> FieldPath:
    try:
        return resolve(kind.DESCRIPTOR, path)
    except ValueError as error:
        raise ValueError(f"ask.{setting}: {error}") from None


def _assign(message: Any, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        message = getattr(message, name)
        message.SetInParent()
    setattr(message, last, value)


def _joined(parts: Sequence[Part], content: bytes) -> bytes:
    return b"".join([part if isinstance(part, bytes) else content[part[0] : part[1]] for part in parts])


def _without(raw: bytes, at: int, end: int, kind: Descriptor, strip: Sequence[Sequence[str]]) -> list[Part]:
    """The parts of a message without the fields at these paths. Enclosing fields get their new lengths."""
    parts: list[Part] = []
    while at < end:
        start = at
        tag, at = varint(raw, at)
        field, wire = kind.fields_by_number.get(tag >> 3), tag & 7
        name, began = "" if field is None else field.name, at
        if wire == 0:
            _, at = varint(raw, at)
        elif wire == 2:
            length, began = varint(raw, at)
            at = began + length
        else:
            at += 8 if wire == 1 else 4
        inner = [path[1:] for path in strip if path[0] == name]
        if not all(inner):
            continue
        if not inner:
            parts.append((start, at))
            continue
        assert field is not None
        within = _without(raw, began, at, field.message_type, inner)
        size = sum(len(part) if isinstance(part, bytes) else part[1] - part[0] for part in within)
        parts += [_number(tag) + _number(size), *within]
    return parts


def _number(value: int) -> bytes:
    """A varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
