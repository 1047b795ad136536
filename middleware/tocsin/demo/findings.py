"""What the demo measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tocsin_calibration import Promise


@dataclass
class Findings:
    """What the demo measured."""

    promise: Promise
    safe: int = 0
    safe_alarms: int = 0
    kinds: dict[str, float] = field(default_factory=dict)
    strange: int = 0
    altered: int = 0
    added_us: float = 0.0
    scores: dict[str, Any] = field(default_factory=dict)  # by kind, (n, detectors)

    def interval(self, level: float = 0.99) -> tuple[int, int]:
        """The alarms that the promise lets expect on the safe responses."""
        return self.promise.laws["warning"].count_interval(self.safe, level)

    def as_json(self) -> dict[str, Any]:
        """The figures, for `tocsin demo --json`."""
        rate = sum(self.kinds.values()) / len(self.kinds)  # kinds are of equal size
        return {
            "alpha": self.promise.alphas["warning"],
            "safe": {"responses": self.safe, "alarms": self.safe_alarms, "interval": list(self.interval())},
            "ood": {"responses": self.strange, "alarm_rate": rate, "kinds": self.kinds},
            "altered_responses": self.altered,
            "added_latency_us": self.added_us,
        }
