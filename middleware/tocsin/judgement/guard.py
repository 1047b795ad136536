"""The guard: everything between a call's messages and its verdict."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tocsin.configuration.config import Config
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.call_plan import CallPlan, MethodPlan
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.judgement.shadow import by_candidates
from tocsin.judgement.sink import Scored, Sink, Sinks
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.protocols.method import Edit, Method, Opened
from tocsin.protocols.paths import INITIAL, TRAILING
from tocsin.protocols.rows import Family, Rows
from tocsin.state.opening import State
from tocsin.unscored import Unscored
from tocsin.verdict import Verdict

log = logging.getLogger("tocsin")

TRACE_KEY = "traceparent"
HEX, NO_TRACE = "0123456789abcdef", "0" * 32
OTHER = "other"  # the label of models that are not configured
NO_KEYS: Mapping[str, str] = {}
ALL_ROWS = 1 << 60  # more than there are


_NONE = np.full((1, 1), np.nan, np.float32)
_OF_EMPTY = ("missing_signal", "unknown_model", "unmatched_request", "no_bundle")  # no fault where nothing is carried
_NO_BUNDLE = Unscored("no_bundle", "no model has a bundle")

Read = tuple[Call, int, list[bytes]]  # a call whose signals were found: its rows, and each signal's raw contents


class Guard:
    """Judges calls by the bundles of a configuration. Safe to use from several threads.

    Made by `Guard.open`; `sinks` take note of every verdict. `is_blocking`: judging may hold up an event loop for too
    long. `timed`: calls tell when they began, and their caller's span, for those who make spans of them. With `keep`
    nothing is judged, and no bundle is needed: a batch of one model is handed over instead.
    """

    timed = False

    def __init__(
        self,
        config: Config,
        models: Mapping[str, GuardedModel],
        sinks: Iterable[Sink] = (),
        state: State | None = None,
        keep: Callable[[GuardedModel, Family, list[Read]], None] | None = None,
    ) -> None:
        self._keep = keep
        self.sinks = Sinks(sinks)
        self.state = state or State()
        self._throttle = LogThrottle()
        self.reconfigure(config, models)

    def reconfigure(self, config: Config, models: Mapping[str, GuardedModel]) -> None:
        """Judge by these from here on; what is being judged is finished by what it began with."""
        self.config = config
        self.models = dict(models)
        self._keyless: set[tuple[str, str]] = set()  # models, and what calls were told not to name
        self.state.keep([store for model in self.models.values() for store in model.stores])
        self.methods: dict[str, Method] = {}
        self._of_method: dict[str, list[GuardedModel]] = {}
        for model in self.models.values():
            for method in model.served.values():
                self.methods[method.name] = method
                self._of_method.setdefault(method.name, []).append(model)
        keeps_payloads = config.events is not None and config.events.payload == "both"
        self._method_plans = {
            name: MethodPlan(
                self.methods[name],
                keeps_payloads or any(m.wants_request(name) for m in models),
                _every(self.methods[name], models),
                any(model.together for model in models),
                self.methods[name].in_turn or all(model.config.in_turn for model in models),
                _response_keys(name, INITIAL, models),
                _response_keys(name, TRAILING, models),
            )
            for name, models in self._of_method.items()
        }
        told_by = {key for model in self.models.values() for key in model.metadata_keys}
        told_by |= {key for method in self.methods.values() for key in (method.model_key, method.version_key)}
        self._keys = sorted(told_by - {""})
        self.score_keys = sorted({key for model in self.models.values() for key in model.score_keys})
        self._budgets = {
            name: max(config.budget(m.name, shares_sessions=m.shares_sessions) for m in models).total_seconds()
            for name, models in self._of_method.items()
        }
        self.is_blocking = any(model.is_blocking for model in self.models.values())
        self.shadows = any(model.shadow is not None for model in self.models.values())
        self._has_no_bundle = self._keep is None and all(model.bundle is None for model in self.models.values())
        self._default_model = next(iter(self.models)) if len(self.models) == 1 else OTHER

    @classmethod
    def open(cls, config: Config | Path | str, sinks: Iterable[Sink] = ()) -> Self:
        """A guard from a configuration or its file, its bundles read and warmed.

        Raises ConfigError or BundleError, naming the file and what is wrong.
        """
        if not isinstance(config, Config):
            config = Config.load(config)
        state = State(config.state, config.round_trip)
        return cls(config, guarded_models(config, state), sinks, state)

    @property
    def metadata_keys(self) -> list[str]:
        """The request metadata that `call` wants to see."""
        return list(dict.fromkeys([TRACE_KEY, *self._keys]))

    @property
    def response_metadata_keys(self) -> list[str]:
        """The metadata of responses that some call wants to be told."""
        return sorted({key for plan in self._method_plans.values() for key in (*plan.initial, *plan.trailing)})

    def call(self, method: str, metadata: Mapping[str, str], hint: str = "", origin: str = "") -> Call | None:
        """A call to judge, or None when the method is not guarded. `hint`: the model where calls do not tell it."""
        plan = self.plan(method, metadata)
        return None if plan is None else self.begin(plan, hint, origin)

    def plan(self, method: str, metadata: Mapping[str, str]) -> CallPlan | None:
        """What calls of a method with these metadata have in common, until the guard is reconfigured; None when the
        method is not guarded.
        """
        of_method = self._method_plans.get(method)
        if of_method is None:
            return None
        keys = {key: metadata[key] for key in self._keys if key in metadata} if self._keys else NO_KEYS
        parent = metadata.get(TRACE_KEY, "")
        model_key = of_method.reads.model_key
        return CallPlan(
            of_method, keys, parent, _trace_id(parent) if parent else "", keys.get(model_key) if model_key else None
        )

    def begin(self, plan: CallPlan, hint: str, origin: str) -> Call:
        """A call to judge, as `call` makes it."""
        reads, wants_request, every, together, in_turn, initial, trailing = plan.of_method
        if plan.streams:
            call: Call = StreamedCall(
                reads, plan.keys, plan.trace, wants_request, every, together=together, in_turn=in_turn
            )
        else:
            call = Call(reads, plan.keys, plan.trace, wants_request)
        call.hint = hint if plan.hint is None else plan.hint
        call.origin = origin
        if plan.wants_metadata:
            call.wants_initial, call.wants_trailing = initial, trailing
        if self.timed:
            call.began, call.traceparent = time.time_ns(), plan.traceparent
        return call

    def judge(self, calls: Sequence[Call], most_rows: int = 0) -> list[tuple[Call, int]]:
        """Give every call its verdict, scoring those of one model as one batch. Never raises.

        With `most_rows`, no more than so many rows are scored: returns the calls that have no verdict for that reason,
        each with its rows, 0 where these are not known yet.
        """
        started = time.perf_counter()
        batches: dict[Family, list[Read]] = {}
        rows, most = 0, most_rows or ALL_ROWS
        postponed: list[tuple[Call, int]] = []
        in_pieces = False  # whether there are pieces of streams among the calls
        for call in calls:
            if call.parent is not None:
                in_pieces = True
            if rows >= most:
                postponed.append((call, 0))
                continue
            try:
                signals = self._read(call)
            except Unscored as why:
                self._pass_unscored(call, why)
                continue
            except Exception as error:
                self._pass_unscored(call, Unscored("undecodable", f"{type(error).__name__}: {error}"))
                continue
            if signals is None:
                continue
            family, read = signals
            of_all = rows + read[1]
            if of_all > most:
                postponed.append((call, read[1]))
                continue
            rows = of_all
            batch = batches.get(family)
            if batch is None:
                batches[family] = [read]
            else:
                batch.append(read)
        for family, batch in batches.items():
            self._score_safely(family.model, family, batch, started)
        if in_pieces:
            self._tell_parents(calls, postponed)
        return postponed

    def _tell_parents(self, calls: Sequence[Call], postponed: Sequence[tuple[Call, int]]) -> None:
        """Pieces of streams among the calls have their verdicts, but for those that were postponed."""
        waiting = {id(call) for call, _ in postponed}
        for call in calls:
            parent = call.parent
            if parent is not None and id(call) not in waiting:
                parent.judged(call)
                if parent.is_closed and not parent.pending:
                    self._end_sessions(parent)

    def shadow(self, calls: Sequence[Call]) -> None:
        """Score judged calls by the candidates that are configured beside their bundles. Nothing of it acts."""
        for call, pvalues in by_candidates(self.models, calls):
            self.sinks.shadowed(call, pvalues)

    def _score_safely(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        try:
            self.score(model, family, batch, started)
        except Exception as error:
            for call, _, _ in batch:
                self._pass_unscored(call, Unscored("scorer_error", f"{type(error).__name__}: {error}"))

    def give_up(self, call: Call, reason: str, detail: str) -> None:
        """Let a call pass unscored for a reason found by whoever carries it."""
        call.model = call.model or self._default_model
        self._pass_unscored(call, Unscored(reason, detail))
        parent = call.parent
        if parent is not None:
            parent.judged(call)
            if parent.is_closed and not parent.pending:
                self._end_sessions(parent)

    def late(self, call: Call) -> Verdict:
        """What callers are told of a call for whose verdict nobody waits any more. It is counted once that is there."""
        call.model = self.model_of(call)
        return Verdict(call.model, call.version, unscored="late", action="block" if self.closed(call) else None)

    def model_of(self, call: Call) -> str:
        """The name of a call's model as far as it can be known before it is judged."""
        if call.model:
            return call.model
        served = self._of_method.get(call.method, ())
        name = call.hint
        if not name and len(served) > 1 and call.response is not None:
            with suppress(Unscored):
                name = call.reads.open(call.response, call.request).model
        if name in self.models:
            return name
        return served[0].name if len(served) == 1 else OTHER

    def on_call_closed(self, call: Call) -> None:
        """No more of a call comes: where it is a session, that has ended once all of it is judged."""
        if isinstance(call, StreamedCall) and not call.is_closed:
            call.is_closed = True
            if not call.pending:
                self._end_sessions(call)

    def edits(self, call: Call) -> list[Edit]:
        """What may be asked for besides, on a call whose model is not known yet: it is asked for each in turn."""
        models = self._of_method.get(call.method, [])
        return [model.edits[call.method] for model in models if call.method in model.edits]

    def budget(self, call: Call) -> float:
        """How many seconds a call may wait for its verdict."""
        seconds = self._budgets.get(call.method)
        return self.config.scoring_budget.total_seconds() if seconds is None else seconds

    def closed(self, call: Call) -> bool:
        """Whether a call that could not be scored must not pass."""
        if self.config.mode != "enforce":
            return False
        model = self.models.get(call.model)
        configured = model.config.fail if model is not None else None
        return (configured or self.config.fail) == "closed"

    def acted(self, call: Call, action: str) -> None:
        """What was done to a call in enforce: one of `verdict.ACTIONS`, or `refused` when it failed closed."""
        self.sinks.acted(call, action)

    def _read(self, call: Call) -> tuple[Family, Read] | None:
        """What is to be scored; None of a piece of a stream that carries nothing to judge: it sums up what was judged
        before, or has neither content nor signals.
        """
        call.model = self._default_model
        response = call.response
        if call.fault is not None:
            raise Unscored(*call.fault)
        if response is None:
            raise Unscored("no_response", "the call has no response message")
        if self._has_no_bundle:
            self._pass_unscored(call, _NO_BUNDLE)
            return None
        reads = call.reads
        opened = [reads.open(response, call.request)]
        if call.parent is None:
            return self._signals_of(call, opened)
        if call.earlier:
            opened = [*(reads.open(message, call.request) for message in call.earlier), *opened]
        try:
            return self._signals_of(call, opened)
        except Unscored as why:
            if why.reason not in _OF_EMPTY or not all(part.empty for part in opened):
                raise
            return None

    def _signals_of(self, call: Call, opened: Sequence[Opened]) -> tuple[Family, Read] | None:
        """Whose response it is, and its signals. Raises Unscored."""
        first = opened[0]
        name = first.model or call.hint
        model = self.models.get(name) or self._model_of(call, name)
        call.model, call.version = model.name, first.version
        version_key = call.reads.version_key
        if version_key:
            call.version = call.keys.get(version_key, "")
        if model.bundle is None and self._keep is None:
            raise Unscored("no_bundle", f"model '{model.name}' has no bundle")
        parent = call.parent
        if parent is not None:
            call.sequence = opened[-1].sequence
            if call.sequence in parent.started_sequences and all(part.is_summary for part in opened):
                call.is_summary = True
                return None
        if call.is_unmatched and model.reads_request(call.method):
            raise Unscored("unmatched_request", "of the requests on the stream, it is not known which one it answers")
        if parent is not None and not all(part.empty for part in opened):
            parent.started_sequences.add(call.sequence)
        rows, family, raws = model.signals_of(call, opened)
        if model.orders is not None:
            raws = model.orders.put_in_order(raws, call.keys, model.session_of(call))
        return family, (call, rows, raws)

    def _model_of(self, call: Call, name: str) -> GuardedModel:
        """The model of a call that tells none that is configured, where only one can be meant. Raises Unscored."""
        served = self._of_method.get(call.method, [])
        if not name and len(served) == 1:
            return served[0]
        call.model = OTHER
        raise Unscored("unknown_model", f"model '{name}' is not configured" if name else "the call tells no model")

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Judge one model's batch; `started` is when reading it began (time.perf_counter)."""
        if self._keep is not None:
            self._keep(model, family, batch)
            return
        signals = family.stack([raws for _, _, raws in batch])
        try:
            scores = model.scorer.run(signals)
        except Exception:
            if len(batch) == 1:
                raise
            scores = _NONE  # such as one token id beyond an embedder's table
        masked = model.scorer.masked
        if not (
            _finite(scores)
            and all(_meaningful(signals[name], name in masked) for name in model.nonfinite_masked_signals)
        ):
            if len(batch) > 1:  # find the broken one without spoiling the others
                for read in batch:
                    self._score_safely(model, family, [read], started)
                return
            broken = [name for name, values in signals.items() if not _meaningful(values, name in masked)]
            problem = f"signal '{broken[0]}' holds NaN or infinity" if broken else "a score is NaN or infinite"
            self._pass_unscored(batch[0][0], Unscored("not_finite", problem))
            return
        self._tell(family, batch, signals, scores, started)

    def _tell(
        self, family: Family, batch: list[Read], signals: Rows, scores: NDArray[np.float32], started: float
    ) -> None:
        """Give the batch's calls their verdicts, and tell the sinks."""
        model: GuardedModel = family.model
        judged = model.judge(scores, batch, model)
        pvalues, by_detector, severities, joint, groups, weighed, identifiers, ended, keyless = judged
        if keyless != (0, 0):
            self._tell_keyless(model, keyless)
        at = 0
        calls = []
        late: set[int] = set()  # rows that nobody waits for any more
        plain, detectors, digest = model.policy.plain, model.scorer.detectors, model.digest
        listed = isinstance(by_detector, list)
        names = iter(identifiers)
        for call, rows, _ in batch:
            first, at = at, at + rows
            identifier = next(names) if identifiers else ""
            if call.late or (call.parent is not None and call.parent.late):
                self._pass_unscored(call, Unscored("late", "the verdict missed the scoring budget"))
                late.update(range(first, at))
                continue
            severity, worst = severities[first], first
            if rows > 1:
                severity = model.promise.gravest(severities[first:at])
                worst = min(range(first, at), key=pvalues.__getitem__)
            details: Any = by_detector[worst]
            worth = None if weighed is None else weighed.rows(first, at)
            call.verdict = Verdict(
                call.model,
                call.version,
                digest,
                pvalues[first:at],
                severities[first:at],
                detectors,
                details if listed else details.tolist(),
                severity,
                worth,
                identifier,
                action=None if plain else model.policy.action(severity, severities[first:at], worth, call),
            )
            calls.append(call)
        if calls or ended:
            if late:
                scores = np.delete(scores, list(late), axis=0)
                signals = {name: np.delete(values, list(late), axis=0) for name, values in signals.items()}
                joint = [value for row, value in enumerate(joint) if row not in late]
                groups = groups and [group for row, group in enumerate(groups) if row not in late]
            seconds = time.perf_counter() - started
            self.sinks.scored(
                Scored(model.name, calls, scores, seconds, joint, groups, ended, keyless, signals, family.shapes)
            )

    def _tell_keyless(self, model: GuardedModel, keyless: tuple[int, int]) -> None:
        """Tell once of calls that name no session or no group; they are counted besides."""
        keys = ("session", model.config.session), ("group", model.config.group)
        for (what, key), count in zip(keys, keyless, strict=True):
            if count and (model.name, what) not in self._keyless:
                self._keyless.add((model.name, what))
                instead = "as a session of its own" if what == "session" else "by the pooled promise"
                log.warning(
                    "model %s: a call names no %s (%s is missing or empty) and is judged %s; "
                    "tocsin_keyless_calls_total counts all of them",
                    model.name,
                    what,
                    key,
                    instead,
                )

    def end_silent_sessions(self) -> None:
        """Tell of sessions that have been silent for long enough. For whoever looks now and then, traffic or not."""
        for model in list(self.models.values()):
            if model.bundle is not None:
                self._tell_ended(model, model.judge.silent())

    def _tell_ended(self, model: GuardedModel, ended: list[str | None]) -> None:
        if ended:
            none = np.empty((0, len(model.scorer.detectors)), np.float32)
            self.sinks.scored(Scored(model.name, [], none, 0.0, ended=ended))

    def _end_sessions(self, call: StreamedCall) -> None:
        """Tell that the sessions have ended which a stream's sequences are."""
        model = self.models.get(call.model)
        if model is None or model.bundle is None or not model.streams_are_sessions:
            return
        keys = [call.session(sequence) for sequence in call.started_sequences]
        ended = model.judge.finish(keys)
        if model.shadow is not None and model.shadow.streams_are_sessions:
            model.shadow.judge.finish(keys)
        self._tell_ended(model, ended)

    def _pass_unscored(self, call: Call, why: Unscored) -> None:
        model = call.model or OTHER
        call.verdict = Verdict(model, call.version, unscored=why.reason, action="block" if self.closed(call) else None)
        self.sinks.unscored(call)
        if why.reason == "no_bundle":
            return  # told at start
        if (suppressed := self._throttle.admit(model, why.reason)) is not None:
            passed = "refused" if call.verdict.action == "block" else "passed"
            fields = {
                "model": model,
                "reason": why.reason,
                "method": call.method,
                "trace_id": call.trace,
                "kept": suppressed,
            }
            log.warning(
                "model %s: response %s unscored (%s): %s%s",
                model,
                passed,
                why.reason,
                why,
                and_more(suppressed),
                extra=fields,
            )


def _finite(values: NDArray[np.float32]) -> bool:
    """Whether all of them are, without the detour that `all` takes."""
    return b"\0" not in np.isfinite(values).tobytes()


def _meaningful(values: NDArray[np.float32], masked: bool) -> bool:
    """Whether all of a signal's values are finite, or, where it is `masked`, the logarithm of a probability of 0."""
    return b"\0" not in np.less(values, np.inf).tobytes() if masked else _finite(values)


def _response_keys(method: str, side: str, models: Sequence[GuardedModel]) -> Sequence[str]:
    """The keys of a response's metadata that some model reads on that side."""
    return tuple(dict.fromkeys(key for model in models for key in model.response_keys(method, side)))


def _every(method: Method, models: Sequence[GuardedModel]) -> int:
    """Of how many messages of a stream one judgement is made: as some model says, else as the method does."""
    return next((model.every for model in models if model.every is not None), method.every)


def _trace_id(traceparent: str) -> str:
    """The trace id of a W3C traceparent, or nothing."""
    if len(traceparent) < 55 or not traceparent[2] == traceparent[35] == traceparent[52] == "-":
        return ""
    trace = traceparent[3:35]
    return "" if trace.strip(HEX) or trace == NO_TRACE else trace  # stripped of digits, nothing is left of an id
