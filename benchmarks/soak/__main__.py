"""Mixed traffic through all three modes for minutes, while things are broken on purpose.

Every call is made twice, to the model server itself and through a relay, and everything that a caller can observe is
compared: messages, status, details, metadata. Meanwhile the model server is killed, stopped and started again, relays
are told to reload broken and good files, and one is ended and started again. A call that overlaps such a fault may
fail; it may never be altered. Memory and file descriptors of the relays are watched.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.report import Check, arguments, at_most, console, finish
from benchmarks.soak.run import Soak

SLOPE = 1.0  # MB an hour


def main() -> None:
    options = arguments(
        __doc__ or "",
        minutes={"type": float, "default": 10.0, "help": "how long"},
        seed={"type": int, "default": 0, "help": "of the traffic"},
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            asyncio.run(soak.run(options.minutes * 60))
        finally:
            soak.end()
    tell(soak)
    finish(results(soak), checks(soak), options.json)


def results(soak: Soak) -> dict[str, Any]:
    """What happened, by mode."""
    modes = {}
    for mode, relay in soak.relays.items():
        slope, noise = relay.slope()
        modes[mode] = {
            "calls": soak.calls[mode],
            "altered": soak.altered[mode],
            "lost": soak.lost[mode],
            "slope_mb_an_hour": slope,
            "noise_mb_an_hour": noise,
            "resident_mb": statistics.median(sample.megabytes for sample in relay.samples),
            "descriptors": sorted({sample.descriptors for sample in relay.samples}),
            "memory": [[round(sample.at - soak.began), round(sample.megabytes, 2)] for sample in relay.samples],
        }
    faults = Counter(fault for _, _, fault in soak.faults)
    return {"modes": modes, "faults": faults, "excused": dict(soak.excused), "told": soak.told}


def tell(soak: Soak) -> None:
    table = Table("mode", "calls", "altered", "lost", "memory", "grows an hour", "descriptors", title="Soak")
    for mode, row in results(soak)["modes"].items():
        few, many = min(row["descriptors"]), max(row["descriptors"])
        table.add_row(
            mode, f"{row['calls']:,}", str(row["altered"]), str(row["lost"]), f"{row['resident_mb']:.1f} MB",
            f"{row['slope_mb_an_hour']:+.2f} ± {row['noise_mb_an_hour']:.2f} MB", f"{few} to {many}",
        )  # fmt: skip
    console.print(table)
    console.print(f"faults: {dict(results(soak)['faults'])}; calls that failed in them: {dict(soak.excused)}")


def checks(soak: Soak) -> list[Check]:
    found = [
        at_most("responses altered", sum(soak.altered.values()), 0),
        at_most("calls lost beyond the faults", sum(soak.lost.values()), 0),
    ]
    for mode, relay in soak.relays.items():
        slope, noise = relay.slope()
        found.append(at_most(f"{mode}: memory grows more than noise, MB an hour", max(0.0, slope - noise), SLOPE))
        held = [sample.descriptors for sample in relay.samples]
        found.append(at_most(f"{mode}: file descriptors, most over median", max(held) - statistics.median(held), 16))
    return found


if __name__ == "__main__":
    main()
