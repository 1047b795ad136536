"""Header blocks (HPACK, RFC 7541), read one by one without state and written as literals.

The relay tells both peers that the dynamic table has size 0, so a block means the same wherever it stands. A walk
looks only at the names it wants; a full decoder serves for the few blocks a client may send before it has heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

STATIC_TABLE: Final = 61
CONTENT_LENGTH: Final = ("content-length", 28)  # a name, and its place in the static table
KEPT_BLOCKS: Final = 1_024  # of all connections together,
KEPT_EARLY: Final = 64  # and of one that has not heard yet
KEPT_SIZE: Final = 1_024  # bytes of a block that is kept
LARGEST_LIST: Final = 1 << 20  # bytes of a decoded block, unless told otherwise

# The static table (RFC 7541, appendix A) with what no index means in front, so that an index is a place in it.
STATIC_FIELDS: Final = [("", ""), *((name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE)]
KNOWN_NAMES: Final = 4_096  # literal names that are remembered,
LONGEST_NAME: Final = 64  # and bytes of such a name


class HeaderError(Exception):
    """A block that is malformed, or that refers to a dynamic table which does not exist."""


class HeadersTooLong(HeaderError):
    """A block that decodes to more than the limit; what it would have done to the dynamic table is not known."""


class HeaderFilter:
    """The lower-case names that are wanted of header blocks, and what the blocks say that were read lately. Connections
    share one: most calls are alike, and where none are, thousands of connections must not keep what each has read.

    Of a repeated name the last value counts, but of those that are `joined`, where all of them are one text.
    """

    def __init__(self, names: Iterable[str], joined: Iterable[str] = ()) -> None:
        self.names = frozenset(names)
        self.joined = frozenset(joined)
        self._static = [self._meaning(name) for name, _ in STATIC_FIELDS]
        self._plain: dict[bytes, str] = {}  # what literal names mean, "" what is not wanted
        self._coded: dict[bytes, str] = {}  # the same of names in Huffman's code
        self._read: dict[bytes, dict[str, str]] = {}

    def extract(self, block: bytes) -> dict[str, str]:
        """Those of a block that depends on none before it. Raises HeaderError."""
        fields = self._read.get(block)
        if fields is None:
            fields = self._walk(block)
            if len(block) <= KEPT_SIZE:
                if len(self._read) >= KEPT_BLOCKS:
                    self._read.clear()
                self._read[block] = fields
        return fields

    def read(self, block: bytes) -> dict[str, str]:
        """The same of a block that is like no other. Raises HeaderError."""
        return self._walk(block)

    def _meaning(self, name: str) -> str:
        """The name where it is wanted, else nothing."""
        return name if name in self.names else ""

    def _literal(self, raw: bytes, coded: bool) -> str:
        """What a literal name means that is not remembered. Raises HeaderError."""
        meaning = self._meaning(huffman(raw) if coded else raw.decode("latin-1"))
        if len(raw) <= LONGEST_NAME:
            encodings = self._coded if coded else self._plain
            if len(encodings) >= KNOWN_NAMES:
                encodings.clear()
            encodings[raw] = meaning
        return meaning

    def _walk(self, block: bytes) -> dict[str, str]:
        fields: dict[str, str] = {}
        at, end = 0, len(block)
        try:
            while at < end:
                first = block[at]
                if first & 0x80:  # an indexed field
                    index, at = integer(block, at, 0x7F)
                    if not 0 < index <= STATIC_TABLE:
                        raise HeaderError(f"the header block refers to entry {index} of an empty dynamic table")
                    name = self._static[index]
                    if name:
                        value = STATIC_FIELDS[index][1]
                        fields[name] = f"{fields[name]}, {value}" if name in self.joined and name in fields else value
                    continue
                if first & 0xE0 == 0x20:  # a table size update
                    _, at = integer(block, at, 0x1F)
                    continue
                index, at = integer(block, at, 0x3F if first & 0x40 else 0x0F)
                if index > STATIC_TABLE:
                    raise HeaderError(f"the header block refers to entry {index} of an empty dynamic table")
                if index:
                    name = self._static[index]
                else:
                    coded = block[at] & 0x80 != 0
                    length, at = integer(block, at, 0x7F)
                    raw = block[at : at + length]
                    wanted_name = (self._coded if coded else self._plain).get(raw)
                    name = self._literal(raw, coded) if wanted_name is None else wanted_name
                    at += length
                coded = block[at] & 0x80 != 0
                length, at = integer(block, at, 0x7F)
                if at + length > end:
                    raise HeaderError("the header block ends inside a value")
                if name:
                    value = text(block[at : at + length], coded)
                    fields[name] = f"{fields[name]}, {value}" if name in self.joined and name in fields else value
                at += length
        except IndexError:
            raise HeaderError("the header block ends inside a field") from None
        return fields


class HeaderReader:
    """Reads the wanted fields of one direction's header blocks.

    While `stateful`, blocks go through a full decoder; call `drop_dynamic_table` once the peer has acknowledged a
    table of size 0. A decoder stops at `largest` bytes of names, values and 32 for each field (RFC 9113, 6.5.2).
    """

    def __init__(self, wanted: HeaderFilter, *, stateful: bool = False, largest: int = LARGEST_LIST) -> None:
        self._wanted = wanted
        self._largest = largest
        self._decoder = Decoder(max_header_list_size=largest) if stateful else None
        self._early: dict[bytes, list[tuple[str, str]]] = {}  # while the dynamic table is as it is now

    def drop_dynamic_table(self) -> None:
        """From here on every block stands alone."""
        self._decoder = None
        self._early.clear()

    def read(self, block: bytes) -> dict[str, str]:
        """The wanted fields of a block, the last value of a repeated name. Raises HeaderError."""
        if self._decoder is None:
            return self._wanted.extract(block)
        names = self._wanted.names
        return {name: value for name, value in self._fields(self._decoder, block) if name in names}

    @property
    def stateful(self) -> bool:
        """Whether a block may still depend on those before it."""
        return self._decoder is not None

    def read_fields(self, block: bytes) -> list[tuple[str, str]]:
        """Every field of a block, in its order. Raises HeaderError."""
        return self._fields(self._decoder or Decoder(max_header_list_size=self._largest), block)

    def _fields(self, decoder: Decoder, block: bytes) -> list[tuple[str, str]]:
        """A block's fields. Early calls are alike: while the dynamic table is the same, so is what a block says."""
        early = self._early.get(block) if decoder is self._decoder else None
        if early is not None:
            return early
        entries = decoder.header_table.dynamic_entries
        before = len(entries), entries[0] if entries else None
        try:
            fields = decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise HeadersTooLong("the header block holds too much") from None
        except HPACKError as error:
            raise HeaderError(f"the header block cannot be decoded ({error})") from error
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
        if decoder is self._decoder:
            if before[0] != len(entries) or before[1] is not (entries[0] if entries else None):
                self._early.clear()
            elif len(self._early) < KEPT_EARLY and len(block) <= KEPT_SIZE:
                self._early[block] = decoded
        return decoded


def remove_header(block: bytes, name: str, index: int) -> bytes:
    """A stateless block without the fields of that name, at `index` of the static table. Raises HeaderError."""
    return (_cached_remove_header if len(block) <= KEPT_SIZE else _remove_header)(block, name, index)


def _remove_header(block: bytes, name: str, index: int) -> bytes:
    if not block:
        return block
    spellings = _spellings_of(name)
    parts, at, end = [], 0, len(block)
    try:
        while at < end:
            start, first = at, block[at]
            drop = False
            if first & 0x80:
                name_index, at = integer(block, at, 0x7F)
                drop = name_index == index
            elif first & 0xE0 == 0x20:
                _, at = integer(block, at, 0x1F)
            else:
                name_index, at = integer(block, at, 0x3F if first & 0x40 else 0x0F)
                drop = name_index == index
                if not name_index:
                    huffman = block[at] & 0x80
                    length, at = integer(block, at, 0x7F)
                    drop = (huffman, block[at : at + length]) in spellings
                    at += length
                length, at = integer(block, at, 0x7F)
                at += length
            if not drop:
                parts.append(block[start:at])
    except IndexError:
        raise HeaderError("the header block ends inside a field") from None
    return b"".join(parts)


_cached_remove_header = lru_cache(maxsize=1024)(_remove_header)


def integer(data: bytes, at: int, mask: int) -> tuple[int, int]:
    """An HPACK integer at `at`, whose prefix is under `mask`, and the position after it."""
    value = data[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = data[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 28:
            raise HeaderError("the header block holds an integer that is too long")


def text(raw: bytes, coded: bool) -> str:
    """A string of a block, in Huffman's code or not. Raises HeaderError."""
    if not coded:
        return raw.decode("latin-1")
    return huffman(raw)


def huffman(raw: bytes) -> str:
    """A string in Huffman's code, padded as RFC 7541 asks (5.2). Raises HeaderError."""
    return (_kept_huffman if len(raw) <= KEPT_SIZE else _huffman)(raw)


def _huffman(raw: bytes) -> str:
    try:
        return decode_huffman(raw).decode("latin-1")
    except HPACKError as error:
        raise HeaderError(f"the header block holds a damaged string ({error})") from error


_kept_huffman = lru_cache(maxsize=1024)(_huffman)


@lru_cache(maxsize=64)
def _spellings_of(name: str) -> dict[tuple[int, bytes], str]:
    return _encodings_of((name,))


def _encodings_of(names: Iterable[str]) -> dict[tuple[int, bytes], str]:
    """Each name as it may stand in a block: (Huffman bit, bytes) -> name."""
    huffman = Encoder().huffman_coder
    encodings = {(0, name.encode()): name for name in names}
    encodings.update({(0x80, huffman.encode(name.encode())): name for name in names})
    return encodings
