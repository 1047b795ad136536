"""The msgspec types by which a document is decoded, as a tree of the places that paths lead through."""

from __future__ import annotations

from typing import Any

import msgspec

# Numbers, or arrays of them of up to four axes. True and false are numbers, too: tensors of BOOL have them.
_SCALAR = float | bool
_NUMBERS: Any = _SCALAR | list[_SCALAR | list[_SCALAR | list[_SCALAR | list[_SCALAR]]]]
_PACKED: Any = _SCALAR | str | list[_SCALAR | str | list[_SCALAR | str | list[_SCALAR | str | list[_SCALAR | str]]]]
LEAVES: dict[str, Any] = {
    "number": _NUMBERS,
    "lengths": _NUMBERS,
    "packed": _PACKED,  # or base64 of packed numbers
    "text": str | int | float | bool,
}


class Node:
    """What is read at one place of a document: members of an object, elements of an array, or a value. Where only the
    presence of a value matters, its bytes are kept.
    """

    def __init__(self) -> None:
        self.members: dict[str, Node] = {}
        self.element: Node | None = None
        self.leaves: set[str] = set()

    def member(self, name: str) -> tuple[Node, str]:
        """The node of a member, and the attribute that holds its value."""
        child = self.members.setdefault(name, Node())
        return child, f"member{list(self.members).index(name)}"

    def elements(self) -> Node:
        """The node of all elements."""
        if self.element is None:
            self.element = Node()
        return self.element

    def type(self) -> Any:
        """The msgspec type of this node."""
        options = [LEAVES[leaf] for leaf in sorted(self.leaves)]
        if self.members:
            attributes = [f"member{at}" for at in range(len(self.members))]
            fields = [
                (name, child.optional(), None) for name, child in zip(attributes, self.members.values(), strict=True)
            ]
            rename = dict(zip(attributes, self.members, strict=True))
            options.append(msgspec.defstruct("Members", fields, rename=rename, omit_defaults=True, gc=False))
        if self.element is not None:
            inner = self.element.type()
            options = [option for option in options if option is not _NUMBERS] + [list[inner]]  # type: ignore[valid-type]
        if not options:
            return msgspec.Raw
        union = options[0]
        for option in options[1:]:
            union = union | option
        return union

    def optional(self) -> Any:
        """The type where the value may be null."""
        inner = self.type()
        return inner if inner is msgspec.Raw else inner | None
