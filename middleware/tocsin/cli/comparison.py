"""tocsin calibrate --compare"""

from __future__ import annotations

from rich.console import Console

from tocsin.cli.tables import print_table
from tocsin_calibration import Comparison


def show_comparison(console: Console, found: Comparison) -> None:
    """Print both promises on the same fresh responses, and what follows."""
    columns = ("calibration", "severity", "promised", "seen", "rate", "expected 99 times of 100", "")
    rows = [
        (
            name,
            severity,
            f"{one.alpha:.3g}",
            f"{one.alarms:,} of {one.n:,}",
            f"{one.rate:.2%}",
            f"{one.least:,} to {one.most:,}",
            one.word,
        )
        for name, seen in (("current", found.current), ("candidate", found.candidate))
        for severity, one in reversed(seen.items())
    ]
    print_table(console, columns, rows)
    console.print(f"both decide {found.agree:.1%} of these {found.unit} alike")
    console.print(
        f"scores of the two calibrations lie up to {found.shift:.3f} apart (Kolmogorov-Smirnov; equal ones would as "
        f"far with probability {found.chance:.3f})"
    )
    console.print(f"[bold]advice[/]: {found.advice}")
