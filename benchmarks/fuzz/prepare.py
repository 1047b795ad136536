"""What targets begin with, written once: bundles and graphs, which take fitting, and each target's first cases.

python -m benchmarks.fuzz.prepare FOLDER TARGET ...     # FOLDER/fitted, and FOLDER/cases/TARGET; prints nothing

`targets(FOLDER/fitted)` then needs neither torch nor onnx: benchmarks/fuzz/oss-fuzz builds packages without them.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from benchmarks.fuzz.targets import Target, targets

CORPUS = Path(__file__).parents[1] / "corpus"


def main() -> None:
    """Write everything. Raises SystemExit where there is no such target."""
    _, place, *names = sys.argv
    fitted, cases = Path(place) / "fitted", Path(place) / "cases"
    fitted.mkdir(parents=True, exist_ok=True)
    every = {target.name: target for target in targets(fitted)}
    for name in names:
        write_cases(chosen(every, name), cases / name)


def chosen(every: dict[str, Target], name: str) -> Target:
    """The target of this name. Raises SystemExit where there is none."""
    if name not in every:
        raise SystemExit(f"there is no target '{name}' (there are: {', '.join(every)})")
    return every[name]


def write_cases(target: Target, folder: Path) -> None:
    """Its seeds and its part of the corpus, each in a file that its digest names."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in (*target.seeds, *(path.read_bytes() for path in (CORPUS / target.name).glob("*"))):
        (folder / hashlib.sha256(case).hexdigest()[:16]).write_bytes(case)


if __name__ == "__main__":
    main()
