"""Where calls say which session or group they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tocsin.configuration.fields import CONNECTION, STREAM, VERSION
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call
from tocsin.protocols.method import Method

KeyFinder = Callable[[Call], str]


def key_finder(
    model: str, source: str | None, methods: Mapping[str, Method], guarded: Iterable[str]
) -> tuple[KeyFinder, bool]:
    """A function that finds the session or the group of a call of the `guarded` methods in `source`, "" where it names
    none; and whether it reads the request. Raises ConfigError, naming the model, where requests have no such field.
    """
    if not source:
        return lambda call: "", False
    if source == VERSION:
        return lambda call: call.version, False
    if source == STREAM:
        return lambda call: call.parent.session(call.sequence) if call.parent is not None else "", False
    if source == CONNECTION:
        return lambda call: call.origin, False
    side, _, key = source.partition(".")
    if side == "metadata":
        return lambda call: call.keys.get(key, ""), False
    finders: dict[str, Callable[[bytes], str]] = {}
    for name in guarded:
        try:
            finders[name] = methods[name].request_field(key)
        except ValueError as error:
            raise ConfigError(f"models.{model}: {source}: {name}: {error}") from None
    return lambda call: finders[call.method](call.request) if call.request is not None else "", True
