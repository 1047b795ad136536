"""A client that sends HTTP/2 frames as they are given, however odd, and reads what comes back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hpack import Decoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tocsin.http2 import frames
from tocsin.http2.frames import ACK, CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS

_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


class Answer:
    """What came of one stream: its fields, the last value of each, its content, and how it ended."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.content = b""
        self.end = ""

    @property
    def status(self) -> str:
        return self.fields.get("grpc-status", "")


class RawClient:
    """A connection. `acknowledges`: whether it has acknowledged the server's settings before anything is sent."""

    def __init__(self, target: str, *, acknowledges: bool = True) -> None:
        host, _, port = target.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=60)
        self._stream = self._socket.makefile("rb")
        self._decoder = Decoder()
        self.send(frames.PREFACE + frames.frame(SETTINGS, 0, 0))
        if acknowledges:
            while True:
                kind, flags, _, _ = self._frame()
                if kind == SETTINGS and not flags & ACK:
                    break
            self.send(frames.frame(SETTINGS, ACK, 0))

    def send(self, content: bytes) -> None:
        self._socket.sendall(content)

    def answer(self, stream: int) -> Answer:
        """What comes until the stream ends, or the connection."""
        answer = Answer()
        while not answer.end:
            try:
                kind, flags, owner, payload = self._frame()
            except (EOFError, ConnectionError):
                answer.end = "connection closed"
                break
            if kind == GOAWAY:
                answer.end = "goaway"
            if owner != stream:
                continue
            if kind in (HEADERS, CONTINUATION):
                fields = self._decoder.decode(payload, raw=True)  # C-core repeats what it does not like as it came
                answer.fields |= {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
            elif kind == DATA:
                answer.content += payload
            if kind == RST_STREAM:
                answer.end = "reset"
            elif kind in (HEADERS, DATA) and flags & END_STREAM:
                answer.end = "ended"
        return answer

    def close(self) -> None:
        self._stream.close()
        self._socket.close()

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._stream.read(frames.HEADER_SIZE)
        if len(head) < frames.HEADER_SIZE:
            raise EOFError
        high, low, kind, flags, stream = frames.HEADER.unpack(head)
        return kind, flags, stream & frames.LAST_STREAM, self._stream.read(high << 8 | low)


@contextmanager
def raw_client(target: str, *, acknowledges: bool = True) -> Iterator[RawClient]:
    client = RawClient(target, acknowledges=acknowledges)
    try:
        yield client
    finally:
        client.close()


def integer(number: int, bits: int, first: int = 0) -> bytes:
    """An HPACK integer behind the bits of `first`."""
    most = (1 << bits) - 1
    if number < most:
        return bytes((first | number,))
    out = bytearray((first | most,))
    number -= most
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes((number,))


def string(content: str, *, huffman: bool = False, surplus: bytes = b"") -> bytes:
    """An HPACK string; `surplus` follows in Huffman's code where there is nothing to say."""
    raw = content.encode("latin-1")
    if not huffman:
        return integer(len(raw), 7) + raw
    coded = bytes(_HUFFMAN.encode(raw)) + surplus
    return integer(len(coded), 7, 0x80) + coded


def field(
    name: str, value: str, *, index: int = 0, kind: int = 0x00, huffman: bool = False, surplus: bytes = b""
) -> bytes:
    """A literal field: without indexing (0x00), never indexed (0x10) or with it (0x40), its name by `index` or not."""
    head = integer(index, 6 if kind == 0x40 else 4, kind)
    return head + (b"" if index else string(name, huffman=huffman, surplus=surplus)) + string(value, huffman=huffman)
