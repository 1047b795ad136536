"""The targets of `make fuzz`, fed by coverage: libFuzzer keeps and mutates whatever case reaches a new branch.

make fuzz-atheris                                                # each parser for a minute (FUZZ_SECONDS=600: ten)
python -m benchmarks.fuzz.guided headers -max_total_time=60      # one; the rest are options of libFuzzer

Cases are kept in build/atheris/TARGET, and begin with the target's seeds and its part of the corpus. A case that fails
is written there as crash-..., with its traceback; it belongs into benchmarks/corpus/TARGET once it is understood.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

from benchmarks.fuzz.outcomes import Refused

ROOT = Path(__file__).parents[2]
INSTRUMENTED = ["tocsin", "tocsin_calibration", "hpack"]


def main() -> None:
    """Feed one target until libFuzzer's options end it."""
    _, name, *options = sys.argv
    with atheris.instrument_imports(include=INSTRUMENTED):
        from benchmarks.fuzz.targets import targets
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        every = {target.name: target for target in targets(Path(folder))}
        if name not in every:
            raise SystemExit(f"there is no target '{name}' (there are: {', '.join(every)})")
        feed = every[name].feed
        cases = ROOT / "build" / "atheris" / name
        cases.mkdir(parents=True, exist_ok=True)
        past = (ROOT / "benchmarks" / "corpus" / name).glob("*")
        for seed in (*every[name].seeds, *(path.read_bytes() for path in past)):
            (cases / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)

        def feed_unless_refused(case: bytes) -> None:
            with contextlib.suppress(Refused):
                feed(case)

        atheris.Setup([sys.argv[0], f"-artifact_prefix={cases}/", *options, str(cases)], feed_unless_refused)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
