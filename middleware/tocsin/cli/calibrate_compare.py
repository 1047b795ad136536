"""tocsin calibrate --compare"""

from __future__ import annotations

from rich.console import Console

from tocsin.cli.tables import print_table
from tocsin_calibration import Comparison


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print both promises on the same fresh responses, and what follows."""
    columns = ("calibration", "severity", "promised", "seen", "rate", "expected 99 times of 100", "")
    rows = [
        (
            name,
            severity,
            f"{check.alpha:.3g}",
            f"{check.alarms:,} of {check.n:,}",
            f"{check.rate:.2%}",
            f"{check.least:,} to {check.most:,}",
            check.word,
        )
        for name, checks in (("current", comparison.current), ("candidate", comparison.candidate))
        for severity, check in reversed(checks.items())
    ]
    print_table(console, columns, rows)
    console.print(f"both decide {comparison.agree:.1%} of these {comparison.unit} alike")
    console.print(
        f"scores of the two calibrations lie up to {comparison.shift:.3f} apart (Kolmogorov-Smirnov; equal ones "
        f"would as "
        f"far with probability {comparison.chance:.3f})"
    )
    console.print(f"[bold]advice[/]: {comparison.advice}")
