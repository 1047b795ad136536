"""Mixed traffic through all three modes for minutes, while things are broken on purpose.

Every call is made twice, to the model server itself and through a relay, and everything that a caller can observe is
compared: messages, status, details, metadata; over HTTP status, fields and bodies, verdicts apart, through the relay
and through an Envoy whose external processor the same process is. Meanwhile the model server is killed, stopped and
started again, relays are told to reload broken and good files, and one is ended and started again. A call that overlaps
such a fault may fail; it may never be altered. Memory of the relays is watched, what is resident, what is in use of it
(much finer) and what the C library keeps free, and so are file descriptors. Beside them all, a caller of each relay
misbehaves: it ignores windows, never reads, floods, breaks rules or vanishes; nobody else may notice.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.report import Check, arguments, at_most, console, finish
from benchmarks.soak.run import HTTP_WAYS, Soak
from tocsin.configuration.config import Config

DRAIN = Config.model_fields["drain"].default.total_seconds()
SLOPE = 1.0  # MB an hour
ENDS = 2.0  # seconds beyond `drain` in which a relay's process ends


def main() -> None:
    options = arguments(
        __doc__ or "",
        minutes={"type": float, "default": 10.0, "help": "how long"},
        seed={"type": int, "default": 0, "help": "of the traffic"},
        logs={"type": Path, "help": "a folder in which what the processes logged is kept"},
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            asyncio.run(soak.run(options.minutes * 60))
        finally:
            soak.end()
            if options.logs:
                shutil.copytree(folder, options.logs, ignore=shutil.ignore_patterns("*.tocsin"), dirs_exist_ok=True)
    tell(soak)
    finish(results(soak), checks(soak), options.json)


def results(soak: Soak) -> dict[str, Any]:
    """The results by mode."""
    modes = {}
    for mode, relay in soak.relays.items():
        modes[mode] = {
            "calls": soak.calls[mode],
            "altered": soak.altered[mode],
            "lost": soak.lost[mode],
            **{
                f"{way}_{what}": counts[f"{mode}, {way}"]
                for way in HTTP_WAYS
                for what, counts in (("calls", soak.calls), ("altered", soak.altered), ("lost", soak.lost))
            },
            "used_mb_an_hour": relay.used_slope(),
            "resident_mb_an_hour": relay.resident_slope(),
            "free_mb_an_hour": relay.free_slope(),
            "samples": [sample._replace(at=sample.at - soak.began)._asdict() for sample in relay.samples],
        }
    return {
        "modes": modes,
        "faults": soak.faults.counts,
        "excused": dict(soak.excused),
        "misbehaved": dict(soak.misbehaved),
        "drained_seconds": soak.drained,
        "longer_seconds": soak.longest,
        "told": soak.differences,
    }


def tell(soak: Soak) -> None:
    table = Table(
        "mode", "calls (gRPC + HTTP + Envoy)", "altered", "lost", "resident", "grows an hour", "in use grows an hour",
        "free grows an hour", "descriptors", title="Soak",
    )  # fmt: skip
    for mode, relay in soak.relays.items():
        held = [sample.descriptors for sample in relay.samples]
        table.add_row(
            mode, *(_of_each(counts, mode) for counts in (soak.calls, soak.altered, soak.lost)),
            f"{statistics.median(sample.resident for sample in relay.samples):.1f} MB", grows(relay.resident_slope()),
            grows(relay.used_slope()), grows(relay.free_slope()), f"{min(held)} to {max(held)}",
        )  # fmt: skip
    console.print(table)
    console.print(f"faults: {dict(soak.faults.counts)}; calls that failed in them: {dict(soak.excused)}")
    console.print(f"callers that misbehaved: {dict(soak.misbehaved)}")


def _of_each(counts: Counter[str], mode: str) -> str:
    """A count of gRPC's calls, of HTTP's through the relay, and of HTTP's through Envoy."""
    return " + ".join(f"{counts[name]:,}" for name in (mode, *(f"{mode}, {way}" for way in HTTP_WAYS)))


def grows(slope: tuple[float, float]) -> str:
    return f"{slope[0]:+.1f} ± {slope[1]:.1f} MB"


def checks(soak: Soak) -> list[Check]:
    outcomes = [
        at_most("responses altered", sum(soak.altered.values()), 0),
        at_most("calls lost beyond the faults", sum(soak.lost.values()), 0),
        at_most("longest that a call took longer than without a relay, s", max(soak.longest.values()), DRAIN),
        at_most("longest end of a relay that was told to, s", max(soak.drained, default=0.0), DRAIN + ENDS),
    ]
    for mode, relay in soak.relays.items():
        for what, (slope, noise) in {"in use": relay.used_slope(), "resident": relay.resident_slope()}.items():
            more = max(0.0, slope - noise)
            outcomes.append(at_most(f"{mode}: memory {what} grows more than noise, MB an hour", more, SLOPE))
        held = [sample.descriptors for sample in relay.samples]
        outcomes.append(at_most(f"{mode}: file descriptors, most over median", max(held) - statistics.median(held), 16))
    return outcomes


if __name__ == "__main__":
    main()
