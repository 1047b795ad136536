"""What a call of each method must carry, for all models that guard the method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tocsin.configuration.config import Config
from tocsin.judgement.call_plan import MethodPlan
from tocsin.judgement.model import GuardedModel
from tocsin.protocols.method import Method
from tocsin.protocols.paths import INITIAL, TRAILING


def guarded_methods(models: Iterable[GuardedModel]) -> tuple[dict[str, Method], dict[str, list[GuardedModel]]]:
    """The guarded methods by name, and the models that guard each."""
    methods: dict[str, Method] = {}
    of_method: dict[str, list[GuardedModel]] = {}
    for model in models:
        for method in model.served.values():
            methods[method.name] = method
            of_method.setdefault(method.name, []).append(model)
    return methods, of_method


def method_plans(
    config: Config, methods: Mapping[str, Method], models: Mapping[str, Sequence[GuardedModel]]
) -> dict[str, MethodPlan]:
    """The plan of each method that the models of a configuration guard, by the method's name."""
    return {
        name: MethodPlan(
            methods[name],
            _events_have_payloads(config) or any(m.wants_request(name) for m in guarding),
            _every(methods[name], guarding),
            any(model.readers.together for model in guarding),
            methods[name].in_turn or all(model.config.in_turn for model in guarding),
            _response_keys(name, INITIAL, guarding),
            _response_keys(name, TRAILING, guarding),
        )
        for name, guarding in models.items()
    }


def sends_payloads(config: Config) -> bool:
    """Whether somebody gets requests and responses: receivers of events, or a judge."""
    return _events_have_payloads(config) or any(model.second_opinion is not None for model in config.models.values())


def _events_have_payloads(config: Config) -> bool:
    return config.events is not None and config.events.payload == "both"


def _response_keys(method: str, side: str, models: Sequence[GuardedModel]) -> Sequence[str]:
    """The metadata keys of a response that some model reads, on the initial or the trailing side."""
    return tuple(dict.fromkeys(key for model in models for key in model.readers.response_keys(method, side)))


def _every(method: Method, models: Sequence[GuardedModel]) -> int:
    """How many messages of a stream are judged as one: what some model configures, else the method's own number."""
    return next((model.readers.every for model in models if model.readers.every is not None), method.every)
