"""Why a response could not be scored. This is the only failure on the serving path, and it is counted."""

from __future__ import annotations

from typing import Final

REASONS: Final = {
    "no_bundle": "the model is configured without a bundle",
    "unknown_model": "the response names a model that is not configured",
    "missing_signal": "a tensor, field or metadata that the configuration names is not there",
    "shape": "a tensor has another width than the detectors were fitted on, or contradicts its own shape",
    "rows": "signals of one response have different numbers of rows, or none",
    "dtype": "a tensor is not numeric, or a score in metadata is not one number",
    "not_finite": "a signal or a score is NaN or infinite",
    "undecodable": "the message is damaged, not of the protocol, or read differently by different servers",
    "unmatched_request": "on a stream of requests, it is not known which of them the response answers",
    "no_previous": "a signal is one of the session's previous response, and that is not known",
    "encoding": "the message is compressed by a codec that is not available",
    "too_large": "the message exceeds max_message",
    "memory": "unfinished messages together exceed max_memory",
    "queue_full": "too many responses wait for the scorer already",
    "late": "the verdict was not there within the scoring budget",
    "scorer_error": "the scorer failed",
    "no_response": "the call succeeded without a response message",
    "not_grpc": "the answer is not gRPC",
    "content_type": "the response is neither JSON nor a stream of it",
    "not_sent": "Envoy does not send what is to be judged: its ext_proc filter is configured otherwise",
}


class Unscored(Exception):
    """A response passes without a judgement. `reason` is one of REASONS; the text explains it to a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
