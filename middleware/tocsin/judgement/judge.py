"""From one model's scores to p-values, alarms and session states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tocsin.configuration.model import ModelConfig
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call
from tocsin.judgement.levels import AdaptiveLevels, DiscoveryLevels, Identifiers, Levels, rows_of
from tocsin.state.memory import MemorySessions
from tocsin.state.opening import State
from tocsin.state.store import SessionStore
from tocsin.verdict import Weighed
from tocsin_calibration import Bundle, Costs, smoothed_pvalues, uniforms
from tocsin_calibration.promise import Judged

MAX_STEP_ROWS: Final = 2_048  # rows that are judged in one step


class Judgement(NamedTuple):
    """The result for n rows; the rows of one call are adjacent."""

    pvalues: list[float]
    by_detector: list[list[float]] | NDArray[np.float64]
    severities: list[str | None]
    joint: list[float]
    groups: list[str] | None
    weighed: Weighed | None
    identifiers: list[str]  # one for each call; empty where nothing needs them
    ended: list[str | None] | None
    keyless: tuple[int, int] = (0, 0)  # calls without a session, and without a group, where the promise needs one


class CallKeys(Protocol):
    """Knows the session and the group of a call."""

    def session_of(self, call: Call) -> str: ...

    def group_of(self, call: Call) -> str: ...


class Judge:
    """Judges scores by a bundle's promise and a model's configuration. Sessions are stored under `session_namespace`,
    by default the model's name. Safe between threads.

    Raises ConfigError when the configuration asks for something that the bundle does not have.
    """

    def __init__(
        self, name: str, config: ModelConfig, bundle: Bundle, state: State, session_namespace: str = ""
    ) -> None:
        self.promise = bundle.require_promise(config.bundle or "the bundle")
        where = f"models.{name}"
        if self.promise.sessions is not None and not config.session:
            raise ConfigError(
                f"{where}.session: the bundle's promise is for sessions; say which field names a call's session"
            )
        grouped = bool(self.promise.groups) and self.promise.sessions is None
        self._classes = self.promise.classes if grouped else None
        if grouped and not config.group and self._classes is None:
            raise ConfigError(
                f"{where}.group: the bundle has a promise for each group; say which field names a call's group"
            )
        if config.group and self._classes is not None:
            raise ConfigError(
                f"{where}.group: the bundle has a promise for each class that signal '{self._classes.signal}' names, "
                f"and reads it from the responses; leave group out"
            )
        if config.risk is not None and bundle.risk is None:
            raise ConfigError(
                f"{where}.risk: the bundle does not know how often answers are right; calibrate it with --correct "
                f"COLUMN"
            )
        self._grouped = grouped
        # Whether detectors read what names the class: then it is judged only where they have found it finite.
        self._scores_class = self._classes is not None and self._classes.signal in bundle.scorer.signals
        self._risk = None if config.risk is None else bundle.risk
        self._costs = Costs(**config.risk.model_dump()) if config.risk is not None else Costs()
        self.levels: Levels | None = None
        if config.adapt is not None:
            self.levels = AdaptiveLevels(config.adapt, self.promise.alphas)
        elif config.discoveries is not None:
            self.levels = DiscoveryLevels(config.discoveries, list(self.promise.alphas)[-1])
        self._smoothed = config.smoothed
        if config.smoothed and self.promise.limits.weighted is not None:
            raise ConfigError(f"{where}.smoothed: the bundle's promise is weighted, whose p-values are not smoothed")
        self.plain = not (grouped or self._risk or self.levels or self.promise.sessions or self._smoothed)
        self.tells_apart = bool(self._risk or self.levels or self._smoothed)  # responses, by name or by worth
        self._by_class = None if self.tells_apart else self._classes  # where a class is all that there is to a response
        self.identifiers = Identifiers()
        self.sessions: SessionStore | None = None
        if self.promise.sessions is not None:
            self.sessions = state.sessions(session_namespace or name, bundle.digest, self.promise, config)

    def __call__(
        self,
        scores: NDArray[np.float32],
        batch: Sequence[tuple[Call, int, Any]],
        keys_of: CallKeys,
        signals: Callable[[], Mapping[str, NDArray[np.float32]]],
    ) -> Judgement:
        """Judge the scores (n, d) of a batch. Each element of `batch` is a call, its number of rows, and what it was
        read from; `signals` gives those of all rows, (n, width) each.
        """
        if self.plain:
            return Judgement(*self._judge_slices(scores, None), None, None, [], None)
        if self._by_class is not None:
            classes = self._by_class.of(signals()[self._by_class.signal], is_finite=self._scores_class)
            return Judgement(*self._judge_slices(scores, classes), classes, None, [], None)
        row_groups = ended = None
        groups = [keys_of.group_of(call) for call, _, _ in batch] if self._grouped and self._classes is None else []
        sessions = [keys_of.session_of(call) for call, _, _ in batch] if self.sessions is not None else []
        if self._classes is not None:
            row_groups = self._classes.of(signals()[self._classes.signal], is_finite=self._scores_class)
        elif self._grouped:
            row_groups = [group for group, (_, rows, _) in zip(groups, batch, strict=True) for _ in range(rows)]
        if self.sessions is None:
            judged = self._judge_slices(scores, row_groups)
        else:
            keys = [key for key, (_, rows, _) in zip(sessions, batch, strict=True) for _ in range(rows)]
            judged, ended = self._judge_sessions(self.sessions, scores, keys)
        severities, identifiers = judged.severities, []
        if self.levels is not None or self._smoothed:
            identifiers = [self.identifiers.next() for _ in batch]
            names = [
                name
                for identifier, (_, rows, _) in zip(identifiers, batch, strict=True)
                for name in rows_of(identifier, rows)
            ]
            if self._smoothed:
                judged = judged._replace(pvalues=self._smooth(judged.joint, row_groups, names))
            if self.levels is not None:
                severities = self.levels.decide(names, judged.pvalues)
        weighed = None
        if self._risk is not None:
            decisions = self._risk.weigh(scores, self._costs)
            weighed = Weighed(decisions.p_correct.tolist(), decisions.served.tolist(), list(decisions.decisions))
        keyless = sessions.count(""), groups.count("")
        return Judgement(
            judged.pvalues,
            judged.by_detector,
            severities,
            judged.joint,
            row_groups,
            weighed,
            identifiers,
            ended,
            keyless,
        )

    def _judge_sessions(
        self, sessions: SessionStore, scores: NDArray[np.float32], keys: list[str]
    ) -> tuple[Judged, list[str | None]]:
        """Judge rows by their sessions. The lock is held for one slice at a time."""
        slices: list[Judged] = []
        ended: list[str | None] = []
        for start in range(0, max(1, len(keys)), MAX_STEP_ROWS):
            keys_part, part = keys[start : start + MAX_STEP_ROWS], scores[start : start + MAX_STEP_ROWS]
            joint: list[float] = self.promise.joint(part).tolist() if sessions.shared else []
            with sessions.lock:
                progress = sessions.begin(keys_part, joint)
                judged = self.promise.judge(part, sessions=progress)
                ended += sessions.end(keys_part, progress)
            slices.append(judged)
        return _joined(slices), ended

    def _judge_slices(self, scores: NDArray[np.float32], groups: list[str] | None) -> Judged:
        """Judge rows a slice at a time, so that no step holds the interpreter for long."""
        if len(scores) <= MAX_STEP_ROWS:
            return self.promise.judge(scores, groups)
        slices: list[Judged] = []
        for start in range(0, len(scores), MAX_STEP_ROWS):
            groups_part = None if groups is None else groups[start : start + MAX_STEP_ROWS]
            slices.append(self.promise.judge(scores[start : start + MAX_STEP_ROWS], groups_part))
        return _joined(slices)

    def finish(self, keys: Sequence[str]) -> list[str | None]:
        """End these sessions. Returns the most severe severity of each session that has ended since the last call."""
        assert isinstance(self.sessions, MemorySessions)  # streams are sessions of one process
        with self.sessions.lock:
            return self.sessions.finish(keys)

    def silent(self) -> list[str | None]:
        """The most severe severity of each session that has ended since the last call, by silence or otherwise.

        Returns nothing while a batch is being judged, because that batch may wait for a round trip; it reports these
        sessions itself.
        """
        if self.sessions is None or not self.sessions.lock.acquire(blocking=False):
            return []
        try:
            return self.sessions.end([], [])
        finally:
            self.sessions.lock.release()

    def _smooth(self, joint: Sequence[float], groups: Sequence[str] | None, names: Sequence[str]) -> list[float]:
        """Smoothed p-values of rows with these names, against the calibration scores of their groups."""
        drawn = uniforms(names)
        limits = [self.promise.limits] * len(joint)
        if groups is not None:
            limits = [self.promise.groups.get(group, self.promise.limits) for group in groups]
        return [
            float(smoothed_pvalues(limits_of_row.ordered, c, u))
            for limits_of_row, c, u in zip(limits, joint, drawn, strict=True)
        ]


def _joined(slices: list[Judged]) -> Judged:
    """Join the results of slices."""
    if len(slices) == 1:
        return slices[0]
    every = Judged([], np.concatenate([np.asarray(part.by_detector) for part in slices]), [], [])
    for part in slices:
        every.pvalues.extend(part.pvalues)
        every.severities.extend(part.severities)
        every.joint.extend(part.joint)
    return every
