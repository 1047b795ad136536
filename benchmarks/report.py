"""What every benchmark writes: the machine, the date, results, and checks that hold or do not."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, width=None if os.isatty(1) else 140)


@dataclass(frozen=True)
class Check:
    """A figure against its target; `holds` is what was found, never what was hoped."""

    name: str
    value: float
    target: str
    holds: bool


def at_most(name: str, value: float, limit: float) -> Check:
    """A check that a value does not exceed a limit."""
    return Check(name, round(value, 4), f"<= {limit:g}", value <= limit)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = {line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(models)) or platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def arguments(about: str, **extra: dict[str, Any]) -> argparse.Namespace:
    """The command line: --json, and what a benchmark adds (name -> add_argument's keywords)."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", type=Path, help="write machine, date, results and checks to this file")
    for name, keywords in extra.items():
        parser.add_argument(f"--{name}", **keywords)
    return parser.parse_args()


def finish(results: Any, checks: list[Check], target: Path | None) -> None:
    """Print the checks and write the file."""
    table = Table("check", "value", "target", "holds", title="Checks")
    for check in checks:
        table.add_row(check.name, f"{check.value:g}", check.target, "[green]yes[/]" if check.holds else "[red]NO[/]")
    console.print(table)
    if target is not None:
        written = {
            "machine": machine(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "results": results,
            "checks": [asdict(check) for check in checks],
        }
        target.write_text(json.dumps(written, indent=1) + "\n")
        console.print(f"wrote {target}")


def require(checks: Sequence[Check]) -> None:
    """Fail the command where one of these does not hold. Raises SystemExit with their names; call it after `finish`."""
    if broken := [f"{check.name}: {check.value:g}, not {check.target}" for check in checks if not check.holds]:
        raise SystemExit("\n".join(broken))
