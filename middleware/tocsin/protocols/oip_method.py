"""Methods of the Open Inference Protocol v2: ModelInfer, and Triton's ModelStreamInfer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from operator import itemgetter
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import ParseDict, ParseError

from tocsin.protocols import oip
from tocsin.protocols.alike import Places
from tocsin.protocols.datatypes import item_size
from tocsin.protocols.field_paths import text_at
from tocsin.protocols.message_filling import filled_message, require_fields
from tocsin.protocols.method import AnsweredRequest, Opened
from tocsin.protocols.oip_contents import decoded_size, raw_contents
from tocsin.protocols.oip_layouts import TensorLayout, TensorMessage
from tocsin.protocols.paths import SignalPath
from tocsin.protocols.rows import KEPT_LAYOUTS, Family, Reading, Shapes, one_count
from tocsin.unscored import Unscored

MOST_AXES: Final = 32  # of a tensor's shape

_PLACES: Final = {"request": "inputs.", "response": "outputs."}


class TensorPlan(NamedTuple):
    """How to read all signals from messages of given layouts: each one's place among the raw contents, which of them
    are the request's, and their sizes in bytes. `pick` takes them all out of a response's raw contents.
    """

    positions: tuple[int, ...]
    pick: Callable[[Any], list[bytes]]
    of_request: tuple[bool, ...]
    sizes: list[int]
    rows: int
    family: Family


class InferMethod:
    """ModelInfer, or with `streams` ModelStreamInfer, each of whose messages is judged separately."""

    def __init__(self, name: str, *, streams: bool = False) -> None:
        self.name = name
        self.attributes: Mapping[str, str] = {}
        self.streams = self.requests_stream = streams
        self.every = 1
        self.parallel = self.stops = self.in_turn = False
        self.model_key = self.version_key = ""

    def open(self, response: bytes, request: bytes | None) -> Opened:
        """Parse a response and find its model. Raises Unscored."""
        del request
        return oip.read_stream_response(response) if self.streams else oip.read_response(response)

    def decoded_size(self, response: bytes) -> int:
        """Those besides its raw contents, and few of these, which are copied where they are read."""
        return len(response) if self.streams else decoded_size(response)

    def request_id(self, request: bytes) -> str:
        """The id of a request. Raises Unscored `undecodable`."""
        return oip.request_id(request)

    def answer_of(self, response: bytes) -> AnsweredRequest:
        """Which request a message of ModelStreamInfer answers. Raises Unscored `undecodable`."""
        return oip.answer_of(response)

    def sequence(self, response: bytes) -> int:
        """There are no parallel sequences."""
        del response
        return 0

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> TensorReader:
        """A reader of these signals. Raises ValueError where a path names no tensor."""
        for path in signals.values():
            if path.is_derived or not path.path.startswith(_PLACES[path.side]):
                raise ValueError(f"expected request.inputs.NAME or response.outputs.NAME, not '{path}'")
        return TensorReader(signals, shapes, streams=self.streams)

    def needs_request(self, signals: Mapping[str, SignalPath]) -> bool:
        """Whether some signal is one of the request's."""
        return any(path.side == "request" for path in signals.values())

    def edit(self, signals: Mapping[str, SignalPath], amount: int) -> RequestedOutputs | None:
        """How to ask for output tensors that the caller has not requested."""
        del amount
        wanted = [path.path.removeprefix("outputs.") for path in signals.values() if path.side == "response"]
        return None if self.streams or not wanted else RequestedOutputs(wanted)

    def answer(self, content: Mapping[str, Any]) -> Any:
        """A ModelInferResponse of these fields, in a stream as the message that carries one. Raises ValueError."""
        message = oip.StreamResponse() if self.streams else oip.Response()
        wraps = self.streams and not set(content) <= set(message.DESCRIPTOR.fields_by_name)
        try:
            ParseDict(dict(content), self.body(message) if wraps else message)
        except ParseError as error:
            raise ValueError(str(error)) from None
        return message

    def body(self, response: Any) -> Any:
        """The ModelInferResponse, which a stream's message carries."""
        return response.infer_response if self.streams else response

    def filled(self, answer: Any, withheld: bytes | None, keep: Sequence[str]) -> bytes:
        """A response message with the fields that it copies from the withheld one."""
        return filled_message(answer, withheld, keep, self.body)

    def require_fields(self, answer: Any, fields: Sequence[str]) -> None:
        """Raises ValueError where responses have no such field."""
        require_fields(self.body(answer), fields)

    def stop(self, request: bytes) -> tuple[str, bytes] | None:
        """None: the protocol has no such call."""
        del request
        return None

    def numbered(self, response: Any, sequence: int) -> bytes:
        """There are no sequences to tell apart."""
        del sequence
        return bytes(response.SerializeToString())

    def request_field(self, path: str) -> Callable[[bytes], str]:
        """A function that reads a field of a request as text, such as parameters[session].string_param."""
        return text_at(oip.Request, path)


class TensorReader:
    """Reads a model's tensors. What follows from their descriptions is computed once for each layout."""

    def __init__(self, signals: Mapping[str, SignalPath], shapes: Shapes, *, streams: bool = False) -> None:
        self._streams = streams
        self._paths = [(name, path.side, path.path.partition(".")[2]) for name, path in signals.items()]
        self._wants_request = any(side == "request" for _, side, _ in self._paths)
        self._shapes = shapes
        self._plans: dict[tuple[TensorLayout, TensorLayout], TensorPlan] = {}
        self._plans_of_responses: dict[TensorLayout, TensorPlan] = {}  # where no signal is the request's

    def read(self, opened: Sequence[Opened], request: bytes | None) -> Reading:
        """Rows, family and raw contents of a response; of several, their rows together. Raises Unscored."""
        if len(opened) > 1:
            carrying = [part for part in opened if not part.empty]
            return _together([self.read([part], request) for part in carrying or opened[:1]])
        response: Any = opened[0]
        if not self._wants_request:
            plan = self._plans_of_responses.get(response.layout) or self._plan(response.layout, None)
            raws = plan.pick(response.raw)
        else:
            if request is None:
                raise Unscored("missing_signal", "there is no request to read a signal from")
            message = oip.read_request(request)
            plan = self._plans.get((response.layout, message.layout)) or self._plan(response.layout, message.layout)
            places = zip(plan.of_request, plan.positions, strict=True)
            raws = [(message.raw if in_request else response.raw)[position] for in_request, position in places]
        if list(map(len, raws)) != plan.sizes:
            held, size = next((len(raw), size) for raw, size in zip(raws, plan.sizes, strict=True) if len(raw) != size)
            raise Unscored("shape", f"a tensor holds {held} bytes where its shape says {size}")
        return plan.rows, plan.family, raws

    def places(self, opened: TensorMessage, content: bytes) -> Places | None:
        """Where a response's tensors are among its bytes; all but raw contents is its structure."""
        plan = self._plans_of_responses.get(opened.layout)
        if plan is None:
            return None
        contents = raw_contents(content, streamed=self._streams)
        if len(contents) != opened.layout.contents:
            return None
        mask = bytearray(b"\xff" * len(content))
        for start, stop in contents:
            mask[start:stop] = bytes(stop - start)
        return Places(bytes(mask), [[contents[position]] for position in plan.positions])

    def _plan(self, response: TensorLayout, request: TensorLayout | None) -> TensorPlan:
        """Where the signals' tensors are in responses of this layout, and how many rows. Raises Unscored."""
        positions, of_request, sizes, signals, counts = [], [], [], [], {}
        for signal, side, name in self._paths:
            layout = response if side == "response" else request
            assert layout is not None
            tensor = layout.tensor(name)
            size = item_size(tensor.datatype, name)
            if tensor.position < 0:
                raise Unscored("missing_signal", f"tensor '{name}' is in shared memory")
            if min(tensor.shape, default=1) < 0 or len(tensor.shape) > MOST_AXES:
                raise Unscored("shape", f"tensor '{name}' has the shape {list(tensor.shape[:MOST_AXES])}")
            rows, shape = self._shapes.rows(signal, tensor.shape)
            if rows and (problem := self._shapes.misfit(signal, prod(shape))):
                raise Unscored("shape", problem)
            counts[signal] = rows
            positions.append(tensor.position)
            of_request.append(side == "request")
            sizes.append(prod(tensor.shape) * size)
            signals.append((signal, tensor.datatype, shape))
        family = self._shapes.family(tuple(signals))
        plan = TensorPlan(tuple(positions), _picking(positions), tuple(of_request), sizes, one_count(counts), family)
        if not response.remembered or (request is not None and not request.remembered):
            return plan
        if len(self._plans) + len(self._plans_of_responses) >= KEPT_LAYOUTS:
            self._plans.clear()
            self._plans_of_responses.clear()
        if request is None:
            self._plans_of_responses[response] = plan
        else:
            self._plans[response, request] = plan
        return plan


class RequestedOutputs:
    """Adds output tensors to requests that name some, and removes them from the responses.

    A request that names none gets every output anyway.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)

    def ask(self, request: bytes) -> bytes | None:
        """The request with the outputs added, None when none is missing. Raises Unscored."""
        message = oip.parse(oip.Request, request, "request")
        requested = {output.name for output in message.outputs}
        missing = [name for name in self._names if name not in requested] if requested else []
        for name in missing:
            message.outputs.add(name=name)
        return message.SerializeToString() if missing else None

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without the outputs that the caller's request does not name. Raises Unscored."""
        requested = {output.name for output in oip.parse(oip.Request, request, "request").outputs}
        message = oip.parse(oip.Response, response, "response")
        extra = [
            at
            for at, output in enumerate(message.outputs)
            if output.name in self._names and output.name not in requested
        ]
        for at in reversed(extra):
            del message.outputs[at]
            if at < len(message.raw_output_contents):
                del message.raw_output_contents[at]
        return bytes(message.SerializeToString())


def _picking(positions: Sequence[int]) -> Callable[[Any], list[bytes]]:
    """A function that takes the contents at these positions out of protobuf's container, which costs a third by a slice
    or an itemgetter of what it costs one after the other.
    """
    first = positions[0] if positions else 0
    if list(positions) == list(range(first, first + len(positions))):
        return itemgetter(slice(first, first + len(positions)))
    pick = itemgetter(*positions)
    return lambda contents: list(pick(contents))


def _together(readings: Sequence[Reading]) -> Reading:
    """Several messages' rows as one reading. Raises Unscored `rows` when they cannot be stacked."""
    if any(family.signals != readings[0][1].signals for _, family, _ in readings):
        raise Unscored("rows", "messages that are judged together have tensors of different shapes")
    raws = [b"".join(column) for column in zip(*(raws for _, _, raws in readings), strict=True)]
    return sum(rows for rows, _, _ in readings), readings[0][1], raws
