"""Attacks on a relay's memory and time, each beside an ordinary caller that is in peace before and after.

Each attack gets a relay of its own in `enforce` with `fail: closed`, some of them one in `annotate` as well. The
ordinary caller makes one call after the other on its connection, and now and then one on a new connection. Memory is
the most that was resident, over what was resident at rest before the attack; it may be `max_memory` and 64 MiB. The
caller's median during the attack is compared with its median in peace, before and after, in the same run; what holds
the relay for once, such as one answer of many rows, shows in its longest call.
"""

from __future__ import annotations

import inspect
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.report import Check, arguments, at_most, console, finish
from benchmarks.siege import http1, memory, processor, work
from benchmarks.siege.ground import AFTER, LASTS, PEACE, Ground, descriptors

SLACK = 64  # MiB over max_memory
SLOWER = 2.0  # times the median in peace
LONGEST = 1.0  # seconds of the ordinary caller's longest call
THREADS = 32  # that an attack may make a relay start

PARTS = (memory, work, http1, processor)
Attack = Callable[[Ground], Iterator[None] | None]  # what comes before a `yield` prepares it
ATTACKS: dict[str, Attack] = {attack.__name__: attack for part in PARTS for attack in part.ATTACKS}
OPTIONS = {name: options for part in PARTS for name, options in part.OPTIONS.items()}
IN_ANNOTATE = (
    "padded_data_unfinished", "held_answers_unread", "layouts", "session_names", "gzip_bombs", "endless_numbers",
    "early_header_blocks", "giant_batch", "pings", "http_answers_unread", "http_pipelines", "http_endless_answers",
    "processor_unread", "processor_endless_bodies",
)  # fmt: skip


def main() -> None:
    options = arguments(
        __doc__ or "",
        only={"default": "", "choices": ["", *ATTACKS], "help": "one attack by name"},
        mode={"default": "", "choices": ["", "enforce", "annotate"], "help": "in one mode"},
    )
    descriptors()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="tocsin-siege-") as folder:
        run(Path(folder), options.only, options.mode, results)
    show(results)
    finish(results, checks(results), options.json)


def run(folder: Path, only: str, mode_alone: str, results: dict[str, dict[str, Any]]) -> None:
    """Every attack, or one; its result is added to `results`."""
    for name, attack in ATTACKS.items():
        for mode in ("enforce", *(["annotate"] if name in IN_ANNOTATE else [])):
            if only in ("", name) and mode_alone in ("", mode):
                results[f"{name}, {mode}"] = result = besieged(attack, mode, folder)
                console.print(
                    f"{name}, {mode}: {result['counted']} {result['lost'][:1] or ''} {result['unjudged'][:1] or ''}"
                )


def besieged(attack: Attack, mode: str, folder: Path) -> dict[str, Any]:
    """One attack on one relay, and what it cost."""
    ground = Ground(folder, mode, dict(OPTIONS.get(attack.__name__, {})))
    try:
        while len(ground.calls) < 50:  # warm
            time.sleep(0.05)
            if ground.relay.poll() is not None:
                raise SystemExit("the relay has ended")
        began = time.monotonic()
        time.sleep(PEACE)
        rest, threads, prepared = ground.at_rest(), ground.threads(), time.monotonic()
        steps: Iterator[None] = iter(())
        if inspect.isgeneratorfunction(attack):
            steps = attack(ground)
            politely(lambda: next(steps))
        attacked = time.monotonic()
        politely(lambda: next(steps, None) if inspect.isgenerator(steps) else attack(ground))
        time.sleep(max(0.0, LASTS - (time.monotonic() - attacked)))
        most, started = ground.most(), ground.threads() - threads
        counted, ended = ground.counted(), time.monotonic()
        lives = ground.relay.poll() is None
        ground.release()
        time.sleep(AFTER)
        after = time.monotonic()
        ground.settle(ended)
        calls = [call for call in ground.calls if call.began >= began]
        peace = [ground.median(began, prepared), ground.median(ended + 0.5, after)]
    finally:
        ground.end()
    return {
        "max_memory_mb": ground.max_memory,
        "rest_mb": rest,
        "grown_mb": most - rest,
        "threads": started,
        "seconds": ended - attacked,
        "peace_ms": statistics.mean(value for value in peace if value != float("inf")),
        "median_ms": ground.median(attacked, ended),
        "longest_ms": max((call.seconds for call in calls if attacked <= call.began <= ended), default=0.0) * 1e3,
        "calls": len(calls),
        "lost": [call.wrong for call in calls if call.wrong.startswith("lost")] + ([] if lives else ["the relay died"]),
        "unjudged": [call.wrong for call in calls if call.wrong == "unjudged"] + ground.leaks,
        "counted": counted,
    }


def politely(attack: Callable[[], object]) -> None:
    """Run this with little priority: an ordinary caller on the same machine is to wait for the relay alone."""

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        attack()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()


def show(results: dict[str, dict[str, Any]]) -> None:
    """A table of what each attack cost."""
    table = Table("attack", "grown", "of", "threads", "seconds", "peace", "under attack", "longest", "calls", "lost",
                  title="Siege")  # fmt: skip
    for name, row in results.items():
        table.add_row(
            name, f"{row['grown_mb']:.0f} MiB", f"{row['max_memory_mb']} MiB", f"{row['threads']:+d}",
            f"{row['seconds']:.1f}", f"{row['peace_ms']:.2f} ms", f"{row['median_ms']:.2f} ms",
            f"{row['longest_ms']:.0f} ms", f"{row['calls']:,}", str(len(row["lost"])),
        )  # fmt: skip
    console.print(table)


def checks(results: dict[str, dict[str, Any]]) -> list[Check]:
    """Each attack's own checks."""
    outcomes = []
    for name, row in results.items():
        limit = row["max_memory_mb"] + SLACK
        outcomes += [
            at_most(f"{name}: resident memory over that at rest, MiB", row["grown_mb"], limit),
            at_most(f"{name}: the caller's median, times that in peace", row["median_ms"] / row["peace_ms"], SLOWER),
            at_most(f"{name}: the caller's longest call, s", row["longest_ms"] / 1e3, LONGEST),
            at_most(f"{name}: calls lost", len(row["lost"]), 0),
            at_most(f"{name}: threads started", row["threads"], THREADS),
        ]
        if name.endswith("enforce"):
            outcomes.append(at_most(f"{name}: answers that passed unjudged", len(row["unjudged"]), 0))
    return outcomes


if __name__ == "__main__":
    main()
