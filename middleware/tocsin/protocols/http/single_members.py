"""Whether an object of a JSON document has two members of one name, of which parsers take one or the other."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from tocsin.unscored import Unscored

_ENCODER = msgspec.json.Encoder()


class _SecondMember(Exception):
    """An object has two members of one name."""


def written_again(document: Any) -> bytes:
    """The members of a decoded document as JSON; nothing where they cannot be written."""
    try:
        return _ENCODER.encode(document)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):  # such as integers of many digits
        return b""


def require_single_members(content: bytes, names: Collection[str], side: str, *, any_case: bool) -> None:
    """Search a whole document. Raises Unscored `undecodable` where an object has two members of one of these names, or
    where the document cannot be read. `side` is its name in the error; with `any_case`, case is ignored.
    """
    compared_names = {name.casefold() for name in names} if any_case else names

    def unique(pairs: Sequence[tuple[str, Any]]) -> None:
        present: set[str] = set()
        for name, _ in pairs:
            compared = name.casefold() if any_case else name
            if compared in compared_names and compared in present:
                raise _SecondMember(name)
            present.add(compared)

    try:
        json.loads(content, object_pairs_hook=unique)
    except _SecondMember as second:
        problem = f"has two members '{second}', of which parsers take one or the other"
        raise Unscored("undecodable", f"the {side} {problem}") from None
    except (ValueError, RecursionError) as error:
        raise Unscored("undecodable", f"the {side} cannot be read: {error_kind(error)}") from None


def error_kind(error: Exception) -> str:
    """An error of a document, without the document's content."""
    return str(error).partition("\n")[0][:200]
