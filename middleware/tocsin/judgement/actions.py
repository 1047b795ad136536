"""What a gate answers its position: what to do next, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tocsin.configuration.fields import Address
from tocsin.configuration.listener import UpstreamTls
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement


class Ask(NamedTuple):
    """Send the call's request once more: to the model itself, or to `upstream`.

    The outcome is every message of the response: one, unless the method's responses stream. It is None when the call
    failed, took longer than `seconds`, or answered more than may be kept.
    """

    call: Call
    request: bytes
    seconds: float
    upstream: Address | None = None
    tls: UpstreamTls | None = None  # towards that upstream


class Judge:
    """Give this call its verdict, which is all that comes of it."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call = call


class Release:
    """These items go on, in their order."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items


class Replace:
    """Nothing more of the response goes on: this takes its place."""

    __slots__ = ("instead",)

    def __init__(self, instead: Replacement) -> None:
        self.instead = instead


class End:
    """Everything went on: the end of the response may follow."""

    __slots__ = ()


Outcome = Sequence[bytes] | None  # of an `Ask`; None of a `Judge`
Action = Judge | Ask | Release | Replace | End
Actions = Sequence[Action]

NOTHING: Final[Actions] = ()
END: Final = End()
