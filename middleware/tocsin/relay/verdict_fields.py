"""Verdicts in the header blocks of responses: those that somebody else wrote are taken out, and this relay's own is
written only as large as its reader takes it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable

from tocsin.http2.header_literals import literal_parts
from tocsin.http2.headers import STATIC_TABLE, HeaderError, integer
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY, Verdict
from tocsin.verdict_reading import MAX_TEXT

MAX_HEADER_LIST_SIZE: Final = 0x6  # SETTINGS_MAX_HEADER_LIST_SIZE

_KEY: Final = METADATA_KEY.encode()
VERDICT_OVERHEAD: Final = len(_KEY) + FIELD_OVERHEAD  # bytes of a header list besides the verdict's text
_FIELD_SIZES: Final = [len(name) + len(value) + FIELD_OVERHEAD for name, value in HeaderTable.STATIC_TABLE]
_NAME_SIZES: Final = [len(name) for name, _ in HeaderTable.STATIC_TABLE]
_SYMBOLS: Final = {
    pair: chr(at) for at, pair in enumerate(zip(REQUEST_CODES_LENGTH, REQUEST_CODES, strict=True)) if at < 256
}
_NAME_BYTES: Final = 4 * len(_KEY) + 1  # that hold the name and a symbol more, or padding


EncodedText = tuple[bool, bytes]  # whether it is in Huffman's code, and its bytes


class Split(NamedTuple):
    """A header block without verdicts, the verdicts that were in it, and the size of what is left as
    SETTINGS_MAX_HEADER_LIST_SIZE counts it, at most.
    """

    block: bytes
    verdicts: tuple[EncodedText, ...]
    size: int


def verdict_text(encoded: EncodedText) -> str:
    """A verdict's value as text."""
    huffman, raw = encoded
    if len(raw) > MAX_TEXT:
        return ""  # which is none
    return _decoded(raw, MAX_TEXT) if huffman else raw.decode("latin-1")


def verdict_field(verdict: Verdict, size: int, limit: int) -> tuple[tuple[bytes, ...], str]:
    """The verdict as a field to append to a block of that list size, in parts, and how it was cut so that the list does
    not exceed `limit`: not at all, `shortened`, or `left_out`.
    """
    text, shortening = verdict.to_metadata(), ""
    room = limit - size - VERDICT_OVERHEAD
    if len(text) > room:
        shorter = verdict.shortened(room)
        if shorter is None:
            return (), "left_out"
        text, shortening = shorter, "shortened"
    return literal_parts(METADATA_KEY, text), shortening


def split_verdicts(block: bytes) -> Split:
    """A stateless block and the verdicts in it, however their name is spelt. Raises HeaderError."""
    parts: list[bytes] = []
    verdicts: list[EncodedText] = []
    at, start, size, end = 0, 0, 0, len(block)
    try:
        while at < end:
            field, first = at, block[at]
            if first & 0x80:  # an indexed field
                index, at = integer(block, at, 0x7F)
                size += _FIELD_SIZES[_static(index)]
                continue
            if first & 0xE0 == 0x20:  # a table size update
                _, at = integer(block, at, 0x1F)
                continue
            index, at = integer(block, at, 0x3F if first & 0x40 else 0x0F)
            is_verdict = False
            if index:
                size += _NAME_SIZES[_static(index)]
            else:
                huffman, raw, at = _string(block, at)
                is_verdict = _names_verdict(raw, huffman=huffman)
                size += 0 if is_verdict else _decoded_size(huffman, raw)
            huffman, raw, at = _string(block, at)
            if is_verdict:
                verdicts.append((huffman, raw))
                parts.append(block[start:field])
                start = at
            else:
                size += _decoded_size(huffman, raw) + FIELD_OVERHEAD
    except IndexError:
        raise HeaderError("the header block ends inside a field") from None
    if not verdicts:
        return Split(block, (), size)
    return Split(b"".join((*parts, block[start:])), tuple(verdicts), size)


def _static(index: int) -> int:
    """Where in the static table an index points, from 0."""
    if not 0 < index <= STATIC_TABLE:
        raise HeaderError(f"the header block refers to entry {index} of an empty dynamic table")
    return index - 1


def _string(block: bytes, at: int) -> tuple[bool, bytes, int]:
    """A string literal: whether it is Huffman-coded, its bytes, and the position after it."""
    huffman = bool(block[at] & 0x80)
    length, at = integer(block, at, 0x7F)
    if at + length > len(block):
        raise HeaderError("the header block ends inside a string")
    return huffman, block[at : at + length], at + length


def _decoded_size(huffman: bool, raw: bytes) -> int:
    """How long a string is at most: the shortest Huffman codes have five bits."""
    return len(raw) * 8 // 5 if huffman else len(raw)


def _names_verdict(raw: bytes, *, huffman: bool) -> bool:
    """Whether a field's name is that of verdicts, in whatever case and with whatever padding."""
    if not huffman:
        return len(raw) == len(_KEY) and raw.lower() == _KEY
    return len(raw) * 8 >= len(_KEY) * 5 and _decoded(raw[:_NAME_BYTES], len(_KEY) + 1).lower() == METADATA_KEY


def _decoded(raw: bytes, most: int) -> str:
    """The first symbols of a Huffman string, read as the laxest of peers would: padding is whatever is no symbol."""
    symbols: list[str] = []
    length = code = 0
    for byte in raw:
        for shift in range(7, -1, -1):
            code, length = code << 1 | (byte >> shift & 1), length + 1
            symbol = _SYMBOLS.get((length, code))
            if symbol is not None:
                symbols.append(symbol)
                if len(symbols) == most:
                    return "".join(symbols)
                length = code = 0
    return "".join(symbols)
