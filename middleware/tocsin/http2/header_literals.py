"""Writes header blocks of literals: without indexing and without Huffman's code (RFC 7541, section 6.2.2)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final


def literal(name: str, value: str) -> bytes:
    """A field as a literal without indexing and without Huffman: it may be appended to any block."""
    return b"".join(literal_parts(name, value))


def literal_parts(name: str, value: str) -> tuple[bytes, bytes, bytes]:
    """The same in parts, for whoever joins them to more."""
    content = value.encode("latin-1")
    size = len(content)
    return _literal_name(name), _LENGTHS[size] if size < LONG else _length(size), content


@lru_cache(maxsize=64)
def _literal_name(name: str) -> bytes:
    encoded = name.encode("ascii")
    return b"\x00" + _length(len(encoded)) + encoded


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block of literals."""
    return b"".join(literal(name, value) for name, value in fields)


def _length(n: int) -> bytes:
    """An HPACK integer with a 7-bit prefix and no Huffman bit."""
    if n < 0x7F:
        return bytes((n,))
    if n < 0x7F + 0x80:
        return bytes((0x7F, n - 0x7F))
    out = bytearray((0x7F,))
    n -= 0x7F
    while n >= 0x80:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


LONG: Final = 0x7F + 0x80  # from here on a length takes three bytes and more
_LENGTHS: Final = [_length(n) for n in range(LONG)]
