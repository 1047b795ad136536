"""A response as a server gives it, or a caller gets it."""

from __future__ import annotations

from typing import NamedTuple

from tocsin.verdict import METADATA_KEY

PIECE = 97  # bytes of a body that come at once


class Answer(NamedTuple):
    """A response. `is_cut`: it ended without its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_cut: bool = False
    has_verdict: bool = False  # besides what headers and body tell


def pieces_of(body: bytes) -> list[bytes]:
    """A body as it comes: some bytes at a time."""
    return [body[at : at + PIECE] for at in range(0, len(body), PIECE)] or [b""]


def has_verdict(answer: Answer) -> bool:
    """Whether the verdict reached the caller."""
    return answer.has_verdict or METADATA_KEY in answer.headers or METADATA_KEY.encode() in answer.body
