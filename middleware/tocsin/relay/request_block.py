"""The header block of a request: what is called, and whether every server reads the block in the same way.

A walk reads the blocks that clients send; at the first thing that servers treat in different ways it stops, and a
full decoder reads the whole block. docs/security.md has the table of what is irregular.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from tocsin.http2.headers import (
    KEPT_BLOCKS,
    KEPT_SIZE,
    LARGEST_LIST,
    STATIC_FIELDS,
    STATIC_TABLE,
    HeaderError,
    HeaderFilter,
    HeaderReader,
    HeadersTooLong,
    integer,
    text,
)
from tocsin.judgement.call_plan import CallPlan
from tocsin.judgement.guard import TRACE_KEY

PATH: Final = 1
METHOD: Final = 2
SCHEME: Final = 4
AUTHORITY: Final = 8
REGULAR: Final = 16
PSEUDO_HEADERS: Final = {":path": PATH, ":method": METHOD, ":scheme": SCHEME, ":authority": AUTHORITY}
NO_PATH: Final = "no :path"
IRREGULAR: Final = ":"  # the meaning of names that servers treat in different ways
COOKIE: Final = "cookie"
REPEATABLE: Final = (TRACE_KEY,)  # wanted, and of no consequence to judgement

_FIRST_REGULAR: Final = 8  # places of the static table before it hold pseudo-headers
_PSEUDO: Final = [0, *(PSEUDO_HEADERS[name] for name, _ in STATIC_FIELDS[1:_FIRST_REGULAR])]


class RequestHead:
    """What a request's header block says: the wanted `fields`, of a repeated name the last value, and every `:path`.

    `irregular` tells in words why servers may read the block in different ways; it is empty where they do not. `plan`
    is how the call is judged, once `is_planned`: None where it is not guarded.
    """

    __slots__ = ("encoding", "fields", "irregular", "is_planned", "paths", "plan")

    def __init__(self, fields: dict[str, str], paths: Sequence[str], irregular: str = "") -> None:
        self.fields = fields
        self.paths = paths
        self.irregular = irregular
        self.encoding = fields.get("grpc-encoding", "")
        self.plan: CallPlan | None = None
        self.is_planned = False


class RequestFields(HeaderFilter):
    """The lower-case names that are wanted of requests, those that hold scores `joined` where they are repeated. A full
    decoder stops at `largest` bytes (RFC 9113, 6.5.2).
    """

    def __init__(self, names: Iterable[str], largest: int = LARGEST_LIST, joined: Iterable[str] = ()) -> None:
        super().__init__(names, joined)
        self._largest = largest
        self.heads: dict[bytes, RequestHead] = {}  # what the blocks say that were read lately
        self._decoded_last: tuple[list[tuple[str, str]], RequestHead] = [], RequestHead({}, (), NO_PATH)

    def head(self, block: bytes) -> RequestHead:
        """What a block says that depends on none before it."""
        head = self.heads.get(block)
        if head is None:
            head = self._read_head(block)
            if len(block) <= KEPT_SIZE:
                if len(self.heads) >= KEPT_BLOCKS:
                    self.heads.clear()
                self.heads[block] = head
        return head

    def head_of(self, fields: list[tuple[str, str]]) -> RequestHead:
        """What a block says whose fields are these. Callers begin with blocks that are alike."""
        last, head = self._decoded_last
        if fields != last:
            head = self._judge_fields(fields)
            self._decoded_last = fields, head
        return head

    def _judge_fields(self, fields: Iterable[tuple[str, str]]) -> RequestHead:
        wanted: dict[str, str] = {}
        paths: list[str] = []
        irregular = ""
        names_seen = 0
        for name, value in fields:
            if name.startswith(":"):
                bit = PSEUDO_HEADERS.get(name, 0)
                if not bit:
                    irregular = irregular or "a pseudo-header that requests do not have"
                elif names_seen & REGULAR:
                    irregular = irregular or f"{name} after other fields"
                elif names_seen & bit:
                    irregular = irregular or f"{name} twice"
                names_seen |= bit
                if bit == PATH:
                    paths.append(value)
                continue
            names_seen |= REGULAR
            meaning = self._meaning(name)
            if meaning == IRREGULAR:
                irregular = irregular or "a name in upper case, or with spaces, that is read in lower case"
            elif meaning == COOKIE and COOKIE in wanted:
                wanted[COOKIE] += f"; {value}"  # which callers may send in pieces (RFC 9113, 8.2.3)
            elif meaning:
                if wanted.get(meaning, value) != value and meaning not in REPEATABLE:
                    irregular = irregular or f"two values of {meaning}"
                is_joined = meaning in self.joined and meaning in wanted
                wanted[meaning] = f"{wanted[meaning]}, {value}" if is_joined else value
        if not paths:
            irregular = irregular or NO_PATH
        return RequestHead(wanted, paths, irregular)

    def _meaning(self, name: str) -> str:
        if name in self.names or name in PSEUDO_HEADERS:
            return name
        if name.startswith(":"):
            return IRREGULAR
        plain = name.strip("\t\n\v\f\r \0").lower()
        return IRREGULAR if plain != name and (plain in self.names or plain.startswith(":")) else ""

    def _read_head(self, block: bytes) -> RequestHead:
        try:
            head = self._walk_head(block)
            return self._decoded(block) if head is None else head
        except HeaderError as error:
            return RequestHead({}, (), f"{error}")

    def _decoded(self, block: bytes) -> RequestHead:
        """The same by a full decoder. Raises HeaderError."""
        return self.head_of(every_field(block, self._largest))

    def _walk_head(self, block: bytes) -> RequestHead | None:
        """What an ordinary block says, None where it is not one. Raises HeaderError."""
        fields: dict[str, str] = {}
        path = ""
        static, plain, coded = self._static, self._plain, self._coded
        names_seen = 0
        at, end = 0, len(block)
        try:
            while at < end:
                first = block[at]
                at += 1
                if first & 0x80:  # an indexed field
                    index = first & 0x7F
                    if index == 0x7F:
                        index, at = integer(block, at - 1, 0x7F)
                    if not 0 < index <= STATIC_TABLE:
                        raise HeaderError(f"the header block refers to entry {index} of an empty dynamic table")
                    if index < _FIRST_REGULAR:
                        bit = _PSEUDO[index]
                        if names_seen & (bit | REGULAR):
                            return None
                        names_seen |= bit
                        if bit == PATH:
                            path = STATIC_FIELDS[index][1]
                        continue
                    names_seen |= REGULAR
                    name = static[index]
                    if name:
                        if name == IRREGULAR or name in fields:
                            return None
                        fields[name] = STATIC_FIELDS[index][1]
                    continue
                if first & 0xE0 == 0x20:  # a table size update, which stands in front
                    if names_seen:
                        return None
                    _, at = integer(block, at - 1, 0x1F)
                    continue
                mask = 0x3F if first & 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, at = integer(block, at - 1, mask)
                    if index > STATIC_TABLE:
                        raise HeaderError(f"the header block refers to entry {index} of an empty dynamic table")
                if index:
                    name = static[index]
                else:
                    head = block[at]
                    length = head & 0x7F
                    at += 1
                    if length == 0x7F:
                        length, at = integer(block, at - 1, 0x7F)
                    raw = block[at : at + length]
                    wanted_name = (coded if head & 0x80 else plain).get(raw)
                    name = self._literal(raw, head & 0x80 != 0) if wanted_name is None else wanted_name
                    at += length
                head = block[at]
                length = head & 0x7F
                at += 1
                if length == 0x7F:
                    length, at = integer(block, at - 1, 0x7F)
                stop = at + length
                if stop > end:
                    raise HeaderError("the header block ends inside a value")
                if not name:
                    names_seen |= REGULAR
                elif name[0] == ":":
                    bit = PSEUDO_HEADERS.get(name, 0)
                    if not bit or names_seen & (bit | REGULAR):
                        return None
                    names_seen |= bit
                    if bit == PATH:
                        path = text(block[at:stop], head & 0x80 != 0)
                else:
                    names_seen |= REGULAR
                    if name in fields:
                        return None
                    fields[name] = text(block[at:stop], head & 0x80 != 0)
                at = stop
        except IndexError:
            raise HeaderError("the header block ends inside a field") from None
        return RequestHead(fields, (path,)) if names_seen & PATH else None


EVERY_FIELD: Final = HeaderFilter(())  # of a reader that is asked for all of them


class RequestReader:
    """Reads the header blocks of one connection's requests, in their order.

    Until the client has acknowledged a dynamic table of size 0 a block may depend on those before it; then a full
    decoder reads them, which stops at `largest` bytes (RFC 9113, 6.5.2).
    """

    def __init__(self, largest: int) -> None:
        self._early: HeaderReader | None = HeaderReader(EVERY_FIELD, stateful=True, largest=largest)
        self._lost = False  # a block could not be read on which later ones may depend
        self.stateful = True  # a block may still depend on those before it

    def drop_dynamic_table(self) -> None:
        """From here on every block stands alone."""
        self._early = None
        self.stateful = False

    def early(self, block: bytes) -> list[tuple[str, str]] | None:
        """Every field of a block that may depend on those before it, None where it, or one before it, cannot be read.

        Raises HeadersTooLong.
        """
        assert self._early is not None
        if not self._lost:
            try:
                return self._early.read_fields(block)
            except HeadersTooLong:
                raise
            except HeaderError:
                self._lost = True
        return None


def every_field(block: bytes, largest: int = LARGEST_LIST) -> list[tuple[str, str]]:
    """Every field of a block that depends on none before it, in their order. Raises HeaderError."""
    try:
        fields = Decoder(max_header_list_size=largest).decode(block, raw=True)
    except HPACKError as error:
        raise HeaderError(f"the header block cannot be decoded ({error})") from error
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
