"""Parts of documents that nobody reads, where members have the name of one that is read elsewhere.

They are kept as the bytes that they are, so that such members can be counted without decoding what is beside them: the
likeliest tokens of each place have log-probabilities, as the tokens themselves have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from tocsin.protocols.http.following import Follow
from tocsin.protocols.http.node import Node
from tocsin.protocols.paths import steps


class UnreadPart(NamedTuple):
    """A part that is kept as bytes, and the name of the members that are counted in it."""

    name: str
    follow: Follow

    def members(self, quoted: bytes, document: Any) -> int:
        """How many members of the name, as it is `quoted`, a decoded document has there."""
        return _count(quoted, self.follow(document))


def container_of(path: str) -> str:
    """The path of the value in which a path ends, whole: all that is beside its last members. Empty where that is the
    document itself.

    >>> container_of("choices[0].logprobs.content[].top_logprobs[].logprob")
    'choices[0].logprobs.content[].top_logprobs'
    >>> container_of("logprob")
    ''
    """
    *outer, _ = steps(path)
    if not outer:
        return ""
    written = [step.field + "".join([f"[{bracket}]" for bracket in step.takes]) for step in outer[:-1]]
    return ".".join([*written, outer[-1].field])


def is_read(root: Node, path: str) -> bool:
    """Whether something is read at a path or within it, or may be."""
    node = root
    for step in steps(path):
        member = node.members.get(step.field)
        if member is None:
            return False
        node = member
        for bracket in step.takes:
            if bracket.strip("-*") and not bracket.lstrip("-").isdigit():
                return True  # chosen by a name, which is read of it
            if node.element is None:
                return False
            node = node.element
    return bool(node.members or node.leaves or node.element is not None)


def _count(quoted: bytes, value: Any) -> int:
    if isinstance(value, list):
        try:
            return b",".join(value).count(quoted)
        except TypeError:  # there are lists in it, or something is missing
            return sum([_count(quoted, item) for item in value])
    return bytes(value).count(quoted) if isinstance(value, msgspec.Raw) else 0
