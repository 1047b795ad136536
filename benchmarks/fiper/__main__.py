"""Failures of generative robot policies, foreseen from safe rollouts alone: evidence for what docs/robots.md says.

    python -m benchmarks.fiper --json fiper.json     # trains and rolls out what is not kept yet: 10 minutes on two cores

Five Meta-World tasks, a flow-matching policy each, six kinds of shift. Choices are made on one task, which is left out
of every mean.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tasks import TASKS

from benchmarks.fiper.benign import shifted
from benchmarks.fiper.choosing import DEVELOPMENT
from benchmarks.fiper.cost import cost
from benchmarks.fiper.kept import keep
from benchmarks.fiper.rules import Promised, Published
from benchmarks.fiper.scores import scored
from benchmarks.fiper.telling import tell
from benchmarks.report import Check, arguments, console, finish

ROLLOUTS = Path(__file__).parents[2] / "examples" / "robot" / "rollouts.py"
SEEDS = 5


def main() -> None:
    options = arguments(
        __doc__ or "",
        kept={"type": Path, "default": Path(".demo/robot"), "help": "where policies, rollouts and scores are kept"},
        rebuild={"action": "store_true", "help": "train and roll out again"},
    )
    folder: Path = options.kept
    if options.rebuild:
        for path in folder.glob("*-v3.*"):
            path.unlink()
    if not all((folder / f"{task}.npz").exists() for task in TASKS):
        console.print("training policies and rolling them out; what is kept already is not made again")
        subprocess.run([sys.executable, ROLLOUTS, folder], check=True)
    results: dict[str, Any] = {}
    checks: list[Check] = []
    results["cost"], more = cost(folder, "pick-place-v3")  # first, while nothing else runs
    checks += more
    with ProcessPoolExecutor() as pool:
        tasks = dict(
            zip(TASKS, pool.map(partial(scored, seeds=SEEDS), [folder / f"{t}.npz" for t in TASKS]), strict=True)
        )
    results["telling"], more, rules = tell(tasks)
    checks += more
    ours, theirs = rules["Tocsin"], rules["published FIPER"]
    assert isinstance(ours, Promised) and isinstance(theirs, Published)
    results["kept"], more = keep(tasks, ours, theirs)
    checks += more
    results["benign shift"] = shifted({t: own for t, own in tasks.items() if t != DEVELOPMENT}, ours)
    finish(results, checks, options.json)


if __name__ == "__main__":
    main()
