"""Why an opinion was not given. Each is counted by its reason."""

from __future__ import annotations

REASONS = {
    "queue_full": "more calls waited to be asked about than `queue` allows",
    "late": "the call waited longer than `max_wait`, because calls_per_minute or the judge allow no more",
    "too_large": "the call's messages are larger than `max_text`",
    "no_text": "request or response has no text where it was looked for",
    "no_reference": "the file of references has none for the question",
    "no_next_turn": "the request is no conversation in which a user's turn follows an answer",
    "unreachable": "the judge could not be connected to, or its answer was no HTTP",
    "timeout": "the judge did not answer within `timeout`",
    "refused": "the judge answered with another status than 200",
    "unreadable": "the judge's answer holds no rating, no choice or no log-probabilities",
    "draining": "the process ended before the judge had answered",
    "failed": "asking failed for a reason that is in the log",
}


class Lost(Exception):
    """An opinion is not given. `reason` is one of REASONS; the text explains it and never holds what the judge said."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
