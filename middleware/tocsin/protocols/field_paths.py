"""Values at a path of fields in a protobuf message. Paths are resolved against the descriptor once, and followed in
each message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from tocsin.protocols.paths import Step, steps
from tocsin.unscored import Unscored

AXIS, ROWS = "", "*"  # what brackets take: an axis of values, or responses of their own

_NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64, FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT,
    FieldDescriptor.CPPTYPE_BOOL, FieldDescriptor.CPPTYPE_ENUM,
}  # fmt: skip

Follow = Callable[[Any], Any]


class FieldPath(NamedTuple):
    """A resolved path. `follow` gives a message's value, None where it is missing; values along axes are lists.

    `field` is the last field. `repeated`: the path does not distinguish its several values. `by_rows`: the outermost
    axis counts responses. `straight`: the path consists of fields alone, so that `follow` gives all values of the last
    field, none where an enclosing message is missing.
    """

    follow: Follow
    field: FieldDescriptor
    repeated: bool
    by_rows: bool
    straight: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return self.field.cpp_type in _NUMBERS

    @property
    def message_type(self) -> str:
        """The full name of the values' message type, "" where they are not messages."""
        return self.field.message_type.full_name if self.field.message_type is not None else ""


def resolve(root: Descriptor, path: str) -> FieldPath:
    """Resolve a path in messages of a type. Raises ValueError, naming the missing field and those that exist."""
    return _resolve(root, steps(path), path)


def text_at(kind: Any, path: str) -> Callable[[bytes], str]:
    """A function that reads a field of encoded messages as text, "" where it is missing."""
    resolved = resolve(kind.DESCRIPTOR, path)
    if resolved.repeated or resolved.message_type or resolved.by_rows:
        raise ValueError(f"'{path}' is not one value")

    def text(content: bytes) -> str:
        try:
            value = resolved.follow(kind.FromString(content))
        except (DecodeError, Unscored):
            return ""
        if isinstance(value, bytes):
            return value.hex()
        return "" if value is None or isinstance(value, list) else str(value)

    return text


def _resolve(root: Descriptor, wanted: Sequence[Step], path: str) -> FieldPath:
    """Follow a path's steps through the descriptors of messages. Raises ValueError where it leads nowhere."""
    parts: list[Follow] = []
    owner: Descriptor | None = root
    field: FieldDescriptor | None = None
    repeated = by_rows = False
    plain: list[str] = []  # fields one in the other, nothing taken of them
    at = 0
    while at < len(wanted):
        step = wanted[at]
        at += 1
        if owner is None:
            raise ValueError(f"'{path}': '{step.field}' is asked of a field that holds no message")
        field = owner.fields_by_name.get(step.field)
        if field is None:
            names = ", ".join(owner.fields_by_name)
            raise ValueError(f"'{path}': {owner.full_name} has no field '{step.field}' (it has: {names})")
        if len(plain) == len(parts):
            plain.append(step.field)
        parts.append(_get(step.field, field.has_presence))
        repeated = _is_repeated(field)
        takes = list(step.takes)
        keyed = field.message_type is not None and field.message_type.GetOptions().map_entry
        if keyed:
            if not takes:  # outputs.probs is the same as outputs[probs]
                if at == len(wanted):
                    raise ValueError(_names_no_key(step.field, path))
                takes, at = [wanted[at].field, *wanted[at].takes], at + 1
            if takes[0] in (AXIS, ROWS):
                raise ValueError(_names_no_key(step.field, path))
            if "," in takes[0]:
                return _several_keys(field, takes, wanted[at:], parts, path)
            key = _key(field.message_type.fields_by_name["key"], takes.pop(0), path)
            field = field.message_type.fields_by_name["value"]
            parts.append(_at_key(key))
            repeated = False
        for take in takes:
            if not repeated:
                raise ValueError(f"'{path}': '{step.field}' is not repeated, so it takes no [{take}]")
            repeated = False
            if take in (AXIS, ROWS):
                if len(takes) > 1:
                    raise ValueError(f"'{path}': '{step.field}' is not repeated, so it takes no [{takes[1]}]")
                by_rows = take == ROWS
                rest = _resolve_rest(field, wanted[at:], path)
                if len(plain) == len(parts):
                    parts = [attrgetter(".".join(plain))]  # what is not there has no values
                parts.append(_each(rest.follow if rest else None))
                last = rest or FieldPath(_nothing, field, False, False)
                return FieldPath(_chain(parts), last.field, last.repeated, by_rows)
            parts.append(_pick(field, take, path))
        owner = field.message_type
        if repeated and at < len(wanted):
            raise ValueError(f"'{path}': '{step.field}' is repeated: say [] for all, [*] for responses, or which one")
    assert field is not None
    straight = repeated and len(plain) == len(parts)
    if straight:
        parts = [attrgetter(".".join(plain))]
    return FieldPath(_chain(parts), field, repeated, by_rows, straight)


def _resolve_rest(field: FieldDescriptor, rest: Sequence[Step], path: str) -> FieldPath | None:
    if not rest:
        return None
    if field.message_type is None:
        raise ValueError(f"'{path}': '{rest[0].field}' is asked of a field that holds no message")
    resolved = _resolve(field.message_type, rest, path)
    if resolved.by_rows:
        raise ValueError(f"'{path}': [*] must be the outermost axis")
    return resolved


def _several_keys(
    entry: FieldDescriptor, takes: Sequence[str], rest: Sequence[Step], parts: Sequence[Follow], path: str
) -> FieldPath:
    """An axis of a map's values, in the order of the path's keys; None where a key is missing."""
    if len(takes) > 1:
        raise ValueError(f"'{path}': several keys of '{entry.name}' are an axis already, so no [{takes[1]}] follows")
    keys = [_key(entry.message_type.fields_by_name["key"], key.strip(), path) for key in takes[0].split(",")]
    if len(set(keys)) < len(keys):
        raise ValueError(f"'{path}': a key of '{entry.name}' is named twice")
    value = entry.message_type.fields_by_name["value"]
    inner = _resolve_rest(value, rest, path)
    last = inner or FieldPath(_nothing, value, False, False)
    return FieldPath(_chain([*parts, _at_keys(keys), _each(last.follow)]), last.field, last.repeated, False)


def _names_no_key(field: str, path: str) -> str:
    return (
        f"'{path}': '{field}' is a map, whose entries have no order: name one key ({field}[cat]), or the keys of a "
        f"vector in their order ({field}[cat,dog,bird])"
    )


def _get(name: str, presence: bool) -> Follow:
    if presence:
        return lambda message: getattr(message, name) if message.HasField(name) else None
    return attrgetter(name)


def _at_key(key: Any) -> Follow:
    return lambda entries: entries[key] if key in entries else None  # noqa: SIM401 (get makes no messages of maps)


def _at_keys(keys: Sequence[Any]) -> Follow:
    return lambda entries: [entries[key] for key in keys] if all(key in entries for key in keys) else None


def _each(inner: Follow | None) -> Follow:
    if inner is None:
        return list
    return lambda values: [inner(value) for value in values]


def _pick(field: FieldDescriptor, take: str, path: str) -> Follow:
    """One of the repeated values: by its position, or by its `name`."""
    if take.lstrip("-").isdigit():
        index = int(take)
        return lambda values: values[index] if -len(values) <= index < len(values) else None
    if field.message_type is None or "name" not in field.message_type.fields_by_name:
        raise ValueError(f"'{path}': [{take}] must be a position: the values have no field 'name'")

    def named(values: Any) -> Any:
        matches = [value for value in values if value.name == take]
        if len(matches) > 1:
            raise Unscored("undecodable", f"two values of '{field.name}' are named '{take}'")
        return matches[0] if matches else None

    return named


def _key(field: FieldDescriptor, text: str, path: str) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return text == "true"
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"'{path}': the map's keys are whole numbers, not '{text}'") from None


def _chain(parts: Sequence[Follow]) -> Follow:
    """Follow one part after the other, None once one has no value."""
    if len(parts) == 1:
        return parts[0]

    def follow(value: Any) -> Any:
        for part in parts:
            value = part(value)
            if value is None:
                return None
        return value

    return follow


def _is_repeated(field: FieldDescriptor) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED)  # protobuf before 6.31


def _nothing(value: Any) -> Any:
    return value
