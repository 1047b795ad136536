"""A place of documents at which a value is read, whether the scanner decoded them or msgspec."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tocsin.protocols.http.following import Follow

_EMPTY: Final = frozenset((b"null", b'""', b"[]", b"{}", b"false"))


class Place:
    """A path at which documents of one kind are read. `by_rows`: the outermost axis counts responses. `names` are the
    last members on the path.
    """

    def __init__(self, slot: int, follow: Follow, by_rows: bool, names: tuple[str, ...]) -> None:
        self.by_rows, self.names = by_rows, names
        self._slot, self._follow = slot, follow

    def follow(self, document: Any) -> Any:
        """The value in a decoded document, None where there is none. Values along axes are lists, or a tuple of their
        shape and their bytes as float32.
        """
        if isinstance(document, tuple):
            return document[self._slot] if self._slot < len(document) else None  # of before the place was added
        return self._follow(document)

    def is_present(self, document: Any) -> bool:
        """Whether there is a value: neither null nor an empty text, array or object. For places of `presence`."""
        value = self.follow(document)
        if isinstance(value, list):
            return any(_is_present(item) for item in value)
        return _is_present(value)

    def count(self, document: Any) -> int:
        """How many elements there are. For places of `count`."""
        value = self.follow(document)
        return value if isinstance(value, int) else len(value or ())


def _is_present(value: Any) -> bool:
    if isinstance(value, msgspec.Raw):
        return bytes(value).strip() not in _EMPTY
    return value is not None and value is not False and value != "" and value != []
