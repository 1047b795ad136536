"""The header block of a response: what it says, and what it is without the verdicts that others wrote."""

from __future__ import annotations

from typing import Final

from tocsin.grpc_wire.content_types import foreign_answer
from tocsin.http2.headers import CONTENT_LENGTH, KEPT_BLOCKS, KEPT_SIZE, HeaderFilter, remove_header
from tocsin.relay.verdict_fields import EncodedText, split_verdicts

_WANTED: Final = HeaderFilter((":status", "content-type", "grpc-encoding", "grpc-status"))


class ResponseBlock:
    """A header block without verdicts, and what it says.

    `verdicts` are those that were in it, `size` is that of the block's header list (SETTINGS_MAX_HEADER_LIST_SIZE), at
    most. `http_status` and `grpc_status` are empty where they are missing; `foreign` says in words why it is
    no answer in gRPC, and is empty where it is one. `without_length` is the block without a content-length, for
    responses that may go out with another one; None where it has none. `begins_plainly`: it may begin an answer in gRPC
    as it is, and tells nothing besides.
    """

    __slots__ = (
        "begins_plainly", "block", "encoding", "foreign", "grpc_status", "http_status", "is_informational", "size",
        "verdicts", "without_length",
    )  # fmt: skip

    def __init__(self, block: bytes, verdicts: tuple[EncodedText, ...], size: int, fields: dict[str, str]) -> None:
        self.block = block
        self.without_length: bytes | None = None
        self.verdicts = verdicts
        self.size = size
        status = fields.get(":status", "")
        self.is_informational = status.startswith("1")
        self.foreign = foreign_answer(status, fields.get("content-type", ""))
        self.encoding = fields.get("grpc-encoding", "")
        self.grpc_status = fields.get("grpc-status", "")
        self.http_status = status
        self.begins_plainly = not (self.is_informational or self.foreign or verdicts)


KNOWN_BLOCKS: Final[dict[bytes, ResponseBlock]] = {}  # that were read lately: most are alike


def read_response_block(block: bytes) -> ResponseBlock:
    """A block that depends on none before it. Raises HeaderError."""
    parsed = KNOWN_BLOCKS.get(block)
    if parsed is None:
        stripped, verdicts, size = split_verdicts(block)
        parsed = ResponseBlock(stripped, verdicts, size, _WANTED.extract(stripped))
        shorter = remove_header(stripped, *CONTENT_LENGTH)
        if shorter != stripped:
            parsed.without_length = shorter
            parsed.begins_plainly = False
        if len(block) <= KEPT_SIZE:
            if len(KNOWN_BLOCKS) >= KEPT_BLOCKS:
                KNOWN_BLOCKS.clear()
            KNOWN_BLOCKS[block] = parsed
    return parsed


def unread_response_block(block: bytes) -> ResponseBlock:
    """A block of which nothing is known but that it is there."""
    return ResponseBlock(block, (), len(block), {})
