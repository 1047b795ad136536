"""What all exchanges with Envoy share: the guard, the configured treatment of responses, and the counters."""

from __future__ import annotations

from asyncio import TimerHandle
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from tocsin.configuration.config import Config
from tocsin.exchange.opening import Exchanges
from tocsin.ext_proc.misfits import Misfits
from tocsin.ext_proc.requests import Fields
from tocsin.judgement.actions import Ask, Outcome
from tocsin.judgement.call import Call
from tocsin.judgement.guard import Guard
from tocsin.memory import MemoryAccount
from tocsin.outbound_http import Answer, HttpCall
from tocsin.protocols.http.method import JsonMethod
from tocsin.relay.frame_rate import FrameLimits
from tocsin.relay.method_paths import AllowedMethods, MethodPaths


class ProcessorContext:
    """The configured mode and limits, and counters. `added` receives the seconds that a response waited.

    `tocsin.ext_proc.health` makes metrics of the counters, and says there what each of them counts.
    """

    def __init__(self, config: Config, guard: Guard, added: Callable[[float], None]) -> None:
        self.guard = guard
        self.added = added
        self.misfits = Misfits()
        self.exchanges = [0, 0]  # unguarded, guarded
        self.not_understood: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()
        self.frame_limits = FrameLimits(self.limited)
        self.cut_verdicts: Counter[str] = Counter()
        self.accepted = 0
        self.abandoned = 0
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Treat new exchanges by this configuration; exchanges under way keep the old one."""
        self.config = config
        self.frame_limits.follow(config.limits)
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

    __slots__ = ()

    def judged(self, call: Call) -> None:
        """A call has its verdict."""
        raise AssertionError("a response is of one kind")

    def go_on(self) -> None:
        """Of the calls of one batch, all that are its own have their verdicts."""
        raise AssertionError("a response is of one kind")

    def on_deadline(self) -> None:
        """The scoring budget is spent."""
        raise AssertionError("a response is of one kind")


class HttpRequest(NamedTuple):
    """An HTTP request as the model server receives it."""

    verb: str
    path: str
    headers: Fields
    body: bytes

    def again(self, seconds: float, limit: int) -> HttpCall:
        """The same request, to be sent once more: `seconds` it may take, and `limit` bytes its response may have."""
        return HttpCall(self.verb, self.path, self.headers, self.body, seconds, limit)


class ExchangeHost(Protocol):
    """Carries an exchange: a stream of an HTTP/2 connection, or a test."""

    memory: MemoryAccount  # of the connection that it comes on
    origin: str  # that connection's name

    def reply(self, content: bytes) -> None:
        """Send a ProcessingResponse to Envoy, after the earlier ones."""
        ...

    def finish(self, status: int = 0, message: str = "") -> None:
        """End Envoy's stream: nothing more is sent, and what still arrives is dropped."""
        ...

    def work(self, steps: Iterator[None], size: int) -> None:
        """Take these steps, which keep so many bytes, before Envoy's next message, as far as each turn allows."""
        ...

    def submit(self, call: Call, waiting: WaitingResponse) -> None:
        """Judge a call, and call back `waiting`."""
        ...

    def go_on_later(self, waiting: WaitingResponse) -> None:
        """Call back `waiting` once all calls of the batch have their verdicts."""
        ...

    def limit(self, waiting: WaitingResponse, call: Call) -> TimerHandle | None:
        """Start the scoring budget of a response that waits. None where the verdict comes at once."""
        ...

    def ask(
        self, step: Ask, fields: Fields, opened: float, on_answer: Callable[[Outcome], None]
    ) -> Callable[[], object]:
        """Send a call's request once more, and pass the outcome to `on_answer`. `fields` are its headers, `opened` is
        when it came (time.monotonic). Returns a function that cancels the request.
        """
        ...

    def ask_http(
        self, step: Ask, request: HttpCall, on_answer: Callable[[Answer | None], None]
    ) -> Callable[[], object]:
        """Send an HTTP request once more, and pass the outcome to `on_answer`. Returns a function that cancels it."""
        ...
