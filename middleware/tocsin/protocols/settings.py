"""The settings of a protocol, in a preset or in the configuration's `protocols`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tocsin.protocols.http.routes import is_route
from tocsin.protocols.method import AT_END

Judged = Literal["message", "end"] | int

OF_HTTP = frozenset({"streams", "done", "finish", "repeat", "error", "error_event"})
OF_GRPC = frozenset({"ids", "in_turn", "abort"})


class TensorConfig(BaseModel):
    """A message type that is a tensor: the paths of its datatype and shape, and where its values are."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    dtype: str = Field(description="The path of its datatype, a text or an enum.")
    shape: str = Field(description="The path of its shape.")
    bytes: str = Field("", description="The path of its values as packed bytes.")
    values: dict[str, str] = Field({}, description="The field of its values, by datatype (FP32, INT64, ...).")
    repeats_last: bool | None = Field(
        None,
        description="Whether fewer values than the shape says are followed by the last over and over, none by zeros, "
        "as in TensorFlow; null: of tensorflow.TensorProto.",
    )


class AskConfig(BaseModel):
    """What requests are changed to, so that responses carry signals."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    unless: str = Field(description="The field of a request by which the caller asks by itself.")
    set: dict[str, Any] = Field(description="Fields of the request and their values; `amount` is the number asked for.")
    strip: list[str | dict[str, str]] | dict[str, Any] = Field(
        description="Fields to clear in responses; {FIELD: FIELD OF THE REQUEST} unless that says that callers want "
        "it. Of a route, members that become null, or, written as {MEMBER: VALUE}, that value."
    )


class AlternativesConfig(BaseModel):
    """Where messages have the likeliest tokens of each place."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    tokens: str | dict[str, str] = Field(
        description="The path of their ids, an axis of places and one of alternatives; {others, said, ranks} where the "
        "token that was chosen stands apart from the others."
    )
    logprobs: str | dict[str, str] = Field(description="The path of their log-probabilities, likewise.")


class AbortConfig(BaseModel):
    """The call that cancels an answer at the server."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    method: str = Field(description="The method, as /package.Service/Method.")
    ids: str = Field(description="The field of its request that names calls.")
    id: str = Field(description="The field of a guarded request that names it.")


class IdsConfig(BaseModel):
    """How a response on a stream of requests tells which of them it answers."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    request: str = Field(description="The path of a request's id.")
    response: str = Field(description="The path, in a response, of the id of the request that it answers.")


class MethodConfig(BaseModel):
    """A guarded method."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    model: str = Field("", description="Where calls name the model: request.PATH, response.PATH or metadata.KEY.")
    version: str = Field("", description="Where calls name the model's version.")
    judge: Judged = Field(
        "message", description="Of a stream: message judges each, a number so many together, end the whole."
    )
    summary: str = Field(
        "",
        description="The field of a stream's last message that sums up what was streamed; where that was judged, such "
        "a message is not judged again.",
    )
    content: str = Field(
        "",
        description="Where a stream's message carries something to judge; a message in which it is empty, and which "
        "has no signals, passes uncounted.",
    )
    ids: IdsConfig | None = Field(None, description="Of a stream of requests: how a response names its request.")
    in_turn: bool = Field(
        False, description="Of a stream of requests: each has exactly one response, in the order of the requests."
    )
    sequence: str = Field("", description="Where a stream's message numbers the parallel sequence that it belongs to.")
    signals: dict[str, Any] = Field({}, description="Places of signals that models need not name.")
    question: str = Field(
        "", description="Where the text of a request is, such as request.messages, for a second opinion."
    )
    answer: str = Field("", description="Where the text of a response is, for a second opinion.")
    alternatives: AlternativesConfig | None = Field(
        None, description="Where the likeliest tokens are, for signals by choices."
    )
    attributes: dict[str, str] = Field({}, description="What spans of its calls say besides (OpenTelemetry).")
    abort: AbortConfig | None = Field(
        None, description="How to cancel a stopped stream at the server, besides resetting it."
    )
    ask: AskConfig | None = Field(None, description="How to ask for signals, for models with `ask`.")
    streams: bool = Field(
        False, description="Of a route: whether responses may be streams, of server-sent events or of lines of JSON."
    )
    done: str = Field(
        "", description="Of a route's streams: the data of the event after which nothing comes, such as [DONE]."
    )
    finish: str = Field("", description="Of a route's streams: where a message marks the end of its sequence.")
    repeat: list[str] = Field(
        [], description="Of a route's streams: members that Tocsin's own messages repeat from those of the stream."
    )
    error: dict[str, Any] | None = Field(
        None,
        description="Of a route: the body of an error, in whose texts {message}, {reason} and {status} are filled in.",
    )
    error_event: str = Field("", description="Of a route's streams: the name of the event that carries an error.")


class ProtocolConfig(BaseModel):
    """A protocol: descriptors of its messages, and its guarded methods."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    descriptors: str = Field(
        "", description="A descriptor set (protoc --include_imports --descriptor_set_out), relative to this file."
    )
    reflection: bool = Field(False, description="Ask the upstream for descriptors when starting, instead.")
    methods: dict[str, MethodConfig] = Field(
        description="Guarded methods, as /package.Service/Method, or routes of HTTP, as POST /v1/score.", min_length=1
    )
    tensors: dict[str, TensorConfig] = Field({}, description="Message types that are tensors, by full name.")

    @property
    def is_http(self) -> bool:
        """Whether its methods are routes of HTTP."""
        return any(is_route(name) for name in self.methods)

    @model_validator(mode="after")
    def _one_transport(self) -> ProtocolConfig:
        """Methods of gRPC or routes of HTTP, and only the settings of either."""
        if not self.is_http:
            foreign = [
                (name, key) for name, method in self.methods.items() for key in method.model_fields_set & OF_HTTP
            ]
            if foreign:
                name, key = foreign[0]
                raise ValueError(f"methods.{name}.{key}: is a setting of HTTP routes, such as POST /v1/score")
            return self
        for name, method in self.methods.items():
            if not is_route(name):
                raise ValueError(f"methods.{name}: a protocol has methods of gRPC or routes of HTTP, not both")
            if foreign_keys := sorted(method.model_fields_set & OF_GRPC):
                raise ValueError(f"methods.{name}.{foreign_keys[0]}: is a setting of gRPC methods, not of HTTP routes")
        for key in ("descriptors", "reflection", "tensors"):
            if getattr(self, key):
                raise ValueError(f"{key}: is a setting of gRPC protocols; routes of HTTP carry JSON")
        return self


def judged_every(judge: Judged) -> int:
    """Of how many messages one judgement is made; AT_END for all."""
    if isinstance(judge, int):
        return judge
    return AT_END if judge == "end" else 1
