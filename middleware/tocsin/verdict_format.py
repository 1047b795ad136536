"""The parts of a verdict's text, for its writer and its reader."""

from __future__ import annotations

from typing import Final, NamedTuple

METADATA_KEY: Final = "tocsin-verdict"
ACTIONS: Final = ("pass", "flag", "retry", "fallback", "abstain", "block")  # mildest first
ROWS_TOLD: Final = 64  # p-values listed in metadata, so that a large batch does not exceed the peers' header limits


class Weighed(NamedTuple):
    """The expected utility of each row's answer: the probability that it is right, the expected utility of serving it,
    and the decision, `serve`, `flag` or `abstain`.
    """

    p_correct: list[float]
    worth: list[float]
    decisions: list[str]

    def rows(self, first: int, end: int) -> Weighed:
        """Some of the rows."""
        return Weighed(self.p_correct[first:end], self.worth[first:end], self.decisions[first:end])
