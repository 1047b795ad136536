"""Which action follows a verdict, and what callers get in place of a response that is withheld."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from tocsin.configuration.actions import AbstainConfig, RetryConfig
from tocsin.configuration.model import ModelConfig
from tocsin.errors import ConfigError
from tocsin.grpc_wire.status import Status
from tocsin.judgement.call import Call
from tocsin.protocols.descriptors import message_class
from tocsin.protocols.method import Method
from tocsin.verdict import ACTIONS, Verdict, Weighed, action_of
from tocsin_calibration.risk.retries import Verifier, plan_retries

RichStatus = message_class("status", "google.rpc.Status")
ErrorInfo = message_class("status", "google.rpc.ErrorInfo")
DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "tocsin"
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    **dict.fromkeys(("429", "502", "503", "504"), "UNAVAILABLE"),
}  # as gRPC's http-grpc-status-mapping.md says
_REASONS = {"abstain": "ABSTAINED", "block": "BLOCKED"}

WITHHOLDS = frozenset({"retry", "fallback", "abstain", "block"})  # actions under which the answer does not go out


class Replacement(NamedTuple):
    """What goes out in place of a response: messages, or a status with its details (a google.rpc.Status).

    `further`: the messages are another response to the same request, not an answer that Tocsin made.
    """

    responses: tuple[bytes, ...]
    status: Status
    message: str
    details: bytes
    further: bool = False


class Policy:
    """The reactions configured for one model. Raises ConfigError when they do not fit its protocol or each other.

    `actions` are those that an alarm may lead to. `asks_again`: some reaction sends the request once more, so that it
    must be kept; `tries` is how often at most.
    """

    def __init__(self, name: str, config: ModelConfig, methods: Sequence[Method]) -> None:
        self._config = config
        self._reactions = {severity: (r.action, r.share) for severity, r in config.on_alarm.items()}
        self.plain = not self._reactions
        actions = {action for action, _ in self._reactions.values()}
        weighs = ("flag", "abstain") if config.risk is not None else ()
        self.actions = sorted({"flag", *actions, *self._in_place_of(actions), *weighs} - {"pass"}, key=ACTIONS.index)
        self.tries = 0 if config.retry is None else _worthwhile_tries(config.retry)
        self.withholds = bool(actions & WITHHOLDS) or config.risk is not None
        self.asks_again = bool(actions & {"retry", "fallback"})
        self._answers = _answers(f"models.{name}.abstain.response", config.abstain.response, methods, each=True)
        self._kept_fields = _kept_fields_of(f"models.{name}.abstain.keep", config.abstain, methods, self._answers)
        self._endings = {
            action: _answers(f"models.{name}.{action}.ending", settings.ending, methods)
            for action, settings in (("abstain", config.abstain), ("block", config.block))
        }

    def action(
        self, severity: str | None, severities: Sequence[str | None], weighed: Weighed | None, call: Call
    ) -> str:
        """What is to be done about a response, by the most severe of its rows."""
        if severity is None and weighed is None:
            return "pass"
        actions = {self._reaction(row_severity, call) for row_severity in set(severities)}
        if weighed is not None:
            actions |= {action_of(None, decision) for decision in weighed.decisions}
        return max(actions, key=ACTIONS.index)

    def _reaction(self, severity: str | None, call: Call) -> str:
        if severity is None:
            return "pass"
        action, share = self._reactions.get(severity, ("flag", 1.0))
        if share < 1 and zlib.crc32(call.response or b"") >= share * 2**32:
            return "flag"  # a response falls in or out by its own bytes, so that every position does the same
        return action

    def _in_place_of(self, actions: Collection[str]) -> set[str]:
        """What is done where these actions had no success."""
        first = {self.action_without_asking(action) for action in actions}
        return first | {self.action_without_asking(action) for action in first}

    def action_without_asking(self, action: str) -> str:
        """What is done when asking again had no success."""
        if action == "retry" and self._config.retry is not None:
            return self._config.retry.otherwise
        if action == "fallback" and self._config.fallback is not None:
            return self._config.fallback.otherwise
        return action

    def replacement(
        self, action: str, call: Call, withheld: bytes | None, *, partially_sent: bool = False
    ) -> Replacement:
        """What callers get when `action` (abstain or block) is done to a call, in place of the message `withheld`.

        A stream gets the configured `ending`, one for each sequence under way. Without one it gets a status where part
        of it has gone out already, as `begun` says.
        """
        settings: Any = self._config.abstain if action == "abstain" else self._config.block
        by_ending = partially_sent or (call.parent or call).ends_by_ending
        answer = self._answers.get(call.method) if action == "abstain" and not by_ending else None
        if answer is not None:
            return Replacement((call.reads.filled(answer, withheld, self._kept_fields),), Status.OK, "", b"")
        ending = self._endings[action].get(call.method)
        under_way = sorted(call.parent.started_sequences - call.parent.complete) if call.parent is not None else []
        if ending is not None and under_way:
            responses = tuple(call.reads.numbered(ending, sequence) for sequence in under_way)
            return Replacement(responses, Status.OK, "", b"")
        return _status(settings.status, settings.message, _REASONS[action], call.verdict)


def failed_closed(verdict: Verdict | None) -> Replacement:
    """What callers get when a response could not be scored and `fail` is closed."""
    reason = verdict.unscored if verdict is not None and verdict.unscored else "late"
    return _status("UNAVAILABLE", f"the monitor could not judge this answer ({reason})", "UNSCORED", verdict)


def not_grpc(status: str, why: str, verdict: Verdict | None) -> Replacement:
    """What callers get in place of an answer that is not gRPC: the status that an HTTP `status` means to gRPC clients,
    and UNAVAILABLE in place of one that looks like success.
    """
    code = "UNAVAILABLE" if status == "200" else _OF_HTTP.get(status, "UNKNOWN")
    return _status(code, f"the monitor could not judge this answer: {why}", "UNSCORED", verdict)


def _answers(
    where: str, content: dict[str, Any] | None, methods: Sequence[Method], *, each: bool = False
) -> dict[str, Any]:
    """A message of each method whose responses have these fields. The others get a status; where `each` of them must
    have the fields, ConfigError.
    """
    result, problems = {}, []
    for method in methods if content is not None else ():
        try:
            result[method.name] = method.answer(content or {})
        except ValueError as error:
            problems.append(f"{method.name}: {error}")
    if problems and not result:
        raise ConfigError(f"{where}: fits no method: {'; '.join(problems)}")
    if problems and each:
        raise ConfigError(
            f"{where}: fits {', '.join(result)}, but not every guarded method: {'; '.join(problems)}. Leave it out, so "
            "that callers get a status, or guard the methods as two models with protocols of their own"
        )
    return result


def _kept_fields_of(
    where: str, config: AbstainConfig, methods: Sequence[Method], answers: Mapping[str, Any]
) -> list[str]:
    """The fields that an abstaining answer copies from the withheld one. Raises ConfigError where a method's response
    has no such field.
    """
    for method in methods:
        if (answer := answers.get(method.name)) is None:
            continue
        try:
            method.require_fields(answer, config.keep)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
    return config.keep


def _status(code: str, message: str, reason: str, verdict: Verdict | None) -> Replacement:
    """A gRPC error with the verdict's facts as ErrorInfo, in place of a response."""
    status = Status[code]
    facts = {}
    if verdict is not None:
        facts = {"model": verdict.model, "bundle": verdict.bundle[:19]}
        if verdict.severity is not None:
            facts["severity"] = verdict.severity
        if verdict.pvalues:
            facts["p"] = f"{min(verdict.pvalues):.6g}"
        if verdict.unscored is not None:
            facts["unscored"] = verdict.unscored
    rich = RichStatus(code=status.value, message=message)
    info = ErrorInfo(reason=reason, domain=DOMAIN, metadata=facts)
    packed = info.SerializeToString(deterministic=True)
    rich.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=packed)
    return Replacement((), status, message, rich.SerializeToString())


def _worthwhile_tries(config: RetryConfig) -> int:
    """How many further tries to make: as many as are worth their cost, where costs are configured."""
    if config.accuracy is None:
        return config.most
    plan = plan_retries(
        config.accuracy,
        Verifier(config.passes_right, config.passes_wrong),
        gain=config.gain,
        loss=config.loss,
        cost=config.cost,
        correlation=config.correlation,
        max_tries=config.most + 1,
    )
    return max(0, plan.tries - 1)
