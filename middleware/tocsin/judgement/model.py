"""Guarded models: where their signals are, the bundles that judge them, and how alarms are acted upon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from math import prod

import grpc

from tocsin.configuration.config import Config
from tocsin.configuration.fields import CONNECTION, STREAM, VERSION
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import ROUND_TRIPS
from tocsin.errors import ConfigError
from tocsin.grpc_wire.deframer import PREFIX_SIZE
from tocsin.judgement.batch_axis import is_batched
from tocsin.judgement.call import Call
from tocsin.judgement.orders import ChoiceOrders
from tocsin.judgement.policy import Policy
from tocsin.judgement.scoring import Scoring
from tocsin.protocols.alike import PlaceReader, Template, template
from tocsin.protocols.loading import methods_of
from tocsin.protocols.metadata import MetadataSignals, NoMessageSignals
from tocsin.protocols.method import AT_END, Edit, Method, Opened, Reader
from tocsin.protocols.paths import INITIAL, METADATA, TRAILING, SignalPath
from tocsin.protocols.protocol import judged_every
from tocsin.protocols.rows import KEPT_LAYOUTS, Family, Kind, Reading
from tocsin.state.opening import State
from tocsin.state.store import SessionStore
from tocsin.unscored import Unscored

INLINE_SECONDS = 2e-3  # how long eight rows may hold up an event loop; heavier bundles run in a thread


class GuardedModel:
    """One model of the configuration, on the methods of its protocol.

    `scoring` is None where no bundle is configured. `edits` holds, by method, what requests ask for besides. Raises
    ConfigError when bundle, protocol and configuration do not fit each other.
    """

    def __init__(
        self,
        name: str,
        config: ModelConfig,
        methods: Mapping[str, Method],
        state: State,
        *,
        threads: int = 1,
        session_namespace: str = "",
    ) -> None:
        self.name = name
        self.config = config
        self.scoring: Scoring | None = None
        if config.bundle is not None:
            self.scoring = Scoring(
                name, config, config.bundle, state, threads=threads, session_namespace=session_namespace
            )
        self._families: dict[tuple[Kind, ...], Family] = {}
        self._widths = dict.fromkeys(config.signals, 0) if self.scoring is None else dict(self.scoring.signals)
        wanted = list(self._widths)
        self._readers: dict[str, Reader] = {}
        self.edits: dict[str, Edit] = {}
        self._unreadable: dict[str, str] = {}
        self._reads_request: set[str] = set()
        self.together = False  # whether parallel answers are judged as one response
        self.every = None if config.judge is None else judged_every(config.judge)
        self._metadata: dict[str, MetadataSignals] = {}  # by method, where some signals stand in metadata
        self._read_methods(wanted, methods)
        orders = {name: path.order for name, path in config.signals.items() if path.order}
        self.orders = ChoiceOrders(list(self._widths), orders, config.max_sessions) if orders else None
        self._session = self._key(config.session, methods)
        self._group = self._key(config.group, methods)
        self.served = {method: methods[method] for method in self._readers}  # those its signals can be read from
        self.policy = Policy(name, config, list(self.served.values()))
        self._require_one_answer()
        self.shadow: GuardedModel | None = None
        if config.shadow is not None:
            candidate = config.model_copy(update={"bundle": config.shadow, "shadow": None, "on_alarm": {}})
            self.shadow = GuardedModel(
                name, candidate, methods, state, threads=threads, session_namespace=f"{name}:shadow"
            )

    @property
    def digests(self) -> tuple[str, str]:
        """The digests of the bundle and of the shadow bundle, each "" where there is none."""
        scorings = self.scoring, None if self.shadow is None else self.shadow.scoring
        current, candidate = ("" if scoring is None else scoring.digest for scoring in scorings)
        return current, candidate

    @property
    def stores(self) -> list[SessionStore]:
        """Where the sessions of the model and of its shadow are kept."""
        sessions = None if self.scoring is None else self.scoring.judge.sessions
        stores = [] if sessions is None else [sessions]
        return stores + (self.shadow.stores if self.shadow is not None else [])

    @property
    def is_blocking(self) -> bool:
        """Whether judging a batch may take so long that it should not hold up an event loop."""
        return (self.scoring is not None and self.scoring.seconds > INLINE_SECONDS) or self.shares_sessions

    @property
    def shares_sessions(self) -> bool:
        """Whether judging asks a Redis that replicas share."""
        return any(store.shared for store in self.stores)

    def wants_request(self, method: str) -> bool:
        """Whether the request is needed to judge a response of that method, or to act on it."""
        if method in self._reads_request or self.policy.asks_again or method in self.edits:
            return True
        return self.policy.withholds and method in self.served and self.served[method].stops

    def reads_request(self, method: str) -> bool:
        """Whether signals, session or group of a response of that method are in its request."""
        return method in self._reads_request

    @property
    def streams_are_sessions(self) -> bool:
        """Whether a session ends with its stream."""
        return self.config.session == STREAM and self.scoring is not None and self.scoring.judge.sessions is not None

    @property
    def metadata_keys(self) -> list[str]:
        """The request metadata that names sessions, groups and orders of choices, or holds scores."""
        sources = (self.config.session or "", self.config.group or "")
        order_keys = [] if self.orders is None else self.orders.keys
        told_by = [key.removeprefix("metadata.") for key in sources if key.startswith("metadata.")]
        return [*order_keys, *told_by, *self.score_keys]

    @property
    def score_keys(self) -> list[str]:
        """The request metadata that holds scores. Where such a key is repeated, none of its values is used."""
        return list(dict.fromkeys(key for signals in self._metadata.values() for key in signals.keys(METADATA)))

    def response_keys(self, method: str, side: str) -> list[str]:
        """The initial or trailing metadata that judging a response of that method reads."""
        signals = self._metadata.get(method)
        return [] if signals is None else signals.keys(side)

    def group_of(self, call: Call) -> str:
        """The group of a call's responses, "" where none is configured."""
        return self._group(call)

    def session_of(self, call: Call) -> str:
        """The session of a call, "" where none is configured or the call names none."""
        return self._session(call)

    def signals_of(self, call: Call, opened: Sequence[Opened]) -> Reading:
        """Read a call's signals from its messages and its metadata: how many rows, how to stack them, and each signal's
        raw contents. Raises Unscored.
        """
        method = call.method
        reader = self._readers.get(method)
        if reader is None:
            raise Unscored(
                "missing_signal", self._unreadable.get(method, "the method is not one of the model's protocol")
            )
        reading = reader.read(opened, call.request)
        if not self._metadata or (signals := self._metadata.get(method)) is None:
            return reading
        of_call = call.parent or call
        by_side = {METADATA: call.keys, INITIAL: of_call.initial_metadata, TRAILING: of_call.trailing_metadata}
        return signals.add_to(reading, signals.read(by_side), self)

    def template(self, call: Call, opened: Opened, message: bytes) -> Template | None:
        """How to read messages like this one, which has a prefix, together with others; None where each must be read,
        or judged, by itself. Raises Unscored.
        """
        reader, scoring = self._readers.get(call.method), self.scoring
        if not isinstance(reader, PlaceReader) or scoring is None or opened.empty or opened.is_summary:
            return None
        if not self.policy.plain or scoring.judge.tells_apart or self.orders is not None or self._metadata:
            return None
        rows, family, _ = reader.read([opened], call.request)
        places = reader.places(opened, message[PREFIX_SIZE:])
        if rows != 1 or places is None:
            return None
        return template(message, places, family, opened.version, opened.sequence)

    # -- what readers ask (protocols.rows.Shapes)

    def rows(self, signal: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """The number of rows of a signal's value, and the shape of one.

        Where `batched` is configured, that decides whether the first axis counts rows. Otherwise the fitted width
        decides: the values are one row if there are exactly that many. While recording, the shape and the signal's name
        decide. Raises Unscored `rows` where that is not enough.
        """
        batched = self._batched(signal)
        if batched is None and shape:
            if width := self._widths[signal]:
                batched = prod(shape) != width
            else:
                batched = is_batched(self.name, signal, shape, has_free_length=self.scoring is not None)
        return (shape[0], shape[1:] or (1,)) if batched and shape else (1, shape or (1,))

    def _batched(self, signal: str) -> bool | None:
        """The configured answer for a signal's first axis, None where there is none."""
        configured = self.config.batched
        return configured.get(signal) if isinstance(configured, dict) else configured

    def width(self, signal: str) -> int:
        """The width of a row that detectors were fitted on, 0 where any width fits."""
        return self._widths[signal]

    def misfit(self, signal: str, width: int) -> str:
        """Why rows of that width cannot be scored; empty when they can, and without a bundle."""
        return "" if self.scoring is None else self.scoring.misfit(signal, width)

    def family(self, signals: tuple[Kind, ...]) -> Family:
        """The family of responses with these signals."""
        family = self._families.get(signals)
        if family is None:
            if len(self._families) >= KEPT_LAYOUTS:
                self._families.clear()
            family = self._families[signals] = Family(self, signals)
        return family

    # -- made once

    def _read_methods(self, wanted: Sequence[str], methods: Mapping[str, Method]) -> None:
        for name, method in methods.items():
            places = {**getattr(method, "signals", {}), **self.config.signals}
            missing = [signal for signal in wanted if signal not in places]
            try:
                if missing:
                    raise ValueError(f"no path is configured for the signal '{missing[0]}'")
                chosen: dict[str, SignalPath] = {signal: places[signal] for signal in wanted} or places
                self._require_widths(chosen)
                self.together = self.together or any(path.sequences for path in chosen.values())
                in_messages = {signal: path for signal, path in chosen.items() if not path.is_metadata}
                in_metadata = {signal: path for signal, path in chosen.items() if path.is_metadata}
                self._require_scores(method, in_metadata)
                self._readers[name] = method.reader(in_messages, self) if in_messages else NoMessageSignals(self)
                if in_metadata:
                    self._metadata[name] = MetadataSignals(in_metadata)
                if not wanted:
                    self._widths.update(dict.fromkeys(chosen, 0))
                if method.needs_request(in_messages):
                    self._reads_request.add(name)
                if self.config.ask and (edit := method.edit(in_messages, int(self.config.ask))) is not None:
                    self.edits[name] = edit
            except ValueError as error:
                self._unreadable[name] = str(error)
        if not self._readers:
            where = f"models.{self.name}.signals"
            unmapped = [signal for signal in wanted if signal not in self.config.signals]
            if unmapped and self.config.protocol in ("oip", "oip_http"):
                raise ConfigError(
                    f"{where}: the bundle's detectors read '{unmapped[0]}', which is not mapped; add "
                    f"'{unmapped[0]}: response.outputs.NAME'"
                )
            reasons = "; ".join(f"{name}: {why}" for name, why in self._unreadable.items())
            raise ConfigError(f"{where}: no method of protocol '{self.config.protocol}' has these signals: {reasons}")

    def _require_widths(self, chosen: Mapping[str, SignalPath]) -> None:
        """Raises ValueError where the values of a map's keys, each as long as the others, cannot fill the width that
        detectors were fitted on.
        """
        for signal, path in chosen.items():
            if (keys := path.named_keys) and self._widths.get(signal, 0) % keys:
                raise ValueError(f"'{path}' names {keys} keys: {self.misfit(signal, keys)}")

    def _require_scores(self, method: Method, in_metadata: Mapping[str, SignalPath]) -> None:
        """Raises ValueError where these signals cannot be the scores of one judgement."""
        if not in_metadata:
            return
        every = method.every if self.every is None else self.every
        if method.streams and every != AT_END:
            raise ValueError(
                f"'{next(iter(in_metadata.values()))}' is one score of the whole call, but its messages are judged "
                f"separately: set judge: end"
            )
        for signal in in_metadata:
            if problem := self.misfit(signal, 1):
                raise ValueError(f"a score in metadata is one number: {problem}")

    def _require_one_answer(self) -> None:
        """Raises ConfigError where a retried answer would be judged by the metadata of the first."""
        of_response = [k for m in self._metadata for side in (INITIAL, TRAILING) for k in self.response_keys(m, side)]
        if of_response and any(reaction.action == "retry" for reaction in self.config.on_alarm.values()):
            raise ConfigError(
                f"models.{self.name}.on_alarm: retry judges another answer, whose metadata Tocsin does not keep, and "
                f"the score is in '{of_response[0]}' of the response's: choose block, abstain or fallback"
            )

    def _key(self, source: str | None, methods: Mapping[str, Method]) -> Callable[[Call], str]:
        """A function that finds the session or the group of a call in `source`."""
        if not source:
            return lambda call: ""
        if source == VERSION:
            return lambda call: call.version
        if source == STREAM:
            return lambda call: call.parent.session(call.sequence) if call.parent is not None else ""
        if source == CONNECTION:
            return lambda call: call.origin
        side, _, key = source.partition(".")
        if side == "metadata":
            return lambda call: call.keys.get(key, "")
        finders: dict[str, Callable[[bytes], str]] = {}
        for name in self._readers:
            try:
                finders[name] = methods[name].request_field(key)
            except ValueError as error:
                raise ConfigError(f"models.{self.name}: {source}: {name}: {error}") from None
        self._reads_request.update(finders)
        return lambda call: finders[call.method](call.request) if call.request is not None else ""


def guarded_models(
    config: Config, state: State, before: Mapping[str, GuardedModel] | None = None
) -> dict[str, GuardedModel]:
    """Read the bundles of a configuration's models; their sessions are kept in `state`. A model of `before` with the
    same configuration and bundles is used again, with its sessions and levels. Raises ConfigError or BundleError.
    """
    names = dict.fromkeys(model.protocol for model in config.models.values())
    spoken = {
        name: methods_of(name, config.protocols, lambda: grpc.insecure_channel(str(config.upstream))) for name in names
    }
    result = {}
    for name, model in config.models.items():
        guarded = GuardedModel(name, model, spoken[model.protocol], state, threads=config.threads)
        if guarded.shares_sessions:
            _check_budget(config, name, state.round_trip)
        old = (before or {}).get(name)
        result[name] = (
            old if old is not None and old.config == guarded.config and old.digests == guarded.digests else guarded
        )
    return result


def _check_budget(config: Config, name: str, round_trip: timedelta) -> None:
    """Raises ConfigError where a slow Redis, within its own timeout, would make every verdict late."""
    budget = config.budget(name, shares_sessions=True)
    if budget < ROUND_TRIPS * round_trip:
        wanted = ROUND_TRIPS * round_trip / timedelta(milliseconds=1)
        least = budget / ROUND_TRIPS / timedelta(milliseconds=1)
        raise ConfigError(
            f"models.{name}: scoring_budget is {budget / timedelta(milliseconds=1):g}ms, and state.timeout "
            f"{round_trip / timedelta(milliseconds=1):g}ms: a response may wait for {ROUND_TRIPS} round trips; set "
            f"scoring_budget to {wanted:g}ms or more, or state.timeout to {least:g}ms or less"
        )
