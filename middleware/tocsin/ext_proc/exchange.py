"""One HTTP exchange as Envoy reports it: its request becomes a Call, its response is judged, and each message gets a
reply.

A state machine without sockets: `on_message` takes Envoy's messages, and the host sends the replies in their order.
"""

from __future__ import annotations

from typing import Final

from tocsin.exchange.exchange import Exchange
from tocsin.ext_proc import replies
from tocsin.ext_proc.context import ExchangeHost, HttpRequest, ProcessorContext
from tocsin.ext_proc.holding import HeldResponse
from tocsin.ext_proc.http_response import HttpResponse
from tocsin.ext_proc.misfits import LINES
from tocsin.ext_proc.request_bodies import GrpcRequestBody, HttpRequestBody
from tocsin.ext_proc.request_head import ReportedHead
from tocsin.ext_proc.requests import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    GRPC,
    MODE_UNKNOWN,
    NOTHING,
    REQUEST_BODY,
    REQUEST_HEADERS,
    REQUEST_TRAILERS,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    ProcessingRequest,
    read_fields,
)
from tocsin.ext_proc.response import JudgedResponse, ProcessedResponse
from tocsin.ext_proc.watching import WatchedResponse
from tocsin.judgement.call import Call
from tocsin.judgement.policy import failed_closed

FAILED_PRECONDITION: Final = 9
PERMISSION_DENIED: Final = 7


class EnvoyExchange:
    """One request and its response. `origin` names the connection that Envoy's stream is on."""

    __slots__ = (
        "_context", "_grpc_body", "_has_begun", "_has_request", "_head", "_host", "_http", "_http_body",
        "_http_request", "_is_observing", "_is_over", "_request_ended", "_request_mode", "_response",
        "_response_mode", "call",
    )  # fmt: skip

    def __init__(self, context: ProcessorContext, host: ExchangeHost) -> None:
        self._context = context
        self._host = host
        self._has_begun = False
        self._is_over = False
        self._is_observing = False
        self._request_mode = self._response_mode = MODE_UNKNOWN
        self._head = ReportedHead()
        self._http: Exchange | None = None  # of a route of HTTP
        self._http_body = HttpRequestBody(context.max_message, host.memory)
        self._http_request: HttpRequest | None = None  # as the model server gets it
        self._grpc_body = GrpcRequestBody(context.max_message, host.memory)
        self._has_request = False  # some of the request's body has come
        self._request_ended = False
        self._response: ProcessedResponse | None = None
        self.call: Call | None = None

    def on_message(self, message: ProcessingRequest) -> None:
        """Envoy reports a part of the exchange."""
        if self._is_over:
            return
        if not self._has_begun and not self._begin(message):
            return
        if message.attributes:
            self._head.attributes.update(message.attributes)
        kind = message.kind
        if kind in (REQUEST_HEADERS, REQUEST_BODY, REQUEST_TRAILERS):
            self._on_request(kind, message)
            return
        if kind == NOTHING:  # of a kind that later versions have
            self._context.not_understood["message"] += 1
            self.end(FAILED_PRECONDITION, "a message of a kind that is not known here")
            return
        response = self._response
        if response is None:
            response = self._respond()
            if response is None:
                return
        if kind == RESPONSE_BODY:
            response.on_body(message)
        elif kind == RESPONSE_HEADERS:
            response.on_headers(message)
        else:
            response.on_trailers(message)

    @property
    def is_waiting(self) -> bool:
        """Whether Envoy waits for a reply."""
        return not self._is_over and self._response is not None and self._response.is_waiting

    def end(self, status: int, reason: str) -> None:
        """End Envoy's stream with a status. The filter's `failure_mode_allow` decides what happens to the exchange
        then.
        """
        if not self._is_over:
            self._host.finish(status, reason)
            self.on_closed(is_abandoned=False)

    def on_closed(self, *, is_abandoned: bool = True) -> None:
        """Envoy reports no more: the exchange has ended, or one side has abandoned it."""
        if self._is_over:
            return
        self._is_over = True
        self._grpc_body.forget()
        self._http_body.forget()
        response = self._response
        if response is not None:
            if is_abandoned:
                self._look_back(response)
            response.on_closed()
        elif self.call is not None and self.call.streams:
            self._context.guard.on_call_closed(self.call)

    # -- how it begins

    def _begin(self, message: ProcessingRequest) -> bool:
        """Read the filter's modes from the first message; whether the processor can serve them."""
        self._has_begun = True
        self._is_observing = message.is_observing
        self._request_mode, self._response_mode = message.request_mode, message.response_mode
        if GRPC in (self._request_mode, self._response_mode):
            self._context.misfits.count("grpc_body")
            self.end(FAILED_PRECONDITION, f"tocsin: {LINES['grpc_body']}")
            return False
        return True

    # -- the request

    def _on_request(self, kind: int, message: ProcessingRequest) -> None:
        if kind == REQUEST_HEADERS:
            self._head.on_fields(read_fields(message.content))
            self._grpc_body.encoding = self._head.encoding
            self._request_ended = message.end
            self._open_call()
            if self._refuses_unguarded():
                return
        elif kind == REQUEST_BODY:
            self._has_request = True
            self._request_ended = self._request_ended or message.end or self._request_mode == BUFFERED
            if self._http is not None:
                if (changed := self._read_http_request(self._http, message.content)) is not None:
                    setting = [("content-length", str(len(changed)))]
                    self._host.reply(replies.replaced_body(REQUEST_BODY, changed, setting, ["accept-encoding"]))
                    return
            elif self.call is not None and self.call.wants_request:
                self._grpc_body.read(self.call, message.content)
                if isinstance(self._response, JudgedResponse):
                    self._response.count_requests()
        else:
            self._request_ended = True
        if self._is_observing:
            return
        if kind == REQUEST_BODY and self._request_mode == FULL_DUPLEX_STREAMED:
            self._host.reply(replies.streamed_body(REQUEST_BODY, message.content, end=message.end))
        else:
            self._host.reply(replies.CONTINUE[kind])

    def _open_call(self) -> None:
        """The call of this exchange, once its path is known; None where no model guards its method."""
        self._head.settle()
        context, origin, path, metadata = self._context, self._host.origin, self._head.path, self._head.metadata
        self._http = context.http.open(self._head.verb, path, metadata.items(), origin=origin) if path else None
        if self._http is not None:
            self.call = self._http.call
        elif method := context.paths.method(path):
            self.call = context.guard.call(method, metadata, "", origin)
        context.exchanges[self.call is not None] += 1

    def _refuses_unguarded(self) -> bool:
        """Refuse a call that no model guards, where that is configured; whether it was refused."""
        context = self._context
        if self.call is not None or not context.refuses_unguarded or self._is_observing:
            return False
        path = self._head.path
        if not path or context.allowed_methods.allows(path):
            return False
        context.limited["unguarded"] += 1
        message = f"tocsin: no model guards {path[:200]}"
        self._host.reply(replies.immediate(403, message.encode(), grpc_status=PERMISSION_DENIED))
        self._is_over = True
        return True

    def _read_http_request(self, exchange: Exchange, piece: bytes) -> bytes | None:
        """Take a piece of an HTTP request. Once the request is complete, returns what goes on in its place."""
        if not exchange.wants_request:
            return None
        body = self._http_body
        fault = body.add(piece)
        if fault is not None:
            exchange.on_request(None, fault)
            return None
        if not self._request_ended:
            return None
        content = body.take()
        changed = exchange.on_request(content)
        if changed is not None and (self._request_mode != BUFFERED or self._is_observing):
            changed = None
        self._http_request = HttpRequest(self._head.verb, self._head.path, self._head.forwarded, changed or content)
        return changed

    # -- the response

    def _respond(self) -> ProcessedResponse | None:
        """Choose how the response that begins now is treated. None where the exchange ends here."""
        context, host, mode = self._context, self._host, self._response_mode
        if self.call is None and not self._head.fields:
            self._open_call()
            if not self._head.path:
                context.misfits.count("no_path")
            if self._refuses_unguarded():
                return None
        call = self.call
        if call is None:
            self._response = ProcessedResponse(context, host, mode, is_observing=self._is_observing)
            return self._response
        wants_request = call.wants_request if self._http is None else self._http.wants_request
        if wants_request and not self._has_request and not self._request_ended:
            context.misfits.count("no_request")
        if self._is_observing and context.annotates:
            context.misfits.count("observability")
        elif mode == BUFFERED_PARTIAL:
            context.misfits.count("buffered_partial")
        if context.enforces:
            if mode in (BUFFERED, FULL_DUPLEX_STREAMED) and not self._is_observing:
                if self._http is not None:
                    return self._respond_http(self._http, holds=True)
                self._response = HeldResponse(
                    context, host, mode, call, self._head.fields, can_retry=self._request_ended
                )
                return self._response
            if not self._is_observing:
                context.misfits.count("not_held")
                if self._refuses_unheld(call):
                    return None
        if self._http is not None:
            return self._respond_http(self._http, holds=False)
        self._response = WatchedResponse(
            context, host, mode, call, is_observing=self._is_observing, annotates=context.annotates
        )
        return self._response

    def _respond_http(self, exchange: Exchange, *, holds: bool) -> ProcessedResponse:
        context = self._context
        self._response = HttpResponse(
            context,
            self._host,
            self._response_mode,
            exchange,
            self._http_request,
            is_observing=self._is_observing,
            holds=holds,
            annotates=context.annotates and not self._is_observing,
        )
        return self._response

    def _refuses_unheld(self, call: Call) -> bool:
        """Refuse a response that the filter's mode cannot hold, where `fail` is closed; whether it was refused."""
        guard = self._context.guard
        call.model = guard.model_of(call)
        if not guard.fails_closed(call):
            return False
        guard.give_up(call, "not_sent", LINES["not_held"])
        guard.acted(call, "refused")
        instead = failed_closed(call.verdict)
        self._host.reply(replies.immediate(503, instead.message.encode(), grpc_status=instead.status.value))
        self.on_closed(is_abandoned=False)
        return True

    def _look_back(self, response: ProcessedResponse) -> None:
        """The exchange has ended: find out from what never came which parts the filter does not send."""
        context = self._context
        if response.is_waiting:
            context.abandoned += 1
        if not isinstance(response, JudgedResponse):
            return
        if response.lacks_body:
            response.count_unsent()
        elif response.lacks_trailers and context.annotates and not self._is_observing:
            context.misfits.count("no_trailers")
