"""The external processor's position: what Envoy says of an exchange, and does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from benchmarks.matrix.answers import Answer, pieces_of
from tocsin.ext_proc.attach import ext_proc_filter
from tocsin.ext_proc.context import ProcessorContext, WaitingResponse
from tocsin.ext_proc.exchange import EnvoyExchange
from tocsin.ext_proc.requests import read_request
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.memory import MemoryBudget

MODE_NAMES = ("NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC")


class _Envoy:
    """Says what Envoy says of an exchange, and does what it is told, with the filter that `tocsin attach` prints."""

    origin = ""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.memory = MemoryBudget(1 << 26).open(lambda: None)
        self.exchange = EnvoyExchange(ProcessorContext(guard.config, guard, lambda seconds: None), self)
        self.replies: list[Any] = []
        self.is_ended = False
        self._waiting: list[tuple[Call, WaitingResponse]] = []
        self._later: list[WaitingResponse] = []

    def reply(self, content: bytes) -> None:
        self.replies.append(ProcessingResponse.FromString(content))

    def finish(self, status: int = 0, message: str = "") -> None:
        self.is_ended = True

    def work(self, steps: Iterator[None], size: int) -> None:
        for _ in steps:
            pass

    def submit(self, call: Call, waiting: WaitingResponse) -> None:
        self._waiting.append((call, waiting))

    def go_on_later(self, waiting: WaitingResponse) -> None:
        self._later.append(waiting)

    def limit(self, waiting: WaitingResponse, call: Call) -> None:
        return None

    def ask(self, *request: Any) -> Callable[[], object]:
        raise AssertionError("nothing is asked again here")

    ask_http = ask

    def say(self, **parts: Any) -> None:
        if self.is_ended or any(reply.HasField("immediate_response") for reply in self.replies):
            return
        self.exchange.on_message(read_request(ProcessingRequest(**parts).SerializeToString()))
        while self._waiting:
            judged, self._waiting = self._waiting, []
            self.guard.judge([call for call, _ in judged])
            for call, waiting in judged:
                waiting.judged(call)
            later, self._later = self._later, []
            for waiting in dict.fromkeys(later):
                waiting.go_on()


def _fields(pairs: dict[str, str]) -> Any:
    return {"headers": [{"key": name, "raw_value": value.encode()} for name, value in pairs.items()]}


def ext_proc(guard: Guard, path: str, answer: Answer) -> Answer:
    """Behind Envoy: its messages to the external processor, in the mode that `tocsin attach` prints."""
    served = guard.config.model_copy(update={"ext_proc": guard.config.listen})
    settings = ext_proc_filter(served, guard)["typed_config"]
    modes, observes = settings["processing_mode"], settings.get("observability_mode", False)
    mode = MODE_NAMES.index(modes["response_body_mode"])
    envoy = _Envoy(guard)
    first = {"observability_mode": True} if observes else {"protocol_config": {"response_body_mode": mode}}
    attributes = {"request.path": path, "request.method": "POST"}
    attributes_sent = [{"key": "envoy.filters.http.ext_proc", "value": attributes}]
    status = {":status": str(answer.status)}
    envoy.say(response_headers={"headers": _fields(status | answer.headers)}, attributes=attributes_sent, **first)
    if MODE_NAMES[mode] == "BUFFERED":
        envoy.say(response_body={"body": answer.body, "end_of_stream": True}, **({} if not observes else first))
    else:
        for piece in [*pieces_of(answer.body), b""]:
            envoy.say(response_body={"body": piece, "end_of_stream": not piece}, **({} if not observes else first))
    envoy.exchange.on_closed()
    return answer if observes else _done(envoy, answer, MODE_NAMES[mode])


def _done(envoy: _Envoy, answer: Answer, mode: str) -> Answer:
    """What Envoy makes of the replies."""
    headers, body, ends = dict(answer.headers), b"", mode != "FULL_DUPLEX_STREAMED"
    for reply in envoy.replies:
        kind = reply.WhichOneof("response")
        if kind == "immediate_response":
            changed = reply.immediate_response
            setting = {option.header.key: option.header.raw_value.decode() for option in changed.headers.set_headers}
            return Answer(changed.status.code, setting, changed.body, bool(body))
        common = getattr(reply, kind).response
        for option in common.header_mutation.set_headers:
            headers[option.header.key] = option.header.raw_value.decode()
        for name in common.header_mutation.remove_headers:
            headers.pop(name, None)
        if kind == "response_body":
            mutation = common.body_mutation
            if mutation.WhichOneof("mutation") == "streamed_response":
                body += mutation.streamed_response.body
                ends = ends or mutation.streamed_response.end_of_stream
            elif mutation.WhichOneof("mutation") == "body":
                body += mutation.body
            elif mode != "FULL_DUPLEX_STREAMED":
                body = answer.body
    return Answer(answer.status, headers, body, not ends)
