"""The readers of one model's signals, for each method that guards it, from messages and from metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tocsin.configuration.model import ModelConfig
from tocsin.errors import ConfigError
from tocsin.grpc_wire.deframer import PREFIX_SIZE
from tocsin.judgement.call import Call
from tocsin.judgement.signal_shapes import SignalShapes
from tocsin.protocols.alike import PlaceReader, Template, template
from tocsin.protocols.metadata import MetadataSignals, NoMessageSignals
from tocsin.protocols.method import AT_END, Edit, Method, Opened, Reader
from tocsin.protocols.paths import INITIAL, METADATA, TRAILING, SignalPath
from tocsin.protocols.rows import Reading
from tocsin.protocols.settings import judged_every
from tocsin.unscored import Unscored


class SignalReaders:
    """Reads one model's signals from calls of the methods in `by_method`, those that can have all of them.

    `edits`: by method, what requests ask for besides. `read_request`: methods whose requests hold signals. `together`:
    parallel answers are judged as one response. `every`: how many messages of a stream are judged as one, where
    configured. Raises ConfigError where no method has the signals.
    """

    def __init__(self, name: str, config: ModelConfig, methods: Mapping[str, Method], shapes: SignalShapes) -> None:
        self._name = name
        self._config = config
        self._shapes = shapes
        self.every = None if config.judge is None else judged_every(config.judge)
        self.by_method: dict[str, Reader] = {}
        self.edits: dict[str, Edit] = {}
        self.read_request: set[str] = set()
        self.together = False
        self._metadata: dict[str, MetadataSignals] = {}  # by method, where some signals stand in metadata
        self._unreadable: dict[str, str] = {}  # by method, why it cannot have the signals
        signals = shapes.names
        for method_name, method in methods.items():
            try:
                self._add(method_name, method, signals)
            except ValueError as error:
                self._unreadable[method_name] = str(error)
        if not self.by_method:
            raise ConfigError(self._why_none(signals))
        self._require_one_answer()

    def read(self, call: Call, opened: Sequence[Opened]) -> Reading:
        """Read a call's signals from its messages and its metadata: how many rows, how to stack them, and each signal's
        raw contents. Raises Unscored.
        """
        method = call.method
        reader = self.by_method.get(method)
        if reader is None:
            raise Unscored(
                "missing_signal", self._unreadable.get(method, "the method is not one of the model's protocol")
            )
        reading = reader.read(opened, call.request)
        if not self._metadata or (signals := self._metadata.get(method)) is None:
            return reading
        of_call = call.parent or call
        by_side = {METADATA: call.keys, INITIAL: of_call.initial_metadata, TRAILING: of_call.trailing_metadata}
        return signals.add_to(reading, signals.read(by_side), self._shapes)

    def template(self, call: Call, opened: Opened, message: bytes) -> Template | None:
        """How to read messages like this one, which has a prefix, together with others; None where each must be read by
        itself. Raises Unscored.
        """
        reader = self.by_method.get(call.method)
        if not isinstance(reader, PlaceReader) or self._metadata or opened.empty or opened.is_summary:
            return None
        rows, family, _ = reader.read([opened], call.request)
        places = reader.places(opened, message[PREFIX_SIZE:])
        if rows != 1 or places is None:
            return None
        return template(message, places, family, opened.version, opened.sequence)

    @property
    def score_keys(self) -> list[str]:
        """The request metadata that holds scores."""
        return list(dict.fromkeys(key for signals in self._metadata.values() for key in signals.keys(METADATA)))

    def response_keys(self, method: str, side: str) -> list[str]:
        """The initial or trailing metadata that judging a response of that method reads."""
        signals = self._metadata.get(method)
        return [] if signals is None else signals.keys(side)

    def _add(self, name: str, method: Method, signals: Sequence[str]) -> None:
        """Read these signals, or without any the method's own. Raises ValueError where it cannot have one of them."""
        places = {**getattr(method, "signals", {}), **self._config.signals}
        if missing := [signal for signal in signals if signal not in places]:
            raise ValueError(f"no path is configured for the signal '{missing[0]}'")
        chosen: dict[str, SignalPath] = {signal: places[signal] for signal in signals} or places
        if lone := [path for path in chosen.values() if path.is_previous and path.path not in chosen]:
            raise ValueError(
                f"'{lone[0]}': there is no signal '{lone[0].path}' that is read (there are: {', '.join(chosen)})"
            )
        repeating = {signal: path for signal, path in chosen.items() if path.is_previous}
        chosen = {signal: path for signal, path in chosen.items() if signal not in repeating}
        self._require_widths(chosen)
        self.together = self.together or any(path.sequences for path in chosen.values())
        in_messages = {signal: path for signal, path in chosen.items() if not path.is_metadata}
        in_metadata = {signal: path for signal, path in chosen.items() if path.is_metadata}
        self._require_scores(method, in_metadata)
        self.by_method[name] = (
            method.reader(in_messages, self._shapes) if in_messages else NoMessageSignals(self._shapes)
        )
        if in_metadata:
            self._metadata[name] = MetadataSignals(in_metadata)
        if not signals:
            self._shapes.add(chosen)
        if method.needs_request(in_messages):
            self.read_request.add(name)
        if self._config.ask and (edit := method.edit(in_messages, int(self._config.ask))) is not None:
            self.edits[name] = edit

    def _why_none(self, signals: Sequence[str]) -> str:
        """What to configure where no method has these signals."""
        where = f"models.{self._name}.signals"
        unmapped = [signal for signal in signals if signal not in self._config.signals]
        if unmapped and self._config.protocol in ("oip", "oip_http"):
            return (
                f"{where}: the bundle's detectors read '{unmapped[0]}', which is not mapped; add "
                f"'{unmapped[0]}: response.outputs.NAME'"
            )
        reasons = "; ".join(f"{name}: {why}" for name, why in self._unreadable.items())
        return f"{where}: no method of protocol '{self._config.protocol}' has these signals: {reasons}"

    def _require_widths(self, chosen: Mapping[str, SignalPath]) -> None:
        """Raises ValueError where the values of a map's keys, each as long as the others, cannot fill the width that
        detectors were fitted on.
        """
        for signal, path in chosen.items():
            if (keys := path.named_keys) and self._shapes.width(signal) % keys:
                raise ValueError(f"'{path}' names {keys} keys: {self._shapes.misfit(signal, keys)}")

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
            if problem := self._shapes.misfit(signal, 1):
                raise ValueError(f"a score in metadata is one number: {problem}")

    def _require_one_answer(self) -> None:
        """Raises ConfigError where a retried answer would be judged by the metadata of the first."""
        of_response = [k for m in self._metadata for side in (INITIAL, TRAILING) for k in self.response_keys(m, side)]
        if of_response and any(reaction.action == "retry" for reaction in self._config.on_alarm.values()):
            raise ConfigError(
                f"models.{self._name}.on_alarm: retry judges another answer, whose metadata Tocsin does not keep, and "
                f"the score is in '{of_response[0]}' of the response's: choose block, abstain or fallback"
            )
