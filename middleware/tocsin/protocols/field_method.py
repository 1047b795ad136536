"""Methods of any gRPC protocol, whose signals are read by paths of fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tocsin.protocols.field_edit import FieldEdit, RequestedFields
from tocsin.protocols.field_paths import resolve, text_at
from tocsin.protocols.field_reader import FieldReader, KnownMessage, OpenedMessage, Signal, parsed
from tocsin.protocols.field_signals import Alternatives, plain, signal_of
from tocsin.protocols.field_values import TensorForm
from tocsin.protocols.layouts import Layouts
from tocsin.protocols.likeliest import Read
from tocsin.protocols.message_filling import filled_message, require_fields
from tocsin.protocols.method import AnsweredRequest, Opened
from tocsin.protocols.paths import SignalPath
from tocsin.protocols.rows import Shapes
from tocsin.protocols.single_fields import SingleFields


class Abort(NamedTuple):
    """A method that cancels calls: which field of its request takes the names of calls, and which field of theirs is
    the name.
    """

    method: MethodDescriptor
    ids: str
    id: str


class Ids(NamedTuple):
    """Which fields hold a request's id, and in a response the id of its request."""

    request: str
    response: str


class FieldMethod:
    """A method found in a descriptor. `model` and `version` say where calls name them: `request.PATH`, `response.PATH`
    or `metadata.KEY`. `summary` is the field of a stream's last message that repeats what was streamed; `content` the
    fields of a stream's message that carry something to judge; `sequence` the field that numbers parallel sequences.
    `ids` and `in_turn` say how responses on a stream of requests are matched with them. `signals` are the paths that
    users need not configure; `asks` what requests can ask for besides; `alternatives` the likeliest tokens of each
    position; `texts` where the texts of request and response are; `abort` the call that cancels this one.

    Raises ValueError where a path does not fit the messages.
    """

    def __init__(
        self,
        described: MethodDescriptor,
        *,
        model: str = "",
        version: str = "",
        every: int = 1,
        summary: str = "",
        content: str = "",
        sequence: str = "",
        ids: Ids | None = None,
        in_turn: bool = False,
        signals: Mapping[str, SignalPath] | None = None,
        forms: Mapping[str, TensorForm] | None = None,
        asks: RequestedFields | None = None,
        alternatives: Alternatives | None = None,
        abort: Abort | None = None,
        attributes: Mapping[str, str] | None = None,
        texts: tuple[str, str] = ("", ""),
    ) -> None:
        self.attributes: Mapping[str, str] = dict(attributes or {})
        self.texts = texts
        self.name = f"/{described.containing_service.full_name}/{described.name}"
        self.streams = bool(described.server_streaming)
        self.requests_stream = bool(described.client_streaming)
        self.every = every
        self.signals = dict(signals or {})
        self._request = GetMessageClass(described.input_type)
        self._response = GetMessageClass(described.output_type)
        self._forms = dict(forms or {})
        self.model_key, self.version_key = _metadata_key(model), _metadata_key(version)
        self._model, self._version = self._told_at(model), self._told_at(version)
        self._silent = not (self._model[1] or self._version[1])  # calls tell neither
        self._asks = asks
        self._alternatives = alternatives
        self._abort = abort
        self.stops = abort is not None
        if abort is not None:
            resolve(self._request.DESCRIPTOR, abort.id)
            resolve(abort.method.input_type, abort.ids)
        if summary:
            resolve(self._response.DESCRIPTOR, summary)
        self._summary = summary
        self._content = [_content_at(self._response.DESCRIPTOR, way) for way in _ways(content)]
        self.in_turn = in_turn
        self._request_id = text_at(self._request, ids.request) if ids is not None else None
        self._response_id = text_at(self._response, ids.response) if ids is not None else None
        self._single = SingleFields(self._response.DESCRIPTOR)
        self.parallel = bool(sequence)
        self._places = [way.split(".") for way in _ways(sequence)]
        told_by = [resolve(self._response.DESCRIPTOR, way).field for way in _ways(sequence)]
        self._layouts = Layouts(self._response.DESCRIPTOR, {field.full_name for field in told_by})
        if self._places:  # where an owner is missing, its number is 0
            self._sequences = attrgetter(*(".".join(way) for way in self._places))
        for path in self.signals.values():
            if not path.is_metadata:
                self._signal(path)
        if asks is not None:
            FieldEdit(asks, self._request, self._response, 1, self._layouts).try_out()

    def open(self, response: bytes, request: bytes | None) -> Opened:
        """Parse a response and find its model. Raises Unscored."""
        if self._silent and (layout := self._layouts.of(response)) is not None:
            return KnownMessage(response, layout, self._response)
        message = parsed(self._response, response, "response", self._single)
        is_summary = message.HasField(self._summary) if self._summary else False
        sequence = self._sequence_of(message) if self.parallel else 0
        empty = bool(self._content) and not any(follow(message) for follow in self._content)
        if self._silent:
            self._layouts.learn(response, is_summary, sequence, empty)
            return OpenedMessage("", "", message, is_summary, sequence, empty)
        opened_request = None
        if "request" in (self._model[0], self._version[0]) and request is not None:
            opened_request = parsed(self._request, request, "request")
        model, version = (
            _read_text(self._model, message, opened_request),
            _read_text(self._version, message, opened_request),
        )
        return OpenedMessage(model, version, message, is_summary, sequence, empty)

    def request_id(self, request: bytes) -> str:
        """The id of one request of a stream, "" where it has none."""
        return self._request_id(request) if self._request_id is not None else ""

    def decoded_size(self, response: bytes) -> int:
        """All of them: values are decoded one by one."""
        return len(response)

    def answer_of(self, response: bytes) -> AnsweredRequest:
        """Which request of a stream a response answers."""
        return AnsweredRequest(self._response_id(response) if self._response_id is not None else "", False)

    def sequence(self, response: bytes) -> int:
        """Which sequence a message belongs to."""
        if (layout := self._layouts.of(response)) is not None:
            return layout.sequence
        try:
            return self._sequence_of(self._response.FromString(response))
        except DecodeError:
            return 0  # found out when it is judged

    def _sequence_of(self, message: Any) -> int:
        sequence: Any = self._sequences(message)
        return int(max(sequence) if len(self._places) > 1 else sequence)

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> FieldReader:
        """A reader of these signals. Raises ValueError where a path does not fit the messages."""
        paths = [
            Signal(
                name,
                path.side == "request",
                self._signal(path),
                path.side != "request" and plain(self._response.DESCRIPTOR, path),
                path.path,
            )
            for name, path in signals.items()
        ]
        return FieldReader(paths, self._request, self._response, shapes)

    def needs_request(self, signals: Mapping[str, SignalPath]) -> bool:
        """Whether some signal, or the model's name, is in the request."""
        sides = [self._model[0], self._version[0], *(path.side for path in signals.values())]
        return "request" in sides

    def edit(self, signals: Mapping[str, SignalPath], amount: int) -> FieldEdit | None:
        """How to ask for what the protocol sends only on demand."""
        del signals
        return (
            None if self._asks is None else FieldEdit(self._asks, self._request, self._response, amount, self._layouts)
        )

    def answer(self, content: Mapping[str, Any]) -> Any:
        """A response message with these fields. Raises ValueError."""
        try:
            return ParseDict(dict(content), self._response())
        except ParseError as error:
            raise ValueError(str(error)) from None

    def filled(self, answer: Any, withheld: bytes | None, keep: Sequence[str]) -> bytes:
        """A response message with the fields that it copies from the withheld one."""
        return filled_message(answer, withheld, keep, lambda message: message)

    def require_fields(self, answer: Any, fields: Sequence[str]) -> None:
        """Raises ValueError where responses have no such field."""
        require_fields(answer, fields)

    def stop(self, request: bytes) -> tuple[str, bytes] | None:
        """The method, and the request to it, that cancel this request at the server."""
        if self._abort is None:
            return None
        name = text_at(self._request, self._abort.id)(request)
        message = ParseDict({self._abort.ids: [name]}, GetMessageClass(self._abort.method.input_type)())
        path = f"/{self._abort.method.containing_service.full_name}/{self._abort.method.name}"
        return (path, message.SerializeToString()) if name else None

    def numbered(self, response: Any, sequence: int) -> bytes:
        """The response with that sequence number."""
        renumbered = type(response)()
        renumbered.CopyFrom(response)
        for *owners, field in self._places:
            if not owners or renumbered.HasField(owners[0]):
                setattr(attrgetter(".".join(owners))(renumbered) if owners else renumbered, field, sequence)
                break
        return bytes(renumbered.SerializeToString())

    def request_field(self, path: str) -> Callable[[bytes], str]:
        """A function that reads a field of a request as text."""
        return text_at(self._request, path)

    def decoded(self, content: bytes, side: str) -> Any:
        """A message. Raises Unscored `undecodable`."""
        return parsed(self._side(side), content, side)

    def _signal(self, path: SignalPath) -> Read:
        return signal_of(self._side(path.side).DESCRIPTOR, path, self._forms, self._alternatives)

    def _side(self, side: str) -> Any:
        return self._request if side == "request" else self._response

    def _told_at(self, path: str) -> tuple[str, Callable[[Any], Any] | None]:
        if not path or _metadata_key(path):
            return "", None
        side, _, rest = path.partition(".")
        resolved = resolve(self._side(side).DESCRIPTOR, rest)
        if resolved.repeated or resolved.message_type or resolved.by_rows:
            raise ValueError(f"'{path}' is not one value")
        return side, resolved.follow


def _content_at(root: Any, path: str) -> Callable[[Any], Any]:
    """A function that reads the value at `path` from a message of a stream; the message carries content where that is
    true. Raises ValueError for a path to one number, which every message has.
    """
    resolved = resolve(root, path)
    if resolved.numeric and not resolved.repeated and "[]" not in path and "[*]" not in path:
        raise ValueError(f"content: '{path}' is one number, which messages carry always: name a repeated field")
    return resolved.follow


def _ways(path: str) -> list[str]:
    """The alternatives of a path in responses; none for an empty path."""
    return [way.strip().removeprefix("response.") for way in path.split("|")] if path else []


def _metadata_key(path: str) -> str:
    return path.removeprefix("metadata.") if path.startswith("metadata.") else ""


def _read_text(where: tuple[str, Callable[[Any], Any] | None], response: Any, request: Any) -> str:
    side, follow = where
    message = request if side == "request" else response
    value = None if follow is None or message is None else follow(message)
    return "" if value is None else str(value)
