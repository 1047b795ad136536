"""Failures of generative robot policies, foreseen from safe rollouts alone: evidence for what docs/robots.md says.

    python -m benchmarks.fiper --json fiper.json     # what is not kept yet is made first: half an hour on two cores

Five Meta-World tasks, two flow-matching policies each (one to choose on, one to judge), six kinds of shift.
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
from benchmarks.fiper.choosing import OURS, PUBLISHED, SEEDS, measured
from benchmarks.fiper.cost import cost
from benchmarks.fiper.kept import keep
from benchmarks.fiper.rules import Promised, Published
from benchmarks.fiper.scores import scored
from benchmarks.fiper.telling import tell
from benchmarks.report import Check, arguments, console, finish

ROLLOUTS = Path(__file__).parents[2] / "examples" / "robot" / "rollouts.py"


def main() -> None:
    options = arguments(
        __doc__ or "",
        kept={"type": Path, "default": Path(".demo/robot"), "help": "where policies, rollouts and scores are kept"},
        rebuild={"action": "store_true", "help": "train and roll out again"},
    )
    choose_on, judge_on = (_rollouts(options.kept / str(seed), seed, options.rebuild) for seed in (0, 1))
    results: dict[str, Any] = {}
    checks: list[Check] = []
    results["cost"], more = cost(judge_on, "pick-place-v3")  # first, while nothing else runs
    checks += more
    paths = [judge_on / f"{task}.npz" for task in TASKS]
    with ProcessPoolExecutor() as pool:
        tasks = dict(zip(TASKS, pool.map(partial(scored, seeds=SEEDS), paths), strict=True))
    console.print("trying every rule on the rollouts to choose on, and for hindsight on those that are judged")
    elsewhere, here = measured([choose_on / f"{task}.npz" for task in TASKS]), measured(paths)
    results["telling"], more, rules = tell(tasks, elsewhere, here)
    checks += more
    ours, theirs = rules[OURS], rules[PUBLISHED]
    assert isinstance(ours, Promised) and isinstance(theirs, Published)
    results["kept"], more = keep(tasks, ours, theirs)
    checks += more
    results["benign shift"] = shifted(tasks, ours)
    finish(results, checks, options.json)


def _rollouts(folder: Path, seed: int, again: bool) -> Path:
    """The folder, with policies and rollouts of that seed in it."""
    for path in folder.glob("*-v3.*") if again else ():
        path.unlink()
    if not all((folder / f"{task}.npz").exists() for task in TASKS):
        console.print(f"training policies and rolling them out, seed {seed}; what is kept is not made again")
        subprocess.run([sys.executable, ROLLOUTS, folder, "--seed", str(seed)], check=True)
    return folder


if __name__ == "__main__":
    main()
