"""Which values of a document are wanted, for `_scanner.c`, which reads them in one pass.

It is there where Tocsin was installed with its compiled parts. Where it is not, or cannot follow one of the paths, or
finds a document out of the ordinary, msgspec reads: to the same values, in two to three times the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from tocsin.protocols.paths import Step

Scan = Callable[[bytes], "tuple[Any, ...] | None"]  # None where msgspec has to read the document

_KINDS = {"number": 0, "packed": 0, "text": 1, "presence": 2, "count": 3}  # as `enum kind` in _scanner.c
_NUMBERS, _TEXT, _PRESENCE, _COUNT = range(4)
_ANY, _LAST = -1, -2  # of the elements of an array
_MOST_SLOTS, _MOST_ARRAYS = 32, 4


class _Unscanned(Exception):
    """The scanner cannot read what is wanted."""


class _Branch:
    """A place of a document that paths lead through: its members, its elements, and the slots whose value it is."""

    def __init__(self, is_element: bool) -> None:
        self.members: dict[str, _Branch] = {}
        self.element: _Branch | None = None
        self.is_element = is_element
        self.slots: list[int] = []

    def below(self) -> Iterator[_Branch]:
        """The places that follow."""
        yield from self.members.values()
        if self.element is not None:
            yield self.element

    def within(self) -> list[int]:
        """The slots here and further down."""
        return [*self.slots, *[slot for branch in self.below() for slot in branch.within()]]


def scan_of(wanted: Sequence[tuple[Sequence[Step], str]], root: str, *, any_case: bool) -> Scan | None:
    """A function that reads documents: the value at each of these paths, `wanted` as a `number`, `packed` numbers, a
    `text`, only its `presence`, or the `count` of its elements. None where it has to be done by msgspec.

    The first step of a path may be `root`, the document itself. With `any_case`, a document is left to msgspec where a
    name differs in case alone from one that is read.
    """
    scanner = load_scanner()
    if scanner is None or len(wanted) > _MOST_SLOTS:
        return None
    tree = _Branch(is_element=True)
    try:
        slots = tuple([_add(tree, path, leaf, slot, root) for slot, (path, leaf) in enumerate(wanted)])
        scan: Scan = scanner(tuple(_nodes(tree, [kind for kind, _ in slots])), slots, any_case).scan
    except (_Unscanned, ValueError):  # also a name that is no UTF-8, and more nodes than the scanner takes
        return None
    return scan


@cache
def load_scanner() -> Any:
    """The compiled type, or None where Tocsin was installed without it."""
    try:
        return import_module("tocsin.protocols.http._scanner").Scanner
    except ImportError:
        return None


def _add(tree: _Branch, path: Sequence[Step], leaf: str, slot: int, root: str) -> tuple[int, tuple[int, ...]]:
    """Add what leads to a slot; its kind, and what it takes of each array on the way. Raises _Unscanned."""
    kind = _KINDS.get(leaf)
    if kind is None:
        raise _Unscanned
    brackets = [(step.field, step.takes) for step in path]
    if kind == _COUNT:
        field, (*before, _) = brackets[-1]
        brackets[-1] = field, tuple(before)
    takes: list[int] = []
    branch = tree
    for at, (field, of_field) in enumerate(brackets):
        if at or field != root:
            branch = branch.members.setdefault(field, _Branch(is_element=False))
        for bracket in of_field:
            takes.append(_take_of(bracket))
            branch.element = branch.element or _Branch(is_element=True)
            branch = branch.element
    last_in_axis = _ANY in takes and _LAST in takes[takes.index(_ANY) :]
    if len(takes) > _MOST_ARRAYS or last_in_axis or (kind in (_TEXT, _COUNT) and _ANY in takes):
        raise _Unscanned
    branch.slots.append(slot)
    return kind, tuple(takes)


def _take_of(bracket: str) -> int:
    """What a bracket takes of an array. Raises _Unscanned where it is something else than the scanner knows."""
    if bracket in ("", "*"):
        return _ANY
    if bracket == "-1":
        return _LAST
    if bracket.isdecimal() and bracket.isascii() and len(bracket) < 10:
        return int(bracket)
    raise _Unscanned


def _nodes(tree: _Branch, kinds: Sequence[int]) -> Iterable[tuple[Any, ...]]:
    """The branches as the scanner takes them, each before those that follow it. Raises _Unscanned."""
    order = [tree]
    for branch in order:  # grows
        order.extend(branch.below())
    place = {id(branch): at for at, branch in enumerate(order)}
    for branch in order:
        here = {kinds[slot] for slot in branch.slots}
        if _is_ambiguous(branch, here):
            raise _Unscanned
        members = tuple([(name.encode(), place[id(member)]) for name, member in branch.members.items()])
        element = -1 if branch.element is None else place[id(branch.element)]
        within = () if branch.element is None else tuple(branch.element.within())
        yield members, element, int(branch.is_element), tuple(branch.slots), within


def _is_ambiguous(branch: _Branch, here: set[int]) -> bool:
    """Whether a value could be read in two ways, of which the scanner knows one."""
    element, leaves = branch.element, here & {_NUMBERS, _TEXT}
    if element is None:
        return _COUNT in here or len(leaves) > 1 or (_PRESENCE in here and bool(leaves))
    of_objects = bool(element.members) and element.element is None and not element.slots
    return bool(leaves) or (_PRESENCE in here and not of_objects)
