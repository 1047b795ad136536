"""What the shapes of a model's signals mean: how many rows, and which responses can be stacked."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from tocsin.configuration.model import ModelConfig
from tocsin.judgement.batch_axis import is_batched
from tocsin.judgement.scoring import Scoring
from tocsin.protocols.rows import KEPT_LAYOUTS, Family, Kind


class SignalShapes:
    """The `protocols.rows.Shapes` of one model: widths as its bundle's detectors were fitted on, or, without a bundle,
    whatever comes. Families have `judged_by` as their model.
    """

    def __init__(self, name: str, config: ModelConfig, scoring: Scoring | None, judged_by: Any) -> None:
        self._name = name
        self._config = config
        self._scoring = scoring
        self._judged_by = judged_by
        self._widths = dict.fromkeys(config.signals, 0) if scoring is None else dict(scoring.signals)
        self._families: dict[tuple[Kind, ...], Family] = {}

    @property
    def names(self) -> list[str]:
        """The signals, in the order of the bundle."""
        return list(self._widths)

    def add(self, signals: Iterable[str]) -> None:
        """Signals that nobody has named before, of any width."""
        self._widths.update(dict.fromkeys(signals, 0))

    def rows(self, signal: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """The number of rows of a signal's value, and the shape of one.

        Where `batched` is configured, that decides whether the first axis counts rows. Otherwise the fitted width
        decides: the values are one row if there are exactly that many. While recording, the shape and the signal's name
        decide. Raises Unscored `rows` where that is not enough.
        """
        configured = self._config.batched
        batched = configured.get(signal) if isinstance(configured, dict) else configured
        if batched is None and shape:
            if width := self._widths[signal]:
                batched = prod(shape) != width
            else:
                batched = is_batched(self._name, signal, shape, has_free_length=self._scoring is not None)
        return (shape[0], shape[1:] or (1,)) if batched and shape else (1, shape or (1,))

    def width(self, signal: str) -> int:
        """The width of a row that detectors were fitted on, 0 where any width fits."""
        return self._widths.get(signal, 0)

    def misfit(self, signal: str, width: int) -> str:
        """Why rows of that width cannot be scored; empty when they can, and without a bundle."""
        return "" if self._scoring is None else self._scoring.misfit(signal, width)

    def family(self, signals: tuple[Kind, ...]) -> Family:
        """The family of responses with these signals."""
        family = self._families.get(signals)
        if family is None:
            if len(self._families) >= KEPT_LAYOUTS:
                self._families.clear()
            family = self._families[signals] = Family(self._judged_by, signals)
        return family
