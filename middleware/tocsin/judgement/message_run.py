"""Messages of one stream that came together, and are judged together where nothing depends on any one of them.

A run is read as one array (`protocols.alike`), scored as rows of the batch, and has one verdict a message. Of those
that do not alarm nobody needs more than counts, so that only alarms, and the last message, become calls of their own.
"""

from __future__ import annotations

from typing import Any

from tocsin.grpc_wire.deframer import MOST_TOGETHER, MOST_TOGETHER_BYTES, PREFIX_SIZE
from tocsin.judgement.call import Call, StreamedCall
from tocsin.protocols.rows import Family
from tocsin.verdict import Verdict

RunReading = tuple[Family, list[bytes]]  # how its rows are stacked, and each signal's raw contents


class MessageRun(Call):
    """Consecutive messages of a stream's response, each with its prefix, uncompressed.

    `reading` is what was read of it: then it takes no more messages. `pieces` are those that were given verdicts of
    their own: alarms, and the last message.
    """

    __slots__ = ("_blocks", "_bytes", "_first", "pieces", "reading", "sizes", "stream")

    def __init__(self, stream: StreamedCall) -> None:
        super().__init__(stream.reads, stream.keys, stream.trace, False)
        self.request = stream.request
        self.stream = stream
        self.reading: RunReading | None = None
        self.pieces: list[Call] = []
        self.sizes: list[int] = []
        self._blocks: list[bytes] = []
        self._bytes = 0
        self._first = stream.next_places(0)
        stream.describe_piece(self)

    def has_room(self, size: int, messages: int) -> bool:
        """Whether so many more messages, of so many bytes, fit into the run."""
        fits = self._bytes + size <= MOST_TOGETHER_BYTES and len(self.sizes) + messages <= MOST_TOGETHER
        return fits and self.reading is None

    def add(self, block: bytes, sizes: list[int]) -> None:
        """Consecutive messages of these sizes."""
        self.stream.next_places(len(sizes))
        self._blocks.append(block)
        self._bytes += len(block)
        self.sizes += sizes
        self.responses = len(self.sizes)

    @property
    def content(self) -> bytes:
        """All messages, each with its prefix."""
        if len(self._blocks) > 1:
            self._blocks = [b"".join(self._blocks)]
        return self._blocks[0]

    @property
    def size(self) -> int:
        return self._bytes

    def message(self, at: int) -> bytes:
        """One of the messages, with its prefix."""
        start = sum(self.sizes[:at])
        return self.content[start : start + self.sizes[at]]

    def part(self, first: int, stop: int) -> MessageRun:
        """Some of its messages as a run, which takes their place."""
        part = MessageRun(self.stream)
        start = sum(self.sizes[:first])
        part.sizes = self.sizes[first:stop]
        part._blocks = [self.content[start : start + sum(part.sizes)]]
        part._bytes, part._first, part.responses = len(part._blocks[0]), self._first + first, len(part.sizes)
        return part

    def apart(self) -> list[Call]:
        """Each message as a piece of the stream, which takes its place."""
        content, at = self.content, 0
        pieces: list[Call] = []
        for place, size in enumerate(self.sizes):
            piece = self._piece(place, 1)
            piece.response = content[at + PREFIX_SIZE : at + size]
            self.stream.describe_piece(piece)
            pieces.append(piece)
            at += size
        return pieces

    def conclude_rows(
        self,
        pvalues: list[float],
        severities: list[str | None],
        details: Any,
        detectors: tuple[str, ...],
        digest: str,
    ) -> list[Call]:
        """Give each message the verdict of its row; the calls to report, whose rows are those of the run in order."""
        calls: list[Call] = []
        rows, start = len(pvalues), 0
        alone = [row for row in range(rows - 1) if severities[row] is not None] if any(severities) else []
        for row in [*alone, rows - 1]:
            for first, stop in ((start, row), (row, row + 1)):
                if first == stop:
                    continue
                piece = self._piece(first, stop - first)
                of_last = details[stop - 1]
                piece.verdict = Verdict(
                    self.model,
                    self.version,
                    digest,
                    pvalues[first:stop],
                    severities[first:stop],
                    detectors,
                    of_last if isinstance(of_last, list) else of_last.tolist(),
                    severities[stop - 1],
                )
                calls.append(piece)
                if first == row:
                    self.pieces.append(piece)
            start = row + 1
        return calls

    def rows_apart(self) -> list[tuple[Call, int, list[bytes]]]:
        """Each message with its own raw contents, to be scored by itself."""
        assert self.reading is not None
        messages = len(self.sizes)
        widths = [len(raw) // messages for raw in self.reading[1]]
        reads: list[tuple[Call, int, list[bytes]]] = []
        for row in range(messages):
            piece = self._piece(row, 1)
            self.pieces.append(piece)
            parts = zip(self.reading[1], widths, strict=True)
            reads.append((piece, 1, [raw[row * width : (row + 1) * width] for raw, width in parts]))
        return reads

    def tell_stream(self) -> None:
        """The run is judged, or has passed without that: the stream knows its verdicts."""
        stream = self.stream
        if not self.pieces:
            stream.on_piece_judged(self)
            return
        stream.pending += len(self.pieces) - 1
        for piece in self.pieces:
            stream.on_piece_judged(piece)

    def _piece(self, first: int, messages: int) -> Call:
        stream = self.stream
        piece = Call(self.reads, self.keys, self.trace, stream.wants_request)
        piece.request, piece.parent = self.request, stream
        piece.hint, piece.origin = self.hint, self.origin
        piece.traceparent, piece.began = self.traceparent, self.began
        piece.model, piece.version, piece.sequence = self.model, self.version, self.sequence
        place = self._first + first
        piece.message_indices = range(place, place + messages)
        piece.responses = messages
        return piece

    def forget(self) -> None:
        """The run is judged and drops its messages."""
        super().forget()
        self._blocks = []
