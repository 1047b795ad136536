"""How much there is to read in a call's messages, and whether the event loop may wait for it."""

from __future__ import annotations

from typing import Final

from tocsin.judgement.call import Call

INLINE_BYTES: Final = 131_072  # of one response's messages that have to be decoded: no more are read in the loop


def is_large(call: Call) -> bool:
    """Whether a call's messages take longer to be read than the event loop may wait. Contents that are taken as they
    are count little; of several messages, and of pieces of streams, all bytes count.
    """
    size, response = message_bytes(call), call.response
    if size > INLINE_BYTES and response is not None and call.parent is None:
        size += call.reads.decoded_size(response) - len(response)
    return size > INLINE_BYTES


def message_bytes(call: Call) -> int:
    """The bytes of all messages that a call is judged by."""
    size = len(call.response or b"") + sum([len(message) for message in call.earlier])
    return size + len(call.request or b"") if call.wants_request else size
