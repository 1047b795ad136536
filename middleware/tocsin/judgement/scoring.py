"""What a guarded model has only with a bundle: the detectors, the promise, and the judge that applies both."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tocsin.configuration.model import ModelConfig
from tocsin.errors import ConfigError
from tocsin.judgement.judge import Judge
from tocsin.protocols.rows import Stacking
from tocsin.state.opening import State
from tocsin_calibration import Bundle, BundleError
from tocsin_detectors import DetectorError

log = logging.getLogger("tocsin")


class Scoring:
    """A model's bundle, read, checked against the model's configuration, and run once on a batch of zeros.

    `signals` are those that a response must show and their widths: the detectors', and what else names its class.
    `seconds` is how long a batch of eight rows takes. NaN in `nonfinite_masked_signals` does not make a score NaN.
    Raises BundleError when the file cannot be used, ConfigError when the configuration asks for what the bundle
    does not have.
    """

    def __init__(
        self, name: str, config: ModelConfig, path: Path, state: State, *, threads: int, session_namespace: str
    ) -> None:
        self.bundle = Bundle.read(path, threads=threads)
        self.promise = self.bundle.require_promise(path)
        self.scorer = self.bundle.scorer
        self.signals = dict(self.scorer.signals)
        if (classes := self.promise.classes) is not None:
            self.signals.setdefault(classes.signal, classes.width)
        self._shows_more = len(self.signals) > len(self.scorer.signals)  # than detectors read
        self.digest = self.bundle.digest
        self.judge = Judge(name, config, self.bundle, state, session_namespace)
        if unknown := [severity for severity in config.on_alarm if severity not in self.promise.alphas]:
            names = ", ".join(self.promise.alphas)
            raise ConfigError(f"models.{name}.on_alarm.{unknown[0]}: the bundle has no such severity (it has: {names})")
        if self.bundle.model and self.bundle.model != name:
            log.warning("model %s: its bundle %s was made for '%s'", name, path, self.bundle.model)
        try:
            self.seconds, self.nonfinite_masked_signals = self.scorer.warm(), self.scorer.swallowed()
        except DetectorError as error:
            raise BundleError(f"{path}: {error}") from error

    def misfit(self, signal: str, width: int) -> str:
        """What is wrong with a signal of that width, in words; nothing when it can be read."""
        if signal in self.scorer.signals:
            return self.scorer.misfit(signal, width)
        named_by = self.signals[signal]
        return "" if width == named_by else f"signal '{signal}' has width {width}, but names classes by {named_by}"

    def run_natively(self, batch: Stacking) -> NDArray[np.float32] | None:
        """The scores (n, d) of few rows, from the contents of their responses; None where the signals have to be
        stacked, and may not be finite. Finite scores come of finite signals alone.
        """
        family = batch.family
        if not family.is_float32:
            return None
        native = self.scorer.native(batch.rows, family.widths)
        if native is None:
            return None
        return native.run_contents(batch.contents, batch.rows, family.order(native.signals))

    def run(self, signals: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The scores (n, d) of a batch, float32, from its signals, (n, width) each."""
        if self._shows_more:
            signals = {name: signals[name] for name in self.scorer.signals}
        return self.scorer.run(signals)
