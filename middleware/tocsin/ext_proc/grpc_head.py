"""The headers and trailers of a gRPC response, as Envoy reports them, and the status of one that is replaced."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from tocsin.ext_proc import replies
from tocsin.ext_proc.requests import Fields
from tocsin.grpc_wire.content_types import foreign_answer
from tocsin.judgement.policy import DETAILS_KEY, Replacement
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY

DONE: Final = "0"  # grpc-status of a call that succeeded
UNESCAPED: Final = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"  # what a status message need not percent-encode


class GrpcResponseHead:
    """What a response's headers or trailers contain."""

    __slots__ = ("encoding", "foreign", "grpc_status", "http_status", "names", "size", "verdicts")

    def __init__(self, fields: Fields) -> None:
        self.encoding = self.grpc_status = self.http_status = content_type = ""
        self.verdicts: list[str] = []
        self.names = [name for name, _ in fields]
        self.size = 0
        for name, value in fields:
            self.size += len(name) + len(value) + FIELD_OVERHEAD
            if name == METADATA_KEY:
                self.verdicts.append(value)
            elif name == "grpc-status":
                self.grpc_status = value
            elif name == "content-type":
                content_type = value
            elif name == ":status":
                self.http_status = value
            elif name == "grpc-encoding":
                self.encoding = value
        self.foreign = foreign_answer(self.http_status, content_type) if self.http_status else ""


def status_fields(instead: Replacement) -> list[tuple[str, str]]:
    """The status of a replaced response, as trailers."""
    fields = [
        ("grpc-status", str(instead.status.value)),
        ("grpc-message", quote(instead.message, safe=UNESCAPED)),
        (DETAILS_KEY, binary_value(instead.details)),
    ]
    return [field for field in fields if field[1]]


def immediate_status(instead: Replacement, verdict_fields: Callable[[int], list[tuple[str, str]]]) -> bytes:
    """The reply by which Envoy sends a status alone, with the verdict's fields for a header list of that size."""
    details = [(DETAILS_KEY, binary_value(instead.details))] if instead.details else []
    size = len(instead.message) + sum([len(name) + len(value) for name, value in details]) + 256
    status, setting = instead.status.value, [*details, *verdict_fields(size)]
    return replies.immediate(200, instead.message.encode(), grpc_status=status, setting=setting)


def binary_value(content: bytes) -> str:
    """A value of a `-bin` key."""
    return b64encode(content).decode().rstrip("=")
