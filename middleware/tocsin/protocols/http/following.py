"""Functions that follow a path through decoded values: to members, to elements, and along axes.

Missing values are None; nothing raises.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

_NONE: Final = type(None)

Follow = Callable[[Any], Any]
Vector = Callable[[list[Any]], list[Any]]  # from a list of values to the list of all that they lead to


class Get:
    """A member's value, None where there is no such member."""

    __slots__ = ("_get", "_member")

    def __init__(self, attribute: str) -> None:
        self._member = attribute
        self._get = attrgetter(attribute)

    def __call__(self, value: Any) -> Any:
        return getattr(value, self._member, None)

    def each(self, values: list[Any]) -> list[Any]:
        """The member of each value."""
        try:
            return list(map(self._get, values))
        except AttributeError:  # some are no objects
            return [getattr(value, self._member, None) for value in values]

    def of_all(self, values: list[Any]) -> list[Any]:
        """The members of those values that have it."""
        members = self.each(values)
        if _NONE in set(map(type, members)):  # faster than to compare them
            return [member for member in members if member is not None]
        return members


def at_index(index: int) -> Follow:
    """An element of an array by its position, None where there is none."""
    return lambda value: value[index] if isinstance(value, list) and -len(value) <= index < len(value) else None


def of_all(follow: Follow) -> Vector:
    """A function from a list of values to those that they lead to, without the missing ones."""
    if isinstance(follow, Get):
        return follow.of_all
    return lambda values: [result for value in values if (result := follow(value)) is not None]


def elements_of(values: list[Any]) -> list[Any]:
    """The elements of all values that are arrays."""
    if set(map(type, values)) - {list}:
        values = [value for value in values if isinstance(value, list)]
    return list(chain.from_iterable(values))


class Chain:
    """Follows several steps in turn. The result is None where one is missing."""

    __slots__ = ("_last", "_parts", "parts")

    def __init__(self, parts: Sequence[Follow]) -> None:
        self.parts = tuple(parts)
        *self._parts, self._last = parts

    def __call__(self, value: Any) -> Any:
        for part in self._parts:
            value = part(value)
            if value is None:
                return None
        return self._last(value)


def through(outer: Follow, inner: Follow) -> Follow:
    """Follow one path and then another from there."""
    if inner is itself:
        return outer
    return Chain([outer, *(inner.parts if isinstance(inner, Chain) else (inner,))])


def each(inner: Follow) -> Follow:
    if inner is itself:
        return lambda values: values if isinstance(values, list) else None
    if isinstance(inner, Get):
        of_each = inner.each
        return lambda values: of_each(values) if isinstance(values, list) else None
    return lambda values: [inner(value) for value in values] if isinstance(values, list) else None


def several(members: Sequence[Follow]) -> Follow:
    def follow(value: Any) -> Any:
        values = [member(value) for member in members]
        return None if None in values else values

    return follow


def itself(value: Any) -> Any:
    return value
