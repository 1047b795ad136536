"""JSON documents of which only the values at given paths are decoded: by the scanner, in one pass, or by msgspec types
built from the paths where it leaves a document to them.

Members that no path names are skipped without being built. A document that is not JSON, is nested too deeply, or has
another type where a path needs numbers raises Unscored `undecodable`; reading raises nothing else.

Parsers differ in which of two members with the same name they use; msgspec uses the last. `require_single` refuses a
document in which a value that was read has a second one beside it, so that what is judged is what every parser reads.
The scanner reads no document that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from tocsin.protocols.http.following import (
    Follow,
    Get,
    Vector,
    at_index,
    each,
    elements_of,
    itself,
    of_all,
    several,
    through,
)
from tocsin.protocols.http.node import LEAVES, Node
from tocsin.protocols.http.place import Place
from tocsin.protocols.http.scanner import Scan, scan_of
from tocsin.protocols.http.single_members import error_kind, require_single_members, written_again
from tocsin.protocols.http.unread_parts import UnreadPart, container_of, is_read
from tocsin.protocols.paths import Step, steps
from tocsin.unscored import Unscored

ROOT: Final = "$"  # as the first step of a path: the document itself, where that is an array
AXIS: Final = ""  # what brackets take: an axis of values,
ROWS: Final = "*"  # or responses of their own
BOM: Final = b"\xef\xbb\xbf"

_FOLDED_TO_ASCII: Final = (
    "\u017f".encode(),
    "\u212a".encode(),
)  # the long s and the sign of kelvin, which are s and k to Go


class Document:
    """Documents of one kind, such as the responses of a route. `side` is their name in error messages. With `any_case`,
    names that differ only in case count as the same where a value must be single, as Go's parser treats them.
    """

    def __init__(self, side: str, *, any_case: bool = False) -> None:
        self.side = side
        self._any_case = any_case
        self._root = Node()
        self.names: set[str] = set()  # of all members on paths
        self._ends: dict[str, dict[tuple[int, str], _End]] = {}  # by the last member's name
        self._decoder: msgspec.json.Decoder[Any] | None = None
        self._scan: Scan | None = None
        self._wanted: list[tuple[list[Step], str]] = []
        self._accounted_paths: dict[str, None] = {}
        self._unread_parts: list[UnreadPart] = []

    def place(self, path: str, leaf: str = "") -> Place:
        """Add a path at which a value is read: a `number` or numbers, the `lengths` of a shape, `packed` numbers, a
        `text`, only its `presence`, the `count` of an array's elements, which the path names, or its bytes where `leaf`
        is empty. Raises ValueError where the path is invalid.
        """
        self._wanted.append((steps(path), leaf))
        return self._read_place(path, leaf, len(self._wanted) - 1)

    def _read_place(self, path: str, leaf: str, slot: int) -> Place:
        wanted = steps(path)
        self._decoder = None
        resolver = _Resolver(path, leaf)
        if wanted[0].field == ROOT:
            follow, ends = resolver.take(self._root, wanted[0], list(wanted[0].takes), wanted[1:])
        else:
            follow, ends = resolver.rest(self._root, wanted)
        self.names |= resolver.names
        for end in ends:
            self._ends.setdefault(end.name, {})[end.key] = end
        return Place(slot, follow, resolver.by_rows, tuple(dict.fromkeys(end.name for end in ends)))

    def decode(self, content: bytes) -> Any:
        """The decoded document, with the values at its paths. Raises Unscored `undecodable`."""
        decoder = self._decoder or self._new_decoder()
        if content.startswith(BOM):
            content = content[len(BOM) :]
        if self._scan is not None and (values := self._scan(content)) is not None:
            return values
        try:
            return decoder.decode(content)
        except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
            raise Unscored("undecodable", f"the {self.side} cannot be read: {error_kind(error)}") from None

    def account_for(self, path: str) -> None:
        """Count the members that a path, or each of its alternatives, ends in: nobody reads them, but others of their
        name.
        """
        self._accounted_paths.update(dict.fromkeys(path.split("|")))
        self._decoder = None

    def _new_decoder(self) -> msgspec.json.Decoder[Any]:
        unread_parts = []
        containers = {path: container_of(path) for path in self._accounted_paths}
        for path, container in sorted(containers.items(), key=lambda pair: -len(pair[1])):  # what is within comes first
            if not container or container.startswith(ROOT) or is_read(self._root, container):
                self._read_place(path, "number", -1)
            else:
                unread_parts.append(UnreadPart(steps(path)[-1].field, self._read_place(container, "", -1).follow))
        self._unread_parts = unread_parts
        self._scan = scan_of(self._wanted, ROOT, any_case=self._any_case)
        decoder = self._decoder = msgspec.json.Decoder(self._root.type())
        return decoder

    def require_single(self, content: bytes, document: Any, names: Iterable[str]) -> None:
        """Raises Unscored `undecodable` where one of these last members of paths may have a second value beside the one
        that was read.

        Where a name occurs in the document's bytes as often as values were read, or as often as in what was read,
        written as JSON again, there is no second value. An escaped letter might add a name to what is written, so where
        there are such it is not. Where a name still occurs more often, the document is searched.
        """
        if isinstance(document, tuple):  # scanned
            return
        any_case = self._any_case
        searched = content.lower() if any_case else content
        has_escapes = b"\\" in content
        escapes_letters = has_escapes and (b"\\u" in content or b"\\/" in content)
        written: bytes | None = b"" if any_case or escapes_letters else None
        for name in names:
            quoted = _quoted(name, any_case)
            occurrences = searched.count(quoted)
            if occurrences <= 1 or self._accounts_for(occurrences, name, document):
                continue
            if written is None:
                written = written_again(document)
            if written.count(quoted) != occurrences:
                require_single_members(content, self.names, self.side, any_case=any_case)
                return
        is_odd = any_case and not content.isascii() and any(letter in content for letter in _FOLDED_TO_ASCII)
        if is_odd or (has_escapes and _ESCAPED_NAME.search(content)):
            require_single_members(content, self.names, self.side, any_case=any_case)

    def _accounts_for(self, occurrences: int, name: str, document: Any) -> bool:
        """Whether a name was read that many times."""
        count = 0
        for end in self._ends[name].values():
            count += end.count(document)
            if count == occurrences:
                return True
        for part in self._unread_parts:
            if part.name == name:
                count += part.members(_quoted(name, False), document)
        return count == occurrences


@cache
def _quoted(name: str, any_case: bool) -> bytes:
    return f'"{name.lower() if any_case else name}"'.encode()


class _End(NamedTuple):
    """A last member of a path: its name, and a key that distinguishes it from others. `count` says how many of them a
    document has: `prefix` leads to the member, or to an array from which `steps` lead to all of them.
    """

    name: str
    key: tuple[int, str]
    prefix: Follow
    steps: tuple[Vector, ...] = ()

    def count(self, document: Any) -> int:
        """How many a document has."""
        values = self.prefix(document)
        if not self.steps:
            return int(values is not None)
        if not isinstance(values, list):
            return 0
        for step in self.steps:
            values = step(values)
        return len(values)

    def by(self, outer: Follow) -> _End:
        """The same member, reached through an outer value."""
        return self._replace(prefix=through(outer, self.prefix))

    def of_each(self) -> _End:
        """The same member in all elements of an array."""
        rest = (elements_of, *self.steps) if self.steps else ()
        return self._replace(prefix=itself, steps=(of_all(self.prefix), *rest))


class _PathRest(NamedTuple):
    """How to follow the rest of a path, and the members in which it ends."""

    follow: Follow
    ends: list[_End]

    def by(self, outer: Follow) -> _PathRest:
        """The same part, reached through an outer value."""
        return _PathRest(through(outer, self.follow), [end.by(outer) for end in self.ends])


class _Resolver:
    """Follows one path through the nodes of a document, and adds the missing ones."""

    def __init__(self, path: str, leaf: str) -> None:
        self._path, self._leaf = path, leaf
        self.by_rows = False
        self.names: set[str] = set()

    def rest(self, node: Node, wanted: Sequence[Step]) -> _PathRest:
        """Resolve the members that follow a value."""
        if wanted:
            return self._member(node, wanted[0].field, list(wanted[0].takes), wanted[0], wanted[1:])
        if self._leaf in LEAVES:
            node.leaves.add(self._leaf)
        return _PathRest(itself, [])

    def take(self, node: Node, step: Step, brackets: list[str], rest: Sequence[Step]) -> _PathRest:
        """Resolve the brackets that follow a value."""
        if not brackets:
            return self.rest(node, rest)
        bracket, brackets = brackets[0], brackets[1:]
        if bracket in (AXIS, ROWS):
            if bracket == ROWS and self.by_rows:
                raise ValueError(f"'{self._path}': only one axis can be one of responses ([*])")
            self.by_rows = self.by_rows or bracket == ROWS
            inner = self.take(node.elements(), step, brackets, rest)
            return _PathRest(each(inner.follow), [end.of_each() for end in inner.ends])
        if bracket.lstrip("-").isdigit():
            return self.take(node.elements(), step, brackets, rest).by(at_index(int(bracket)))
        if "," in bracket:
            keys = [key.strip() for key in bracket.split(",")]
            if len(set(keys)) < len(keys):
                raise ValueError(f"'{self._path}': a key of '{step.field}' is named twice")
            parts = [self._member(node, key, brackets, step, rest) for key in keys]
            return _PathRest(several([part.follow for part in parts]), [end for part in parts for end in part.ends])
        return self._named(node, bracket, brackets, step, rest)

    def _member(self, node: Node, name: str, brackets: list[str], step: Step, rest: Sequence[Step]) -> _PathRest:
        child, attribute = node.member(name)
        self.names.add(name)
        get = Get(attribute)
        inner = self.take(child, step, brackets, rest)
        if not rest:
            return _PathRest(through(get, inner.follow), [_End(name, (id(node), attribute), get)])
        return inner.by(get)

    def _named(self, node: Node, name: str, brackets: list[str], step: Step, rest: Sequence[Step]) -> _PathRest:
        """Of an object the member with that name; of an array the element whose `name` it is. Elements with other names
        may hold anything, so values are kept as bytes until the element is chosen.
        """
        if brackets or not rest:
            raise ValueError(f"'{self._path}': say which member of '{step.field}[{name}]' is meant, such as .data")
        of_object = self._member(node, name, brackets, step, rest)
        element = node.elements()
        label, label_attribute = element.member("name")
        label.leaves.add("text")
        _, attribute = element.member(rest[0].field)
        inner = Document(f"value of '{self._path}'")
        place = inner.place(_written(rest), self._leaf)
        self.names |= {"name", rest[0].field, *inner.names}

        def follow(value: Any) -> Any:
            if not isinstance(value, list):
                return of_object.follow(value)
            matches = [item for item in value if getattr(item, label_attribute, None) == name]
            if len(matches) > 1:
                raise Unscored("undecodable", f"two values of '{step.field}' are named '{name}'")
            raw = getattr(matches[0], attribute, None) if matches else None
            return None if raw is None else place.follow(inner.decode(bytes(raw)))

        ends = list(of_object.ends)
        if len(rest) == 1:
            ends.append(_End(rest[0].field, (id(element), attribute), Get(attribute)).of_each())
        return _PathRest(follow, ends)


def _written(wanted: Sequence[Step]) -> str:
    """A path from its first value on, as text."""
    first, *others = [step.field + "".join(f"[{bracket}]" for bracket in step.takes) for step in wanted]
    return ".".join([ROOT + first[len(wanted[0].field) :], *others])


_ESCAPED_NAME: Final = re.compile(rb'\\u[^"]*"\s*:')
