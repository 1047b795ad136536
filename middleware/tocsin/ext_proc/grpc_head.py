"""The headers and trailers of a gRPC response, as Envoy reports them."""

from __future__ import annotations

from tocsin.ext_proc.requests import Fields
from tocsin.grpc_wire.content_types import foreign_answer
from tocsin.verdict import FIELD_OVERHEAD, METADATA_KEY

DONE = "0"  # grpc-status of a call that succeeded


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
