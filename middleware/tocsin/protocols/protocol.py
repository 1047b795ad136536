"""Protocols: which methods carry responses, and where things stand in them. A protocol is a file of `settings`.

Those that ship are in `presets/`; a user's own have the same form in the configuration, under `protocols`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from tocsin.protocols.descriptors import Pool, find_method, pool
from tocsin.protocols.field_edit import RequestedFields
from tocsin.protocols.field_method import Abort, FieldMethod, Ids
from tocsin.protocols.field_signals import Alternatives
from tocsin.protocols.field_values import TensorForm
from tocsin.protocols.http.ask import JsonAsk
from tocsin.protocols.http.method import JsonMethod, StreamFormat
from tocsin.protocols.http.routes import Route, is_route
from tocsin.protocols.http.tensors import InferRoute
from tocsin.protocols.method import Method
from tocsin.protocols.oip_method import InferMethod
from tocsin.protocols.paths import SignalPath, signal_path
from tocsin.protocols.settings import MethodConfig, ProtocolConfig, TensorConfig, judged_every


@cache
def presets() -> list[str]:
    """The names of the protocols that ship."""
    return sorted(entry.name[:-5] for entry in files(__package__).joinpath("presets").iterdir() if entry.name[0] != "_")


@cache
def _shipped(name: str) -> dict[str, Any]:
    import yaml  # takes a while, and importing Tocsin does without

    content: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("presets", f"{name}.yaml").read_text("utf-8"))
    return content


@cache
def is_http(name: str) -> bool:
    """Whether the methods of a protocol that ships are routes of HTTP."""
    return any(is_route(method) for method in _shipped(name)["methods"])


@cache
def preset(name: str) -> dict[str, Method]:
    """The methods of a protocol that ships, by name."""
    if is_http(name):
        return route_preset(name)
    content = _shipped(name)
    if content.get("reader") == "tensors":
        return {path: InferMethod(path, streams=streams) for path, streams in content["methods"].items()}
    config = ProtocolConfig.model_validate(content)
    return methods(config, lambda: pool(config.descriptors))


def route_preset(name: str) -> dict[str, Method]:
    """The routes of a protocol that ships, made anew: they read what is asked of them, and nothing that others ask."""
    content = _shipped(name)
    if content.get("reader") == "tensors":
        return {route: InferRoute(route) for route in content["methods"]}
    return routes(ProtocolConfig.model_validate(content))


def methods(config: ProtocolConfig, descriptors: Callable[[], Pool]) -> dict[str, Method]:
    """The methods of a protocol, by name. Raises ValueError naming the method and what does not fit it."""
    if config.is_http:
        return routes(config)
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


def routes(config: ProtocolConfig) -> dict[str, Method]:
    """The routes of an HTTP protocol, by name. Raises ValueError naming the route and what does not fit it."""
    result: dict[str, Method] = {}
    for name, method in config.methods.items():
        try:
            result[name] = _route(name, method)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return result


def _route(name: str, config: MethodConfig) -> JsonMethod:
    """The route of these settings. Raises ValueError."""
    Route(name)  # raises ValueError
    ask = config.ask
    strip: dict[str, Any] = {}
    if ask is not None and isinstance(ask.strip, dict):
        strip = ask.strip
    elif ask is not None:
        for path in ask.strip:
            if not isinstance(path, str):
                raise ValueError("ask.strip: of a route, name members, or tell {MEMBER: VALUE}")
            strip[path] = None
    return JsonMethod(
        name,
        model=config.model,
        version=config.version,
        stream=StreamFormat(config.done, config.finish, config.summary, config.repeat) if config.streams else None,
        every=judged_every(config.judge),
        content=config.content,
        sequence=config.sequence,
        signals=_places(config.signals),
        asks=None if ask is None else JsonAsk(ask.unless, ask.set, strip),
        alternatives=_alternatives(config),
        attributes=config.attributes,
        texts=(config.question, config.answer),
        error=config.error,
        error_event=config.error_event,
    )


def _places(configured: Mapping[str, Any]) -> dict[str, SignalPath]:
    """Where a method has signals. Raises ValueError where a place is none of its messages."""
    places = {name: signal_path(place) for name, place in configured.items()}
    for name, path in places.items():
        if path.is_previous:
            raise ValueError(
                f"signals.{name}: previous is of sessions, which models have: set models.NAME.signals.{name}"
            )
    return places


def _alternatives(config: MethodConfig) -> Alternatives | None:
    if config.alternatives is None:
        return None
    return Alternatives(signal_path(config.alternatives.tokens), signal_path(config.alternatives.logprobs))


def _form(name: str, tensor: TensorConfig) -> TensorForm:
    repeats = name == "tensorflow.TensorProto" if tensor.repeats_last is None else tensor.repeats_last
    return TensorForm(tensor.dtype, tensor.shape, tensor.bytes, tensor.values, repeats)


def _method(described: Any, config: MethodConfig, forms: Mapping[str, TensorForm], abort: Any) -> FieldMethod:
    """The gRPC method of these settings; `abort` describes the method that cancels it. Raises ValueError."""
    asks: RequestedFields | None = None
    if config.ask is not None:
        if isinstance(config.ask.strip, dict):
            raise ValueError("ask.strip: of a gRPC method, a list of fields; {MEMBER: VALUE} is for routes of HTTP")
        asks = RequestedFields(config.ask.unless, config.ask.set, config.ask.strip)
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
        signals=_places(config.signals),
        forms=forms,
        asks=asks,
        abort=None if config.abort is None else Abort(abort, config.abort.ids, config.abort.id),
        alternatives=_alternatives(config),
        attributes=config.attributes,
        texts=(config.question, config.answer),
    )
