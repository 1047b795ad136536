"""One guarded call, from its messages to its verdict, the same for every position.

A position (relay, client wrapper, server interceptor, external processor, HTTP middleware) reports messages with
`on_request_message` and `on_response_message`, and the end of the response with `ended`. The last two return what is to
be judged now: the call itself where the response is one message, pieces of it where responses stream. A piece covers
some of the messages and knows their positions. On a stream of requests, it belongs to the request that it answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from tocsin.judgement.message_groups import MessageGroup, MessageGroups
from tocsin.judgement.stream_requests import StreamRequests
from tocsin.protocols.method import Method
from tocsin.verdict import Verdict

Fault = tuple[str, str]  # a reason why a message cannot be scored, known before scoring, and its detail

_serials: Final = itertools.count(1)


class Call:
    """A call's messages and keys on the way in, its verdict on the way out.

    `request` and `response` are single gRPC messages without framing and compression. `earlier` holds the messages of a
    stream that are judged together with `response`. `is_late` means that nobody waits for the verdict any more. `keys`
    is the request metadata that judgement reads; `hint` names the model where the protocol does not; `origin` names the
    connection. `wants_request` says whether the position has to pass the request, `needs_request` whether judgement
    does not do without. `drawn_for` are the models that ask a second opinion of it by lot.
    """

    __slots__ = (
        "_has_request", "began", "drawn_for", "earlier", "ends_by_ending", "fault", "hint", "initial_metadata",
        "is_late", "is_summary", "is_unmatched", "kept_bytes", "kept_requests", "keys", "message_indices", "method",
        "model", "needs_request", "origin", "parent", "reads", "request", "response", "responses", "sequence",
        "streams", "takes_runs", "trace", "traceparent", "trailing_metadata", "verdict", "version", "wants_initial",
        "wants_request", "wants_trailing",
    )  # fmt: skip

    def __init__(self, reads: Method, keys: Mapping[str, str], trace: str, wants_request: bool) -> None:
        self.reads = reads
        self.method = reads.name
        self.keys = keys
        self.trace = trace
        self.wants_request = self.needs_request = wants_request
        self.drawn_for: Sequence[str] = ()
        self._has_request = False
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.earlier: Sequence[bytes] = ()
        self.fault: Fault | None = None
        self.hint = self.origin = ""
        self.model = self.version = ""  # known once the response is read
        self.verdict: Verdict | None = None
        self.is_late = False
        self.began = 0  # when the call was, in nanoseconds of Unix time, where somebody wants to know
        self.traceparent = ""  # the caller's
        # Of a stream, and of its pieces.
        self.streams = False  # whether more than one message may be judged
        self.takes_runs = False  # whether messages that come together may be judged together, as a `MessageRun`
        self.parent: StreamedCall | None = None  # the call that this is a piece of
        self.message_indices: Sequence[int] = (0,)  # of the messages that this judges, among all of the response
        self.sequence = 0  # which of several parallel answers it belongs to; known once it is read
        self.responses = 1  # judgements that it stands for: messages of a stream that are judged, or pass, as one
        self.is_summary = False  # what was judged before: it has no verdict of its own
        self.is_unmatched = False  # of several requests, it is not known which one it answers
        self.ends_by_ending = False  # one response would be no end of it: a stream of HTTP's, whose messages are parts
        self.kept_bytes = 0  # bytes of messages that wait to be judged with others
        self.kept_requests = 0  # and of requests that wait for their responses
        # Keys of the response's metadata that judging takes, and what there was; with trailing ones, it waits for them.
        self.wants_initial: Sequence[str] = ()
        self.wants_trailing: Sequence[str] = ()
        self.initial_metadata: Mapping[str, str] | None = None
        self.trailing_metadata: Mapping[str, str] | None = None

    def on_request_message(self, content: bytes | None, fault: Fault | None = None) -> None:
        """A message of the caller. Where the method takes one message, a second makes the call undecodable, because
        servers differ in which of the two they use.
        """
        if self.drawn_for and not self.needs_request:  # whoever is asked about it does without: it is judged as others
            self.request = None if self._has_request else content
            self._has_request = True
        elif not self._has_request:
            self._has_request = True
            self.request, self.fault = content, fault
        elif self.reads.requests_stream:
            self.request, self.is_unmatched = None, True
        else:
            self.fault = ("undecodable", "the caller sent several messages where the method takes one")

    def replace_request(self, content: bytes) -> None:
        """The caller's only message goes on as this one instead."""
        if self.request is not None:
            self.request = content

    def on_response_message(self, content: bytes | None, fault: Fault | None = None) -> Call | None:
        """A message of the response; returns what is to be judged now."""
        if self.response is not None or (self.fault is not None and content is None):
            return None
        self.response = content
        self.fault = self.fault or fault
        return self

    def ended(self) -> list[Call]:
        """The response is complete; returns what was not judged yet."""
        return []

    def conclude(self, verdict: Verdict) -> None:
        """Callers see this verdict, because it was acted upon, whatever is judged of the response later."""
        self.verdict = verdict
        if self.parent is not None:
            self.parent.conclude(verdict)

    @property
    def size(self) -> int:
        """The bytes of the messages that the call keeps until it is judged."""
        size = len(self.request or b"") + len(self.response or b"")
        return size + sum([len(message) for message in self.earlier])

    def on_forwarded(self) -> None:
        """In enforce: its messages go out."""
        if self.is_summary and self.parent is not None:
            self.parent.complete.add(self.sequence)

    def forget(self) -> None:
        """The call is judged and drops its messages."""
        self.request = self.response = None
        self.earlier = ()

    def forget_request(self) -> bool:
        """Memory is short: drop the oldest request that waits for its responses. False where none waits."""
        return False

    def forget_requests(self) -> None:
        """No more responses come."""


class StreamedCall(Call):
    """A call whose response is a stream. It is judged every `every` messages, or once at the end where that is 0.

    Its verdict is the most severe of its pieces' verdicts, the latest of equal ones. Messages of parallel sequences are
    judged separately unless `together` is set; messages that answer different requests are always judged separately.
    With `in_turn`, each request has one response, in the order of the requests. `started_sequences` are those of which
    something was read, `pending` counts pieces without a verdict, and `is_closed` says that no more messages come.
    `is_apart`: parallel sequences are judged separately.
    """

    __slots__ = (
        "_collects", "_concluded", "_groups", "_is_together", "_message_count", "_requests", "_serial", "complete",
        "drawn", "every", "is_apart", "is_closed", "is_document", "pending", "spanned", "started_sequences", "strange",
    )  # fmt: skip

    def __init__(
        self,
        reads: Method,
        keys: Mapping[str, str],
        trace: str,
        wants_request: bool,
        every: int,
        *,
        together: bool = False,
        in_turn: bool = False,
    ) -> None:
        super().__init__(reads, keys, trace, wants_request)
        self.streams = True
        self.spanned = -2  # the rank of the gravest piece that a span was made of
        self.drawn: bool | None = None  # whether spans are made of it without an alarm
        self.started_sequences: set[int] = set()
        self.complete: set[int] = set()
        self.is_closed = False
        self.pending = 0
        self.strange = 0  # messages that could not be judged as part of a run
        self.every = every
        self.is_apart = reads.parallel and every != 1 and not together
        self._requests: StreamRequests | None = None
        if wants_request and reads.requests_stream:
            self._requests = StreamRequests(reads, in_turn=in_turn)
        self._is_together = together
        self.is_document = False
        self._collects = every != 1
        self._groups: MessageGroups | None = None  # of messages that wait for others
        self._message_count = self._serial = 0
        self._concluded = False

    def session(self, sequence: int) -> str:
        """The name of one sequence of this stream, unique within this process."""
        self._serial = self._serial or next(_serials)
        return f"stream {self._serial}" if not sequence else f"stream {self._serial}/{sequence}"

    def on_request_message(self, content: bytes | None, fault: Fault | None = None) -> None:
        """A message of the caller. Each request of a stream waits for its responses."""
        if not self.reads.requests_stream:
            super().on_request_message(content, fault)
        elif self._requests is not None:
            if content is None:  # then it cannot be known any more whose turn it is
                self._requests.forget()
            else:
                self._requests.add(content)
            self.kept_requests = self._requests.kept_bytes

    def on_response_message(self, content: bytes | None, fault: Fault | None = None) -> Call | None:
        """A message of the stream; returns the piece that it completes."""
        place, self._message_count = self._message_count, self._message_count + 1
        request, is_unmatched = self.request, False
        if self._requests is not None:
            request = None if content is None else self._requests.match(content)
            is_unmatched = request is None
            self.kept_requests = self._requests.kept_bytes
        if content is None:
            piece = self._piece((place,), None, request, is_unmatched)
            piece.fault = fault or piece.fault
            return piece
        if not self._collects:
            return self._piece((place,), content, request, is_unmatched)
        groups = self._groups
        if groups is None:
            groups = self._groups = MessageGroups(self.every, counts_requests=self._requests is not None)
        sequence = self.reads.sequence(content) if self.is_apart else 0
        group = groups.add(place, content, sequence, request, is_unmatched)
        self.kept_bytes = groups.kept_bytes
        return None if group is None else self._piece_of(group)

    def expect_document(self) -> None:
        """The response is no stream, but a document: each message of it is a whole answer, which waits for no other
        unless they are judged together.
        """
        self.is_document = True
        self._collects = self._is_together and self.every != 1

    def next_places(self, messages: int) -> int:
        """So many messages of the response have come that are not reported one by one; the place of the first."""
        first, self._message_count = self._message_count, self._message_count + messages
        return first

    def unread_piece(self, messages: int) -> Call:
        """So many messages that came together and pass unread."""
        place = self.next_places(messages)
        piece = self._piece(range(place, place + messages), None, self.request, False)
        piece.responses = messages
        return piece

    def describe_piece(self, piece: Call) -> None:
        """Copy to a piece what it shares with the stream: it is judged from here on."""
        piece.hint, piece.origin, piece.parent = self.hint, self.origin, self
        if self.began:
            piece.traceparent, piece.began = self.traceparent, self.began
        self.pending += 1

    def ended(self) -> list[Call]:
        """The stream is complete; returns what was not judged yet, of each sequence."""
        groups = self._take_groups()
        self.forget_requests()
        return [self._piece_of(group) for group in groups]

    def conclude(self, verdict: Verdict) -> None:
        """This verdict was acted upon."""
        self.verdict, self._concluded = verdict, True

    def on_piece_judged(self, piece: Call) -> None:
        """A piece has its verdict, or passed without one."""
        self.pending -= 1
        if piece.verdict is not None or not self.model:
            self.model, self.version = piece.model, piece.version
        if self._concluded:
            return
        if piece.verdict is not None and (self.verdict is None or piece.verdict.rank >= self.verdict.rank):
            self.verdict = piece.verdict

    def forget(self) -> None:
        """Nobody waits any more: drop what was collected."""
        self._take_groups()
        self.request = None
        self.forget_requests()

    def forget_request(self) -> bool:
        """Memory is short: drop the oldest request that waits for its responses. False where none waits."""
        if self._requests is None or not self._requests.forget_oldest():
            return False
        self.kept_requests = self._requests.kept_bytes
        return True

    def forget_requests(self) -> None:
        """No more responses come."""
        if self._requests is not None:
            self._requests.forget()
            self.kept_requests = 0

    def _take_groups(self) -> list[MessageGroup]:
        self.kept_bytes = 0
        return [] if self._groups is None else self._groups.take_all()

    def _piece_of(self, group: MessageGroup) -> Call:
        places, contents = [place for place, _ in group.messages], [content for _, content in group.messages]
        piece = self._piece(places, contents[-1], group.request, group.is_unmatched)
        if len(contents) > 1:
            piece.earlier = contents[:-1]
        return piece

    def _piece(self, places: Sequence[int], response: bytes | None, request: bytes | None, is_unmatched: bool) -> Call:
        """A piece of the stream that is to be judged, with what it shares with the stream."""
        piece = Call(self.reads, self.keys, self.trace, self.wants_request)
        piece.request, piece.response, piece.message_indices = request, response, places
        if is_unmatched:
            piece.is_unmatched = True
        if self.drawn_for:
            piece.drawn_for = self.drawn_for
        if self.fault:
            piece.fault = self.fault
        self.describe_piece(piece)
        return piece


Read = tuple[Call, int, list[bytes]]  # a call whose signals were read: its rows, and each signal's raw contents
