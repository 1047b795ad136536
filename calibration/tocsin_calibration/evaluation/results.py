"""What an evaluation finds: figures of promises, labels and failures, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tocsin_calibration.evaluation.conditional import PartCheck
from tocsin_calibration.evaluation.kept import PromiseCheck, SeedToSeed
from tocsin_calibration.evaluation.metrics import Ece, Reliability, RiskCoverage
from tocsin_calibration.evaluation.subgroups import SubgroupCurve
from tocsin_calibration.sessions.metrics import SessionMetrics
from tocsin_detectors.separation import Separation

BINS = 20  # of p-values


@dataclass(frozen=True)
class Power:
    """What was caught of the failures: `caught` of `n` by severity, each with an exact 99% interval, and how well the
    joint score and each detector tell failures from safe responses.
    """

    n: int
    caught: dict[str, tuple[int, float, float]]
    separation: dict[str, Separation]
    sessions: SessionMetrics | None = None


@dataclass(frozen=True)
class Probabilities:
    """How good the calibrated probabilities of being right are, and what deciding by them brings."""

    ece: Ece
    reliability: Reliability
    brier: float
    nll: float
    expected_dcs: float  # mean expected Distributional Correctness Score, as it is computed online
    worth_always: float  # mean ternary score of answering everything
    worth_policy: float  # of the policy; what it flags is reviewed
    served: float
    flagged: float


@dataclass(frozen=True)
class Labelled:
    """What labels tell: figures of the joint score for telling wrong answers, and of probabilities where there are
    some.
    """

    n: int
    accuracy: float
    separation: Separation | None
    curve: RiskCoverage
    probabilities: Probabilities | None
    dcs: float | None = None  # mean Distributional Correctness Score of the answers' own distributions
    accuracy_by_group: dict[str, float] = field(default_factory=dict)
    harmony: float | None = None  # of three groups or more
    spread: float | None = None  # between the best and the worst group's accuracy
    subgroups: Mapping[str, SubgroupCurve] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The whole of it; parts for which there was no data are None or empty."""

    unit: str
    severities: dict[str, PromiseCheck]
    groups: dict[str, PromiseCheck]
    pvalues: list[int]  # counts of p-values in BINS bins of [0, 1]
    drift: float | None
    seeds: SeedToSeed | None
    labelled: Labelled | None
    power: Power | None
    parts: list[PartCheck] = field(default_factory=list)  # of the mildest severity; empty unless asked for

    def facts(self) -> dict[str, Any]:
        """All of it as JSON can hold it; the risk-coverage curve at a hundred coverages."""
        content = asdict(self)
        for part in ("severities", "groups"):
            content[part] = {n: {**k._asdict(), "rate": k.rate, "word": k.word} for n, k in getattr(self, part).items()}
        content["parts"] = [{**part._asdict(), "rate": part.rate, "word": part.word} for part in self.parts]
        if self.labelled is not None:
            curve = self.labelled.curve
            at = np.unique(np.linspace(0, len(curve.risk) - 1, 100).astype(int))
            content["labelled"]["curve"] = {
                "coverage": curve.coverage[at].tolist(), "risk": curve.risk[at].tolist(), "aurc": curve.aurc,
                "excess": curve.excess,
            }  # fmt: skip
        plain: dict[str, Any] = _plain(content)
        return plain


def _plain(value: Any) -> Any:
    """Named tuples as mappings, numpy numbers as numbers, NaN as None."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
