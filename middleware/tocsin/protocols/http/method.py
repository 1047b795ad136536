"""Routes: methods whose messages are JSON documents. A response is one document, or a stream of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tocsin.protocols.field_signals import Alternatives, document_signal
from tocsin.protocols.field_values import Find
from tocsin.protocols.http.ask import JsonAsk, JsonEdit
from tocsin.protocols.http.call_name import CallName
from tocsin.protocols.http.document import Document
from tocsin.protocols.http.parallel import ParallelAnswers, alternatives_of
from tocsin.protocols.http.parts import JsonMessage, encoded, members_of, object_of
from tocsin.protocols.http.reader import JsonReader, OpenedDocument
from tocsin.protocols.http.values import finders
from tocsin.protocols.likeliest import Read
from tocsin.protocols.method import AnsweredRequest, Opened
from tocsin.protocols.paths import SignalPath, steps
from tocsin.protocols.rows import RowPlans, Shapes
from tocsin.unscored import Unscored


class StreamFormat(NamedTuple):
    """How a route streams: `done` is the data of the event that ends the stream; `finish` the path that marks the end
    of a sequence; `summary` the path at which a message repeats what was streamed; `repeat` the members that Tocsin's
    own messages copy from the stream's messages.
    """

    done: str = ""
    finish: str = ""
    summary: str = ""
    repeat: Sequence[str] = ()


class JsonMethod:
    """A route such as `POST /v1/chat/completions`. `model` and `version` are where calls tell them, as `request.PATH`,
    `response.PATH`, `metadata.HEADER` or `path.NAME` of the route; `stream` how responses may be streamed, None where
    they are not; `content` where a stream's message carries something to judge; `sequence` the path of the number of
    parallel answers, each of which is judged by itself; `signals` are places that users need not name; `asks` what it
    can be asked for; `texts` are where the texts of request and response are; `error` the body of an error, and
    `error_event` its event in streams.

    Raises ValueError where a path is none.
    """

    def __init__(
        self,
        route: str,
        *,
        model: str = "",
        version: str = "",
        stream: StreamFormat | None = None,
        every: int = 1,
        content: str = "",
        sequence: str = "",
        signals: Mapping[str, SignalPath] | None = None,
        asks: JsonAsk | None = None,
        alternatives: Alternatives | None = None,
        attributes: Mapping[str, str] | None = None,
        texts: tuple[str, str] = ("", ""),
        error: Mapping[str, Any] | None = None,
        error_event: str = "",
    ) -> None:
        self.name = route
        self.attributes: Mapping[str, str] = dict(attributes or {})
        self.texts = texts
        self.stream = stream or StreamFormat()
        self.end_mark = self.stream.done.encode()  # what the event that ends a stream holds; empty where none does
        self.streams = stream is not None
        self.requests_stream = self.in_turn = self.stops = False
        self.every = every
        self.signals = dict(signals or {})
        self.error, self.error_event = error, error_event
        self._response, self._request = Document("response"), Document("request", any_case=True)
        self._model = CallName(model, self._request, self._response)
        self._version = CallName(version, self._request, self._response)
        self.model_key, self.version_key = self._model.metadata_key, self._version.metadata_key
        self._names = [*self._model.members("response"), *self._version.members("response")]
        self._request_names = [*self._model.members("request"), *self._version.members("request")]
        self._content = [self._response.place(way, "presence") for way in alternatives_of(content)]
        self._finish = [self._response.place(way, "presence") for way in alternatives_of(self.stream.finish)]
        self._summary = [self._response.place(way, "presence") for way in alternatives_of(self.stream.summary)]
        self._presence_names = [name for place in (*self._content, *self._finish) for name in place.names]
        self._answers = ParallelAnswers(self._response, sequence)
        self.parallel = bool(sequence)
        if stream is None and (sequence or content):
            raise ValueError("sequence and content: are settings of routes whose responses stream: add `streams: true`")
        self._alternatives = alternatives
        self._asks = asks
        if asks is not None:
            JsonEdit(asks, 1)
        for path in self.signals.values():
            self._check(path)

    def split(self, content: bytes) -> list[JsonMessage]:
        """The document as messages that are judged: one, or one for each parallel answer. Raises Unscored
        `undecodable`.
        """
        return self._answers.split(content)

    def open(self, response: bytes, request: bytes | None) -> Opened:
        """Decode a response and find its model. Raises Unscored."""
        document = getattr(response, "document", None)
        if document is None:
            document = self._response.decode(response)
        opened_request = None
        if self._request_names and request is not None:
            opened_request = self._request.decode(request)
            self._request.require_single(request, opened_request, self._request_names)
        if self._names:
            self._response.require_single(response, document, self._names)
        empty = is_summary = False
        if self._content:
            empty = not self._has_content(document)
            if empty:
                self._response.require_single(response, document, self._presence_names)
                is_summary = any(place.is_present(document) for place in self._finish)
        return OpenedDocument(
            self._model.text(document, opened_request),
            self._version.text(document, opened_request),
            response,
            self._response,
            document,
            is_summary,
            self._number_of(response, document) if self.parallel else 0,
            empty,
        )

    def is_summary(self, message: bytes) -> bool:
        """Whether a message of a stream repeats what was streamed."""
        if not self._summary:
            return False
        document = getattr(message, "document", None)
        return document is not None and any(place.is_present(document) for place in self._summary)

    def whole_document(self, content: bytes, headers: Mapping[str, str], side: str) -> bytes:
        """The document in a body with these header fields."""
        del headers, side
        return content

    def decoded(self, content: bytes, side: str) -> Any:
        """All of a message, as Python's values. Raises Unscored `undecodable`."""
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise Unscored("undecodable", f"the {side} is no JSON ({type(error).__name__})") from None

    def members(self, message: bytes, names: Sequence[str]) -> dict[str, bytes]:
        """The bytes of these members of a document. Raises Unscored `undecodable`."""
        members = members_of(message, "response")
        return {name: members[name] for name in names if name in members}

    def finished_sequence(self, message: bytes) -> int | None:
        """The sequence that a message of a stream ends, None where it ends none."""
        document = getattr(message, "document", None)
        if document is None or not any(place.is_present(document) for place in self._finish):
            return None
        return self._answers.number_of(document)

    def request_id(self, request: bytes) -> str:
        """There is one request."""
        del request
        return ""

    def decoded_size(self, response: bytes) -> int:
        """All of them: values are decoded one by one."""
        return len(response)

    def answer_of(self, response: bytes) -> AnsweredRequest:
        """There is one request."""
        del response
        return AnsweredRequest("", False)

    def sequence(self, response: bytes) -> int:
        """The number of the parallel answer that a message belongs to; 0 where it has none."""
        document = getattr(response, "document", None)
        try:
            return self._number_of(response, self._response.decode(response) if document is None else document)
        except Unscored:
            return 0  # found out when it is judged

    def _number_of(self, response: bytes, document: Any) -> int:
        """The same of a decoded response; once of each, as it is asked for twice."""
        if not isinstance(response, JsonMessage):
            return self._answers.number_of(document)
        if response.number is None:
            response.number = self._answers.number_of(document)
        return response.number

    def _has_content(self, document: Any) -> bool:
        """Whether a response carries something to judge. The place where it does is tried first the next time."""
        content = self._content
        for at, place in enumerate(content):
            if place.is_present(document):
                if at:
                    self._content = [place, *content[:at], *content[at + 1 :]]
                return True
        return False

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> JsonReader:
        """A reader of these signals. Raises ValueError where a path is invalid."""
        names: dict[str, list[str]] = {"request": [], "response": []}
        reads = [
            (name, path.side == "request", self._signal(path, names[path.side]), path.path)
            for name, path in signals.items()
        ]
        for path in self.signals.values():  # of the same names, so that they are accounted for
            if path.side == "response" and not path.choices and _last_name(path) in names["response"]:
                if path.is_derived:
                    self._signal(path, [])
                else:
                    self._response.account_for(path.path)
        return JsonReader(reads, self._request, self._response, names, RowPlans(list(signals), shapes))

    def needs_request(self, signals: Mapping[str, SignalPath]) -> bool:
        """Whether some signal, or the model's name, is in the request."""
        sides = [self._model.side, self._version.side, *(path.side for path in signals.values())]
        return "request" in sides

    def edit(self, signals: Mapping[str, SignalPath], amount: int) -> JsonEdit | None:
        """How to ask for what the protocol sends only on demand."""
        del signals
        return None if self._asks is None else JsonEdit(self._asks, amount)

    def answer(self, content: Mapping[str, Any]) -> Any:
        """A response of these members."""
        try:
            encoded(content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"is no JSON: {error}") from None
        return dict(content)

    def filled(self, answer: Any, withheld: bytes | None, keep: Sequence[str]) -> bytes:
        """A response with the members that it copies from the withheld one."""
        if withheld is None or not keep:
            return encoded(answer)
        try:
            members = members_of(withheld, "response")
        except Unscored:
            return encoded(answer)
        own_members = {name: encoded(value) for name, value in answer.items()}
        return object_of({**{name: members[name] for name in keep if name in members}, **own_members})

    def require_fields(self, answer: Any, fields: Sequence[str]) -> None:
        """Documents may have any member."""

    def stop(self, request: bytes) -> tuple[str, bytes] | None:
        """None: closing the connection cancels a request of HTTP."""
        del request
        return None

    def numbered(self, response: Any, sequence: int) -> bytes:
        """The response with that sequence number."""
        return self._answers.numbered(response, sequence)

    def request_field(self, path: str) -> Callable[[bytes], str]:
        """A function that reads a member of a request as text, "" where there is none."""
        place, document = self._request.place(path, "text"), self._request

        def text(content: bytes) -> str:
            try:
                decoded = document.decode(content)
                document.require_single(content, decoded, place.names[-1:])
            except Unscored:
                return ""
            value = place.follow(decoded)
            return "" if value is None or isinstance(value, list) else str(value)

        return text

    def _check(self, path: SignalPath) -> None:
        """Raises ValueError where a signal cannot be read."""
        documents = {"request": Document("request"), "response": Document("response")}
        document_signal(lambda place: finders(documents[place.side], place)[0], path, self._alternatives)

    def _signal(self, path: SignalPath, names: list[str]) -> Read:
        def ways_of(place: SignalPath) -> list[Find]:
            ways, last = finders(self._request if place.side == "request" else self._response, place)
            names.extend(last)
            return ways

        return document_signal(ways_of, path, self._alternatives)


def _last_name(path: SignalPath) -> str:
    return steps(path.path.split("|")[0])[-1].field
