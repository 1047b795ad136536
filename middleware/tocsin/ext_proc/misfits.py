"""Settings of an Envoy filter that keep responses from being judged or held, and the line that has to change."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from tocsin.log_throttle import LogThrottle, and_more

log = logging.getLogger("tocsin")

LINES: Final = {
    "grpc_body": "body mode GRPC does not work: set response_body_mode (and request_body_mode) to STREAMED, BUFFERED "
    "or FULL_DUPLEX_STREAMED; until then Envoy's exchanges are refused",
    "buffered_partial": "with response_body_mode: BUFFERED_PARTIAL, large responses come in part and pass unjudged: "
    "set response_body_mode: BUFFERED",
    "observability": "with observability_mode: true, Envoy takes no replies, so that nothing is annotated or "
    "withheld: set observability_mode: false, or Tocsin's mode: observe",
    "not_held": "mode enforce cannot hold what has left: set response_body_mode to FULL_DUPLEX_STREAMED, or BUFFERED "
    "for responses of one message, and response_header_mode: SEND",
    "no_body": "response bodies do not come, so that nothing can be judged: set response_body_mode: STREAMED",
    "no_headers": "response headers do not come, so that bodies cannot be read: set response_header_mode: SEND",
    "no_trailers": "trailers do not come, so that verdicts cannot be sent: set response_trailer_mode: SEND",
    "not_told": "headers have left before the verdict is there: set response_body_mode to FULL_DUPLEX_STREAMED, or "
    "BUFFERED for responses that are no streams",
    "no_path": "the request's path does not come, so that its method is not known: set request_header_mode: SEND, or "
    "response_attributes: [request.path]",
    "no_request": "the request is needed and does not come: set request_header_mode: SEND and request_body_mode: "
    "BUFFERED",
}


class Misfits:
    """Counts exchanges that the filter's configuration does not fit, and logs which line to change."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._throttle = LogThrottle()

    def count(self, reason: str) -> None:
        """Count one more exchange under one of LINES."""
        self.counts[reason] += 1
        if (suppressed := self._throttle.admit(reason)) is not None:
            log.warning("Envoy's ext_proc filter: %s%s", LINES[reason], and_more(suppressed))
