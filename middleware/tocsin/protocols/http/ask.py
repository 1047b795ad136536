"""Changes requests to ask for an optional signal, and removes that signal from what the caller receives.

A request is changed only when the caller has not asked for the signal. What is removed from a response is replaced by
what servers send to callers that have not asked, mostly null; every other byte of the response stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tocsin.protocols.http.document import Document
from tocsin.protocols.http.parts import elements_of, encoded, members_of, object_of
from tocsin.protocols.http.place import Place
from tocsin.protocols.paths import Step, steps

_NOT_ASKED = (b"", b"null", b"false")
_SPACE = b" \t\r\n"


class JsonAsk(NamedTuple):
    """`unless`: the caller has asked when this member of the request is neither missing nor null nor false. `set`:
    values for members of the request, with `amount` for the configured number. `strip`: members of responses, and what
    servers send there to callers that have not asked.
    """

    unless: str
    set: Mapping[str, Any]
    strip: Mapping[str, Any]


class JsonEdit:
    """A `JsonAsk` for the documents of one route. Raises ValueError where a path cannot be set or cleared."""

    def __init__(self, ask: JsonAsk, amount: int) -> None:
        self._unless = _plain_path("unless", ask.unless)
        self._set = [
            (_plain_path("set", path), amount if value == "amount" else value) for path, value in ask.set.items()
        ]
        self._response = Document("response")
        for path in ask.strip:
            if any(take not in ("", "*") for step in steps(path) for take in step.takes):
                raise ValueError(f"ask.strip: '{path}' must name all elements of an array ([])")
        self._strip = [(steps(path), self._response.place(path), encoded(value)) for path, value in ask.strip.items()]

    def ask(self, request: bytes) -> bytes | None:
        """The request with the signals asked for, None when the caller has asked already. Raises Unscored."""
        value = request
        for name in self._unless:
            value = members_of(value, "request").get(name, b"") if value.strip() not in _NOT_ASKED else b""
        if value.strip() not in _NOT_ASKED:
            return None
        for path, wanted in self._set:
            request = _assigned(request, path, encoded(wanted))
        return request

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without what Tocsin asked for. Raises Unscored."""
        del request
        for path, place, empty in self._strip:
            values = _filled(place, self._response.decode(response), empty)
            if not values:
                continue
            stripped = _cut(response, path[-1].field, values, empty)
            if stripped is None or _filled(place, self._response.decode(stripped), empty):
                stripped = _cleared(response, path, empty)
            response = stripped
        return response


def _plain_path(setting: str, path: str) -> list[str]:
    wanted = steps(path)
    if any(step.takes for step in wanted):
        raise ValueError(f"ask.{setting}: '{path}' must be members one in the other, such as options.logprobs")
    return [step.field for step in wanted]


def _assigned(content: bytes, path: Sequence[str], value: bytes) -> bytes:
    """A document with the member at a path set to that value."""
    members = members_of(content, "request") if content.strip() not in _NOT_ASKED else {}
    name, rest = path[0], path[1:]
    members[name] = _assigned(members.get(name, b""), rest, value) if rest else value
    return object_of(members)


def _filled(place: Place, document: Any, empty: bytes) -> list[bytes]:
    """The values at a path that are not empty, in their order."""
    return [content for item in _flat(place.follow(document)) if (content := bytes(item)) not in (b"null", empty)]


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [item for element in value for item in _flat(element)]
    return [] if value is None else [value]


def _cut(content: bytes, name: str, values: Sequence[bytes], empty: bytes) -> bytes | None:
    """The document with `empty` in place of these values of a member, in this order; None where they are not found."""
    label, at, parts = encoded(name), 0, []
    for value in values:
        search = at
        while True:
            start = content.find(label, search)
            if start < 0:
                return None
            search = start + len(label)
            colon = _skip(content, search)
            begin = _skip(content, colon + 1)
            if content[colon : colon + 1] == b":" and content.startswith(value, begin):
                break
        parts += [content[at:begin], empty]
        at = begin + len(value)
    return b"".join([*parts, content[at:]])


def _skip(content: bytes, at: int) -> int:
    while at < len(content) and content[at] in _SPACE:
        at += 1
    return at


def _cleared(content: bytes, path: Sequence[Step], empty: bytes) -> bytes:
    """The same by encoding the document anew. Raises Unscored."""
    if not content.strip().startswith(b"{"):
        return content
    members = members_of(content, "response")
    step, rest = path[0], path[1:]
    if step.field in members:
        value = members[step.field]
        members[step.field] = _cleared_elements(value, step.takes, rest, empty) if rest else empty
    return object_of(members)


def _cleared_elements(content: bytes, takes: Sequence[str], rest: Sequence[Step], empty: bytes) -> bytes:
    if not takes:
        return _cleared(content, rest, empty)
    if not content.strip().startswith(b"["):
        return content
    cleared = [_cleared_elements(item, takes[1:], rest, empty) for item in elements_of(content, "response")]
    return b"[" + b",".join(cleared) + b"]"
