"""Envoy's side of an exchange for tests: it says what Envoy says, and records the replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import ranker as acme
from benchmarks.harness.envoy_messages import ProcessingRequest, ProcessingResponse
from benchmarks.harness.parts import inline_guard
from tests.positions import ANSWERS, config

from tocsin.ext_proc.context import ProcessorContext, WaitingResponse
from tocsin.ext_proc.exchange import EnvoyExchange
from tocsin.ext_proc.requests import read_request
from tocsin.grpc_wire.deframer import framed
from tocsin.judgement.actions import Ask, Outcome
from tocsin.judgement.call import Call
from tocsin.memory import MemoryBudget

BUDGET = 1 << 24


class Host:
    """A host that records replies and judges when `judge` is called."""

    origin = ""

    def __init__(self, bundle: Path, folder: Path, policy: dict[str, Any], budget: int = BUDGET) -> None:
        self.guard = inline_guard(config(bundle, folder, "127.0.0.1:1", policy, behind_envoy=True))
        self.budget = MemoryBudget(budget)
        self.memory = self.budget.open(lambda: None)
        self.context = ProcessorContext(self.guard.config, self.guard, lambda seconds: None)
        self.exchange = EnvoyExchange(self.context, self)
        self.replies: list[Any] = []
        self.ended: tuple[int, str] | None = None
        self.waiting: list[tuple[Call, WaitingResponse]] = []
        self.budgets: list[WaitingResponse] = []
        self.asks: list[tuple[Ask, Any, Callable[[Outcome], None]]] = []
        self.given_up = 0

    def reply(self, content: bytes) -> None:
        assert self.ended is None
        self.replies.append(ProcessingResponse.FromString(content))

    def finish(self, status: int = 0, message: str = "") -> None:
        self.ended = status, message

    def work(self, steps: Iterator[None], size: int) -> None:
        for _ in steps:
            pass

    def submit(self, call: Call, waiting: WaitingResponse) -> None:
        self.waiting.append((call, waiting))

    def go_on_later(self, waiting: WaitingResponse) -> None:
        raise AssertionError("these exchanges are of gRPC")

    def limit(self, waiting: WaitingResponse, call: Call) -> None:
        self.budgets.append(waiting)

    def ask(self, step: Ask, fields: Any, opened: float, on_answer: Callable[[Outcome], None]) -> Callable[[], object]:
        self.asks.append((step, fields, on_answer))

        def give_up() -> None:
            self.given_up += 1

        return give_up

    def ask_http(self, step: Ask, request: Any, on_answer: Callable[[Any], None]) -> Callable[[], object]:
        raise AssertionError("these exchanges are of gRPC")

    # -- what Envoy says

    def say(self, **parts: Any) -> None:
        self.exchange.on_message(read_request(ProcessingRequest(**parts).SerializeToString()))

    def begin(self, mode: int, kind: str = "Rank", *, request: bytes | None = None, observes: bool = False) -> None:
        fields = [(":method", "POST"), (":path", acme.PATHS[kind]), ("content-type", "application/grpc")]
        protocol = (
            {}
            if observes
            else {"protocol_config": {"request_body_mode": 2 * bool(request), "response_body_mode": mode}}
        )
        self.say(request_headers={"headers": header_map(fields)}, observability_mode=observes, **protocol)
        if request is not None:
            self.say(request_body={"body": framed(request), "end_of_stream": True})

    def headers(self, *more: tuple[str, str], status: str = "200", end: bool = False) -> None:
        fields = [(":status", status), ("content-type", "application/grpc"), *more]
        self.say(response_headers={"headers": header_map(fields), "end_of_stream": end})

    def body(self, *answers: str, raw: bytes = b"", end: bool = False) -> None:
        content = b"".join(framed(ANSWERS[name]) for name in answers) + raw
        self.say(response_body={"body": content, "end_of_stream": end})

    def trailers(self, fields: list[tuple[str, str]]) -> None:
        self.say(response_trailers={"trailers": header_map(fields)})

    def judge(self, most: int | None = None) -> None:
        """Judge all waiting responses, or the first of them."""
        while self.waiting and most != 0:
            call, waiting = self.waiting.pop(0)
            self.guard.judge([call])
            waiting.judged(call)
            call.forget()
            most = most if most is None else most - 1

    def close(self) -> None:
        self.exchange.on_closed()
        self.judge()
        assert self.budget.remaining == self.budget.limit, "something is kept"

    # -- what it gets

    @property
    def kinds(self) -> list[str]:
        return [reply.WhichOneof("response") for reply in self.replies]

    def body_out(self) -> bytes:
        """The body that is sent to Envoy in mode FULL_DUPLEX_STREAMED."""
        return b"".join(
            reply.response_body.response.body_mutation.streamed_response.body
            for reply in self.replies
            if reply.WhichOneof("response") == "response_body"
        )

    def last(self) -> dict[str, str]:
        """The headers or trailers that the last reply sets."""
        reply = self.replies[-1]
        part = getattr(reply, reply.WhichOneof("response"))
        mutation = part.headers if hasattr(part, "grpc_status") else getattr(part, "header_mutation", None)
        mutation = part.response.header_mutation if mutation is None else mutation
        return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


def header_map(fields: list[tuple[str, str]]) -> dict[str, Any]:
    return {"headers": [{"key": name, "raw_value": value.encode()} for name, value in fields]}
