"""One guarded call, as whoever carries it (relay, client wrapper, server interceptor) tells it to judgement."""

from __future__ import annotations

from collections.abc import Mapping

from tocsin.verdict import Verdict


class Call:
    """A call's messages and keys on the way in, its verdict on the way out.

    `request` and `response` are single gRPC messages without framing and compression; `fault` is a reason known
    before scoring; `late` means that nobody waits for the verdict any more. `keys` are the request's metadata that tell
    sessions and groups apart, each model's under its own name. The request is only needed where `wants_request`.
    """

    __slots__ = (
        "fault", "keys", "late", "method", "model", "request", "response", "trace", "verdict",
        "version", "wants_request",
    )  # fmt: skip

    def __init__(self, method: str, keys: Mapping[str, str], trace: str, wants_request: bool) -> None:
        self.method = method
        self.keys = keys
        self.trace = trace
        self.wants_request = wants_request
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.fault: tuple[str, str] | None = None
        self.late = False
        self.model = ""  # known once the response is read
        self.version = ""
        self.verdict: Verdict | None = None
