"""Protocols: which methods carry responses, and where things stand in them. A protocol is a file of settings.

Those that ship are in `presets/`; a user's own have the same form in the configuration, under `protocols`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from tocsin.protocols.descriptors import Pool, find_method, pool
from tocsin.protocols.field_edit import Ask
from tocsin.protocols.field_method import Abort, FieldMethod, Ids
from tocsin.protocols.field_signals import Alternatives
from tocsin.protocols.field_values import TensorForm
from tocsin.protocols.method import AT_END, Method
from tocsin.protocols.oip_method import InferMethod
from tocsin.protocols.paths import signal_path

Judged = Literal["message", "end"] | int


class TensorConfig(BaseModel):
    """A message type that is a tensor: the paths of its datatype and shape, and where its values are."""

    model_config = ConfigDict(extra="forbid")

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

    model_config = ConfigDict(extra="forbid")

    unless: str = Field(description="The field of a request by which the caller asks by itself.")
    set: dict[str, Any] = Field(description="Fields of the request and their values; `amount` is the number asked for.")
    strip: list[str | dict[str, str]] = Field(
        description="Fields to clear in responses; {FIELD: FIELD OF THE REQUEST} unless that says that callers want it."
    )


class AlternativesConfig(BaseModel):
    """Where messages tell the likeliest tokens of each place."""

    model_config = ConfigDict(extra="forbid")

    tokens: str | dict[str, str] = Field(
        description="The path of their ids, an axis of places and one of alternatives; {others, said, ranks} where the "
        "token that was said is told apart from the others."
    )
    logprobs: str | dict[str, str] = Field(description="The path of their log-probabilities, likewise.")


class AbortConfig(BaseModel):
    """The call by which a server is told that an answer is not wanted any more."""

    model_config = ConfigDict(extra="forbid")

    method: str = Field(description="The method, as /package.Service/Method.")
    ids: str = Field(description="The field of its request that names calls.")
    id: str = Field(description="The field of a guarded request that names it.")


class IdsConfig(BaseModel):
    """How a response on a stream of requests tells which of them it answers."""

    model_config = ConfigDict(extra="forbid")

    request: str = Field(description="The path of a request's id.")
    response: str = Field(description="The path, in a response, of the id of the request that it answers.")


class MethodConfig(BaseModel):
    """A guarded method."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field("", description="Where calls tell the model, as request.PATH, response.PATH or metadata.KEY.")
    version: str = Field("", description="Where calls tell its version.")
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
    ids: IdsConfig | None = Field(None, description="Of a stream of requests: how a response tells whose it is.")
    in_turn: bool = Field(
        False, description="Of a stream of requests: each has exactly one response, in the order of the requests."
    )
    sequence: str = Field(
        "", description="Where a stream's message tells which of several parallel sequences it belongs to."
    )
    signals: dict[str, Any] = Field({}, description="Places of signals that models need not name.")
    alternatives: AlternativesConfig | None = Field(
        None, description="Where the likeliest tokens stand, for signals that are told by choices."
    )
    attributes: dict[str, str] = Field({}, description="What spans of its calls say besides (OpenTelemetry).")
    abort: AbortConfig | None = Field(
        None, description="How to tell the server that a stream was stopped, besides resetting it."
    )
    ask: AskConfig | None = Field(None, description="How to ask for signals, for models with `ask`.")


class ProtocolConfig(BaseModel):
    """A protocol: descriptors of its messages, and its guarded methods."""

    model_config = ConfigDict(extra="forbid")

    descriptors: str = Field(
        "", description="A descriptor set (protoc --include_imports --descriptor_set_out), relative to this file."
    )
    reflection: bool = Field(False, description="Ask the upstream for descriptors when starting, instead.")
    methods: dict[str, MethodConfig] = Field(description="Guarded methods, as /package.Service/Method.", min_length=1)
    tensors: dict[str, TensorConfig] = Field({}, description="Message types that are tensors, by full name.")


@cache
def presets() -> list[str]:
    """The names of the protocols that ship."""
    return sorted(entry.name[:-5] for entry in files(__package__).joinpath("presets").iterdir() if entry.name[0] != "_")


@cache
def preset(name: str) -> dict[str, Method]:
    """The methods of a protocol that ships, by name."""
    content = yaml.safe_load(files(__package__).joinpath("presets", f"{name}.yaml").read_text("utf-8"))
    if content.get("reader") == "tensors":
        return {path: InferMethod(path, streams=streams) for path, streams in content["methods"].items()}
    config = ProtocolConfig.model_validate(content)
    return methods(config, lambda: pool(config.descriptors))


def methods(config: ProtocolConfig, descriptors: Callable[[], Pool]) -> dict[str, Method]:
    """The methods of a protocol, by name. Raises ValueError naming the method and what does not fit it."""
    pool = descriptors()
    forms = {name: _form(name, tensor) for name, tensor in config.tensors.items()}
    result: dict[str, Method] = {}
    for name, method in config.methods.items():
        try:
            abort = None if method.abort is None else find_method(pool, method.abort.method)
            result[name] = _method(find_method(pool, name), method, forms, abort)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return result


def _form(name: str, tensor: TensorConfig) -> TensorForm:
    repeats = name == "tensorflow.TensorProto" if tensor.repeats_last is None else tensor.repeats_last
    return TensorForm(tensor.dtype, tensor.shape, tensor.bytes, tensor.values, repeats)


def judged_every(judge: Judged) -> int:
    """Of how many messages one judgement is made; AT_END for all."""
    if isinstance(judge, int):
        return judge
    return AT_END if judge == "end" else 1


def _method(described: Any, config: MethodConfig, forms: Mapping[str, TensorForm], abort: Any) -> FieldMethod:
    ask, alternatives = config.ask, config.alternatives
    return FieldMethod(
        described,
        model=config.model,
        version=config.version,
        every=judged_every(config.judge),
        summary=config.summary,
        content=config.content,
        sequence=config.sequence,
        ids=None if config.ids is None else Ids(config.ids.request, config.ids.response),
        in_turn=config.in_turn,
        signals={name: signal_path(place) for name, place in config.signals.items()},
        forms=forms,
        asks=None if ask is None else Ask(ask.unless, ask.set, ask.strip),
        abort=None if config.abort is None else Abort(abort, config.abort.ids, config.abort.id),
        alternatives=None
        if alternatives is None
        else Alternatives(signal_path(alternatives.tokens), signal_path(alternatives.logprobs)),
        attributes=config.attributes,
    )
