"""Which answers are gRPC. What a request says of itself does not matter: C-core serves any content type as gRPC."""

from __future__ import annotations

from typing import Final

GRPC: Final = "application/grpc"


def is_grpc(content_type: str) -> bool:
    """Whether a content type is gRPC's, with or without the name of a codec; a missing one is taken for it.

    gRPC-web and Connect have types of their own (application/grpc-web, application/connect+proto).
    """
    if content_type == GRPC or not content_type:
        return True
    lower = content_type.strip().lower()
    return lower == GRPC or lower.startswith((f"{GRPC}+", f"{GRPC};"))


def foreign_answer(status: str, content_type: str) -> str:
    """What an answer is that is not gRPC, in words; empty where it is gRPC."""
    if not is_grpc(content_type) or (not content_type and status not in ("200", "")):
        return f"HTTP {status[:3]} with {content_type[:60] or 'no content type'}, which is not gRPC"
    return ""
