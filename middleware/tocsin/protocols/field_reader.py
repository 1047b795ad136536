"""Reads a model's signals from messages, parsed or, where a message's structure is known, by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError

from tocsin.protocols.alike import Places
from tocsin.protocols.layouts import Layout, Spans
from tocsin.protocols.likeliest import MessagePart, Read
from tocsin.protocols.rows import Family, Reading, RowPlans, Shaped, Shapes
from tocsin.protocols.single_fields import SingleFields
from tocsin.unscored import Unscored


class OpenedMessage(NamedTuple):
    """A parsed response, with the model's name where the call gives it."""

    model: str
    version: str
    message: Any
    is_summary: bool
    sequence: int
    empty: bool = False


class KnownMessage:
    """A response of a known structure. It is parsed only on demand, and once."""

    __slots__ = ("_kind", "_message", "layout", "raw")
    model = ""
    version = ""

    def __init__(self, raw: bytes, layout: Layout, kind: Any) -> None:
        self.raw, self.layout, self._kind = raw, layout, kind
        self._message: Any = None

    @property
    def empty(self) -> bool:
        return self.layout.empty

    @property
    def is_summary(self) -> bool:
        return self.layout.is_summary

    @property
    def sequence(self) -> int:
        return self.layout.sequence

    @property
    def message(self) -> Any:
        if self._message is None:
            self._message = parsed(self._kind, self.raw, "response")
        return self._message


class Signal(NamedTuple):
    """A signal of a model: whether it is in the request, how it is read, whether it is plain numbers, and its path."""

    name: str
    in_request: bool
    read: Read
    plain: bool
    path: str


class ReadPlan(NamedTuple):
    """How to read messages of one structure: `take` gives the raw contents of each signal, which are at `spans`."""

    rows: int
    family: Family
    take: Callable[[bytes], list[bytes]]
    spans: Sequence[Spans]


_UNTRIED: Final[Any] = object()


class FieldReader:
    """Reads a model's signals. Messages that are judged together are joined along the first axis."""

    def __init__(self, signals: Sequence[Signal], request: Any, response: Any, shapes: Shapes) -> None:
        self._signals = list(signals)
        self._request, self._response = request, response
        self._wants_request = any(signal.in_request for signal in self._signals)
        self._single = SingleFields(request.DESCRIPTOR) if self._wants_request else None
        self._plain = all(signal.plain for signal in self._signals)
        self._shapes = shapes
        self._plans = RowPlans([signal.name for signal in signals], shapes)
        self._of_layout: dict[Layout, ReadPlan | None] = {}  # None: have to be parsed

    def read(self, opened: Sequence[Any], request: bytes | None) -> Reading:
        """Rows, family and raw contents. Raises Unscored."""
        if len(opened) == 1 and self._plain and type(opened[0]) is KnownMessage:
            message = opened[0]
            plan = self._of_layout.get(message.layout, _UNTRIED)
            if plan is _UNTRIED:
                plan = self._of_layout[message.layout] = self._plan_of(message.layout)
            if plan is not None:
                return plan.rows, plan.family, plan.take(message.raw)
        opened_request: Sequence[MessagePart] = ()
        if self._wants_request:
            if request is None:
                raise Unscored("missing_signal", "there is no request to read a signal from")
            opened_request = [OpenedMessage("", "", parsed(self._request, request, "request", self._single), False, 0)]
        shaped, raws = self._values(opened, opened_request)
        rows, family = self._plans.of(shaped)
        return rows, family, raws

    def places(self, opened: Any, content: bytes) -> Places | None:
        """Where the signals are in a message whose structure is known."""
        if not self._plain or type(opened) is not KnownMessage:
            return None
        plan = self._of_layout.get(opened.layout)
        return None if plan is None else Places(opened.layout.mask.to_bytes(len(content), "big"), plan.spans)

    def _values(
        self, opened: Sequence[MessagePart], opened_request: Sequence[MessagePart]
    ) -> tuple[Shaped, list[bytes]]:
        """Shapes and raw contents of the signals. Raises Unscored."""
        raws: list[bytes] = []
        layout: list[tuple[tuple[int, ...], bool | None]] = []
        for name, in_request, signal, _, path in self._signals:
            values = signal(opened_request if in_request else opened, self._shapes.width(name))
            if values is None:
                side = "request" if in_request else "response"
                where = f" at '{path}'" if path else ""
                raise Unscored("missing_signal", f"the {side} has no values for the signal '{name}'{where}")
            layout.append((values.shape, values.rows))
            raws.append(values.raw)
        return tuple(layout), raws

    def _plan_of(self, layout: Layout) -> ReadPlan | None:
        """How to read messages of this structure without parsing; None where they have to be parsed."""
        shaped: Shaped = ()

        def read(raw: bytes) -> list[bytes]:
            nonlocal shaped
            shaped, raws = self._values([KnownMessage(raw, layout, self._response)], ())
            return raws

        try:
            spans = layout.spans(read)
            if spans is None:
                return None
            rows, family = self._plans.of(shaped)
        except Unscored:
            return None
        return ReadPlan(rows, family, _taking(spans), spans)


def _taking(spans: Sequence[Spans]) -> Callable[[bytes], list[bytes]]:
    """Functions that cut out the bytes of each signal."""
    if any(len(of_signal) != 1 for of_signal in spans):
        return lambda raw: [b"".join([raw[start:end] for start, end in of_signal]) for of_signal in spans]
    if len(spans) == 1:
        ((start, end),) = spans[0]
        return lambda raw: [raw[start:end]]
    take = itemgetter(*(slice(*of_signal[0]) for of_signal in spans))
    return lambda raw: list(take(raw))


def parsed(kind: Any, content: bytes, side: str, single: SingleFields | None = None) -> Any:
    """Parse a message. With `single`, no field may occur twice. Raises Unscored `undecodable`."""
    try:
        message = kind.FromString(content)
    except DecodeError as error:
        raise Unscored("undecodable", f"the {side} is no {kind.DESCRIPTOR.full_name} ({error})") from None
    if single is not None:
        single.require(content, side)
    return message
