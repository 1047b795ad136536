"""The verdict: what judgement says of the responses of one call, and its form in trailing metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from tocsin.verdict_format import ACTIONS, METADATA_KEY, ROWS_TOLD, Weighed
from tocsin.verdict_reading import read_verdict

__all__ = ["ACTIONS", "METADATA_KEY", "ROWS_TOLD", "Verdict", "Weighed", "action_of", "gravest_action"]

USUAL_LIST_SIZE: Final = 8_192  # a header list that every gRPC library takes; C-core throws away some that are larger
FIELD_OVERHEAD: Final = 32  # bytes of a header list besides each field's name and value (RFC 9113, section 6.5.2)
_RANKS: Final = {action: rank for rank, action in enumerate(ACTIONS)}
_SHORTER: Final = (64, 16, 4, 1)  # rows listed where less has room; after that the detectors are left out too


def reason(detector: str, p: float) -> str:
    """What a detector's p-value says about an alarm, in words."""
    return f"{detector}: as high in {p:.2%} of safe responses"


class Verdict:
    """P-values, alarm, action and reasons for the rows of one response message.

    `pvalues`: the joint p-value of each row, in (0, 1]; metadata lists the first of them, and `rows` is how many there
    are. `severities`: each row's alarm, `warning`, `critical` or None; `severity` is that of the worst row. `details`:
    the worst row's p-value by each of the `detectors`. `weighed`: the expected utility of each answer, where that is
    configured. `identifier`: identifies the response in feedback, where levels follow feedback. `unscored`: why there
    is no judgement, or None. `action`: what was done in enforce, and in other modes what would be done; one of ACTIONS.
    `flag` means an alarm, or an answer to review.
    """

    __slots__ = (
        "_details", "_detectors", "action", "bundle", "identifier", "model", "pvalues", "rows", "severities",
        "severity", "unscored", "version", "weighed",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        version: str = "",
        bundle: str = "",
        pvalues: Sequence[float] = (),
        severities: Sequence[str | None] = (),
        detectors: tuple[str, ...] = (),
        details: Sequence[float] = (),
        severity: str | None = None,
        weighed: Weighed | None = None,
        identifier: str = "",
        *,
        unscored: str | None = None,
        action: str | None = None,
        rows: int = 0,
    ) -> None:
        self.model = model
        self.version = version
        self.bundle = bundle
        self.pvalues = pvalues
        self.rows = rows or len(pvalues)
        self.severities = severities
        self.severity = severity
        self.weighed = weighed
        self.identifier = identifier
        if action is None:
            action = ("flag" if severity else "pass") if weighed is None else gravest_action(severity, weighed)
        self.action = action
        self.unscored = unscored
        self._detectors = detectors
        self._details = details

    def __repr__(self) -> str:
        return f"Verdict({self.to_metadata()})"

    @property
    def rank(self) -> int:
        """How severe the action is. An unscored response that passes ranks below all others."""
        return -1 if self.unscored is not None and self.action == "pass" else _RANKS[self.action]

    @property
    def alarm(self) -> bool:
        """Whether some row alarms."""
        return self.severity is not None

    @property
    def by_detector(self) -> dict[str, float]:
        """The p-value by each detector of the worst row."""
        return dict(zip(self._detectors, self._details, strict=True))

    @property
    def worst(self) -> tuple[tuple[str, ...], Sequence[float]]:
        """The detectors, and the worst row's p-value by each."""
        return self._detectors, self._details

    @property
    def reasons(self) -> list[str]:
        """Why the worst row alarms, in words, the strongest reason first."""
        result = []
        if self.alarm:
            ranked = sorted(self.by_detector.items(), key=lambda pair: pair[1])
            result = [reason(name, p) for name, p in ranked]
        if self.weighed is not None and self.action != "pass":
            row = min(range(len(self.weighed.worth)), key=self.weighed.worth.__getitem__)
            p, worth, decision = self.weighed.p_correct[row], self.weighed.worth[row], self.weighed.decisions[row]
            result.append(f"worth: right with probability {p:.3g}, so serving it is worth {worth:.3g}: {decision}")
        return result

    def to_metadata(self) -> str:
        """One line of JSON, ASCII, for the metadata key `tocsin-verdict`."""
        if self.rows == 1 and self.weighed is None and not self.identifier and self.unscored is None:  # most are so
            frame = _frame(self.model, self.version, self.bundle, self._detectors)
            pvalues: Sequence[Boxed] = self.pvalues
            details: Sequence[Boxed] = self._details
            return frame.text(self.severity, self.action, pvalues[0], details)
        if self.unscored is not None:
            done = "" if self.action == "pass" else f',"action":"{self.action}"'
            return _head(self.model, self.version) + f',"unscored":"{self.unscored}"{done}}}'
        return self._text(ROWS_TOLD, self._detectors)

    def keep_told(self) -> None:
        """Forget what metadata do not tell of many rows: of a large response that is as much as its message. For those
        who only write it from here on.
        """
        if self.rows > ROWS_TOLD:
            self.pvalues = self.pvalues[:ROWS_TOLD]
            alarmed = [row for row, severity in enumerate(self.severities) if severity]
            self.severities = self.severities[: alarmed[:ROWS_TOLD][-1] + 1] if alarmed else ()
            self.weighed = None if self.weighed is None else self.weighed.rows(0, ROWS_TOLD)

    def shortened(self, limit: int) -> str | None:
        """The text in at most `limit` characters: with fewer rows, then without detectors. None where even that is too
        long.
        """
        text = self.to_metadata()
        if len(text) <= limit:
            return text
        if self.unscored is None:
            for rows in _SHORTER:
                if rows < len(self.pvalues) and len(text := self._text(rows, self._detectors)) <= limit:
                    return text
            if len(text := self._text(1, ())) <= limit:
                return text
        return None

    def _text(self, max_rows: int, detectors: tuple[str, ...]) -> str:
        frame = _frame(self.model, self.version, self.bundle, detectors)
        more = "" if self.weighed is None and not self.identifier else self._more(max_rows)
        details = self._details if detectors else ()
        if self.rows == 1:
            return frame.text(self.severity, self.action, self.pvalues[0], details, more=more)
        alarmed = ((row, severity) for row, severity in enumerate(self.severities) if severity)
        shown = dict(islice(alarmed, max_rows))
        rows = f',"rows":{self.rows},"alarmed":{_text(shown)}'
        first, *others = self.pvalues[:max_rows]
        return frame.text(self.severity, self.action, first, details, others, more=rows + more)

    def _more(self, max_rows: int) -> str:
        """The optional members: identifier and expected utilities."""
        text = f',"id":{_text(self.identifier)}' if self.identifier else ""
        if self.weighed is not None:
            right = ",".join(["%.4g" % p for p in self.weighed.p_correct[:max_rows]])
            worth = ",".join(["%.4g" % value for value in self.weighed.worth[:max_rows]])
            text += f',"p_correct":[{right}],"worth":[{worth}],"decide":{_text(self.weighed.decisions[:max_rows])}'
        return text

    @classmethod
    def from_metadata(cls, text: str | bytes) -> Verdict:
        """Parse the value of `tocsin-verdict`, from any writer. Raises ValueError when it is not a verdict."""
        return cls(**read_verdict(text))


def action_of(severity: str | None, decision: str = "serve") -> str:
    """What to do about a row: the more severe of what its alarm and its expected utility ask for."""
    if decision == "abstain":
        return "abstain"
    return "flag" if severity or decision == "flag" else "pass"


def gravest_action(severity: str | None, weighed: Weighed | None) -> str:
    """What to do about a response, from the severity of its worst row and the decisions about all rows."""
    if weighed is None:
        return "flag" if severity else "pass"
    return max((action_of(severity, decision) for decision in weighed.decisions), key=ACTIONS.index)


_text = json.JSONEncoder(separators=(",", ":")).encode


Boxed = Any  # a float, as an object: compiled code would make a number of it, and an object again
_MOST_SHOWN: Final = 1 << 14
_shown: Final[dict[Boxed, str]] = {}


def _short(pvalue: Boxed) -> str:
    """A p-value as text. Texts are kept: each is a rank among the calibration scores, so there are few different."""
    text = _shown.get(pvalue)
    if text is None:
        if len(_shown) >= _MOST_SHOWN:
            _shown.clear()
        text = _shown[pvalue] = "%.6g" % pvalue
    return text


@lru_cache(maxsize=1024)
def _head(model: str, version: str) -> str:
    return f'{{"model":{_text(model)}' + (f',"version":{_text(version)}' if version else "")


class _Frame:
    """What is the same in the texts of one bundle's verdicts: all but alarm, action, p-values and what follows them."""

    __slots__ = ("_detectors", "_head", "_tail")

    def __init__(self, model: str, version: str, bundle: str, detectors: tuple[str, ...]) -> None:
        self._head = _head(model, version) + ',"alarm":'
        commas = ["{", *[","] * (len(detectors) - 1)]
        self._detectors = [f"{comma}{_text(name)}:" for comma, name in zip(commas, detectors, strict=False)]
        self._tail = f',"bundle":{_text(bundle[:19])}}}'

    def text(
        self,
        severity: str | None,
        action: str,
        pvalue: Boxed,
        details: Sequence[Boxed],
        others: Sequence[Boxed] = (),
        *,
        more: str = "",
    ) -> str:
        """The text of a verdict: `others` are p-values of further rows, `more` what is told besides."""
        parts = [self._head, "null" if not severity else _text(severity), ',"action":"', action, '","p":[']
        parts.append(_short(pvalue))
        for other in others:
            parts.append(",")
            parts.append(_short(other))
        parts.append('],"detectors":')
        for place, name in enumerate(self._detectors):
            parts.append(name)
            parts.append(_short(details[place]))
        parts += ["}" if details else "{}", more, self._tail]
        return "".join(parts)


_MOST_FRAMES: Final = 1_024
_frames: Final[dict[tuple[str, str, str, tuple[str, ...]], _Frame]] = {}


def _frame(model: str, version: str, bundle: str, detectors: tuple[str, ...]) -> _Frame:
    """The frame of a bundle's verdicts. Frames are kept."""
    key = model, version, bundle, detectors
    frame = _frames.get(key)
    if frame is None:
        if len(_frames) >= _MOST_FRAMES:
            _frames.clear()
        frame = _frames[key] = _Frame(model, version, bundle, detectors)
    return frame
