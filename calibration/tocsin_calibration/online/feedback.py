"""Labels that come back: late, out of order, for some responses only, sometimes twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, NamedTuple

from tocsin_calibration.errors import CalibrationError
from tocsin_calibration.online.adaptive import Adaptive

Outcome = Literal["learnt", "bad", "duplicate", "unknown"]
REMEMBERED = 100_000  # responses that wait for their label


class _Decided(NamedTuple):
    pvalue: float
    alarmed: bool


class Feedback:
    """Remembers what was decided, and teaches an adaptive level when the truth arrives.

    A label counts once, whenever it comes; one for a response that was forgotten (the oldest of more than
    `remembered`), or never decided here, is `unknown`. Labels of bad responses are accepted and teach nothing: the
    promise is about safe ones. The error that is learnt is that of the decision as it was made then, not as it would be
    made now.
    """

    def __init__(self, adaptive: Adaptive, remembered: int = REMEMBERED) -> None:
        if remembered < 1:
            raise CalibrationError(f"at least one response must be remembered, not {remembered}")
        self.adaptive = adaptive
        self.false_alarms = self.safe = self.bad = 0
        self._remembered = remembered
        self._waiting: OrderedDict[str, _Decided] = OrderedDict()
        self._labelled: OrderedDict[str, None] = OrderedDict()

    def decide(self, identifier: str, pvalue: float) -> bool:
        """Whether a response alarms at the present level; remembers it for its label.

        An identifier that is still waiting keeps its first decision: two responses under one name cannot be told apart.
        """
        alarmed = pvalue <= self.adaptive.level
        if identifier not in self._waiting and identifier not in self._labelled:
            self._waiting[identifier] = _Decided(pvalue, alarmed)
            if len(self._waiting) > self._remembered:
                self._waiting.popitem(last=False)
        return alarmed

    def label(self, identifier: str, safe: bool) -> Outcome:
        """The truth about a response has come: it was safe, or bad."""
        decided = self._waiting.pop(identifier, None)
        if decided is None:
            return "duplicate" if identifier in self._labelled else "unknown"
        self._labelled[identifier] = None
        if len(self._labelled) > self._remembered:
            self._labelled.popitem(last=False)
        if not safe:
            self.bad += 1
            return "bad"
        self.safe += 1
        self.false_alarms += decided.alarmed
        self.adaptive.learn(decided.pvalue, decided.alarmed)
        return "learnt"

    def labels(self, labels: Iterable[tuple[str, bool]]) -> list[Outcome]:
        """Several labels, in the order in which they came."""
        return [self.label(identifier, safe) for identifier, safe in labels]
