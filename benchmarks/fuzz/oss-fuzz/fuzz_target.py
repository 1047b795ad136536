"""One target, as OSS-Fuzz runs it: which, its file's name says. `build.sh` copies this for each of them."""

import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz.guided import feed, instrumented

if __name__ == "__main__":
    package = Path(__file__).parent  # where PyInstaller's has been unpacked
    with tempfile.TemporaryDirectory(prefix="tocsin-fuzz-") as folder:
        shutil.copytree(package / "fitted", folder, dirs_exist_ok=True)  # cases are written beside what is fitted
        feed(instrumented(Path(__file__).stem.removeprefix("fuzz_"), Path(folder)), sys.argv)
