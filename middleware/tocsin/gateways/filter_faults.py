"""An ext_proc filter of Envoy's, as one route has it, held against what Tocsin needs of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from tocsin.gateways.document import Block, at, block, blocks
from tocsin.gateways.findings import Effect, EnvoyFault
from tocsin.gateways.needs import Needs, ReachableMethod

BODY_MODES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC")
SEND_MODES = ("DEFAULT", "SEND", "SKIP")
MESSAGE_TIMEOUT = 0.2  # seconds, unless configured
DEFERRED_CLOSE = 5.0
CUT_SHORT = 0.5  # a stream of copies that is closed so soon may lose its last


class Filter:
    """The filter with what a route overrides. `line_of` is where a setting stands, or where it would."""

    def __init__(self, settings: Block, overrides: Sequence[Block], where: str) -> None:
        self.where = where
        self._sources = [*reversed(overrides), settings]
        modes = self._of("processing_mode")
        self.modes = block(modes)
        self.response_body = _named(self.modes.get("response_body_mode"), BODY_MODES)
        self.request_body = _named(self.modes.get("request_body_mode"), BODY_MODES)
        self.sends_request_headers = _named(self.modes.get("request_header_mode"), SEND_MODES) != "SKIP"
        self.sends_response_headers = _named(self.modes.get("response_header_mode"), SEND_MODES) != "SKIP"
        self.sends_trailers = _named(self.modes.get("response_trailer_mode"), SEND_MODES) == "SEND"
        self.observes = self.get("observability_mode") is True
        self.allows_failure = self.get("failure_mode_allow") is True
        self.is_duplex = self.response_body == "FULL_DUPLEX_STREAMED"
        self.attributes = [str(name) for name in self.get("response_attributes") or []]

    def get(self, key: str) -> Any:
        """A setting, as the most specific level has it."""
        return self._of(key)

    def line_of(self, key: str) -> int:
        """Where a setting stands; of a mode, the line within processing_mode."""
        if key.endswith("_mode") and key in self.modes.lines:
            return self.modes.lines[key]
        for source in self._sources:
            if key in source.lines:
                return source.lines[key]
        return self.modes.line or self._sources[-1].line

    def finding(self, effect: Effect, key: str, wrong: str, change: str) -> EnvoyFault:
        return EnvoyFault(effect, self.where, self.line_of(key), wrong, change)

    @property
    def when_unanswered(self) -> Effect:
        """What becomes of a response that Tocsin does not answer."""
        return Effect.MAY_PASS if self.allows_failure or self.observes else Effect.FAILS

    def _of(self, key: str) -> Any:
        for source in self._sources:
            if key in source:
                return source[key]
        return None


def filter_faults(filter_: Filter, needs: Needs, methods: Sequence[ReachableMethod]) -> Iterator[EnvoyFault]:
    """What is wrong with a filter for responses of these methods."""
    if filter_.get("grpc_service") is None:
        yield filter_.finding(
            Effect.MAY_PASS if filter_.allows_failure else Effect.FAILS,
            "http_service",
            "the filter asks by http_service, which Tocsin does not speak",
            "grpc_service, as `tocsin attach` prints it",
        )
    yield from _modes(filter_, needs, methods)
    yield from _requests(filter_, needs, methods)
    yield from _failing(filter_, needs)
    yield from _replies(filter_, needs)
    yield from _forwarded_headers(filter_, needs)


def _wanted_body(needs: Needs, methods: Sequence[ReachableMethod]) -> str:
    waits = needs.enforces or (any(method.is_http for method in methods) and not needs.observes)
    if not waits:
        return "STREAMED"
    return "FULL_DUPLEX_STREAMED" if any(method.streams for method in methods) else "BUFFERED"


def _modes(filter_: Filter, needs: Needs, methods: Sequence[ReachableMethod]) -> Iterator[EnvoyFault]:
    """Body modes under which responses do not come, come in part, or leave before their verdict."""
    mode, key = filter_.response_body, "response_body_mode"
    wanted = _wanted_body(needs, methods)
    change = f"response_body_mode: {wanted}"
    has_http = any(method.is_http for method in methods)
    has_grpc = any(not method.is_http for method in methods)
    if mode == "NONE":
        yield filter_.finding(Effect.PASSES, key, "response bodies do not come (NONE)", change)
    elif mode == "BUFFERED_PARTIAL":
        wrong = "of responses larger than Envoy's buffer only a part comes (BUFFERED_PARTIAL): they pass, unscored"
        yield filter_.finding(Effect.PASSES, key, wrong, change)
    elif mode == "GRPC":
        effect = Effect.PASSES if filter_.allows_failure else Effect.FAILS
        yield filter_.finding(effect, key, "body mode GRPC does not work: Tocsin refuses such exchanges", change)
    elif filter_.observes and mode == "BUFFERED":
        wrong = "with observability_mode, BUFFERED sends no bodies"
        yield filter_.finding(Effect.PASSES, key, wrong, "response_body_mode: STREAMED")
    elif needs.enforces and not filter_.observes and mode == "STREAMED":
        effect = Effect.FAILS if needs.fails_closed else Effect.NOT_HELD
        wrong = "what has left under STREAMED cannot be withheld" + (
            ": with fail: closed, Tocsin refuses every such response" if needs.fails_closed else ""
        )
        yield filter_.finding(effect, key, wrong, change)
    elif mode == "STREAMED" and has_http and needs.mode != "observe" and not filter_.observes:
        wrong = "the headers of a document leave before its verdict is there"
        yield filter_.finding(Effect.UNTOLD, key, wrong, change)
    elif mode == "BUFFERED" and any(method.streams for method in methods) and not filter_.observes:
        wrong = "streams reach their callers whole, after their end (BUFFERED)"
        yield filter_.finding(Effect.NOTE, key, wrong, change)
    if filter_.observes and needs.mode != "observe":
        effect = Effect.NOT_HELD if needs.enforces else Effect.UNTOLD
        wrong = f"Envoy takes no replies with observability_mode, in Tocsin's mode {needs.mode}"
        yield filter_.finding(effect, "observability_mode", wrong, "observability_mode: false")
    if not filter_.sends_response_headers:
        effect = Effect.UNTOLD if not has_http else Effect.FAILS if needs.fails_closed else Effect.PASSES
        wrong = "response headers do not come, so that the content type and coding of a body are not known"
        yield filter_.finding(effect, "response_header_mode", wrong, "response_header_mode: SEND")
    if not filter_.sends_trailers:
        if filter_.is_duplex:
            wrong = "Envoy does not start with FULL_DUPLEX_STREAMED and no trailers"
            yield filter_.finding(Effect.FAILS, "response_trailer_mode", wrong, "response_trailer_mode: SEND")
        elif has_grpc and needs.mode != "observe" and not filter_.observes:
            wrong = "trailers do not come, which carry the verdict of gRPC"
            yield filter_.finding(Effect.UNTOLD, "response_trailer_mode", wrong, "response_trailer_mode: SEND")


def _requests(filter_: Filter, needs: Needs, methods: Sequence[ReachableMethod]) -> Iterator[EnvoyFault]:
    """What judgement needs of requests, and does not get."""
    if not filter_.sends_request_headers:
        if "request.path" not in filter_.attributes:
            wrong = "neither request headers nor the attribute request.path come, so that no method is known"
            change = "response_attributes: [request.path], or request_header_mode: SEND"
            yield filter_.finding(Effect.PASSES, "request_header_mode", wrong, change)
        for key in needs.keys:
            if f"request.headers['{key}']" not in filter_.attributes:
                wrong = f"the header {key}, which judgement reads, does not come"
                change = f"request.headers['{key}'] among response_attributes"
                yield filter_.finding(Effect.NOTE, "response_attributes", wrong, change)
        if needs.needs_request_headers:
            wrong = "request headers are needed and do not come"
            yield filter_.finding(Effect.MAY_PASS, "request_header_mode", wrong, "request_header_mode: SEND")
    if not needs.needs_request:
        return
    if filter_.request_body == "NONE":
        wrong = "request bodies are needed" + (" (ask)" if needs.asks else "") + " and do not come"
        yield filter_.finding(Effect.MAY_PASS, "request_body_mode", wrong, "request_body_mode: BUFFERED")
    elif needs.asks and filter_.request_body != "BUFFERED":
        wrong = f"with ask, requests go on changed, which needs BUFFERED, not {filter_.request_body}"
        yield filter_.finding(Effect.MAY_PASS, "request_body_mode", wrong, "request_body_mode: BUFFERED")
    elif filter_.request_body == "BUFFERED" and any(method.requests_stream for method in methods):
        wrong = "a stream of requests waits for its own end (BUFFERED)"
        yield filter_.finding(Effect.FAILS, "request_body_mode", wrong, "request_body_mode: STREAMED")


def _failing(filter_: Filter, needs: Needs) -> Iterator[EnvoyFault]:
    """What happens while Tocsin does not answer, or answers late, against what `fail` asks for."""
    if filter_.allows_failure and needs.fails_closed and not filter_.observes:
        wrong = "with fail: closed nothing may pass unjudged, and with failure_mode_allow it does while Tocsin is away"
        yield filter_.finding(Effect.MAY_PASS, "failure_mode_allow", wrong, "failure_mode_allow: false")
    elif not filter_.allows_failure and not needs.fails_closed and not filter_.observes:
        wrong = "responses fail while Tocsin is away, which `fail: open` does not ask for"
        yield filter_.finding(Effect.NOTE, "failure_mode_allow", wrong, "failure_mode_allow: true")
    timeout = seconds(filter_.get("message_timeout"), MESSAGE_TIMEOUT)
    if not filter_.observes and not filter_.is_duplex and 0 < timeout < needs.reply_seconds:
        wrong = f"Envoy waits {timeout:g}s for a reply, which may take {needs.reply_seconds:g}s (scoring_budget, acts)"
        change = f"message_timeout: {needs.reply_seconds + 1:g}s"
        yield filter_.finding(filter_.when_unanswered, "message_timeout", wrong, change)
    if filter_.observes:
        deferred = seconds(filter_.get("deferred_close_timeout"), DEFERRED_CLOSE)
        if deferred < CUT_SHORT:
            wrong = f"Envoy closes the stream of copies {deferred:g}s after the response: its last part may be lost"
            yield filter_.finding(Effect.MAY_PASS, "deferred_close_timeout", wrong, "deferred_close_timeout: 5s")
        elif deferred > DEFERRED_CLOSE:
            wrong = f"streams that are not ended stay for {deferred:g}s, and count for max_requests of the cluster"
            yield filter_.finding(Effect.NOTE, "deferred_close_timeout", wrong, "deferred_close_timeout: 5s")


def _replies(filter_: Filter, needs: Needs) -> Iterator[EnvoyFault]:
    """What Tocsin replies, and Envoy does not take."""
    if filter_.observes:
        return
    if needs.enforces and filter_.get("disable_immediate_response") is True:
        effect = Effect.NOT_HELD if filter_.allows_failure else Effect.FAILS
        wrong = "Envoy takes no immediate response, by which alarms are withheld"
        change = "disable_immediate_response: false"
        yield filter_.finding(effect, "disable_immediate_response", wrong, change)
    rules = block(filter_.get("mutation_rules"))
    if needs.mode != "observe" and (rules.get("disallow_all") is True or "disallow_expression" in rules):
        wrong = "Envoy does not take the header tocsin-verdict"
        change = "no disallow_all or disallow_expression in mutation_rules"
        yield filter_.finding(Effect.UNTOLD, "mutation_rules", wrong, change)
    if needs.namespace and needs.mode != "observe":
        spaces = at(block(filter_.get("metadata_options")), "receiving_namespaces", "untyped")
        if needs.namespace not in (spaces or []):
            wrong = f"dynamic metadata of {needs.namespace} (ext_proc_metadata) is not let in"
            change = f"metadata_options: {{receiving_namespaces: {{untyped: [{needs.namespace}]}}}}"
            yield filter_.finding(Effect.UNTOLD, "metadata_options", wrong, change)
    if filter_.get("allow_mode_override") is True:
        wrong = "allow_mode_override lets a processor change these modes: Tocsin never does"
        yield filter_.finding(Effect.NOTE, "allow_mode_override", wrong, "allow_mode_override: false")


def _forwarded_headers(filter_: Filter, needs: Needs) -> Iterator[EnvoyFault]:
    """Headers that are read of a request or response, and that the filter keeps back."""
    rules = block(filter_.get("forward_rules"))
    if not rules:
        return
    allowed, barred = _patterns(rules.get("allowed_headers")), _patterns(rules.get("disallowed_headers"))
    read = [":path", ":method", ":status", "content-type", "content-encoding", "grpc-encoding", *needs.keys]
    withheld = [
        name for name in read if _matches(barred, name) or ("allowed_headers" in rules and not _matches(allowed, name))
    ]
    if withheld:
        wrong = f"headers that judgement reads do not come: {', '.join(withheld)}"
        yield filter_.finding(Effect.MAY_PASS, "forward_rules", wrong, "forward_rules that let them through, or none")


def _patterns(value: Any) -> list[Block]:
    return list(blocks(block(value).get("patterns")))


def _matches(patterns: Sequence[Block], name: str) -> bool:
    """Whether a header's name matches one of Envoy's string matchers."""
    for pattern in patterns:
        for kind, value in pattern.items():
            text = str(value).lower()
            if (
                (kind == "exact" and name == text)
                or (kind == "prefix" and name.startswith(text))
                or (kind == "suffix" and name.endswith(text))
                or (kind == "contains" and text in name)
            ):
                return True
            if kind == "safe_regex":
                try:
                    if re.fullmatch(str(block(value).get("regex")), name):
                        return True
                except re.error:
                    continue
    return False


def seconds(value: Any, default: float) -> float:
    """A duration as protobuf's JSON writes it, such as `0.25s`."""
    try:
        return float(str(value).removesuffix("s")) if value is not None else default
    except ValueError:
        return default


def _named(value: Any, names: Sequence[str]) -> str:
    if isinstance(value, int) and 0 <= value < len(names):
        return names[value]
    return str(value) if value is not None else names[0]
