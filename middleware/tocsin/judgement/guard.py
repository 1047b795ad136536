"""The guard: everything between a call's messages and its verdict."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tocsin.config import Config
from tocsin.config_fields import VERSION
from tocsin.judgement.call import Call
from tocsin.judgement.model import Family, GuardedModel
from tocsin.judgement.sink import Scored, Sink
from tocsin.protocols import oip
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict

log = logging.getLogger("tocsin")

TRACE_KEY = "traceparent"
OTHER = "other"  # the label of models that are not configured
INLINE_SECONDS = 2e-3  # how long eight rows may hold up an event loop; heavier bundles run in a thread
NO_KEYS: Mapping[str, str] = {}
QUIET = 60.0  # seconds between two log lines about the same reason


_NONE = np.full((1, 1), np.nan, np.float32)

Read = tuple[Call, int, list[bytes]]  # a call whose signals were found: its rows, and each signal's raw contents


class Guard:
    """Judges calls by the bundles of a configuration. Safe to use from several threads.

    Made by `Guard.open`; `sinks` take note of every verdict. `heavy` bundles want a thread of their own.
    """

    needs_bundles: ClassVar[bool] = True

    def __init__(self, config: Config, models: Mapping[str, GuardedModel], sinks: Iterable[Sink] = ()) -> None:
        self.config = config
        self.models = dict(models)
        self.sinks = list(sinks)
        self.wants_request = any(model.wants_request for model in self.models.values())
        told_by = {key for model in self.models.values() for key in (model.session, model.group)}
        self._keys = sorted(told_by - {"", VERSION})
        self._lock = threading.Lock()
        self._last_told: dict[tuple[str, str], float] = {}
        self.heavy = any(m.scorer.warm() > INLINE_SECONDS for m in self.models.values() if m.bundle is not None)
        self._blind = self.needs_bundles and all(model.bundle is None for model in self.models.values())
        self._only = next(iter(self.models)) if len(self.models) == 1 else OTHER

    @classmethod
    def open(cls, config: Config | Path | str, sinks: Iterable[Sink] = ()) -> Self:
        """A guard from a configuration or its file, its bundles read and warmed.

        Raises ConfigError or BundleError, naming the file and what is wrong.
        """
        if not isinstance(config, Config):
            config = Config.load(config)
        models = {name: GuardedModel(name, m, threads=config.threads) for name, m in config.models.items()}
        return cls(config, models, sinks)

    @property
    def metadata_keys(self) -> list[str]:
        """The request metadata that `call` wants to see."""
        return list(dict.fromkeys([TRACE_KEY, *self._keys]))

    def call(self, method: str, metadata: Mapping[str, str]) -> Call | None:
        """A call to judge, or None when the method is not guarded."""
        if method not in oip.METHODS:
            return None
        keys = {key: metadata[key] for key in self._keys if key in metadata} if self._keys else NO_KEYS
        return Call(method, keys, _trace_id(metadata.get(TRACE_KEY)), self.wants_request)

    def judge(self, calls: Sequence[Call]) -> None:
        """Give every call its verdict, scoring those of one model as one batch. Never raises."""
        started = time.perf_counter()
        batches: dict[Family, list[Read]] = {}
        for call in calls:
            try:
                family, read = self._read(call)
            except Unscored as why:
                self._pass_unscored(call, why)
            except Exception as error:
                self._pass_unscored(call, Unscored("undecodable", f"{type(error).__name__}: {error}"))
            else:
                batch = batches.get(family)
                if batch is None:
                    batches[family] = [read]
                else:
                    batch.append(read)
        for family, batch in batches.items():
            self._score_safely(self.models[family.model], family, batch, started)

    def _score_safely(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        try:
            self.score(model, family, batch, started)
        except Exception as error:
            for call, _, _ in batch:
                self._pass_unscored(call, Unscored("scorer_error", f"{type(error).__name__}: {error}"))

    def give_up(self, call: Call, reason: str, detail: str) -> None:
        """Let a call pass unscored for a reason found by whoever carries it."""
        call.model = call.model or self._only
        self._pass_unscored(call, Unscored(reason, detail))

    def _read(self, call: Call) -> tuple[Family, Read]:
        call.model = self._only
        if call.fault is not None:
            raise Unscored(*call.fault)
        if call.response is None:
            raise Unscored("no_response", "the call has no response message")
        if self._blind:
            raise Unscored("no_bundle", "no model has a bundle")
        response = oip.read_response(call.response)
        model = self.models.get(response.model)
        if model is None:
            call.model = OTHER
            raise Unscored("unknown_model", f"model '{response.model}' is not configured")
        call.model, call.version = model.name, response.version
        if model.bundle is None and self.needs_bundles:
            raise Unscored("no_bundle", f"model '{model.name}' has no bundle")
        plan, raws = model.read(response, call.request)
        return plan.family, (call, plan.rows, raws)

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Judge one model's batch; `started` is when reading it began (time.perf_counter)."""
        signals = family.stack([raws for _, _, raws in batch])
        try:
            scores = model.scorer.run(signals)
        except Exception:
            if len(batch) == 1:
                raise
            scores = _NONE  # such as one token id beyond an embedder's table
        if not (np.isfinite(scores).all() and all(np.isfinite(signals[name]).all() for name in model.swallowed)):
            if len(batch) > 1:  # find the broken one without spoiling the others
                for read in batch:
                    self._score_safely(model, family, [read], started)
                return
            broken = [name for name, values in signals.items() if not np.isfinite(values).all()]
            told = f"signal '{broken[0]}' holds NaN or infinity" if broken else "a score is NaN or infinite"
            self._pass_unscored(batch[0][0], Unscored("not_finite", told))
            return
        self._tell(model, batch, scores, started)

    def _tell(self, model: GuardedModel, batch: list[Read], scores: NDArray[np.float32], started: float) -> None:
        """Give the batch's calls their verdicts, and tell the sinks."""
        judged = model.judge(scores, batch, model)
        pvalues, by_detector, severities, joint, own, weighed, identifiers, ended = judged
        at = 0
        calls = []
        late: set[int] = set()  # rows that nobody waits for any more
        for number, (call, rows, _) in enumerate(batch):
            first, at = at, at + rows
            if call.late:
                self._pass_unscored(call, Unscored("late", "the verdict missed the scoring budget"))
                late.update(range(first, at))
                continue
            severity = severities[first]
            if rows > 1:
                severity = model.promise.gravest(severities[first:at])
            call.verdict = Verdict(
                call.model,
                call.version,
                model.digest,
                pvalues[first:at],
                severities[first:at],
                model.scorer.detectors,
                by_detector[first:at],
                severity,
                weighed and weighed.rows(first, at),
                identifiers[number] if identifiers else "",
            )
            calls.append(call)
        if calls or ended:
            if late:
                scores = np.delete(scores, list(late), axis=0)
                joint = [value for row, value in enumerate(joint) if row not in late]
                own = own and [group for row, group in enumerate(own) if row not in late]
            scored = Scored(model.name, calls, scores, time.perf_counter() - started, joint, own, ended)
            for sink in self.sinks:
                sink.scored(scored)

    def _pass_unscored(self, call: Call, why: Unscored) -> None:
        model = call.model or OTHER
        call.verdict = Verdict(model, call.version, unscored=why.reason)
        for sink in self.sinks:
            sink.unscored(call)
        with self._lock:
            now = time.monotonic()
            quiet = now - self._last_told.get((model, why.reason), -QUIET) < QUIET
            if not quiet:
                self._last_told[model, why.reason] = now
        if not quiet and why.reason != "no_bundle":
            log.warning("model %s: response passed unscored (%s): %s", model, why.reason, why)


def _trace_id(traceparent: str | None) -> str:
    """The trace id of a W3C traceparent, or nothing."""
    if traceparent is None or len(traceparent) < 55 or traceparent[35] != "-":
        return ""
    return traceparent[3:35]
