"""The interface of a guarded method to judgement, for every protocol.

Two kinds of method implement it: those of the Open Inference Protocol (`oip_method`), whose tensors are found by
layout, and those of other protocols (`field_method`), whose fields are found by path. Presets choose the kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from tocsin.protocols.paths import SignalPath
from tocsin.protocols.rows import Reading, Shapes

AT_END = 0  # judge once, when the stream has ended
EVALUATION_NAME = "gen_ai.evaluation.name"  # an attribute of methods whose calls are opinions about other calls


class AnsweredRequest(NamedTuple):
    """The request that a response on a stream of requests answers: its id, "" where the response names none, and
    whether it is the last response to it.
    """

    id: str
    is_final: bool


class Opened(Protocol):
    """A parsed response, with the model and version that the call names.

    `empty`: a message of a stream that carries nothing to judge; `is_summary`: it repeats what came before; `sequence`:
    the parallel answer that it belongs to.
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
    """Reads one model's signals from a method's messages."""

    def read(self, opened: Sequence[Opened], request: bytes | None) -> Reading:
        """The rows of the messages that are judged together, mostly one. Raises Unscored."""
        ...


class Edit(Protocol):
    """What a method can be asked for besides what callers ask, and how that is removed again."""

    def ask(self, request: bytes) -> bytes | None:
        """The request that asks for the signals too, None when the caller asks for them already. Raises Unscored."""
        ...

    def strip(self, request: bytes, response: bytes) -> bytes:
        """The response without what only `ask` requested; `request` is the caller's. Raises Unscored."""
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
        """Parse a response and find its model. Raises Unscored `undecodable`."""
        ...

    def decoded_size(self, response: bytes) -> int:
        """How many of a response's bytes cost time when it is read."""
        ...

    def request_id(self, request: bytes) -> str:
        """The id of one request of a stream, "" where it has none. Raises Unscored `undecodable`."""
        ...

    def answer_of(self, response: bytes) -> AnsweredRequest:
        """Which request of a stream a response answers. Raises Unscored `undecodable`."""
        ...

    def sequence(self, response: bytes) -> int:
        """The number of the parallel sequence that a message belongs to; 0 where it has none."""
        ...

    def reader(self, signals: Mapping[str, SignalPath], shapes: Shapes) -> Reader:
        """A reader of these signals. Raises ValueError with the reason where the method cannot have one of them."""
        ...

    def needs_request(self, signals: Mapping[str, SignalPath]) -> bool:
        """Whether reading these signals takes the request."""
        ...

    def edit(self, signals: Mapping[str, SignalPath], amount: int) -> Edit | None:
        """How to ask for these signals, None where the protocol sends nothing on demand."""
        ...

    def answer(self, content: Mapping[str, Any]) -> Any:
        """A response message of these fields. Raises ValueError."""
        ...

    def filled(self, answer: Any, withheld: bytes | None, keep: Sequence[str]) -> bytes:
        """A response message of `answer`, encoded, with the fields that it copies from the withheld one."""
        ...

    def require_fields(self, answer: Any, fields: Sequence[str]) -> None:
        """Raises ValueError where responses have no such field."""
        ...

    def stop(self, request: bytes) -> tuple[str, bytes] | None:
        """A method, and a request to it, that cancel the call at the server; None where there is none."""
        ...

    def numbered(self, response: Any, sequence: int) -> bytes:
        """A response message of `answer`, encoded, with that sequence number."""
        ...

    def request_field(self, path: str) -> Any:
        """A function that reads a field of a request as text. Raises ValueError."""
        ...
