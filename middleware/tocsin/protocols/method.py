"""What judgement needs to know of a guarded method, whatever protocol it belongs to.

Two kinds of method have this shape: those of the Open Inference Protocol (`oip_method`), whose tensors are found by
layout, and those of any other protocol (`field_method`), whose fields are found by path. Presets say which is which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tocsin.protocols.paths import SignalPath
from tocsin.protocols.rows import Reading, Shapes

AT_END = 0  # judge once, when the stream has ended


class AnsweredRequest(NamedTuple):
    """Which request a response on a stream of requests answers: its id, empty where it tells none, and whether no more
    responses to it come.
    """

    id: str
    is_final: bool


class Opened(Protocol):
    """A response whose model is known, as its method's readers want it: what the call says of model and version.

    `empty`: of a stream, it carries nothing to judge; `is_summary`: it says again what came before; `sequence`: which
    of several parallel answers it belongs to.
    """

    @property
    def model(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def empty(self) -> bool: ...

    @property
    def is_summary(self) -> bool: ...

    @property
    def sequence(self) -> int: ...


class Reader(Protocol):
    """Finds one model's signals in a method's messages."""

    def read(self, opened: Sequence[Opened], request: bytes | None) -> Reading:
        """The rows of the messages that are judged together, mostly one. Raises Unscored."""
        ...


class Edit(Protocol):
    """What a method can be asked for besides what callers ask, and how that is taken out again."""

    def ask(self, request: bytes) -> bytes | None:
        """The request that asks for the signals too, None when the caller asks for them anyway. Raises Unscored."""
        ...

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without what only `ask` asked for; `request` is the caller's. Raises Unscored."""
        ...


class Method(Protocol):
    """One method, such as /inference.GRPCInferenceService/ModelInfer.

    `attributes` are what spans of its calls say besides; `model_key` and `version_key` the metadata that tell model and
    version, where messages do not; `streams`: responses are a stream; `requests_stream`: requests are; `in_turn`: each
    of those has one response, in their order; `every`: of so many response messages, one judgement, AT_END for all of
    them; `parallel`: a stream may carry several sequences; `stops`: there is a call that stops an answer.
    """

    name: str
    attributes: Mapping[str, str]
    streams: bool
    requests_stream: bool
    in_turn: bool
    every: int
    parallel: bool
    stops: bool
    model_key: str
    version_key: str

    def open(self, response: bytes, request: bytes | None) -> Opened:
        """Whose response it is. Raises Unscored `undecodable`."""
        ...

    def request_id(self, request: bytes) -> str:
        """The id of one request of a stream, empty where it has none. Raises Unscored `undecodable`."""
        ...

    def answer_of(self, response: bytes) -> AnsweredRequest:
        """Which request of a stream a response answers. Raises Unscored `undecodable`."""
        ...

    def sequence(self, response: bytes) -> int:
        """Which of several parallel sequences a message belongs to; 0 where that is not told."""
        ...

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> Reader:
        """How to read these signals. Raises ValueError telling why the method cannot have one of them."""
        ...

    def needs_request(self, signals: Mapping[str, SignalPath]) -> bool:
        """Whether reading these signals takes the request."""
        ...

    def edit(self, signals: Mapping[str, SignalPath], amount: int) -> Edit | None:
        """How to ask for these signals, None where the protocol has nothing to ask."""
        ...

    def answer(self, content: Mapping[str, Any]) -> Any:
        """A response message of these fields. Raises ValueError."""
        ...

    def filled(self, answer: Any, withheld: bytes | None, keep: Sequence[str]) -> bytes:
        """A response message of `answer`, encoded, with the fields that it takes over from the one that is withheld."""
        ...

    def require_fields(self, answer: Any, fields: Sequence[str]) -> None:
        """Raises ValueError where responses have no such field."""
        ...

    def stop(self, request: bytes) -> tuple[str, bytes] | None:
        """A method, and a request to it, that tell the server to stop answering; None where there is none."""
        ...

    def numbered(self, response: Any, sequence: int) -> bytes:
        """A response message of `answer`, encoded, as one of that sequence."""
        ...

    def request_field(self, path: str) -> Any:
        """A function that finds a field's text in a request. Raises ValueError."""
        ...
