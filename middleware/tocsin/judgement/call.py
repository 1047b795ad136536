"""One guarded call, as whoever carries it (relay, client wrapper, server interceptor) tells it to judgement.

Whoever carries a call tells its messages with `asked` and `answered`, and `ended` when the response is complete; the
last two return what is to be judged now: the call itself where the response is one message, a piece of it where
responses stream. A piece covers so many of the messages told, in their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tocsin.protocols.method import Method
from tocsin.verdict import Verdict

Fault = tuple[str, str]  # a reason why a message cannot be scored, known before scoring, and its detail

_serials = itertools.count(1)


class Call:
    """A call's messages and keys on the way in, its verdict on the way out.

    `request` and `response` are single gRPC messages without framing and compression, `earlier` those of a stream that
    are judged together with `response`. `late` means that nobody waits for the verdict any more. `keys` are the
    request's metadata that judgement reads; `hint` is the model where the protocol tells none; `origin` names the
    connection. The request is only needed where `wants_request`.
    """

    request: bytes | None = None
    response: bytes | None = None
    earlier: Sequence[bytes] = ()
    fault: Fault | None = None
    late = False
    hint = origin = ""
    parent = ""  # the caller's traceparent
    began = 0  # when the call was, in nanoseconds of Unix time, where somebody wants to know
    model = ""  # known once the response is read
    version = ""
    verdict: Verdict | None = None
    whole: StreamedCall | None = None  # the call that this is a piece of
    later = False  # than another piece of it

    def __init__(self, reads: Method, keys: Mapping[str, str], trace: str, wants_request: bool) -> None:
        self.reads = reads
        self.method = reads.name
        self.keys = keys
        self.trace = trace
        self.wants_request = wants_request

    @property
    def covers(self) -> int:
        """How many messages this judges."""
        return 1 + len(self.earlier)

    streams = False  # whether more than one message may be judged

    def asked(self, content: bytes | None, fault: Fault | None = None) -> None:
        """A message of the caller; of a stream, the newest one counts."""
        self.request, self.fault = content, fault

    def answered(self, content: bytes | None, fault: Fault | None = None) -> Call | None:
        """A message of the response."""
        if self.response is not None or (self.fault is not None and content is None):
            return None
        self.response = content
        self.fault = self.fault or fault
        return self

    def ended(self) -> Call | None:
        """The response is complete."""
        return None

    def with_response(self, response: bytes) -> Call:
        """The same call with another response, not judged yet."""
        made = Call(self.reads, self.keys, self.trace, self.wants_request)
        made.request, made.response = self.request, response
        made.hint, made.origin = self.hint, self.origin
        made.parent, made.began = self.parent, self.began
        return made

    def forget(self) -> None:
        """Judged: the messages are not needed any more."""
        self.request = self.response = None
        self.earlier = ()


class StreamedCall(Call):
    """A call whose response is a stream, judged every so many messages, or at the end where `every` is 0.

    Its verdict is the gravest of its pieces', the latest where they are alike.
    """

    def __init__(self, reads: Method, keys: Mapping[str, str], trace: str, wants_request: bool, every: int) -> None:
        super().__init__(reads, keys, trace, wants_request)
        self.spanned = -2  # the rank of the gravest piece that a span was made of
        self.drawn: bool | None = None  # whether spans are made of it without an alarm
        self._every = every
        self._collected: list[bytes] = []
        self._serial = 0
        self._begun = False

    streams = True

    @property
    def serial(self) -> str:
        """What tells this stream from all others of this process."""
        self._serial = self._serial or next(_serials)
        return f"stream {self._serial}"

    def answered(self, content: bytes | None, fault: Fault | None = None) -> Call | None:
        """A message of the stream; what it completes."""
        if content is None:
            return self._piece(None, fault)
        if self._every and len(self._collected) + 1 >= self._every:
            return self._piece(content, None)
        self._collected.append(content)
        return None

    def ended(self) -> Call | None:
        """The stream is complete; what was not judged yet."""
        return self._piece(self._collected.pop(), None) if self._collected else None

    def judged(self, piece: Call) -> None:
        """A piece has its verdict, or none."""
        self.model, self.version = piece.model, piece.version
        if piece.verdict is not None and (self.verdict is None or piece.verdict.rank >= self.verdict.rank):
            self.verdict = piece.verdict

    def forget(self) -> None:
        """Nobody waits any more: what was collected is not needed."""
        self._collected = []
        self.request = None

    def _piece(self, content: bytes | None, fault: Fault | None) -> Call:
        piece = Call(self.reads, self.keys, self.trace, self.wants_request)
        piece.request, piece.response, piece.earlier = self.request, content, self._collected
        piece.fault = fault or self.fault
        piece.hint, piece.origin, piece.whole = self.hint, self.origin, self
        piece.parent, piece.began = self.parent, self.began
        piece.later, self._begun = self._begun, True
        self._collected = []
        return piece
