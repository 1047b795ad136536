"""The verdict: what judgement says of one call's responses, and how it travels in trailing metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

METADATA_KEY = "tocsin-verdict"
ACTIONS = ("pass", "flag", "retry", "fallback", "abstain", "block")  # mildest first
ROWS_TOLD = 64  # p-values listed in metadata, so that a large batch does not exceed the peers' header limits


class Weighed(NamedTuple):
    """What each row's answer is worth: the probability that it is right, what serving it is expected to bring, and the
    decision, `serve`, `flag` or `abstain`.
    """

    p_correct: list[float]
    worth: list[float]
    decisions: list[str]

    def rows(self, first: int, end: int) -> Weighed:
        """Some of the rows."""
        return Weighed(self.p_correct[first:end], self.worth[first:end], self.decisions[first:end])


class Verdict:
    """P-values, alarm, action and reasons for the rows of one response message.

    `pvalues`: the joint p-value of each row, in (0, 1]. `severities`: each row's alarm, `warning`, `critical` or None;
    `severity` is that of the worst row. `weighed`: what answers are worth, where that is configured. `identifier`:
    what to call the response when its truth becomes known, where levels follow feedback. `unscored`: why there is no
    judgement, or None. `action`: what is to be done, one of ACTIONS; `flag` is an alarm, or an answer worth a review.
    """

    __slots__ = (
        "_details", "_detectors", "action", "bundle", "identifier", "model", "pvalues", "severities", "severity",
        "unscored", "version", "weighed",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        version: str = "",
        bundle: str = "",
        pvalues: Sequence[float] = (),
        severities: Sequence[str | None] = (),
        detectors: tuple[str, ...] = (),
        details: Sequence[Sequence[float]] = (),
        severity: str | None = None,
        weighed: Weighed | None = None,
        identifier: str = "",
        *,
        unscored: str | None = None,
        action: str | None = None,
    ) -> None:
        self.model = model
        self.version = version
        self.bundle = bundle
        self.pvalues = pvalues
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
        """How grave it is, by what is to be done; without a judgement, less than any."""
        return -1 if self.unscored is not None and self.action == "pass" else ACTIONS.index(self.action)

    @property
    def alarm(self) -> bool:
        """Whether some row is alarmed."""
        return self.severity is not None

    @property
    def by_detector(self) -> dict[str, float]:
        """The p-value by each detector of the worst row."""
        if not self._details:
            return {}
        worst = 0 if len(self._details) == 1 else min(range(len(self.pvalues)), key=self.pvalues.__getitem__)
        return dict(zip(self._detectors, self._details[worst], strict=True))

    @property
    def reasons(self) -> list[str]:
        """What speaks against the worst row, most telling first, in words."""
        told = []
        if self.alarm:
            ranked = sorted(self.by_detector.items(), key=lambda pair: pair[1])
            told = [f"{name}: as high in {p:.2%} of safe responses" for name, p in ranked]
        if self.weighed is not None and self.action != "pass":
            row = min(range(len(self.weighed.worth)), key=self.weighed.worth.__getitem__)
            p, worth, decision = self.weighed.p_correct[row], self.weighed.worth[row], self.weighed.decisions[row]
            told.append(f"worth: right with probability {p:.3g}, so serving it is worth {worth:.3g}: {decision}")
        return told

    def to_metadata(self) -> str:
        """One line of JSON, ASCII, for the metadata key `tocsin-verdict`."""
        if self.unscored is not None:
            done = "" if self.action == "pass" else f',"action":"{self.action}"'
            return _head(self.model, self.version) + f',"unscored":"{self.unscored}"{done}}}'
        alarm = f'"{self.severity}"' if self.severity else "null"
        template = _template(self.model, self.version, self.bundle, self._detectors)
        more = "" if self.weighed is None and not self.identifier else self._more()
        if len(self.pvalues) == 1:
            return template % (alarm, self.action, _short(self.pvalues[0]), *map(_short, self._details[0]), more)
        alarmed = {row: severity for row, severity in enumerate(self.severities) if severity}
        told = dict(list(alarmed.items())[:ROWS_TOLD])
        rows = f',"rows":{len(self.pvalues)},"alarmed":{_text(told)}'
        p = ",".join(map(_short, self.pvalues[:ROWS_TOLD]))
        return template % (alarm, self.action, p, *map(_short, self.by_detector.values()), rows + more)

    def _more(self) -> str:
        """What is configured to be told besides."""
        told = f',"id":{_text(self.identifier)}' if self.identifier else ""
        if self.weighed is not None:
            right = ",".join(["%.4g" % p for p in self.weighed.p_correct[:ROWS_TOLD]])
            worth = ",".join(["%.4g" % value for value in self.weighed.worth[:ROWS_TOLD]])
            told += f',"p_correct":[{right}],"worth":[{worth}],"decide":{_text(self.weighed.decisions[:ROWS_TOLD])}'
        return told

    @classmethod
    def from_metadata(cls, text: str | bytes) -> Verdict:
        """The verdict of a `tocsin-verdict` value. Raises ValueError when it is not one."""
        try:
            content = json.loads(text)
            pvalues = [float(p) for p in content.get("p", [])]
            severities: list[str | None] = [None] * len(pvalues)
            if len(pvalues) == 1:
                severities[0] = content.get("alarm")
            for row, severity in content.get("alarmed", {}).items():
                if int(row) < len(severities):
                    severities[int(row)] = severity
            by_detector = {str(name): float(p) for name, p in content.get("detectors", {}).items()}
            return cls(
                str(content["model"]),
                str(content.get("version", "")),
                str(content.get("bundle", "")),
                pvalues=pvalues,
                severities=severities,
                detectors=tuple(by_detector),
                details=[list(by_detector.values())] if by_detector else [],
                severity=content.get("alarm"),
                weighed=_weighed(content),
                identifier=str(content.get("id", "")),
                unscored=content.get("unscored"),
                action=content.get("action") if content.get("action") in ACTIONS else None,
            )
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"'{METADATA_KEY}' does not hold a verdict ({error})") from None


def action_of(severity: str | None, decision: str = "serve") -> str:
    """What to do about a row: the graver of what its alarm and its worth ask for."""
    if decision == "abstain":
        return "abstain"
    return "flag" if severity or decision == "flag" else "pass"


def gravest_action(severity: str | None, weighed: Weighed | None) -> str:
    """What to do about a response whose worst row has that severity, by the gravest of its rows."""
    if weighed is None:
        return "flag" if severity else "pass"
    return max((action_of(severity, decision) for decision in weighed.decisions), key=ACTIONS.index)


def _weighed(content: Mapping[str, Any]) -> Weighed | None:
    if "decide" not in content:
        return None
    p_correct, worth = ([float(x) for x in content[name]] for name in ("p_correct", "worth"))
    return Weighed(p_correct, worth, [str(d) for d in content["decide"]])


_text = json.JSONEncoder(separators=(",", ":")).encode


@lru_cache(maxsize=1 << 14)
def _short(pvalue: float) -> str:
    """A p-value as text: there are not many, since each is a rank among calibration scores."""
    return "%.6g" % pvalue


@lru_cache(maxsize=1024)
def _head(model: str, version: str) -> str:
    return f'{{"model":{_text(model)}' + (f',"version":{_text(version)}' if version else "")


@lru_cache(maxsize=1024)
def _template(model: str, version: str, bundle: str, detectors: tuple[str, ...]) -> str:
    """The JSON of a verdict with %-places for alarm, action, p-values, each detector's p-value, and rows."""
    told = ",".join(_text(name).replace("%", "%%") + ":%s" for name in detectors)
    head = _head(model, version).replace("%", "%%")
    tail = f',"bundle":"{bundle[:19]}"}}'
    return f'{head},"alarm":%s,"action":"%s","p":[%s],"detectors":{{{told}}}%s{tail}'
