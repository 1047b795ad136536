"""Parallel answers of a document, such as the choices of a completion: which of them a message belongs to."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tocsin.protocols.http.document import Document
from tocsin.protocols.http.parts import JsonMessage, elements_of, encoded, members_of, object_of
from tocsin.protocols.paths import steps


def alternatives_of(path: str) -> list[str]:
    """The alternatives of a path in responses, within the response; none for an empty path.

    >>> alternatives_of("response.choices[].index | response.output_index")
    ['choices[].index', 'output_index']
    """
    return [way.strip().removeprefix("response.") for way in path.split("|")] if path else []


class ParallelAnswers:
    """Answers that are told apart by a number, which `sequence` is the path of: each is judged by itself.

    Raises ValueError where the path is none.
    """

    def __init__(self, document: Document, sequence: str) -> None:
        ways = alternatives_of(sequence)
        self._document = document
        self._numbers = [document.place(way.replace("[]", "[0]"), "number") for way in ways]
        self._answers = [document.place(way, "count") for way in _item_paths(ways)]
        self._steps = [steps(way) for way in ways]

    def split(self, content: bytes) -> list[JsonMessage]:
        """The document as messages that are judged: one, or one for each parallel answer. Raises Unscored
        `undecodable`.
        """
        message = JsonMessage(content)
        message.document = document = self._document.decode(content)
        for place in self._answers:
            if place.count(document) > 1:
                name = place.names[0]
                self._document.require_single(content, document, [number.names[-1] for number in self._numbers])
                return self._parted(content, name)
        return [message]

    def _parted(self, content: bytes, name: str) -> list[JsonMessage]:
        """A document for each element of an array, which has that element alone."""
        members = members_of(content, "response")
        parts = []
        for item in elements_of(members[name], "response"):
            part = JsonMessage(object_of({**members, name: b"[" + item + b"]"}))
            part.document = self._document.decode(part)
            parts.append(part)
        return parts

    def number_of(self, document: Any) -> int:
        """The number of the answer that a decoded document belongs to; 0 where it has none."""
        for place in self._numbers:
            value = place.follow(document)
            if isinstance(value, float) and value.is_integer():
                return int(value)
        return 0

    def numbered(self, response: Any, sequence: int) -> bytes:
        """The response with that number, encoded."""
        numbered = deepcopy(response)
        for wanted in self._steps:
            owner: Any = numbered
            for step in wanted[:-1]:
                owner = owner.get(step.field) if isinstance(owner, dict) else None
                for _ in step.takes:
                    owner = owner[0] if isinstance(owner, list) and owner else None
            if isinstance(owner, dict):
                owner[wanted[-1].field] = sequence
                break
        return encoded(numbered)


def _item_paths(ways: list[str]) -> list[str]:
    """Of paths that lead through an array of the document, the part inside the array."""
    paths = []
    for way in ways:
        first = steps(way)[0]
        if "" in first.takes:
            paths.append(f"{first.field}[]")
    return paths
