"""What all exchanges with Envoy share: the guard, how responses are treated, and what is counted."""

from __future__ import annotations

from asyncio import TimerHandle
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from tocsin.configuration.config import Config
from tocsin.exchange.exchange import Exchanges
from tocsin.ext_proc.misfits import Misfits
from tocsin.ext_proc.requests import Fields
from tocsin.judgement.call import Call
from tocsin.judgement.enforcement import Ask, Outcome
from tocsin.judgement.guard import Guard
from tocsin.memory import MemoryAccount
from tocsin.outbound_http import Answer, HttpCall
from tocsin.protocols.http.method import JsonMethod
from tocsin.relay.method_paths import AllowedMethods, MethodPaths


class ProcessorContext:
    """Mode and limits as they are configured now, and counters. `added` takes the seconds that a response waited."""

    def __init__(self, config: Config, guard: Guard, added: Callable[[float], None]) -> None:
        self.guard = guard
        self.added = added
        self.misfits = Misfits()
        self.exchanges = [0, 0]  # unguarded, guarded
        self.not_understood: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.cut_verdicts: Counter[str] = Counter()
        self.accepted = 0
        self.abandoned = 0
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Treat responses as this says from here on; those under way go on as they began."""
        self.config = config
        self.annotates = config.mode != "observe"
        self.enforces = config.mode == "enforce"
        self.trusts_verdicts = config.accept_verdicts
        self.max_message = int(config.max_message)
        self.namespace = config.ext_proc_metadata
        grpc_methods = [name for name, method in self.guard.methods.items() if not isinstance(method, JsonMethod)]
        self.paths = MethodPaths(grpc_methods)
        self.http = Exchanges(self.guard)
        self.allowed_methods = AllowedMethods(config.unguarded_allow)
        self.refuses_unguarded = self.enforces and config.unguarded == "refuse"


class WaitingResponse:
    """A response that waits for verdicts."""

    def judged(self, call: Call) -> None:
        """A call has its verdict."""
        raise AssertionError("a response is of one kind")

    def late(self) -> None:
        """The scoring budget is spent."""
        raise AssertionError("a response is of one kind")


class HttpRequest(NamedTuple):
    """A request of HTTP, as the model server gets it."""

    verb: str
    path: str
    headers: Fields
    body: bytes

    def again(self, seconds: float, limit: int) -> HttpCall:
        """The same, to be sent once more within so many seconds, for a response of so many bytes at most."""
        return HttpCall(self.verb, self.path, self.headers, self.body, seconds, limit)


class ExchangeHost:
    """Whoever carries an exchange: a stream of an HTTP/2 connection, or a test."""

    memory: MemoryAccount  # of the connection that it comes on
    origin = ""  # that connection's name

    def reply(self, content: bytes) -> None:
        """Send a ProcessingResponse to Envoy, after those before it."""
        raise AssertionError("a host is of one kind")

    def finish(self, status: int = 0, message: str = "") -> None:
        """End Envoy's stream: nothing more is sent, and what still comes is dropped."""
        raise AssertionError("a host is of one kind")

    def submit(self, call: Call, waiting: WaitingResponse) -> None:
        """Judge a call, and tell who waits."""
        raise AssertionError("a host is of one kind")

    def limit(self, waiting: WaitingResponse, call: Call) -> TimerHandle | None:
        """The scoring budget of a response that waits; none where the verdict comes at once."""
        raise AssertionError("a host is of one kind")

    def ask(
        self, step: Ask, fields: Fields, opened: float, on_answer: Callable[[Outcome], None]
    ) -> Callable[[], object]:
        """Send a call's request once more, which came with these headers at `opened` (time.monotonic), and tell what
        came of it; returns what gives up doing so.
        """
        raise AssertionError("a host is of one kind")

    def ask_http(
        self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]
    ) -> Callable[[], object]:
        """Send a request of HTTP once more, and tell what came of it; returns what gives up doing so."""
        raise AssertionError("a host is of one kind")
