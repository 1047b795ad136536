"""One guarded call, as whoever carries it (relay, client wrapper, server interceptor) tells it to judgement."""

from __future__ import annotations

from tocsin.verdict import Verdict


class Call:
    """A call's messages and keys on the way in, its verdict on the way out.

    `request` and `response` are single gRPC messages without framing and compression; `fault` is a reason known
    before scoring; `late` means that nobody waits for the verdict any more. The request is only needed where
    `wants_request`.
    """

    __slots__ = (
        "fault", "group", "late", "method", "model", "request", "response", "session", "trace", "verdict",
        "version", "wants_request",
    )  # fmt: skip

    def __init__(self, method: str, session: str, trace: str, wants_request: bool, group: str = "") -> None:
        self.method = method
        self.session = session
        self.group = group
        self.trace = trace
        self.wants_request = wants_request
        self.request: bytes | None = None
        self.response: bytes | None = None
        self.fault: tuple[str, str] | None = None
        self.late = False
        self.model = ""  # known once the response is read
        self.version = ""
        self.verdict: Verdict | None = None
