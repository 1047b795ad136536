"""One guarded call, as whoever carries it (relay, client wrapper, server interceptor) tells it to judgement.

Whoever carries a call tells its messages with `asked` and `answered`, and `ended` when the response is complete; the
last two return what is to be judged now: the call itself where the response is one message, pieces of it where
responses stream. A piece covers some of the messages told, and knows their places.
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
    hint = ""
    origin = ""
    parent = ""  # the caller's traceparent
    began = 0  # when the call was, in nanoseconds of Unix time, where somebody wants to know
    model = ""  # known once the response is read
    version = ""
    verdict: Verdict | None = None
    whole: StreamedCall | None = None  # the call that this is a piece of
    places: Sequence[int] = (0,)  # of the messages that this judges, among all of the response
    sums_up = False  # what was judged before: it has no verdict of its own
    sequence = 0  # which of several parallel answers it belongs to; known once it is read

    def __init__(self, reads: Method, keys: Mapping[str, str], trace: str, wants_request: bool) -> None:
        self.reads = reads
        self.method = reads.name
        self.keys = keys
        self.trace = trace
        self.wants_request = wants_request

    streams = False  # whether more than one message may be judged
    kept = 0  # bytes of messages that wait to be judged with others

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

    def ended(self) -> list[Call]:
        """The response is complete; what was not judged yet."""
        return []

    def with_response(self, response: bytes) -> Call:
        """The same call with another response, not judged yet."""
        made = Call(self.reads, self.keys, self.trace, self.wants_request)
        made.request, made.response = self.request, response
        made.hint, made.origin = self.hint, self.origin
        made.parent, made.began = self.parent, self.began
        return made

    @property
    def size(self) -> int:
        """Bytes of the messages that it keeps until it is judged."""
        own = len(self.request or b"") + len(self.response or b"")
        return own + sum([len(message) for message in self.earlier])

    def goes_on(self) -> None:
        """In enforce, its messages go out."""
        if self.sums_up and self.whole is not None:
            self.whole.complete.add(self.sequence)

    def forget(self) -> None:
        """Judged: the messages are not needed any more."""
        self.request = self.response = None
        self.earlier = ()


class StreamedCall(Call):
    """A call whose response is a stream, judged every so many messages, or at the end where `every` is 0.

    Its verdict is the gravest of its pieces', the latest where they are alike. Messages of parallel sequences are
    judged apart, unless they are wanted `together`. `begun`: the sequences that something was read of; `over`: no more
    messages come; `pending`: pieces that have no verdict yet;
    `complete`: the sequences whose end has gone out.
    """

    def __init__(
        self,
        reads: Method,
        keys: Mapping[str, str],
        trace: str,
        wants_request: bool,
        every: int,
        *,
        together: bool = False,
    ) -> None:
        super().__init__(reads, keys, trace, wants_request)
        self.spanned = -2  # the rank of the gravest piece that a span was made of
        self.drawn: bool | None = None  # whether spans are made of it without an alarm
        self.begun: set[int] = set()
        self.complete: set[int] = set()
        self.over = False
        self.pending = 0
        self._every = every
        self._apart = reads.parallel and every != 1 and not together
        self._collected: dict[int, list[tuple[int, bytes]]] = {}  # by sequence: places and messages
        self._told = 0  # messages
        self._serial = 0

    streams = True

    def session(self, sequence: int) -> str:
        """What tells a sequence of this stream from all others of this process."""
        self._serial = self._serial or next(_serials)
        return f"stream {self._serial}" if not sequence else f"stream {self._serial}/{sequence}"

    def answered(self, content: bytes | None, fault: Fault | None = None) -> Call | None:
        """A message of the stream; what it completes."""
        place, self._told = self._told, self._told + 1
        if content is None:
            return self._piece((place,), None, (), fault)
        if self._every == 1:
            return self._piece((place,), content)
        own = self._collected.setdefault(self.reads.sequence(content) if self._apart else 0, [])
        own.append((place, content))
        if not self._every or len(own) < self._every:
            self.kept += len(content)
            return None
        piece = self._piece_of(own)
        self.kept -= sum(len(one) for _, one in own[:-1])
        own.clear()
        return piece

    def ended(self) -> list[Call]:
        """The stream is complete; what was not judged yet, of each sequence."""
        left, self._collected, self.kept = self._collected, {}, 0
        return [self._piece_of(own) for own in left.values() if own]

    def judged(self, piece: Call) -> None:
        """A piece has its verdict, or none."""
        self.pending -= 1
        self.model, self.version = piece.model, piece.version
        if piece.verdict is not None and (self.verdict is None or piece.verdict.rank >= self.verdict.rank):
            self.verdict = piece.verdict

    def forget(self) -> None:
        """Nobody waits any more: what was collected is not needed."""
        self._collected, self.kept = {}, 0
        self.request = None

    def _piece_of(self, messages: Sequence[tuple[int, bytes]]) -> Call:
        places, contents = [place for place, _ in messages], [content for _, content in messages]
        return self._piece(places, contents[-1], contents[:-1])

    def _piece(
        self,
        places: Sequence[int],
        response: bytes | None,
        earlier: Sequence[bytes] = (),
        fault: Fault | None = None,
    ) -> Call:
        piece = Call(self.reads, self.keys, self.trace, self.wants_request)
        piece.request, piece.response, piece.places = self.request, response, places
        if earlier:
            piece.earlier = earlier
        if fault or self.fault:
            piece.fault = fault or self.fault
        piece.hint, piece.origin, piece.whole = self.hint, self.origin, self
        if self.began:
            piece.parent, piece.began = self.parent, self.began
        self.pending += 1
        return piece
