"""Everything that reads bytes from elsewhere, fed with what nobody should send: 1,000,000 cases by default.

Seeds are real traffic; cases are seeds cut, spliced, flipped, grown and mixed, by a generator with a seed of its own,
so that a case can be had again. A case fails when anything is raised that is not the documented error, when it takes
longer than a second of CPU, when memory is kept, or when a response goes out unscored although it must not. Failing
cases are written to the corpus, and every case of the corpus is tried first.
"""

from __future__ import annotations

import random
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.fuzz.outcomes import Refused, peak
from benchmarks.fuzz.relayed import BOMB_SECONDS, bombs
from benchmarks.fuzz.targets import Target, targets
from benchmarks.report import Check, arguments, at_most, console, finish

CORPUS = Path(__file__).parents[1] / "corpus"
LONGEST = 1.0  # CPU seconds that a case may take
MEMORY = 64 << 20  # bytes by which the process may grow over the run, after warming up


def main() -> None:
    options = arguments(
        __doc__ or "",
        cases={"type": int, "default": 1_000_000, "help": "how many cases"},
        seed={"type": int, "default": 0, "help": "of the generator"},
        only={"default": "", "help": "one target by name"},
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        chosen = [target for target in targets(Path(folder)) if options.only in ("", target.name)]
        results, failures, slowest, grown = run(chosen, options.cases, options.seed)
        blasts = bombs(Path(folder) / "fuzz.tocsin") if not options.only else {}
    table = Table("target", "cases", "refused", "failed", "slowest, CPU", title="Fuzzing")
    for name, row in results.items():
        counts = (f"{row[key]:,}" for key in ("cases", "refused", "failed"))
        table.add_row(name, *counts, f"{row['slowest_cpu_ms']:.1f} ms")
    console.print(table)
    blown = Table("bomb", "seconds", "memory", "ended by", title="Bombs")
    for name, row in blasts.items():
        blown.add_row(name, f"{row['seconds']:.2f}", f"{row['grown_mb']:.1f} MiB", row["ended"])
    console.print(blown)
    checks = [
        at_most("bombs: longest, s", max((row["seconds"] for row in blasts.values()), default=0.0), BOMB_SECONDS),
        at_most("bombs: memory, MiB", max((row["grown_mb"] for row in blasts.values()), default=0.0), MEMORY >> 20),
        at_most("cases that failed", failures, 0),
        at_most("slowest case, CPU s", slowest, LONGEST),
        at_most("memory grown after warming up, MiB", grown / (1 << 20), MEMORY >> 20),
        Check("cases", options.cases, ">= 1000000", options.cases >= 1_000_000),
    ]
    finish({"targets": results, "bombs": blasts, "seed": options.seed}, checks, options.json)


def run(chosen: list[Target], cases: int, seed: int) -> tuple[dict[str, Any], int, float, int]:
    """Feed every target its share; the rows by target, failures, CPU seconds of the slowest case, and memory grown."""
    results: dict[str, Any] = {}
    total = sum(target.share for target in chosen)
    failures, slowest, settled, grown = 0, 0.0, 0, 0
    for target in chosen:
        dice = random.Random(f"{seed} {target.name}")
        counts: Counter[str] = Counter()
        longest = 0.0
        past_cases = sorted((CORPUS / target.name).glob("*")) if (CORPUS / target.name).is_dir() else []
        wanted = int(cases * target.share / total)
        for number in range(-len(past_cases), wanted):
            case = past_cases[number].read_bytes() if number < 0 else mutated(dice, target.seeds)
            started = time.process_time()  # of a busy machine's clock nothing can be learnt about a case
            try:
                target.feed(case)
            except Refused:
                counts["refused"] += 1
            except Exception as error:
                counts["failed"] += 1
                keep(target.name, case)
                console.print(f"[red]{target.name}[/] case {number}: {type(error).__name__}: {error}"[:400])
            longest = max(longest, time.process_time() - started)
            if number == min(2_000, wanted // 10):
                settled = peak()
        grown = max(grown, peak() - settled)
        failures, slowest = failures + counts["failed"], max(slowest, longest)
        results[target.name] = {
            "cases": wanted + len(past_cases),
            "refused": counts["refused"],
            "failed": counts["failed"],
            "slowest_cpu_ms": longest * 1e3,
        }
        console.print(f"{target.name}: {wanted:,} cases, {counts['refused']:,} refused, {counts['failed']} failed")
    return results, failures, slowest, grown


def mutated(dice: random.Random, seeds: list[bytes]) -> bytes:
    """A seed, changed in one to six ways."""
    case = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        at = dice.randrange(len(case) + 1)
        way = dice.randrange(9)
        if way == 0 and case:
            case[at % len(case)] ^= 1 << dice.randrange(8)
        elif way == 1 and case:
            case[at % len(case)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif way == 2:
            del case[at : at + dice.choice((1, 2, 4, 9, 64))]
        elif way == 3:
            case[at:at] = dice.randbytes(dice.choice((1, 2, 5, 9, 100)))
        elif way == 4:
            other = dice.choice(seeds)
            start = dice.randrange(len(other) + 1)
            case[at:at] = other[start : start + dice.choice((4, 9, 30, 300))]
        elif way == 5:
            del case[at:]
        elif way == 6 and case:
            number = dice.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 16_385, 2**24 - 1))
            case[at : at + 4] = struct.pack(">L", number)
        elif way == 7:
            start = dice.randrange(len(case) + 1)
            case[at:at] = case[start : start + dice.choice((9, 50, 500))]
        else:
            case += dice.choice(seeds)
    return bytes(case[: 1 << 20])


def keep(target: str, case: bytes) -> None:
    """Put a failing case into the corpus."""
    import hashlib

    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)


if __name__ == "__main__":
    main()
