"""The targets of `make fuzz`, fed by coverage: libFuzzer keeps and mutates whatever case reaches a new branch.

make fuzz-atheris                                                # each parser for a minute (FUZZ_SECONDS=600: ten)
python -m benchmarks.fuzz.guided headers -max_total_time=60      # one; the rest are options of libFuzzer

Cases are kept in build/atheris/TARGET, and begin with the target's seeds and its part of the corpus. A case that fails
is written there as crash-..., with its traceback; it belongs into benchmarks/corpus/TARGET once it is understood.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import atheris

from benchmarks.fuzz.outcomes import Refused

if TYPE_CHECKING:
    from benchmarks.fuzz.targets import Target

ROOT = Path(__file__).parents[2]
INSTRUMENTED = ["tocsin", "tocsin_calibration", "tocsin_detectors.small_graphs", "hpack"]


def main() -> None:
    """Feed one target until libFuzzer's options end it."""
    _, name, *options = sys.argv
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        target = instrumented(name, Path(folder))
        from benchmarks.fuzz.prepare import write_cases

        cases = ROOT / "build" / "atheris" / name
        write_cases(target, cases)
        feed(target, [sys.argv[0], f"-artifact_prefix={cases}/", *options, str(cases)])


def instrumented(name: str, folder: Path) -> Target:
    """The target of this name, whose branches libFuzzer counts. Call it before anything of Tocsin is imported.

    `folder` may have what `benchmarks.fuzz.prepare` fitted. Raises SystemExit where there is no such target.
    """
    with atheris.instrument_imports(include=INSTRUMENTED):
        from benchmarks.fuzz.prepare import chosen
        from benchmarks.fuzz.targets import targets
    return chosen({target.name: target for target in targets(folder)}, name)


def feed(target: Target, arguments: list[str]) -> None:
    """Feed it until libFuzzer's options, in `arguments` behind the program's name, end the process."""

    def feed_unless_refused(case: bytes) -> None:
        with contextlib.suppress(Refused):
            target.feed(case)

    atheris.Setup(arguments, feed_unless_refused)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
