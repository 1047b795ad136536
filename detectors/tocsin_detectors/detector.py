"""The shape every detector has."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeVar

from tocsin_detectors.errors import SignalError

if TYPE_CHECKING:
    from spox import Var

    from tocsin_detectors.observation import FittingData

Learnt = TypeVar("Learnt")


class Detector(Protocol):
    """Maps one or more signals of a response to one score; higher = worse.

    A detector is fitted on safe responses alone, and then writes itself down as ONNX operators. Fitting may use
    torch or numpy; scoring is only ever the ONNX graph.

    Three more attributes say what most detectors do not need. `fits_on`: signals looked at in fitting only, such as
    labels, as far as they are there. `padding`: the number that fills up a signal whose length differs between
    responses (token streams); a detector that has one must not care how much of it there is. `resolution`: what scores
    are multiples of, for a formula that takes the small difference of large numbers; its last digits would be noise.
    `reads_masked`: what it reads are log-probabilities of alternatives, of which -inf is one of 0.
    """

    name: ClassVar[str]
    """The name in the registry, in bundles and on metrics."""

    source: ClassVar[str]
    """Where the method is published."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The signals that `graph` takes, in that order."""
        ...

    def fit(self, safe: FittingData, *, seed: int = 0) -> Self:
        """Learn from safe responses; the same data and seed give the same detector.

        Raises SignalError when the data cannot serve.
        """
        ...

    def graph(self, *signals: Var) -> Var:
        """The score as ONNX: signals of shape (n, width), float32 -> scores of shape (n, 1), float32."""
        ...


def fitted(learnt: Learnt | None, name: str) -> Learnt:
    """What a detector has learnt. Raises SignalError when that is nothing yet."""
    if learnt is None:
        raise SignalError(f"{name} has not been fitted")
    return learnt
