"""Finds messages with a field twice that has one value, as two messages one after the other are.

Parsers of protobuf take the last of such values, or merge them; a server that reads otherwise would be asked something
else than what was judged. So these messages are not read at all.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from tocsin.unscored import Unscored

_PROTO = descriptor_pb2.FieldDescriptorProto
_AS_BYTES = (_PROTO.TYPE_STRING, _PROTO.TYPE_BYTES, _PROTO.TYPE_MESSAGE)


class SingleFields:
    """The fields of a message type that a message has at most once, and the keys of its maps.

    Counted by a message type made for it, in which each of these fields is repeated, and nested messages are bytes;
    those are looked into where they are single themselves, or a map's values.
    """

    def __init__(self, kind: Descriptor, above: dict[str, SingleFields] | None = None) -> None:
        types = {} if above is None else above
        types[kind.full_name] = self
        self._nested: dict[int, SingleFields] = {}
        self._maps: set[int] = set()
        self._oneof: dict[int, str] = {}  # of fields in one, its name
        file = descriptor_pb2.FileDescriptorProto(name="counted.proto", syntax="proto2")
        counted = file.message_type.add(name="Counted")
        for field in kind.fields:
            is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
            if field.type == FieldDescriptor.TYPE_GROUP or (is_repeated(field) and not is_map):
                continue
            as_bytes = field.type in _AS_BYTES
            number = _PROTO.TYPE_INT32 if field.type == FieldDescriptor.TYPE_ENUM else field.type
            counted.field.add(
                name=f"f{field.number}",
                number=field.number,
                label=_PROTO.LABEL_REPEATED,
                type=_PROTO.TYPE_BYTES if as_bytes else number,
            )
            if field.message_type is not None:
                inner = field.message_type
                self._nested[field.number] = types.get(inner.full_name) or SingleFields(inner, types)
            if is_map:
                self._maps.add(field.number)
            if field.containing_oneof is not None:
                self._oneof[field.number] = field.containing_oneof.name
        self._names = {field.number: field.name for field in kind.fields}
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        self._counted: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("Counted"))

    def require(self, content: bytes, side: str) -> None:
        """Raises Unscored `undecodable` naming the field that an encoded message has twice, and `side`, whose it is.

        The message is one that could be parsed.
        """
        chosen: set[str] = set()
        for field, values in self._counted.FromString(content).ListFields():
            number = field.number
            nested = self._nested.get(number)
            if number in self._maps:
                assert nested is not None
                nested._require_entries(values, side, self._names[number])
                continue
            if len(values) > 1:
                raise Unscored("undecodable", f"the {side} has the field '{self._names[number]}' twice")
            if (oneof := self._oneof.get(number)) is not None:
                if oneof in chosen:
                    raise Unscored("undecodable", f"the {side} has several fields of the oneof '{oneof}'")
                chosen.add(oneof)
            if nested is not None:
                nested.require(values[0], side)

    def _require_entries(self, entries: Any, side: str, name: str) -> None:
        """The same of a map's entries."""
        keys: set[Any] = set()
        for entry in entries:
            self.require(entry, side)
            key = tuple(self._counted.FromString(entry).f1)
            if key in keys:
                raise Unscored("undecodable", f"the {side} has a key of the map '{name}' twice")
            keys.add(key)


def is_repeated(field: FieldDescriptor) -> bool:
    if hasattr(field, "is_repeated"):
        return bool(field.is_repeated)
    return bool(field.label == FieldDescriptor.LABEL_REPEATED)  # protobuf before 6.31
