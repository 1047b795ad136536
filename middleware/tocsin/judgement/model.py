"""Guarded models: where their signals are, the bundles that judge them, and how alarms are acted upon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from tocsin.configuration.config import Config
from tocsin.configuration.fields import STREAM
from tocsin.configuration.model import ModelConfig
from tocsin.configuration.state import ROUND_TRIPS
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call, StreamedCall
from tocsin.judgement.key_finder import key_finder
from tocsin.judgement.orders import ChoiceOrders
from tocsin.judgement.policy import Policy
from tocsin.judgement.previous_signals import PreviousSignals
from tocsin.judgement.scoring import Scoring
from tocsin.judgement.signal_readers import SignalReaders
from tocsin.judgement.signal_shapes import SignalShapes
from tocsin.protocols.alike import Template
from tocsin.protocols.loading import methods_of
from tocsin.protocols.method import Edit, Method, Opened
from tocsin.protocols.rows import Reading
from tocsin.state.opening import State
from tocsin.state.store import SessionStore
from tocsin.unscored import Unscored

INLINE_SECONDS: Final = 2e-3  # how long eight rows may hold up an event loop; heavier bundles run in a thread


class GuardedModel:
    """One model of the configuration, on the methods of its protocol.

    `scoring` is None where no bundle is configured. `readers` read its signals, and `shapes` says what their shapes
    mean. `served` are the methods that have the signals. Raises ConfigError when bundle, protocol and configuration do
    not fit each other.
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
        self.shapes = SignalShapes(name, config, self.scoring, self)
        self.readers = SignalReaders(name, config, methods, self.shapes)
        guarded = self.readers.by_method
        self.served = {method: methods[method] for method in guarded}  # those its signals can be read from
        orders = {name: path.order for name, path in config.signals.items() if path.order}
        self.orders = ChoiceOrders(self.shapes.names, orders, config.max_sessions) if orders else None
        self.previous = self._previous_signals(state)
        self._session, session_in_request = key_finder(name, config.session, methods, guarded)
        self._group, group_in_request = key_finder(name, config.group, methods, guarded)
        self._has_key_in_request = session_in_request or group_in_request
        self.policy = Policy(name, config, list(self.served.values()))
        self.shadow: GuardedModel | None = None
        if config.shadow is not None:
            candidate = config.model_copy(update={"bundle": config.shadow, "shadow": None, "on_alarm": {}})
            self.shadow = GuardedModel(
                name, candidate, methods, state, threads=threads, session_namespace=f"{name}:shadow"
            )

    def template(self, call: Call, opened: Opened, message: bytes) -> Template | None:
        """How to read messages like this one, which has a prefix, together with others; None where each must be read,
        or judged, by itself. Raises Unscored.
        """
        if self.scoring is None or self.scoring.judge.tells_apart or self.orders is not None or not self.policy.plain:
            return None
        if self.previous is not None:
            return None
        return self.readers.template(call, opened, message)

    def read(self, call: Call, opened: Sequence[Opened]) -> Reading:
        """Read a call's signals from its messages and its metadata, choices in one order: how many rows, how to stack
        them, and each signal's raw contents. Raises Unscored.
        """
        rows, family, raws = self.readers.read(call, opened)
        if self.orders is not None:
            raws = self.orders.put_in_order(raws, call.keys, self.session_of(call))
        return rows, family, raws

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
        return any(store.shared for store in self.stores) or (self.previous is not None and self.previous.shared)

    def wants_request(self, method: str) -> bool:
        """Whether the request is needed to judge a response of that method, to act on it, or to ask about it where it
        raises an alarm; calls that are asked about by lot are known as they begin. Of streams of requests, each call
        has to be judged by the same pieces.
        """
        asks, of_method = self.config.second_opinion, self.served.get(method)
        if asks is not None and of_method is not None and (asks.alarmed or of_method.requests_stream):
            return True
        if self.reads_request(method) or self.policy.asks_again or method in self.readers.edits:
            return True
        return self.policy.withholds and method in self.served and self.served[method].stops

    def reads_request(self, method: str) -> bool:
        """Whether signals, session or group of a response of that method are in its request."""
        return method in self.readers.read_request or (self._has_key_in_request and method in self.served)

    @property
    def streams_are_sessions(self) -> bool:
        """Whether a session ends with its stream."""
        return self.config.session == STREAM and self.scoring is not None and self.scoring.judge.sessions is not None

    def end_sessions(self, call: StreamedCall) -> list[str | None]:
        """End the sessions that the sequences of a stream are, here and at the candidate. Returns the most severe
        severity of each session that has ended since the last call.
        """
        assert self.scoring is not None  # a model without one keeps no sessions
        ended = self.scoring.judge.finish([call.session(sequence) for sequence in call.started_sequences])
        if (shadow := self.shadow) is not None and shadow.streams_are_sessions:
            shadow.end_sessions(call)
        return ended

    @property
    def metadata_keys(self) -> list[str]:
        """The request metadata that names sessions, groups and orders of choices, or holds scores."""
        sources = (self.config.session or "", self.config.group or "")
        order_keys = [] if self.orders is None else self.orders.keys
        source_keys = [key.removeprefix("metadata.") for key in sources if key.startswith("metadata.")]
        return [*order_keys, *source_keys, *self.score_keys]

    @property
    def score_keys(self) -> list[str]:
        """The request metadata that holds scores. Where such a key is repeated, none of its values is used."""
        return self.readers.score_keys

    @property
    def edits(self) -> Mapping[str, Edit]:
        """What requests ask for besides, by method."""
        return self.readers.edits

    def group_of(self, call: Call) -> str:
        """The group of a call's responses, "" where none is configured."""
        return self._group(call)

    def session_of(self, call: Call) -> str:
        """The session of a call, "" where none is configured or the call names none."""
        return self._session(call)

    def forget_previous(self, call: Call) -> None:
        """A call's signals are not known: they are not those before the session's next response."""
        if self.previous is not None:
            with suppress(Unscored):
                self.previous.forget(self.session_of(call))

    def _previous_signals(self, state: State) -> PreviousSignals | None:
        """What adds signals of previous responses; None where no signal is one. Raises ConfigError."""
        config, where = self.config, f"models.{self.name}.signals"
        names = {
            name: config.signals[name].path
            for name in self.shapes.names
            if name in config.signals and config.signals[name].is_previous
        }
        if not names:
            return None
        first = next(iter(names))
        if config.session is None:
            raise ConfigError(f"{where}.{first}: previous is that of the same session: set models.{self.name}.session")
        if config.shadow is not None:
            raise ConfigError(f"{where}.{first}: previous signals are not kept for a shadow bundle: leave shadow out")
        if any(reaction.action == "retry" for reaction in config.on_alarm.values()):
            raise ConfigError(
                f"{where}.{first}: the answer before a retried one is the one that it replaces: choose block, abstain "
                f"or fallback instead of retry"
            )
        return PreviousSignals(names, self.shapes, state.previous(self.name, config))


def _upstream_channel(config: Config) -> Any:
    """A channel to the model server. Raises ValueError where a certificate cannot be read."""
    from tocsin.channels import open_channel  # by grpcio, which nothing else needs that guards HTTP

    try:
        return open_channel(config.upstream, config.upstream_tls)
    except OSError as error:
        raise ValueError(f"reflection: upstream_tls: {error.filename}: cannot be read ({error.strerror})") from None


def guarded_models(
    config: Config, state: State, before: Mapping[str, GuardedModel] | None = None
) -> dict[str, GuardedModel]:
    """Read the bundles of a configuration's models; their sessions are kept in `state`. A model of `before` with the
    same configuration and bundles is used again, with its sessions and levels. Raises ConfigError or BundleError.
    """
    names = dict.fromkeys(model.protocol for model in config.models.values())
    spoken = {name: methods_of(name, config.protocols, lambda: _upstream_channel(config)) for name in names}
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
