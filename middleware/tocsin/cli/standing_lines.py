"""Lines that say how a promise stands."""

from __future__ import annotations

import math

from tocsin.replay.log_watch import Standing
from tocsin_calibration.wording import percent


def standing_line(name: str, standing: Standing, unit: str) -> str:
    """How a severity stands: alarms, what was promised, and the evidence."""
    rate = percent(standing.alarms / standing.n) if standing.n else "-"
    line = f"  {name}: {standing.alarms:,} of {standing.n:,} {unit} ({rate}), promised {percent(standing.alpha)}"
    if standing.expected is not None:
        low, high = standing.expected
        line += f", {low:,} to {high:,} expected"
    if standing.evidence is not None:
        line += f"; e-value {evalue(standing.evidence)}, {'the promise is broken' if standing.broken else 'kept'}"
    return line


def evalue(evidence: float) -> str:
    """An e-value from its logarithm, as text."""
    return f"{math.exp(evidence):.3g}" if evidence < 40 else f"e^{evidence:.0f}"
